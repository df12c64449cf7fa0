"""The readers of a consumer: one, or one for each slot where a server asks for that.

See `_core/cursors.py` for what is read together. Each reader has a connection of its
own, since each has a read that blocks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

import anyio

from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.reading.cursor import Cursor
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.clock import now
from penstock._tasks.leases.pending_bodies import OnEntries
from penstock._tasks.reading.reader import Reader
from penstock.errors import ClosedError, ConnectionLost, PenstockError, ServerError
from penstock.message import Shard

__all__ = ["ReadPause", "ReaderPool"]

ReadPause: TypeAlias = Callable[[Connection, Cursor], Awaitable[None]]
"""Something to be done between two reads of a cursor; see `Reader.between_reads`."""

MakeReader: TypeAlias = Callable[[Connection, Cursor], Reader]


class ReaderPool:
    """Reads all cursors.

    Args:
        connector: Makes connections.
        cursors: What is read together.
        budget: Returns how many entries may be read at a time, given the time and how
            many more the last read could have brought; after 0, `resume` will be
            called.
        spawn: Runs a reader in the background.
        make: Makes one.
    """

    def __init__(
        self,
        connector: Connector,
        cursors: SlotCursors,
        *,
        budget: Callable[[float, int], int],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        make: MakeReader,
    ) -> None:
        self._connector = connector
        self._cursors = cursors
        self._budget = budget
        self._spawn = spawn
        self._make = make
        # By their cursors' identity.
        self._readers: dict[int, Reader] = {}
        self._stopping = False

    def start(self, connection: Connection, cursor: Cursor) -> None:
        """Read a cursor on a connection."""
        reader = self._readers[id(cursor)] = self._make(connection, cursor)
        self._spawn(reader.run)

    def budget(self, left: int = 0) -> int:
        """Give one reader's share of the room that there is.

        Args:
            left: Room that its last read did not ask for.
        """
        budget = self._budget(now(), left)
        readers = self._readers.values()
        if budget and len(readers) > 1:
            # Whoever found none before is not rung any more by the ledger.
            for reader in readers:
                if reader.is_waiting:
                    reader.resume()
        return -(-budget // len(readers))

    @property
    def stranded(self) -> bool:
        """Whether a read was given up whose entries may be pending unseen."""
        return any(reader.stranded for reader in self._readers.values())

    def resume(self) -> None:
        """Tell all that there is room again."""
        for reader in self._readers.values():
            reader.resume()

    async def between_reads(self, work: ReadPause) -> None:
        """Have something done with each cursor, between two reads of it.

        Raises:
            ClosedError: The consumer closed before it was done.
            PenstockError: What the errand raised first; it was done with all.
        """
        failure: PenstockError | None = None
        # Those that appear meanwhile are at the end.
        for cursor in self._cursors.all:

            async def with_cursor(
                connection: Connection, cursor: Cursor = cursor
            ) -> None:
                await work(connection, cursor)

            try:
                await self._readers[id(cursor)].between_reads(with_cursor)
            except PenstockError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def fetch(
        self, shard: Shard, ids: Sequence[bytes], on_entries: OnEntries
    ) -> tuple[Sequence[bytes], ErrorReply | None]:
        """Read entries that were taken over; see `Reader.fetch`.

        Raises:
            ClosedError: The consumer closed before it was done.
        """
        cursor = self._cursors.find(shard)
        reader = None if cursor is None else self._readers.get(id(cursor))
        if reader is None:
            return ids, None  # the shard is not read any more
        return await reader.fetch(shard, ids, on_entries)

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands whose replies may be large, on a reader's connection.

        Sends them again if that connection ends before the replies.

        Raises:
            ClosedError: The consumer closed before.
        """
        answers: list[Any] = []

        async def ask(connection: Connection) -> None:
            answers[:] = await connection.calls(batch)

        await self._readers[id(self._cursors.all[0])].between_reads(ask)
        return answers

    async def add(self, begun: Iterable[tuple[Shard, bytes]], *, pinned: bool) -> None:
        """Read more shards; those that are read already stay where they are.

        Done between two reads also where there is nothing to do: a shard may be about
        to be read no more, by a call that was cancelled.

        Args:
            begun: The shards, each with the id after which to read it.
            pinned: Whether that is an id that there has been.

        Raises:
            ClosedError: The consumer closed before.
            ConnectionLost: There is no connection to read one of them on.
        """
        left = dict(begun)
        while left and not self._stopping:
            first = next(iter(left))
            cursor = self._cursors.find(first)
            if cursor is None:
                await self._open(first)
                continue

            async def add(_: Connection, cursor: Cursor = cursor) -> None:
                # They may be apart by now.
                mine = [shard for shard in left if self._cursors.find(shard) is cursor]
                for shard in mine:
                    after = left.pop(shard)
                    if shard not in cursor:
                        cursor.add(shard, after, pinned=pinned)

            await self._readers[id(cursor)].between_reads(add)
        if left:
            raise ClosedError("consumer")

    async def _open(self, shard: Shard) -> None:
        async with self._open_connections(1) as [connection]:
            if self._cursors.find(shard) is None and not self._stopping:
                self.start(connection, self._cursors.open(shard))
            else:
                await connection.aclose()

    async def split_by_slot(self) -> bool:
        """Read each slot by itself from now on; False if that is so already.

        Called by the only reader that there is.

        Raises:
            ConnectionLost: There are no connections for that.
        """
        more = self._cursors.to_part()
        if not more:
            return False
        async with self._open_connections(0 if self._stopping else more) as connections:
            if self._stopping:  # nothing more will be read
                for connection in connections:
                    await connection.aclose()
                return True
            for connection, cursor in zip(
                connections, self._cursors.part(), strict=True
            ):
                self.start(connection, cursor)
        return True

    @asynccontextmanager
    async def _open_connections(self, number: int) -> AsyncIterator[list[Connection]]:
        """MakeReader connections; they are closed again unless the block ends well."""
        async with AsyncExitStack() as stack:
            connections: list[Connection] = []
            for _ in range(number):
                try:
                    connections.append(await self._connector.connect())
                except ServerError as error:
                    name = self._connector.address.name
                    raise ConnectionLost(name, str(error)) from None
                stack.push_async_callback(connections[-1].aclose)
            yield connections
            stack.pop_all()

    async def stop(self) -> None:
        """End reading; reads under way are let go by the server, not cancelled."""
        self._stopping = True
        async with anyio.create_task_group() as group:
            for reader in self._readers.values():
                group.start_soon(reader.stop)

    def cut(self) -> None:
        """Give up reads that are still under way."""
        for reader in self._readers.values():
            reader.cut()

    async def ended(self) -> None:
        """Wait until all have ended: they on_entries nothing more then."""
        for reader in self._readers.values():
            await reader.ended()

    @property
    def connections(self) -> list[Connection]:
        """Their connections."""
        return [reader.connection for reader in self._readers.values()]

    def abort(self, reason: str) -> None:
        """Give up all connections."""
        for connection in self.connections:
            connection.abort(reason)
