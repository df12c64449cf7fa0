"""Reader pool: one reader, or one per slot where the server requires that.

See `_core/reading/slot_cursors.py` for the shards that are read together. Each reader
has a connection of its own, since its reads block.
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
from penstock._tasks.leases.pending_bodies import OnEntries
from penstock._tasks.reading.reader import Reader
from penstock.errors import ClosedError, ConnectionLost, PenstockError, ServerError
from penstock.message import Shard

__all__ = ["ReadPause", "ReaderPool"]

ReadPause: TypeAlias = Callable[[Connection, Cursor], Awaitable[None]]
"""A function that runs between two reads of a cursor; see `ReadPauses`."""

MakeReader: TypeAlias = Callable[[Connection, Cursor], Reader]


class ReaderPool:
    """Reads all cursors.

    Args:
        connector: Makes connections.
        cursors: The cursors, each with the shards that are read together.
        spawn: Runs a reader in the background.
        make: Creates a reader.
    """

    def __init__(
        self,
        connector: Connector,
        cursors: SlotCursors,
        *,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        make: MakeReader,
    ) -> None:
        self._connector = connector
        self._cursors = cursors
        self._spawn = spawn
        self._make = make
        # The readers by the identity of their cursors.
        self._readers: dict[int, Reader] = {}
        self._stopping = False

    def start(self, connection: Connection, cursor: Cursor) -> Reader:
        """Start a reader of a cursor on a connection."""
        reader = self._readers[id(cursor)] = self._make(connection, cursor)
        self._spawn(reader.run)
        return reader

    async def end(self, cursor: Cursor) -> None:
        """Stop the reader of a cursor, which is read no more."""
        reader = self._readers.get(id(cursor))
        if reader is not None:
            await reader.stop()
            await reader.ended()
            self._readers.pop(id(cursor), None)

    @property
    def stranded(self) -> Sequence[Shard]:
        """The shards of which entries may be pending and unknown.

        These are those of an abandoned read, and those whose pending entries have not
        all been read again.
        """
        found: list[Shard] = []
        for cursor in self._cursors.all:
            reader = self._readers.get(id(cursor))
            if reader is not None and reader.connection.unrecorded:
                found += cursor.shards
            else:
                found += [p.shard for p in cursor.positions if p.may_have_unknown]
        return found

    def silent_for(self, now: float) -> float:
        """Return the seconds of the longest silence on a reader's connection.

        Args:
            now: The time, by the monotonic clock.
        """
        connections = [reader.connection for reader in list(self._readers.values())]
        return max((each.silent_for(now) for each in connections), default=0.0)

    def resume(self) -> None:
        """Wake all readers, to look for something else to do."""
        for reader in self._readers.values():
            reader.resume()

    async def between_reads(self, work: ReadPause) -> None:
        """Run a function with each cursor, between two reads of the cursor.

        Args:
            work: The function.

        Raises:
            ClosedError: The consumer closed before the function was done.
            PenstockError: The function raised it first; it was run for all cursors.
        """
        failure: PenstockError | None = None
        # Cursors that are added meanwhile are at the end.
        for cursor in self._cursors.all:

            async def with_cursor(
                connection: Connection, cursor: Cursor = cursor
            ) -> None:
                await work(connection, cursor)

            try:
                await self._readers[id(cursor)].pauses.between_reads(with_cursor)
            except PenstockError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def replies_recorded(self, shard: Shard) -> None:
        """Wait until what reads of a shard brought is recorded, if they were sent.

        Raises:
            ClosedError: The consumer closed before.
        """
        cursor = self._cursors.find(shard)
        reader = None if cursor is None else self._readers.get(id(cursor))
        if reader is not None:
            await reader.pauses.interrupt()

    async def fetch(
        self, shard: Shard, ids: Sequence[bytes], on_entries: OnEntries
    ) -> tuple[Sequence[bytes], ErrorReply | None]:
        """Read claimed entries; see `PendingRecovery.fetch`.

        Raises:
            ClosedError: The consumer closed before the entries were read.
        """
        cursor = self._cursors.find(shard)
        reader = None if cursor is None else self._readers.get(id(cursor))
        if reader is None or reader.recovery is None:
            return ids, None  # the shard is no longer read
        return await reader.recovery.fetch(shard, ids, on_entries)

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands whose replies may be large, on a reader's connection.

        They are sent again if that connection ends before the replies.

        Raises:
            ClosedError: The consumer closed before.
        """
        answers: list[Any] = []

        async def ask(connection: Connection) -> None:
            answers[:] = await connection.calls(batch)

        await self._readers[id(self._cursors.all[0])].pauses.between_reads(ask)
        return answers

    async def add(self, begun: Iterable[tuple[Shard, bytes]], *, pinned: bool) -> None:
        """Read more shards; the positions in shards that are read already stay.

        This is done between two reads even for shards that are read already: a
        cancelled call may be about to remove one of them.

        Args:
            begun: The shards, each with the id after which to read it.
            pinned: Whether that id is the stream's last id.

        Raises:
            ClosedError: The consumer closed before.
            ConnectionLost: There is no connection on which to read one of them.
        """
        left = dict(begun)
        while left and not self._stopping:
            first = next(iter(left))
            cursor = self._cursors.find(first)
            if cursor is None:
                await self._open(first)
                continue

            async def add(_: Connection, cursor: Cursor = cursor) -> None:
                # The shards may be on several cursors by now.
                mine = [shard for shard in left if self._cursors.find(shard) is cursor]
                for shard in mine:
                    after = left.pop(shard)
                    if shard not in cursor:
                        cursor.add(shard, after, pinned=pinned)

            await self._readers[id(cursor)].pauses.between_reads(add)
        if left:
            raise ClosedError("consumer")

    async def _open(self, shard: Shard) -> None:
        async with self._open_connections(1) as [connection]:
            if self._cursors.find(shard) is None and not self._stopping:
                self.start(connection, self._cursors.open(shard))
            else:
                await connection.aclose()

    async def split_by_slot(self) -> bool:
        """Read each slot by a reader of its own from now on.

        This is called by the only reader that there is.

        Returns:
            False if each slot has its own reader already.

        Raises:
            ConnectionLost: There are no connections for that.
        """
        more = self._cursors.to_part()
        if not more:
            return False
        async with self._open_connections(0 if self._stopping else more) as connections:
            if self._stopping:  # no more entries will be read
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
        """Open connections; close them again unless the block succeeds."""
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
        """Stop reading; the server ends reads under way, which are not cancelled."""
        self._stopping = True
        async with anyio.create_task_group() as group:
            for reader in self._readers.values():
                group.start_soon(reader.stop)

    def cut(self) -> None:
        """Abandon reads that are still under way."""
        for reader in self._readers.values():
            reader.cut()

    async def ended(self) -> None:
        """Wait until all readers have ended. They record nothing after that."""
        # Those of owned shards leave meanwhile.
        for reader in list(self._readers.values()):
            await reader.ended()

    @property
    def connections(self) -> list[Connection]:
        """The connections of the readers."""
        return [reader.connection.current for reader in self._readers.values()]

    def abort(self, reason: str) -> None:
        """Abort all connections."""
        for connection in self.connections:
            connection.abort(reason)
