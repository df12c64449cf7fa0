"""Exporter: polls by its own clock, and keeps the last result for any scraper."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

from msgspec.structs import replace

from penstock import ServerError
from penstock.cli._admin_call import say
from penstock.cli.run.http_server import Page, Pages
from penstock.cli.run.readiness import Readiness
from penstock.monitor import Collector, Snapshot
from penstock.observe.group_metrics import ExporterState, Selection, text
from penstock.observe.metrics import Sample
from penstock.observe.prometheus import CONTENT_TYPE

__all__ = ["MOST_SHARDS", "Exporter", "TooManyShardsError", "Watch"]

MOST_SHARDS: Final = 256
"""The most shards of a stream that are exported one by one."""
_OLD: Final = 3  # intervals, after which a result is withdrawn
_POLLS: Final = 1  # the only worker, for the ready file


class TooManyShardsError(Exception):
    """A stream has too many shards to be exported one by one."""


class Watch(Protocol):
    """Is told the outcome of each poll."""

    def polled(self, snapshot: Snapshot, collector: Collector) -> None:
        """Take the result of a poll, and the collector that is open."""

    def failed(self, error: ServerError) -> None:
        """Take the reason for which a poll failed."""


class Exporter:
    """Polls, and serves the last result.

    Args:
        collector: Makes a collector, which polls on one connection.
        selection: Chooses the series.
        interval: The seconds between the beginnings of two polls.
        readiness: Shows whether there is a result to serve.
        watch: Gets the outcome of each poll, as the console does.
        per_shard: Whether shards have series of their own, if the collector has them.
    """

    def __init__(
        self,
        collector: Callable[[], Collector],
        selection: Selection,
        interval: float,
        readiness: Readiness,
        watch: Watch | None = None,
        *,
        per_shard: bool = False,
    ) -> None:
        self._collector = collector
        self._selection = selection
        self._interval = interval
        self._readiness = readiness
        self._watch = watch
        self._per_shard = per_shard
        self._up = False
        self._poll_seconds: float | None = None
        self._last_success = 0.0
        self._succeeded_at: float | None = None
        self._samples: list[Sample] = []
        self._page = self._render([])
        # What scrapers get once the last result is too old.
        self._bare = self._page
        # What was said already, and is still so.
        self._problems: set[str] = set()
        self._told_of_series = False
        self._told_of_outage = False

    async def run(self) -> None:
        """Poll until cancelled.

        Raises:
            ConfigurationError: The URL is invalid.
            TooManyShardsError: In the first poll: a stream has too many shards.
        """
        while True:
            try:
                # Each call is one attempt, so this connects again after an outage.
                async with self._collector() as collector:
                    while True:
                        await self._turn(collector)
            except ServerError as error:
                self._failed(error)
                await asyncio.sleep(self._interval)

    async def _turn(self, collector: Collector) -> None:
        """Poll, and wait for the next turn."""
        began = time.monotonic()
        try:
            snapshot = await collector.poll()
        except ServerError as error:
            self._poll_seconds = time.monotonic() - began
            self._failed(error)
        else:
            self._poll_seconds = time.monotonic() - began
            self._succeeded(snapshot)
            if self._watch is not None:
                self._watch.polled(snapshot, collector)
        await asyncio.sleep(max(0.0, began + self._interval - time.monotonic()))

    def _succeeded(self, snapshot: Snapshot) -> None:
        if self._per_shard:
            self._check_shards(snapshot)
        if self._told_of_outage:
            say("the server can be polled again")
        self._up, self._told_of_outage = True, False
        self._last_success, self._succeeded_at = time.time(), time.monotonic()
        exported = snapshot if self._per_shard else replace(snapshot, shards=())
        self._samples = self._selection.samples(exported)
        self._draw()
        self._report(snapshot)
        self._readiness.up(_POLLS)

    def _check_shards(self, snapshot: Snapshot) -> None:
        """Refuse to begin with a stream of too many shards."""
        if self._succeeded_at is None:
            for one in snapshot.streams:
                if one.shards > MOST_SHARDS:
                    raise TooManyShardsError(
                        f"{one.stream!a:.80} has {one.shards:,} shards, and "
                        f"--per-shard is for at most {MOST_SHARDS}; leave it out, or "
                        f"name other streams"
                    )

    def _report(self, snapshot: Snapshot) -> None:
        """Say once which streams are missing in the result, and why."""
        problems = {
            f"{problem.stream!a:.80} can't be looked at: {problem.text}"
            for problem in snapshot.problems
        } | {f"no stream is named {name!a:.80}" for name in snapshot.missing}
        for problem in sorted(problems - self._problems):
            say(problem)
        self._problems = problems
        left_out = len(self._selection.left_out)
        if left_out and not self._told_of_series:
            say(
                f"{left_out:,} streams are left out because of --max-series; name the "
                f"streams to export, or pass a higher --max-series"
            )
        self._told_of_series = bool(left_out)

    def _failed(self, error: ServerError) -> None:
        if not self._told_of_outage:
            say(f"{error}; it is tried again every {self._interval:g} s")
        self._up, self._told_of_outage = False, True
        self._draw()
        if self._watch is not None:
            self._watch.failed(error)
        if self._too_old:
            self._readiness.down(_POLLS)

    def _draw(self) -> None:
        self._page = self._render(self._samples)
        self._bare = self._render([])

    def _render(self, samples: list[Sample]) -> bytes:
        state = ExporterState(
            self._up,
            self._poll_seconds,
            self._last_success,
            len(self._selection.left_out),
        )
        return text(samples, state)

    @property
    def _too_old(self) -> bool:
        """Whether the last result must not be served as the present one."""
        if self._succeeded_at is None:
            return True
        # Where a poll takes longer than the interval, the next result comes later.
        interval = max(self._interval, self._poll_seconds or 0.0)
        return time.monotonic() - self._succeeded_at > _OLD * interval

    def pages(self) -> Pages:
        """Return the pages that are served."""
        return {"/metrics": self._metrics, "/live": self._live, "/ready": self._ready}

    async def _metrics(self) -> Page:
        page = self._bare if self._too_old else self._page
        return Page(HTTPStatus.OK, page, CONTENT_TYPE)

    async def _live(self) -> Page:
        return Page(HTTPStatus.OK, b"live\n")

    async def _ready(self) -> Page:
        if not self._too_old:
            return Page(HTTPStatus.OK, b"ready\n")
        reason = b"no poll has succeeded in the last three intervals\n"
        return Page(HTTPStatus.SERVICE_UNAVAILABLE, reason)
