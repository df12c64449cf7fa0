"""Collector: polls streams, groups and consumers on one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Final

from penstock import _clock
from penstock._tasks.lifetime import Live
from penstock._tasks.openable import Openable
from penstock.admin._connection import AdminConnection
from penstock.admin._shards import ShardAdmin
from penstock.credentials import Credentials, credentials_of
from penstock.durations import Duration, seconds
from penstock.events import OnEvent, guarded, log_event
from penstock.message import Shard
from penstock.monitor import _questions
from penstock.monitor._discovery import Directory
from penstock.monitor._evaluation import Evaluator
from penstock.monitor._observation import StreamSeen
from penstock.monitor._poll import Poller, Seen
from penstock.monitor._states import LEASE, LIVE, Limits
from penstock.monitor.doctor.examination import examine
from penstock.monitor.doctor.findings import Finding
from penstock.monitor.doctor.roles import Role
from penstock.monitor.model import (
    ConsumerStatus,
    PendingCount,
    PendingStatus,
    Problem,
    ServerStatus,
    Snapshot,
    StreamDetails,
    StreamStatus,
)
from penstock.sharding import ShardSearch

__all__ = ["Collector"]

_DISCOVERY: Final = 30.0  # seconds between two searches for streams and shards


class Collector(Openable[AdminConnection]):
    """Polls streams and their groups on one connection, and remembers what it saw.

    A poll costs the server little: it asks for descriptions only, in writes of up to
    256 commands, and reads no payload but those of each stream's first and last entry,
    large ones once a minute. It changes nothing. Every call is one attempt; if the
    connection was lost, the next one reconnects.

    Whether a group moves is seen in two polls at least, so the first one leaves some
    states open.

    Args:
        url: The server, see `Admin`.
        names: The exact names of streams.
        patterns: Shell patterns of names. Without names and patterns, all streams of
            the database are polled; new ones are found every 30 s.
        companions: Whether streams of dead letters are among those that are found.
        per_shard: Whether each shard is in the results by itself, too.
        lease: The lease of the groups' consumers, in seconds; see `Claim`.
        live: The seconds within which a live consumer has asked for something.
        credentials: Returns user and password, see `Admin`.
        shards: How the shards of streams are found, see `Admin`.
        on_event: Called with what happens in the background.

    Raises:
        ConfigurationError: On opening: the URL is invalid.
        ConnectError: On opening, or later: the server could not be reached.
        AccessError: On opening, or later: the server refuses this user.

    Example:
        ```python
        from penstock.monitor import Collector

        async with Collector("redis://localhost", ["orders"]) as collector:
            for stream in (await collector.poll()).streams:
                print(stream.stream, [group.backlog for group in stream.groups])
        ```
    """

    def __init__(
        self,
        url: str | None = None,
        names: Sequence[str] = (),
        *,
        patterns: Sequence[str] = (),
        companions: bool = False,
        per_shard: bool = False,
        lease: Duration = LEASE,
        live: Duration = LIVE,
        credentials: Credentials | None = None,
        shards: ShardSearch | None = None,
        on_event: OnEvent = log_event,
    ) -> None:
        self._url = url
        self._names = names
        self._credentials = credentials_of(credentials)
        self._connection = AdminConnection(guarded(on_event))
        self._shards = ShardAdmin(self._connection, search=shards is not None)
        self._directory = Directory(
            self._shards, names, patterns, companions=companions
        )
        self._per_shard = per_shard
        self._limits = Limits(
            seconds(live, "Collector(live)", zero=False),
            seconds(lease, "Collector(lease)", zero=False),
        )
        self._evaluator = Evaluator(self._limits)
        self._poller = Poller(self._connection.calls)
        self._found: Mapping[str, Sequence[Shard]] = {}
        self._found_at = -inf
        self._seen: list[StreamSeen] = []

    def _opener(self) -> Live[AdminConnection]:
        connection, url, credentials = self._connection, self._url, self._credentials
        return lambda lifetime: connection.open(url, lifetime.binding, credentials)

    async def poll(self) -> Snapshot:
        """Ask the server, and return how all streams and groups are.

        A stream that this user may not look at is among the problems, and does not keep
        the others from being polled.

        Raises:
            AccessError: The server does not let this user search for streams.
            ConnectionLost: The connection ended before the replies.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ClosedError: The collector is not open.
        """
        clock = _clock.monotonic()
        if clock - self._found_at >= _DISCOVERY:
            self._found = await self._directory.find()
            self._found_at = clock
        seen = await self._poller.poll(self._found, clock=clock)
        self._evaluator.begin()
        self._seen = seen.streams
        return self._snapshot(seen, clock)

    def _snapshot(self, seen: Seen, clock: float) -> Snapshot:
        evaluate = partial(self._evaluator.stream, now=seen.time, clock=clock)
        divide = partial(self._evaluator.shards, now=seen.time, clock=clock)
        return Snapshot(
            time=datetime.fromtimestamp(seen.time / 1000, UTC),
            streams=[evaluate(one) for one in seen.streams],
            shards=[
                shard
                for one in (seen.streams if self._per_shard else ())
                for shard in divide(one)
            ],
            problems=[
                Problem(stream=name, text=error.text)
                for name, error in seen.refused.items()
            ],
            missing=seen.missing,
        )

    def lags(self, stream: str, group: str) -> list[int]:
        """Return up to nine lags of a group in the last minute, the oldest first."""
        return self._evaluator.lags(stream, group)

    async def streams(self) -> list[str]:
        """Return the names of all streams of the database, see `Admin.streams`.

        Raises:
            PenstockError: See `poll`.
        """
        return await self._shards.streams()

    async def consumers(self, stream: str, group: str) -> list[ConsumerStatus]:
        """Return the consumers of a group over all shards, by name.

        Args:
            stream: The stream's name.
            group: The group's name.

        Raises:
            StreamMissing: The stream does not exist.
            CommandError: The group does not exist, or a key is no stream.
            PenstockError: See `poll`.
        """
        shards = await self._shards.all(stream)
        return await _questions.consumers(
            self._connection, stream, shards, group, self._limits
        )

    async def pending(
        self,
        stream: str,
        group: str,
        *,
        consumer: str | None = None,
        idle: Duration = 0,
        limit: int = 100,
    ) -> list[PendingStatus]:
        """Return pending messages of a group, the oldest first.

        Args:
            stream: The stream's name.
            group: The group's name.
            consumer: Only messages of this consumer.
            idle: Only messages that were not delivered, claimed or renewed for so many
                seconds.
            limit: The most messages.

        Raises:
            PenstockError: See `consumers`.
        """
        shards = await self._shards.all(stream)
        asked = _questions.Pending(stream, group, consumer, seconds(idle, "idle"))
        return await _questions.pending(self._connection, shards, asked, limit)

    async def pending_counts(
        self,
        stream: str,
        group: str,
        *,
        consumer: str | None = None,
        idle: Duration = 0,
    ) -> list[PendingCount]:
        """Return the numbers of pending messages by consumer, and by attempts.

        It goes through all that is pending, in pages.

        Args:
            stream: The stream's name.
            group: The group's name.
            consumer: Only messages of this consumer.
            idle: See `pending`.

        Raises:
            PenstockError: See `consumers`.
        """
        shards = await self._shards.all(stream)
        asked = _questions.Pending(stream, group, consumer, seconds(idle, "idle"))
        return await _questions.pending_counts(self._connection, shards, asked)

    async def details(self, stream: StreamStatus) -> StreamDetails:
        """Return what else is known of a stream: its record, shards and their memory.

        Args:
            stream: The stream, from the last poll.

        Raises:
            PenstockError: See `poll`.
        """
        seen = next(one for one in self._seen if one.stream == stream.stream)
        return await _questions.details(self._connection, self._shards, stream, seen)

    async def server(self) -> ServerStatus:
        """Return the server's version and memory, as far as this user may know them.

        Raises:
            PenstockError: See `poll`.
        """
        return await _questions.server(self._connection)

    async def examine(self, role: Role | None = None) -> list[Finding]:
        """Check the server, its settings, and the streams of the collector.

        It reads, and changes nothing. What this user may not know is a finding, too.

        Args:
            role: Check whether this user may do what a role does, with the streams that
                the collector was given the names of.

        Raises:
            ConnectionLost: The connection ended before the replies.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ClosedError: The collector is not open.

        Example:
            ```python
            from penstock.monitor import Collector, Level

            async with Collector("redis://localhost", ["orders"]) as collector:
                for finding in await collector.examine():
                    if finding.level is not Level.OK:
                        print(finding.found, finding.remedy)
            ```
        """
        return await examine(self._connection, self.poll, role, self._names)

    def __repr__(self) -> str:
        return f"<Collector {'closed' if self._connection.closed else 'open'}>"
