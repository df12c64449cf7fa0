"""The metrics of all workers of `penstock run`, as its parent serves them.

Each worker is asked at a scrape, and every four seconds for its counters, so that a
worker that is killed takes only the counts of these seconds with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from penstock.cli.run.http_server import Page
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.status_pipe import COUNTERS, METRICS
from penstock.health import WorkerState
from penstock.observe.metrics import Family, Kind, Labels, Sample, WorkerMetrics

__all__ = ["RESTARTS", "RunMetrics"]

RESTARTS: Final = ("ended", "failed", "killed", "hung", "not_started", "reloaded")
"""Why a worker's process is replaced: it has ended with status 0 or with another one,
was killed, its event loop stood still, its process could not be started, or its code
has changed."""

# Seconds between two questions for the counters. With the time of an answer, no more
# than the counts of five seconds are lost.
_INTERVAL: Final = 4.0
_PATIENCE: Final = 1.0  # seconds that a worker has to answer a scrape
_MOST_ASKED: Final = 2  # questions without an answer; each is a byte in the socket


class RunMetrics:
    """The metrics of the workers, and of the parent itself.

    Args:
        readiness: Knows the states of the workers.
        workers: The number of workers.
    """

    def __init__(self, readiness: Readiness, workers: int) -> None:
        self._readiness = readiness
        self._numbers = range(1, workers + 1)
        self._workers: dict[int, _Worker] = {}
        self._latest = WorkerMetrics()
        self._restarts: Counter[str] = Counter()
        self._timeouts: Counter[int] = Counter()
        # The number of scrapes that wait for answers.
        self._scrapes = 0

    # -- what the supervisor reports -----------------------------------------------

    def ready(self, worker: int, ask: Callable[[bytes], None]) -> None:
        """Record that a worker is ready, and can be asked from now on."""
        self._workers[worker] = _Worker(ask)

    def answered(self, worker: int, content: bytes) -> None:
        """Record an answer; a worker that drains sends a last one unasked."""
        if content:
            families = msgspec.msgpack.decode(content, type=list[Family])
            self._latest.update(worker, families)
        if worker in self._workers:
            self._workers[worker].answered(failed=not content)

    def ended(self, worker: int) -> None:
        """Record the end of a worker's process; what it had counted stays."""
        self._latest.ended(worker)
        if worker in self._workers:
            self._workers.pop(worker).ended()

    def restarted(self, reason: str) -> None:
        """Record that a worker's process is to be replaced, for one of `RESTARTS`."""
        self._restarts[reason] += 1

    # -- what is asked of the workers ----------------------------------------------

    async def poll(self) -> None:
        """Ask for the counters again and again, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            # The answer would replace gauges that a scrape has just got.
            if not self._scrapes:
                for worker in self._workers.values():
                    worker.poll()

    async def families(self) -> list[Family]:
        """Ask all workers, and return their metrics and those of the parent.

        A worker that does not answer within a second keeps its last counters.
        """
        asked = {number: each.scrape() for number, each in self._workers.items()}
        if asked:
            self._scrapes += 1
            try:
                await asyncio.wait(asked.values(), timeout=_PATIENCE)
            finally:
                self._scrapes -= 1
        for number, answer in asked.items():
            # False if the metrics could not be collected.
            if not answer.done() or not answer.result():
                self._timeouts[number] += 1
                self._latest.silent(number)
        return [*self._latest.families(), *self._own()]

    async def page(self) -> Page:
        """Return the page /metrics."""
        # Imported here: it needs an extra.
        from penstock.observe import prometheus  # noqa: PLC0415

        body = prometheus.text(await self.families())
        return Page(HTTPStatus.OK, body, prometheus.CONTENT_TYPE)

    def _own(self) -> Iterable[Family]:
        states = Counter(each.state for each in self._readiness.health.workers)
        yield _family(
            *("penstock_workers", "gauge", "Workers, by their state."),
            [((("state", state),), states[state]) for state in WorkerState],
        )
        yield _family(
            *("penstock_worker_restarts", "counter"),
            "Processes of workers that were replaced, by the reason.",
            [((("reason", each),), self._restarts[each]) for each in RESTARTS],
        )
        yield _family(
            *("penstock_scrape_timeouts", "counter"),
            "Scrapes that a worker has not answered in time, or could not.",
            [((("worker", str(n)),), self._timeouts[n]) for n in self._numbers],
        )


class _Worker:
    """The questions to one worker, which answers them in their order.

    Args:
        ask: Sends it a question.
    """

    def __init__(self, ask: Callable[[bytes], None]) -> None:
        self._ask = ask
        self._asked = self._answered = 0
        # The scrapes that wait: for which answer, counted from 1, and the future of
        # whether the metrics have come.
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []

    def poll(self) -> None:
        """Ask for the counters, unless an answer is due anyway."""
        if self._asked == self._answered:
            self._send(COUNTERS)

    def scrape(self) -> asyncio.Future[bool]:
        """Ask for all metrics, and return a future of whether they have come."""
        self._waiting = [each for each in self._waiting if not each[1].done()]
        if self._asked - self._answered < _MOST_ASKED:
            self._send(METRICS)
        found = asyncio.get_running_loop().create_future()
        self._waiting.append((self._asked, found))
        return found

    def _send(self, question: bytes) -> None:
        self._asked += 1
        self._ask(question)

    def answered(self, *, failed: bool) -> None:
        """Record an answer."""
        self._answered += 1
        for number, future in self._waiting:
            if number <= self._answered and not future.done():
                future.set_result(not failed)

    def ended(self) -> None:
        """Record that nothing more comes; what has come before is what there is."""
        for _, future in self._waiting:
            if not future.done():
                future.set_result(True)


def _family(
    name: str, kind: Kind, text: str, numbers: Sequence[tuple[Labels, int]]
) -> Family:
    suffix = "_total" if kind == "counter" else ""
    samples = (Sample(f"{name}{suffix}", labels, n) for labels, n in numbers)
    return Family(name, kind, text, tuple(samples))
