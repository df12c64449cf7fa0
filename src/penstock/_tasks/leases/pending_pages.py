"""Pages of pending entries, from the lowest id on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from penstock._core.protocol import commands
from penstock._core.protocol.commands import Word
from penstock._core.protocol.replies import ErrorReply, PendingEntry
from penstock._tasks.leases.pending_bodies import Ask
from penstock.message import Shard

__all__ = ["pending_pages"]


async def pending_pages(
    ask: Ask, shard: Shard, group: Word, consumer: Word | None, page_size: int
) -> AsyncGenerator[Sequence[PendingEntry] | ErrorReply, None]:
    """Yield pending entries, or at last a refusal.

    Args:
        ask: Sends commands.
        shard: The shard of the entries.
        group: The group's name.
        consumer: The consumer's name; None for the entries of all consumers.
        page_size: The most ids that one command lists.

    Raises:
        ConnectionLost: The connection ended before the reply.
    """
    after = b"0-0"
    while True:
        command = commands.xpending_page(shard.key, group, consumer, after, page_size)
        [page] = await ask([command])
        if isinstance(page, ErrorReply):
            yield page
            return
        if page:
            yield page
        if len(page) < page_size:
            return
        after = page[-1].id
