"""Pending bodies: entries are read by their ids, as many at a time as fit.

The sizes of entries are known only after they were read. So the first request is for
one entry, and each later one asks for no more than fits by the sizes known by then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands, replies
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, RawEntry
from penstock._core.reading.request_size import RequestSize
from penstock.errors import ConnectionLost
from penstock.message import Shard

__all__ = ["Ask", "BodyReader", "OnEntries", "loss_recorded"]

OnEntries: TypeAlias = Callable[[Sequence[RawEntry]], None]
"""Called with entries that have been read. A deleted entry has None for fields."""

Ask: TypeAlias = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Sends commands in one write and returns their replies, errors as values."""


@contextmanager
def loss_recorded(request_size: RequestSize, asked: int) -> Iterator[None]:
    """Record it if the connection ends before a reply with this many entries."""
    try:
        yield
    except ConnectionLost:
        request_size.lost(asked)
        raise


class BodyReader:
    """Reads entries by their ids.

    Args:
        ledger: The consumer's ledger, which knows how many entries fit.
        request_size: Bounds the number of entries that one request asks for.
    """

    def __init__(self, ledger: Ledger, request_size: RequestSize) -> None:
        self._ledger = ledger
        self._request_size = request_size

    @property
    def count(self) -> int:
        """The number of entries to request now; 0 if no more fit."""
        return min(self._request_size.most, self._ledger.flow.fits)

    async def read(
        self,
        ask: Ask,
        shard: Shard,
        ids: Sequence[bytes],
    ) -> list[RawEntry] | ErrorReply:
        """Read entries, in one request.

        Args:
            ask: Sends the request.
            shard: The shard of the entries.
            ids: The ids of the entries.

        Returns:
            The entries, or the first refusal.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        batch = [commands.xrange_one(shard.key, id_) for id_ in ids]
        with loss_recorded(self._request_size, len(ids)):
            answers = await ask(batch)
        for reply in answers:
            if isinstance(reply, ErrorReply):
                return reply
        self._request_size.received(len(ids), len(ids))
        return replies.bodies(ids, answers)
