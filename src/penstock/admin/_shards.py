"""Shards of streams: reading and changing their records, and finding the shards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from penstock import _clock
from penstock._core.messages import shard_keys, shard_record
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.reading.shard_records import ShardRecords
from penstock.admin._connection import AdminConnection
from penstock.admin._ownership_removal import delete_ownership
from penstock.errors import CommandError, ConfigurationError, StreamMissing
from penstock.message import Shard
from penstock.sharding import (
    MAX_SHARDS,
    KeyHash,
    Sharder,
    ShardRecord,
    shard_count,
    sharder_name,
)

__all__ = ["ShardAdmin"]

# Keys of one SCAN, and records of one write.
_SCANNED: Final = 1000


class ShardAdmin:
    """The calls about the shards of streams.

    Args:
        connection: The connection.
        search: Whether shards are looked for by name, and not by records.
    """

    def __init__(self, connection: AdminConnection, *, search: bool) -> None:
        self._connection = connection
        self._search = search

    async def all(self, stream: str) -> list[Shard]:
        """Return the shards of a stream that exist; its own key if there are none.

        Raises:
            ConfigurationError: The stream's name is invalid.
            ServerError: See `AdminConnection.calls`.
        """
        return await self._found(stream, create=False)

    async def existing(self, stream: str) -> list[Shard]:
        """Return the shards of a stream that exist; see `Admin.keys`."""
        shards = await self.all(stream)
        if len(shards) == 1:
            # Of several, only those that exist were returned.
            [reply] = await self._connection.calls([commands.exists([shards[0].key])])
            if reply == 0:
                raise StreamMissing(stream, "EXISTS", "send to it first")
        return shards

    async def recorded(self, stream: str) -> list[Shard]:
        """Return the shards of a stream, also those of its record that do not exist.

        Raises:
            PenstockError: See `all`.
        """
        return await self._found(stream, create=True)

    async def _found(self, stream: str, *, create: bool) -> list[Shard]:
        shard_keys.single(stream)  # refuses invalid names
        connection = self._connection
        records = ShardRecords(
            connection.calls, connection.on_event, search=self._search, create=create
        )
        return await records.watch(stream)

    async def streams(self) -> list[str]:
        """Return the names of all streams of the database, sorted."""
        return sorted(await self.layout())

    async def layout(self) -> dict[str, list[Shard]]:
        """Return the shards of all streams of the database that exist, by stream."""
        found: dict[str, list[Shard]] = {}
        for key in await self._keys():
            with suppress(UnicodeDecodeError):  # no stream of Penstock's has such a key
                found[key.decode()] = [Shard(key.decode(), 0, key)]
        numbered: dict[str, list[Shard]] = {}
        for name in found:
            stream, _, number = name.rpartition(":")
            # `a:01` is no shard's key, and a name of any number of digits may exist.
            if number.isascii() and number.isdecimal() and number == f"{int(number)}":
                shard = Shard(stream, int(number), name.encode())
                numbered.setdefault(stream, []).append(shard)
        counts = await self._numbers([stream for stream in numbered if stream])
        for stream, most in counts.items():
            mine = [shard for shard in numbered[stream] if shard.number < most]
            for shard in mine:
                # It is no stream of its own; but its name may be that of one.
                name = shard.key.decode()
                found[name] = [one for one in found[name] if one.key != shard.key]
            mine.sort(key=lambda shard: shard.number)
            found[stream] = [*found.get(stream, ()), *mine]
        return {stream: shards for stream, shards in found.items() if shards}

    async def _keys(self) -> list[bytes]:
        keys: dict[bytes, None] = {}
        cursor = b"0"
        while True:
            command = commands.scan_streams(cursor, _SCANNED)
            [(cursor, some)] = await self._connection.call_checked([command], "SCAN")
            keys |= dict.fromkeys(some)
            if cursor == b"0":
                return list(keys)

    async def _numbers(self, streams: Sequence[str]) -> dict[str, int]:
        """Return how many numbered keys are shards, for each stream.

        A record that this user may not read is no record.
        """
        if self._search:
            return dict.fromkeys(streams, MAX_SHARDS)
        asked = [commands.get(shard_record.key(stream)) for stream in streams]
        stored: list[Any] = []
        for start in range(0, len(asked), _SCANNED):
            stored += await self._connection.calls(asked[start : start + _SCANNED])
        return dict(zip(streams, map(_number, stored), strict=True))

    async def record(self, stream: str) -> ShardRecord | None:
        """Return a stream's record; None if there is none."""
        stored = await self._stored(stream)
        return _load(stream, stored)

    async def set_number(
        self, stream: str, number: int, sharder: Sharder | str | None
    ) -> ShardRecord:
        """Record a number of shards, which may only grow; see `Admin.set_shards`."""
        number = shard_count(number)
        if sharder is not None and not isinstance(sharder, str):
            sharder = sharder_name(sharder)
        while True:
            stored = await self._stored(stream)
            before = _load(stream, stored)
            name = _name(stream, before, number, sharder)
            after = shard_record.dump(number, name, _clock.wall())
            script = scripts.replace(shard_record.key(stream), stored or b"", after)
            what = f"recording the shards of {stream!r}"
            [replaced] = await self._connection.call_checked([script], what)
            if replaced:
                record = shard_record.load(after)
                assert record is not None  # noqa: S101 - it was just written
                return record

    async def delete(self, stream: str) -> bool:
        """Delete all shards of a stream, its own key, its record, and who owns what."""
        shards = [*await self.all(stream), shard_keys.single(stream)]
        await delete_ownership(self._connection, stream, list(dict.fromkeys(shards)))
        keys = [*(shard.key for shard in shards), shard_record.key(stream)]
        # Unlike DEL, UNLINK frees a large stream without blocking the server.
        deleted = await self._connection.call_checked(
            [commands.unlink(key) for key in dict.fromkeys(keys)],
            f"UNLINK of {stream!r}",
        )
        return any(deleted[:-1])

    async def _stored(self, stream: str) -> bytes | None:
        command = commands.get(shard_record.key(stream))
        what = f"GET of the shards of {stream!r}"
        stored: bytes | None
        [stored] = await self._connection.call_checked([command], what)
        return stored


def _number(stored: Any) -> int:
    """Return how many numbered keys are shards, by a reply; 0 if that is not known."""
    try:
        record = None if isinstance(stored, ErrorReply) else shard_record.load(stored)
    except ValueError:
        record = None
    if record is None:
        return 0
    return MAX_SHARDS if record.number is None else record.number


def _load(stream: str, stored: bytes | None) -> ShardRecord | None:
    try:
        return shard_record.load(stored)
    except ValueError:
        key = shard_record.key(stream).decode("utf-8", "surrogateescape")
        raise CommandError(
            "GET",
            "INVALID",
            f"the key {key!a:.80} is no record of shards",
            "delete it, and call admin.set_shards",
        ) from None


def _name(
    stream: str, before: ShardRecord | None, number: int, sharder: str | None
) -> str:
    """Return the name of the sharder to record.

    Raises:
        ConfigurationError: The number shrinks.
    """
    if before is None:
        return KeyHash.__name__ if sharder is None else sharder
    if before.number is not None and number < before.number:
        raise ConfigurationError(
            f"stream {stream!r:.80} has {before.number} shards, and nobody would read "
            f"the last ones if it had {number}; the number can only grow: send to "
            f"another stream instead"
        )
    return before.sharder if sharder is None else sharder
