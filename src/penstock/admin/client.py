"""Admin: an operator's calls about streams, groups and dead letters."""

from __future__ import annotations

from penstock._tasks.consumer_config import searches
from penstock._tasks.lifetime import Live
from penstock._tasks.openable import Openable
from penstock.admin._claims import Claims
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter_admin import DeadLetterAdmin
from penstock.admin._group_calls import GroupCalls
from penstock.admin._group_changes import GroupChanges
from penstock.admin._group_facts import GroupFacts
from penstock.admin._owners import OwnerReader, Owners
from penstock.admin._reset_effect import ResetEffects
from penstock.admin._shard_moves import ShardMove, ShardMover
from penstock.admin._shards import ShardAdmin
from penstock.admin._stream_calls import StreamCalls
from penstock.admin._trimming import Trimmer
from penstock.admin.groups import Groups, GroupState
from penstock.credentials import Credentials, credentials_of
from penstock.errors import ConfigurationError
from penstock.events import OnEvent, guarded, log_event
from penstock.options import StartAt
from penstock.sharding import ShardSearch

__all__ = ["Admin"]


class Admin(StreamCalls, GroupCalls, Openable[AdminConnection]):
    """Inspects and changes streams, groups and dead letters, on one connection.

    Every call is one attempt: no command is sent again. If the connection was lost, the
    next call reconnects.

    Args:
        url: `redis://`, `rediss://` or `unix://` with user, password and database,
            or `embedded://`; default: the environment's `REDIS_URL`.
        credentials: Returns user and password, for each new connection: a
            `CredentialProvider` of redis-py, or an async function that returns
            `(user, password)` or a password; default: those of the URL. See
            docs/how-to/security.md.
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
        self._facts = GroupFacts(self._connection, self._shards.existing, self._owners)
        self._changes = GroupChanges(self._connection, self._facts)
        self._claims = Claims(self._connection, self._facts)
        self._effects = ResetEffects(self._connection, self._shards.existing)

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

    async def reset_group(
        self, stream: str, group: str, to: StartAt | str, *, create: bool = False
    ) -> None:
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
            create: Whether a group that does not exist is created.

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
        await self._groups.reset(stream, group, to, create=create)

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
