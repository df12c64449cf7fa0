"""Reading entries by their ids, as many at a time as fit and come through.

Their sizes are known only afterwards. So the first request is for one entry, and each
one after it asks for no more than fits by the sizes that are known by then.
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
"""Takes entries that have been read; None for the fields of a deleted one."""

Ask: TypeAlias = Callable[[Sequence[Command]], Awaitable[list[Any]]]


@contextmanager
def loss_recorded(request_size: RequestSize, asked: int) -> Iterator[None]:
    """Record it if the connection ends before a reply with so many entries."""
    try:
        yield
    except ConnectionLost:
        request_size.lost(asked)
        raise


class BodyReader:
    """Reads entries by their ids.

    Args:
        ledger: Tells how many fit.
        request_size: Bounds what one request asks for.
    """

    def __init__(self, ledger: Ledger, request_size: RequestSize) -> None:
        self._ledger = ledger
        self._request_size = request_size

    @property
    def count(self) -> int:
        """How many to ask for now; 0 if no more fit."""
        return min(self._request_size.most, self._ledger.flow.fits)

    async def read(
        self,
        ask: Ask,
        shard: Shard,
        ids: Sequence[bytes],
    ) -> list[RawEntry] | ErrorReply:
        """Read entries, in one request.

        Args:
            ask: Sends it.
            shard: Where they are.
            ids: Their ids.

        Returns:
            The entries, or what was refused first.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        batch = [commands.xrange_one(shard.key, id_) for id_ in ids]
        with loss_recorded(self._request_size, len(ids)):
            answers = await ask(batch)
        for reply in answers:
            if isinstance(reply, ErrorReply):
                return reply
        self._request_size.came(len(ids), len(ids))
        return replies.bodies(ids, answers)
