"""Shard checks: compares how streams are spread with the streams' records.

The record of a stream is created by the first producer that spreads the stream. A
producer compares it before its first message to the stream is written, and again every
few seconds while it sends: a record may be lost with the server's memory, and consumers
need it to find the shards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from penstock import _clock
from penstock._core.messages import shard_record
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock.errors import ShardsDiffer
from penstock.events import Event, OnEvent

__all__ = ["ShardChecks"]

# Seconds between two comparisons of a stream that is sent to.
_INTERVAL: Final = 5.0
# The most streams of one such comparison.
_PIECE: Final = 64
# The most streams that are compared again; those above are compared as often as they
# are new.
_MOST: Final = 10_000


class ShardChecks:
    """Compares streams with their records.

    Args:
        on_event: Called if a record can't be read, or differs while the producer runs.

    Attributes:
        pending: Streams to which nothing may be written before they were compared, each
            with the number of shards and the name of the sharder.
        unspread: Streams of one key that are sent to for the first time. Their messages
            need not wait, since consumers read that key too; but if there is a record,
            messages of one key of the user's are in several places.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.pending: dict[str, tuple[int | None, str]] = {}
        self.unspread: list[str] = []
        # The streams that agreed, those compared least recently first.
        self._agreed: dict[str, tuple[int | None, str]] = {}
        self._due = _clock.monotonic() + _INTERVAL
        # Streams of which it was reported that the record differs, or can't be read.
        self._reported: set[str] = set()

    def use(self, stream: str, number: int | None, sharder: str) -> None:
        """Record that a stream is sent to; the first time, it has to be compared."""
        if stream not in self._agreed:
            self.pending[stream] = (number, sharder)

    async def compare(
        self, calls: Callable[[Sequence[Command]], Awaitable[list[Any]]]
    ) -> list[ShardsDiffer]:
        """Compare the pending streams, and return the errors of those that differ.

        Where the server can't answer at present, it refuses messages too: then the
        stream stays pending.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        compared = dict(self.pending)
        replies = await calls(_asked(compared))
        errors = []
        for (stream, mine), created, stored in zip(
            compared.items(), replies[::2], replies[1::2], strict=True
        ):
            refused = created if stored is None else stored
            if isinstance(refused, ErrorReply):
                if refused.kind is ErrorKind.TRANSIENT:
                    continue
                self._unchecked(stream, refused.text)
                self._agree(stream, mine)
            elif error := self._difference(stream, mine, stored):
                errors.append(error)
                self.pending.pop(stream, None)
            else:
                self._agree(stream, mine)
        return errors

    def _agree(self, stream: str, mine: tuple[int | None, str]) -> None:
        self.pending.pop(stream, None)
        self._agreed[stream] = mine
        if len(self._agreed) > _MOST:
            del self._agreed[next(iter(self._agreed))]

    def _difference(
        self, stream: str, mine: tuple[int | None, str], stored: bytes | None
    ) -> ShardsDiffer | None:
        try:
            record = shard_record.load(stored)
        except ValueError:
            self._unchecked(stream, "it is no record of shards")
            return None
        if record is None:
            return None  # it was deleted this very moment
        return shard_record.difference(stream, record, *mine)

    def look(
        self, ask: Callable[[Sequence[Command]], asyncio.Future[list[Any]]]
    ) -> None:
        """Ask for records of streams, if it is time for that; nothing waits for it."""
        if self.unspread:
            streams, self.unspread = self.unspread, []
            asked = [commands.get(shard_record.key(stream)) for stream in streams]
            self._ask(ask, asked, partial(self._looked_up, streams))
        now = _clock.monotonic()
        if now >= self._due and self._agreed:
            self._due = now + _INTERVAL
            streams = list(self._agreed)[:_PIECE]
            for stream in streams:  # they go to the end
                self._agreed[stream] = self._agreed.pop(stream)
            asked = _asked({stream: self._agreed[stream] for stream in streams})
            self._ask(ask, asked, partial(self._compared_again, streams))

    @staticmethod
    def _ask(
        ask: Callable[[Sequence[Command]], asyncio.Future[list[Any]]],
        asked: Sequence[Command],
        take: Callable[[list[Any]], None],
    ) -> None:
        def answered(replies: asyncio.Future[list[Any]]) -> None:
            # Otherwise the connection has ended; a later look will do.
            if not replies.cancelled() and replies.exception() is None:
                take(replies.result())

        ask(asked).add_done_callback(answered)

    def _compared_again(self, streams: Sequence[str], replies: Sequence[Any]) -> None:
        """Report streams whose records differ by now; their messages are sent on."""
        for stream, reply in zip(streams, replies[1::2], strict=True):
            if isinstance(reply, ErrorReply) or stream not in self._agreed:
                continue
            error = self._difference(stream, self._agreed[stream], reply)
            if error is None:
                self._reported.discard(stream)
            else:
                self._differs(stream, error)

    def _looked_up(self, streams: Sequence[str], replies: Sequence[Any]) -> None:
        """Report streams of one key that have a record."""
        for stream, reply in zip(streams, replies, strict=True):
            # That a user may not read the record is not reported for each stream.
            if not isinstance(reply, ErrorReply) and (
                error := self._difference(stream, (1, ""), reply)
            ):
                self._differs(stream, error)

    def _unchecked(self, stream: str, reply: str) -> None:
        facts = {"stream": stream, "reply": reply}
        self._report(stream, Event("shards_unchecked", logging.WARNING, facts))

    def _differs(self, stream: str, error: ShardsDiffer) -> None:
        facts = {"stream": stream, "reason": str(error)}
        self._report(stream, Event("shards_differ", logging.WARNING, facts))

    def _report(self, stream: str, event: Event) -> None:
        """Report something about a stream once."""
        if stream not in self._reported:
            if len(self._reported) >= _MOST:
                self._reported.clear()
            self._reported.add(stream)
            self._on_event(event)


def _asked(streams: dict[str, tuple[int | None, str]]) -> list[Command]:
    """Return two commands a stream: one creates the record, and one reads it."""
    now = _clock.wall()
    return [
        command
        for stream, mine in streams.items()
        for command in (
            commands.set_if_missing(
                shard_record.key(stream), shard_record.dump(*mine, now)
            ),
            commands.get(shard_record.key(stream)),
        )
    ]
