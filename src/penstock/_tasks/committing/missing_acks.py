"""Missing acknowledgements: entries that were acknowledged and were not pending.

From Redis 7 on, any renewal or claim removes a deleted entry from the pending list. If
that explains all missing entries, nothing is wrong. Otherwise another consumer has
acknowledged them, or the group was recreated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.pending_acks import AckBatch
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply

__all__ = ["explained"]

# The bytes above which an entry is not read only to check whether it still exists, and
# the bytes of the entries that are read at a time: other replies wait behind them.
_LARGE: Final = 64 * 1024
_PAGE: Final = 1024 * 1024


async def explained(
    connection: CommandConnection, group: str, batch: AckBatch, acknowledged: int
) -> bool:
    """Return whether the entries that were not pending may have been deleted.

    Args:
        connection: The command connection.
        group: The group.
        batch: The entries that were acknowledged.
        acknowledged: How many of them were pending.

    Raises:
        ConnectionLost: The connection ended before the replies.
    """
    missing = len(batch.entries) - acknowledged
    summary = commands.xpending_summary(batch.shard_state.shard.key, group)
    [reply] = await connection.calls([summary])
    if isinstance(reply, ErrorReply):  # the group does not exist
        return False
    return await _count_deleted(connection, batch, missing) >= missing


async def _count_deleted(
    connection: CommandConnection, batch: AckBatch, most: int
) -> int:
    """Return how many entries of a batch may have been deleted, up to a number."""
    key = batch.shard_state.shard.key
    deleted = sum(entry.size > _LARGE for entry in batch.entries)
    for page in _pages(batch.entries):
        if deleted >= most:
            break
        asked = [commands.xrange_one(key, entry.id) for entry in page]
        deleted += (await connection.calls(asked)).count([])
    return deleted


def _pages(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield entries that are not large in pages of bounded size."""
    page, size = list[Entry](), 0
    for entry in entries:
        if entry.size > _LARGE:
            continue
        if page and size + entry.size > _PAGE:
            yield page
            page, size = [], 0
        page.append(entry)
        size += entry.size
    if page:
        yield page
