"""Admin: an operator's calls about streams, groups and dead letters."""

from __future__ import annotations

from penstock._tasks.consumer_config import searches
from penstock._tasks.lifetime import Live
from penstock._tasks.openable import Openable
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter_admin import DeadLetterAdmin
from penstock.admin._owners import OwnerReader, Owners
from penstock.admin._shard_moves import ShardMove, ShardMover
from penstock.admin._shards import ShardAdmin
from penstock.admin._trim_losses import TrimLoss
from penstock.admin._trimming import Trimmed, Trimmer, TrimTo
from penstock.admin.groups import Groups, GroupState
from penstock.credentials import Credentials, credentials_of
from penstock.durations import Duration
from penstock.errors import ConfigurationError
from penstock.events import OnEvent, guarded, log_event
from penstock.options import StartAt
from penstock.sharding import Sharder, ShardRecord, ShardSearch

__all__ = ["Admin"]


class Admin(Openable[AdminConnection]):
    """Inspects and changes streams, groups and dead letters, on one connection.

    Every call is one attempt: no command is sent again. If the connection was lost, the
    next call reconnects.

    Args:
        url: `redis://`, `rediss://` or `unix://` with user, password and database,
            or `embedded://`; default: the environment's `REDIS_URL`.
        credentials: Returns user and password, for each new connection: a
            `CredentialProvider` of redis-py, or an async function that returns
            `(user, password)` or a password; default: those of the URL. See
            docs/security.md.
        shards: How the shards of streams are found: by the streams' records (default),
            or by name (`DISCOVER`), for streams that SeaStreamer spreads.
        on_event: Called with what happens in the background, see `Event`; default:
            events are logged to `penstock`.

    Raises:
        ConfigurationError: On opening: the URL is invalid.
        ConnectError: On opening, or later: the server could not be reached.
        AccessError: On opening, or later: the server refuses this user.

    Example:
        ```python
        async with Admin("redis://localhost") as admin:
            while (await admin.group_state("orders", "billing")).pending:
                await asyncio.sleep(1)
        ```
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        credentials: Credentials | None = None,
        shards: ShardSearch | None = None,
        on_event: OnEvent = log_event,
    ) -> None:
        if shards is not None and not searches(shards):
            raise ConfigurationError(
                f"shards={shards!r:.60} is invalid; pass DISCOVER, or leave it out"
            )
        self._url = url
        self._credentials = credentials_of(credentials)
        self._connection = AdminConnection(guarded(on_event))
        self._shards = ShardAdmin(self._connection, search=shards is not None)
        self._groups = Groups(self._connection, self._shards.all)
        self._dead = DeadLetterAdmin(self._connection)
        self._trimmer = Trimmer(self._connection, self._shards.all)
        self._owners = OwnerReader(self._connection, self._shards.recorded)
        self._mover = ShardMover(self._connection, self._owners)

    def _opener(self) -> Live[AdminConnection]:
        connection, url, credentials = self._connection, self._url, self._credentials
        return lambda lifetime: connection.open(url, lifetime.binding, credentials)

    @property
    def dead(self) -> DeadLetterAdmin:
        """The calls that list, read, redrive and purge dead letters."""
        return self._dead

    async def group_state(self, stream: str, group: str) -> GroupState:
        """Return how far a group has read a stream, over all its shards.

        Args:
            stream: The stream's name.
            group: The group's name.

        Raises:
            StreamMissing: The stream does not exist.
            CommandError: The group does not exist, or a key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ConfigurationError: The stream's name is invalid.
            ClosedError: The `Admin` is not open.
        """
        return await self._groups.state(stream, group)

    async def reset_group(self, stream: str, group: str, to: StartAt | str) -> None:
        """Set the position of a group in a stream, on all its shards.

        Pending entries are acknowledged: those from the new position on are delivered
        again, those before it are not. In each shard this and the new position are one
        transaction, so that nothing is lost if the call fails; it can be repeated.
        Running consumers of the group continue at the position within two seconds; they
        still handle the entries that they have read before that.

        Args:
            stream: The stream's name.
            group: The group's name.
            to: `EARLIEST`, `LATEST` (only entries that are sent after this call), an
                entry id (that entry is included; `after(id)` excludes it), or an aware
                `datetime`.

        Raises:
            StreamMissing: The stream does not exist.
            CommandError: The group does not exist, or a key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply; the call can be
                repeated.
            ConnectError: The connection was lost earlier, and reconnecting failed.
            ConfigurationError: The position or the stream's name is invalid.
            ClosedError: The `Admin` is not open.

        Example:
            ```python
            await admin.reset_group("orders", "billing", EARLIEST)
            ```
        """
        await self._groups.reset(stream, group, to)

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

    async def owners(self, stream: str, group: str) -> Owners:
        """Return which members of a group own which shards of a stream.

        Args:
            stream: The stream's name.
            group: The group's name.

        Returns:
            The shards with their owners, and the members. If the consumers of the group
            share the shards, there are no members, and no shard has an owner.

        Raises:
            PenstockError: See `group_state`.

        Example:
            ```python
            for owned in (await admin.owners("orders", "billing")).shards:
                print(owned.shard.number, owned.owner, owned.epoch, owned.pending)
            ```
        """
        return await self._owners.owners(stream, group)

    async def move(
        self,
        stream: str,
        group: str,
        shard: int,
        to: str | None = None,
        *,
        force: bool = False,
    ) -> ShardMove:
        """Change which member of a group should own a shard.

        The owner then drains the shard and frees it, and the other member takes it. The
        call does not wait for that; `owners` shows it.

        Members bring every target into balance that is not. So if the move alone would
        leave one member with too many shards, another shard goes the other way: of the
        shards of `to`, the one with the fewest pending entries. The result names it.
        The move lasts until a member joins or leaves, and may be undone then.

        Args:
            stream: The stream's name.
            group: The group's name.
            shard: The shard's number.
            to: The name of the member that gets it; default: the member with the fewest
                shards, other than the one that has it. If the shard is on its way to
                another member already, it is that one.
            force: Whether to take the shard away from its owner, if that is another
                member. Use it for an owner that does not drain, for example because a
                handler hangs. Its outcomes are refused from then on, and it calls
                `on_lost`, not `on_revoked`. **Messages that it has handled and not
                acknowledged, or whose handlers still run, are handled again** by the
                other member, possibly at the same time.

        Returns:
            What was changed.

        Raises:
            ConfigurationError: The members do not own such a shard, `to` is not a
                member, or there is no other member.
            AccessError: The server refuses this user, which needs `EVAL` as well.
            ConnectionLost: The connection ended before the reply; the call can be
                repeated.
            PenstockError: See `owners`.

        Example:
            ```python
            await admin.move("orders", "billing", 0, "billing-2")
            ```
        """
        return await self._mover.move(stream, group, shard, to, force=force)

    def __repr__(self) -> str:
        return f"<Admin {'closed' if self._connection.closed else 'open'}>"
