"""The calls of `Admin` about streams: which there are, their shards, and trimming."""

from __future__ import annotations

from penstock.admin._shards import ShardAdmin
from penstock.admin._trim_losses import TrimLoss
from penstock.admin._trimming import Trimmed, Trimmer, TrimTo
from penstock.durations import Duration
from penstock.message import Shard
from penstock.sharding import Sharder, ShardRecord

__all__ = ["StreamCalls"]


class StreamCalls:
    """Calls about streams; a part of `Admin`, which opens the connection."""

    _shards: ShardAdmin
    _trimmer: Trimmer

    async def streams(self) -> list[str]:
        """Return the names of all streams of the database, sorted.

        Shards count as their stream, by its record. Dead letters are in streams too, so
        these are among them. This goes through all keys of the database, with `SCAN`.

        Raises:
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ClosedError: The `Admin` is not open.

        Example:
            ```python
            print(await admin.streams())
            ```
        """
        return await self._shards.streams()

    async def keys(self, stream: str) -> list[Shard]:
        """Return the shards of a stream that exist, each with its key.

        A user that may not ask (`EXISTS`) is given the stream's own key.

        Args:
            stream: The stream's name.

        Raises:
            StreamMissing: The stream does not exist.
            ConnectionLost: The connection ended before the reply.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ConfigurationError: The stream's name is invalid.
            ClosedError: The `Admin` is not open.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                for shard in await admin.keys("orders"):
                    print(shard.number, shard.key)
            ```
        """
        return await self._shards.existing(stream)

    async def shards(self, stream: str) -> ShardRecord | None:
        """Return how a stream is spread over shards, by its record.

        Args:
            stream: The stream's name.

        Returns:
            The record; None if there is none, so that the stream is one key.

        Raises:
            ServerError: The record can't be read, see `group_state`; or what is in its
                place is no record.
            ConfigurationError: The stream's name is invalid.
            ClosedError: The `Admin` is not open.
        """
        return await self._shards.record(stream)

    async def set_shards(
        self, stream: str, number: int, *, sharder: Sharder | str | None = None
    ) -> ShardRecord:
        """Record how many shards a stream has; the number can only grow.

        Running consumers read the new shards within a few seconds, from their first
        entry. Producers with another number of shards are refused (`ShardsDiffer`) when
        they first send to the stream; those that run already report `shards_differ` and
        go on with their number until they are started again. With `KeyHash`, most keys
        move to another shard when the number changes: messages that were sent to the
        old shard may be handled after newer ones. Where that matters, stop the
        producers, and let the consumers catch up before.

        Use it also for a stream whose shards were written without a record, by
        SeaStreamer for example, with `sharder=""`.

        Args:
            stream: The stream's name.
            number: The number of shards, from 1 to 16,384.
            sharder: The sharder that producers have to use, or its name; an empty name
                accepts any. Default: as it is recorded, or `KeyHash`.

        Returns:
            The record as it is now.

        Raises:
            ConfigurationError: The number is invalid, or lower than the recorded one;
                or the stream's name is invalid.
            AccessError: The server refuses this user. It needs `GET`, and `EVAL` with
                `SET`.
            ServerError: See `group_state`.
            ClosedError: The `Admin` is not open.

        Example:
            ```python
            await admin.set_shards("orders", 8)
            ```
        """
        return await self._shards.set_number(stream, number, sharder)

    async def delete_stream(self, stream: str) -> bool:
        """Delete a stream: all its shards with their groups, and its record.

        Open consumers recreate the shards that they read, and the record. A producer
        that sends to the stream records its shards again.

        What a group has stored about owned shards is deleted too, and the numbers of
        ownerships (`message.epoch`) begin at 1 again. It stays if a member owns a shard
        whose lease has not ended: close the consumers before.

        Args:
            stream: The stream's name.

        Returns:
            Whether any shard existed.

        Raises:
            AccessError: The server refuses this user.
            CommandError: The server refuses the command.
            ConnectionLost: The connection ended before the reply.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ConfigurationError: The stream's name is invalid.
            ClosedError: The `Admin` is not open.
        """
        return await self._shards.delete(stream)

    async def trim(
        self,
        stream: str,
        to: TrimTo,
        *,
        ignore_idle: Duration | None = None,
        dry_run: bool = False,
    ) -> list[Trimmed]:
        """Delete old entries from a stream, on all its shards.

        `ACKED` deletes the entries that every group has acknowledged, and no others,
        whatever consumers do meanwhile: the first entry that is pending for a group, or
        not delivered to it yet, stays, and so do all entries after it. So a group that
        nobody reads any more keeps everything. `held_by` names that group: destroy it,
        or exclude it by `ignore_idle`. Without any group nothing is deleted. Consumers
        without a group (REALTIME) are not considered.

        The other values of `to` delete entries whether they have been handled or not.

        A cancellation or an exception leaves a stream partly trimmed; the call can be
        repeated.

        Args:
            stream: The stream's name.
            to: The entries to keep: `MaxLen(n)` of each shard, `MaxAge(age)` by the
                server's clock, or `ACKED`. Or the first entry to keep: an entry id, or
                an aware `datetime`. `MaxLen` and `MaxAge` delete only whole nodes of
                the server's tree, unless they are `exact`; the others are exact.
            ignore_idle: With `ACKED`: exclude groups whose consumers have all been idle
                for longer than this. The idle time of a group without consumers is the
                age of the last entry delivered to it. If nothing was delivered to it,
                the group may be new, and is never excluded. **Entries that an excluded
                group has not acknowledged are deleted as well.** Default: no group is
                excluded.
            dry_run: Whether only to count. With ids, ages and `ACKED` this reads every
                entry that would be deleted. Where only whole nodes are deleted, the
                actual number is lower.

        Returns:
            The result for each shard.

        Raises:
            StreamMissing: The stream does not exist.
            CommandError: A key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply; the call can be
                repeated.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ConfigurationError: An argument or the stream's name is invalid.
            ClosedError: The `Admin` is not open.

        Example:
            ```python
            for trimmed in await admin.trim("orders", ACKED):
                print(trimmed.removed, "removed; more is held by", trimmed.held_by)
            ```
        """
        return await self._trimmer.trim(stream, to, ignore_idle, dry_run=dry_run)

    async def trim_losses(
        self, stream: str, to: TrimTo, *, ignore_idle: Duration | None = None
    ) -> list[TrimLoss]:
        """Return what groups would lose by a call of `trim` with the same arguments.

        Each group is listed that has not acknowledged some of the entries that would be
        deleted, with their numbers. Those entries are read, so this takes longer, the
        more would be lost. `MaxLen` and `MaxAge` without `exact` may delete less.

        The answer holds for the moment: a group that falls behind meanwhile loses more.

        Args:
            stream: The stream's name.
            to: The entries to keep.
            ignore_idle: With `ACKED`: exclude groups that have been idle for longer.

        Returns:
            The losses by shard and group; an empty list if no group loses anything.

        Raises:
            PenstockError: See `trim`.

        Example:
            ```python
            if not await admin.trim_losses("orders", MaxAge(timedelta(days=7))):
                await admin.trim("orders", MaxAge(timedelta(days=7)))
            ```
        """
        return await self._trimmer.losses(stream, to, ignore_idle)
