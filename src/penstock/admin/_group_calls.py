"""The calls of `Admin` about groups: who is in them, and what changes them for good."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.admin._claims import Claimed, Claims, ClaimSelection
from penstock.admin._group_changes import EntryLosses, GroupChanges
from penstock.admin._group_facts import GroupConsumer, GroupFacts
from penstock.admin._reset_effect import ResetEffect, ResetEffects
from penstock.durations import Duration, seconds
from penstock.errors import ConfigurationError
from penstock.message import EntryId
from penstock.options import StartAt, place

__all__ = ["GroupCalls"]


class GroupCalls:
    """Calls about groups; a part of `Admin`, which opens the connection."""

    _facts: GroupFacts
    _changes: GroupChanges
    _claims: Claims
    _effects: ResetEffects

    async def groups(self, stream: str) -> list[str]:
        """Return the names of the groups of a stream, in any of its shards.

        Args:
            stream: The stream's name.

        Raises:
            PenstockError: See `group_state`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                print(await admin.groups("orders"))
            ```
        """
        return await self._facts.groups(stream)

    async def consumers(self, stream: str, group: str) -> list[GroupConsumer]:
        """Return the consumers of a group, over all shards of a stream.

        Args:
            stream: The stream's name.
            group: The group's name.

        Raises:
            PenstockError: See `group_state`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                for consumer in await admin.consumers("orders", "billing"):
                    print(consumer.name, consumer.pending, consumer.live)
            ```
        """
        return await self._facts.consumers(stream, group)

    async def reset_effect(
        self, stream: str, group: str, to: StartAt | str
    ) -> ResetEffect:
        """Return what `reset_group` would do with the same arguments.

        Entries whose number the server does not know are read, so this takes longer,
        the more there are. The answer holds for the moment.

        Args:
            stream: The stream's name.
            group: The group's name; it need not exist.
            to: The position, see `reset_group`.

        Raises:
            PenstockError: See `reset_group`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                print((await admin.reset_effect("orders", "billing", LATEST)).lost)
            ```
        """
        where = place(to, "reset_effect(to)")
        return await self._effects.of(stream, group, where)

    async def claim(
        self,
        stream: str,
        group: str,
        *,
        consumer: str | None = None,
        idle: Duration | None = None,
        ids: Iterable[EntryId | str] | None = None,
        ack: bool = False,
        force: bool = False,
        dry_run: bool = False,
    ) -> Claimed:
        """Give pending entries back to their group, so that live consumers take them.

        The entries are selected in exactly one way. Their idle time is set beyond any
        lease, their delivery counts stay, and that is announced to the consumers of
        Penstock's, which claim such entries at once. Nobody holds them meanwhile: they
        stay in the name of the consumer that has them, which counts as having just
        asked the server for something.

        An entry that another consumer has claimed in the meantime is left alone.
        In a group whose members own shards, the owner of a shard handles what is
        pending in it, so nothing is done if such a shard has a living owner.

        A cancellation or an exception leaves some of them claimed; the call can be
        repeated.

        Args:
            stream: The stream's name.
            group: The group's name.
            consumer: Entries of this consumer.
            idle: Entries that were not delivered, claimed or renewed for this long.
            ids: Entries with these ids.
            ack: Whether to acknowledge them instead, unhandled: **the group loses
                them.**
            force: Whether to claim entries of live consumers as well, whose handlers
                may be running: **then they are handled twice.**
            dry_run: Whether only to count them.

        Returns:
            What was claimed.

        Raises:
            ConfigurationError: The selection is invalid.
            CommandError: The group does not exist; or, with nothing changed, entries
                are those of live consumers (the code is `INUSE`) or in a shard that has
                a living owner (`OWNED`).
            AccessError: The server refuses this user, which needs `EVAL` as well.
            PenstockError: See `group_state`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                claimed = await admin.claim("orders", "billing", idle=300)
                print(claimed.entries)
            ```
        """
        if [consumer, idle, ids].count(None) != 2:  # noqa: PLR2004 - all but one
            raise ConfigurationError(
                "claim selects the entries in exactly one way: consumer=, idle= or ids="
            )
        selection = ClaimSelection(
            consumer,
            None if idle is None else seconds(idle, "claim(idle)"),
            None if ids is None else _ids(ids),
        )
        return await self._claims.claim(
            stream, group, selection, ack=ack, force=force, dry_run=dry_run
        )

    async def delete_group(
        self, stream: str, group: str, *, force: bool = False
    ) -> None:
        """Delete a group from all shards of a stream, with what it has pending.

        What the group has stored about owned shards is deleted too, unless a member
        owns a shard whose lease has not ended.

        Args:
            stream: The stream's name.
            group: The group's name.
            force: Whether to delete a group that has live consumers. Consumers of
                Penstock's create it again where it was, so stop them before.

        Raises:
            CommandError: The group does not exist, or has live consumers (the code is
                `INUSE`).
            PenstockError: See `group_state`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                await admin.delete_group("orders", "billing", force=True)
            ```
        """
        await self._changes.delete_group(stream, group, force=force)

    async def delete_consumer(self, stream: str, group: str, consumer: str) -> bool:
        """Delete a consumer from a group, if it has nothing pending.

        One that is running is created again by its next read.

        Args:
            stream: The stream's name.
            group: The group's name.
            consumer: The consumer's name.

        Returns:
            Whether there was such a consumer.

        Raises:
            CommandError: The group does not exist, or the consumer has pending entries
                (the code is `PENDING`): claim them before.
            AccessError: The server refuses this user, which needs `EVAL` as well.
            PenstockError: See `group_state`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                print(await admin.delete_consumer("orders", "billing", "host:7:ab"))
            ```
        """
        return await self._changes.delete_consumer(stream, group, consumer)

    async def entry_losses(
        self,
        stream: str,
        ids: Iterable[EntryId | str],
        *,
        shard: int | None = None,
    ) -> EntryLosses:
        """Return which groups would lose entries by `delete_entries`.

        Args:
            stream: The stream's name.
            ids: The ids.
            shard: The number of the shard that has them; default: any.

        Raises:
            PenstockError: See `group_state`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                losses = await admin.entry_losses("orders", ["1772366400250-0"])
                print(losses.groups, losses.missing)
            ```
        """
        return await self._changes.losses(stream, _ids(ids), shard)

    async def delete_entries(
        self,
        stream: str,
        ids: Iterable[EntryId | str],
        *,
        shard: int | None = None,
    ) -> int:
        """Delete entries by their ids, whether they have been handled or not.

        The lag of a group that has not read past a deleted entry is not known to the
        server until it has.

        Args:
            stream: The stream's name.
            ids: The ids.
            shard: The number of the shard that has them; default: any.

        Returns:
            The number of entries that existed.

        Raises:
            CommandError: Several shards have an entry with such an id (the code is
                `AMBIGUOUS`); nothing is deleted then.
            PenstockError: See `group_state`.

        Example:
            ```python
            async with Admin("redis://localhost") as admin:
                print(await admin.delete_entries("orders", ["1772366400250-0"]))
            ```
        """
        return await self._changes.delete_entries(stream, _ids(ids), shard)


def _ids(ids: Iterable[EntryId | str]) -> tuple[EntryId, ...]:
    """Return ids, each once.

    Raises:
        ConfigurationError: One is no id.
    """
    if isinstance(ids, str):
        ids = [ids]
    found = [EntryId.parse(one) if isinstance(one, str) else one for one in ids]
    return tuple(dict.fromkeys(found))
