"""Shard readers: the reader of each owned shard, from when it is taken to its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio

from penstock import _chance
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock._core.backoff import ReconnectBackoff
from penstock._core.reading.cursor import Cursor
from penstock._core.reading.owned_cursors import OwnedCursors
from penstock._tasks.reading.reader import Reader
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock.errors import ClosedError, ConnectionLost, ServerError
from penstock.message import Shard

__all__ = ["ShardReaders"]


class ShardReaders:
    """Opens and closes the readers of owned shards; each has its own connection.

    Args:
        connector: Makes connections.
        pool: The readers.
        cursors: The positions of the shards.
    """

    def __init__(
        self, connector: Connector, pool: ReaderPool, cursors: OwnedCursors
    ) -> None:
        self._connector = connector
        self._pool = pool
        self._cursors = cursors
        self._readers: dict[bytes, tuple[Cursor, Reader]] = {}

    async def open(
        self, shard: Shard, after: bytes, wanted: Callable[[], bool]
    ) -> None:
        """Start the reader of a shard, unless it is not wanted any more.

        Args:
            shard: The shard.
            after: An id up to which the group has acknowledged everything.
            wanted: Returns whether the shard is still owned.

        Raises:
            ConnectionLost: The consumer is closing.
        """
        connection = await self._connect(wanted)
        if connection is None:
            return
        if not wanted():
            await connection.aclose()
            return
        cursor = self._cursors.open(shard)
        cursor.add(shard, after)
        self._readers[shard.key] = cursor, self._pool.start(connection, cursor)

    async def _connect(self, wanted: Callable[[], bool]) -> Connection | None:
        backoff = ReconnectBackoff()
        while wanted():
            try:
                return await self._connector.connect()
            except ServerError:
                await anyio.sleep(backoff.failed(_chance.fraction()))
        return None

    async def close(self, shard: Shard) -> None:
        """Stop the reader of a shard, if there is one."""
        cursor, _ = self._readers.pop(shard.key, (None, None))
        if cursor is not None:
            self._cursors.close(cursor)
            await self._pool.end(cursor)

    async def interrupt(self, shard: Shard) -> None:
        """Have the server end a read that waits for entries."""
        _, reader = self._readers.get(shard.key, (None, None))
        if reader is not None:
            with suppress(ClosedError, ConnectionLost):
                await reader.pauses.interrupt()

    def resume(self, shard: Shard) -> None:
        """Have a reader check again whether it may read."""
        _, reader = self._readers.get(shard.key, (None, None))
        if reader is not None:
            reader.resume()

    def recover_again(self, shard: Shard) -> None:
        """Have what is pending recorded before anything else is read."""
        cursor, reader = self._readers.get(shard.key, (None, None))
        if cursor is not None and reader is not None:
            cursor.recover_again(cursor.position(shard.key))
            reader.resume()
