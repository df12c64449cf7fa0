"""The shell an operator holds."""

from __future__ import annotations

from penstock._core.messages import shard_keys
from penstock._core.protocol import commands
from penstock._tasks.lifetime import Live, Openable
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letters import DeadLetterOffice
from penstock.admin._trimming import Trimmed, Trimmer, TrimTo
from penstock.admin.groups import Groups, GroupState
from penstock.events import OnEvent, guarded, log_event
from penstock.options import Duration, StartAt

__all__ = ["Admin", "group_state", "reset_group", "trim"]


class Admin(Openable[AdminConnection]):
    """Asks about streams and groups on one connection, and changes them.

    Every call is one try: nothing is sent again. When the connection was lost, the
    next call makes another one.

    Args:
        url: `redis://`, `rediss://` or `unix://` with user, password and database,
            or `embedded://`; default: the environment's `REDIS_URL`.
        on_event: Told of what happens in the background, see `Event`; default:
            logged to `penstock`.

    Raises:
        ConfigurationError: On opening: a wrong URL.
        ConnectError: On opening, or later: there is no way to the server.
        AccessError: On opening, or later: the server refuses this user.

    Example:
        ```python
        async with Admin("redis://localhost") as admin:
            while (await admin.group_state("orders", "billing")).pending:
                await asyncio.sleep(1)
        ```
    """

    def __init__(
        self, url: str | None = None, *, on_event: OnEvent = log_event
    ) -> None:
        self._url = url
        self._connection = AdminConnection(guarded(on_event))
        self._groups = Groups(self._connection)
        self._dead = DeadLetterOffice(self._connection)
        self._trimmer = Trimmer(self._connection)

    def _opener(self) -> Live[AdminConnection]:
        connection, url = self._connection, self._url
        return lambda lifetime: connection.open(url, lifetime.binding)

    @property
    def dead(self) -> DeadLetterOffice:
        """The dead letters: listed, read, sent back, purged."""
        return self._dead

    async def group_state(self, stream: str, group: str) -> GroupState:
        """Tell how far a group has come with a stream, over all its shards.

        Args:
            stream: The stream's name.
            group: The group's name.

        Raises:
            StreamMissing: There is no such stream.
            CommandError: There is no such group, or a key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: The stream's name can't be one.
            ClosedError: This is not open.
        """
        return await self._groups.state(stream, group)

    async def reset_group(self, stream: str, group: str, to: StartAt | str) -> None:
        """Have a group go on at another place of a stream, on all its shards.

        What is pending is acknowledged: it comes again if it lies behind the place,
        and does not if it lies before. If the group has consumers that run, they go
        on at the place within two seconds; what they have read before that, they
        handle.

        Args:
            stream: The stream's name.
            group: The group's name.
            to: `EARLIEST`, `LATEST` (what is sent after this), an entry id (that entry
                is included; `after(id)` leaves it out), or an aware `datetime`.

        Raises:
            StreamMissing: There is no such stream.
            CommandError: There is no such group, or a key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply; it can be done
                again.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: It is no place, or the stream's name can't be one.
            ClosedError: This is not open.

        Example:
            ```python
            await admin.reset_group("orders", "billing", EARLIEST)
            ```
        """
        await self._groups.reset(stream, group, to)

    async def delete_stream(self, stream: str) -> bool:
        """Delete a stream with its groups; consumers that are open make it anew.

        Args:
            stream: The stream's name.

        Returns:
            Whether there was one.

        Raises:
            AccessError: The server refuses this user.
            CommandError: The server refuses the command.
            ConnectionLost: The connection ended before the reply.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: The stream's name can't be one.
            ClosedError: This is not open.
        """
        # Unlike DEL, UNLINK frees a large stream without holding up the server.
        command = commands.unlink(shard_keys.single(stream).key)
        [reply] = await self._connection.asks([command], f"UNLINK of {stream!r}")
        return bool(reply)

    async def trim(
        self,
        stream: str,
        to: TrimTo,
        *,
        ignore_idle: Duration | None = None,
        dry_run: bool = False,
    ) -> list[Trimmed]:
        """Delete what is old from a stream, on all its shards.

        `ACKED` deletes what every group has acknowledged, and nothing else, whatever
        consumers do meanwhile: entries that are pending for a group, or not delivered
        to it yet, stay, and so does all behind them. So a group that nobody reads any
        more keeps everything. It is named by `held_by`: destroy it, or leave it out
        by `ignore_idle`. Without any group nothing is deleted. Who reads without a
        group (REALTIME) is not asked.

        The others delete what was handled and what was not.

        Cancelling it, or an exception, leaves a stream trimmed in part; it can be done
        again.

        Args:
            stream: The stream's name.
            to: What is kept: `MaxLen(n)` of each shard, `MaxAge(age)` by the server's
                clock, or what `ACKED` leaves. Or what is the first that is kept: an
                entry id, or an aware `datetime`. `MaxLen` and `MaxAge` delete whole
                nodes of the server's, unless they are `exact`; the others are exact.
            ignore_idle: With `ACKED`: leave out groups of which no consumer has asked
                for anything for longer than this. A group without consumers counts
                from the time of what was delivered to it last; if that is nothing, it
                may be new, and is never left out. **What was not acknowledged by a
                group that is left out is deleted as well.** Default: none is left out.
            dry_run: Whether only to count. Of ids, ages and `ACKED` it reads all that
                would go; where whole nodes go, fewer do.

        Returns:
            What became of each shard.

        Raises:
            StreamMissing: There is no such stream.
            CommandError: A key is no stream.
            AccessError: The server refuses this user.
            ConnectionLost: The connection ended before the reply; it can be done
                again.
            ConnectError: It was lost before, and no other can be made.
            ConfigurationError: It makes no sense, or the stream's name can't be one.
            ClosedError: This is not open.

        Example:
            ```python
            for trimmed in await admin.trim("orders", ACKED):
                print(trimmed.removed, "removed; more is held by", trimmed.held_by)
            ```
        """
        return await self._trimmer.trim(stream, to, ignore_idle, dry_run=dry_run)

    def __repr__(self) -> str:
        return f"<Admin {'closed' if self._connection.closed else 'open'}>"


async def group_state(stream: str, group: str, *, url: str | None = None) -> GroupState:
    """Tell how far a group has come with a stream, on a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        url: The server, see `Admin`.

    Raises:
        PenstockError: What `Admin` and its `group_state` raise.
    """
    async with Admin(url) as admin:
        return await admin.group_state(stream, group)


async def reset_group(
    stream: str, group: str, to: StartAt | str, *, url: str | None = None
) -> None:
    """Have a group go on at another place, by a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        to: The place, see `Admin.reset_group`.
        url: The server, see `Admin`.

    Raises:
        PenstockError: What `Admin` and its `reset_group` raise.
    """
    async with Admin(url) as admin:
        await admin.reset_group(stream, group, to)


async def trim(
    stream: str,
    to: TrimTo,
    *,
    ignore_idle: Duration | None = None,
    dry_run: bool = False,
    url: str | None = None,
) -> list[Trimmed]:
    """Delete what is old from a stream, by a connection of its own.

    Args:
        stream: The stream's name.
        to: What is kept, see `Admin.trim`.
        ignore_idle: Which groups are left out, see there.
        dry_run: Whether only to count.
        url: The server, see `Admin`.

    Raises:
        PenstockError: What `Admin` and its `trim` raise.
    """
    async with Admin(url) as admin:
        return await admin.trim(stream, to, ignore_idle=ignore_idle, dry_run=dry_run)
