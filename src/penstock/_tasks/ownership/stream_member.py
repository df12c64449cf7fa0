"""Stream member: a consumer's membership of the group that shares a stream's shards.

The core is `_core/ownership/member.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.ownership import actions as do
from penstock._core.ownership import keys
from penstock._core.ownership.actions import MemberAction
from penstock._core.ownership.keys import target_number
from penstock._core.ownership.member import Member
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.states import MemberState, ShardState
from penstock._core.ownership.target import encode
from penstock._core.protocol import commands, ownership_scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.ownership_check import check
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.ownership.owner_parts import OwnerParts
from penstock._tasks.ownership.requests import LOST, Requests
from penstock._tasks.ownership.shard_owner import ShardOwner
from penstock._tasks.reporting import number_list
from penstock.durations import seconds
from penstock.errors import ConnectionLost
from penstock.events import Event
from penstock.message import Shard
from penstock.options import Owned

__all__ = ["StreamMember"]

_AT_END = frozenset((ShardState.ABSENT, ShardState.ENDED))


class StreamMember:
    """A member, and the owners of the shards of one stream.

    Args:
        stream: The stream.
        run: The run of this process; see `Token`.
        options: How shards are owned.
        static: Whether the member's place is kept for a lease when it closes.
        parts: What all shard owners of the consumer share.
    """

    def __init__(
        self,
        stream: str,
        run: str,
        options: Owned,
        *,
        static: bool,
        parts: OwnerParts,
    ) -> None:
        self._parts = parts
        self._run = run
        self._weight = options.weight
        self._name, group = parts.member.name, parts.member.group
        self._key = keys.members_key(stream.encode(), group)
        self.channel = keys.news_channel(stream.encode(), group)
        self._core = Member(
            self._name,
            lease=parts.lease,
            static=static,
            settle=seconds(options.settle, "Owned(settle)"),
        )
        self._facts = {"stream": stream, "group": group}
        self._requests = Requests(parts.connection, {**self._facts}, parts.on_event)
        # Whether the server is still to be told that the member leaves.
        self._leaving = False
        self._shards: dict[int, Shard] = {}
        self._owners: dict[int, ShardOwner] = {}

    @property
    def owners(self) -> Iterable[ShardOwner]:
        """The owners of all shards that this member had a part in."""
        return self._owners.values()

    @property
    def shards(self) -> Iterable[Shard]:
        """The shards of the stream that were found."""
        return self._shards.values()

    @property
    def connection(self) -> CommandConnection:
        """The command connection."""
        return self._parts.connection

    @property
    def is_out(self) -> bool:
        """Whether the member has left, and owns nothing."""
        return self._core.state is MemberState.OUT and not self._leaving

    # -- joining -----------------------------------------------------------------------

    def open(self, shards: Sequence[Shard]) -> Command:
        """Begin to join; return the first beat.

        Args:
            shards: The shards of the stream that there are.
        """
        self._shards = {target_number(shard): shard for shard in shards}
        [beat] = self._core.open(self._shards, _clock.boottime())
        assert isinstance(beat, do.Beat)  # noqa: S101 - it is the way to join
        return self._beat_command(beat)

    def checks(self) -> list[Command]:
        """Return commands that try what this member may do with its shards."""
        member = self._parts.member
        return [
            check(shard.key, member.owned.owner_key(shard), member.group)
            for shard in self._shards.values()
        ]

    def opened(self, reply: object) -> None:
        """Go on with the reply to the first beat."""
        self.act(self._core.beaten(reply, _clock.boottime()))  # type: ignore[arg-type]

    def found(self, shards: Iterable[Shard]) -> None:
        """Record that the stream has more shards."""
        new = {target_number(shard): shard for shard in shards}
        self._shards |= new
        self.act(self._core.shards_found(new, _clock.boottime()))

    # -- time and news -----------------------------------------------------------------

    def due_at(self) -> float:
        """Return when `due` has something to do next."""
        shards = (owner.core.due_at() for owner in self.owners)
        return min(self._core.due_at(), min(shards, default=float("inf")))

    def due(self, now: float) -> None:
        """Do what is due."""
        self.act(self._core.due(now))
        for owner in self.owners:
            if now >= owner.core.due_at():
                owner.act(owner.core.due(now))

    def news(self) -> None:
        """Look again: another member has changed something."""
        now = _clock.boottime()
        self.act(self._core.news(now))
        for owner in self.owners:
            owner.act(owner.core.news(now))

    # -- leaving -----------------------------------------------------------------------

    def close(self) -> None:
        """Give up all shards, and leave."""
        self.act(self._core.close())
        self.check_end()

    def report_unfreed(self, now: float) -> None:
        """Report the shards that may stay this member's for as long as its lease."""
        until = {o.shard: o.core.taken_until for o in self.owners}
        kept = [shard for shard in until if until[shard] > now]
        if kept:
            facts: dict[str, object] = {**self._facts, "shards": number_list(kept)}
            facts["seconds"] = round(max(map(until.__getitem__, kept)) - now, 3)
            self._parts.on_event(Event("shards_not_freed", logging.WARNING, facts))

    def check_end(self) -> None:
        """Record it if the member leaves and no shard is left."""
        leaving = self._core.state is MemberState.LEAVING
        if leaving and all(owner.core.state in _AT_END for owner in self.owners):
            self._core.all_absent()

    # -- what the core asks for --------------------------------------------------------

    def act(self, actions: Sequence[MemberAction]) -> None:
        """Do what the core asks for."""
        spawn = self._parts.spawn
        for action in actions:
            match action:
                case do.Beat():
                    spawn(partial(self._beat, action))
                case do.Assign():
                    spawn(partial(self._assign, action))
                case do.Leave():
                    self._leaving = True
                    spawn(self._leave)
                case do.News():
                    self._publish()
                case do.Own(version, shards):
                    self._own(version, shards)
        self._parts.on_change()

    def _beat_command(self, beat: do.Beat) -> Command:
        return ownership_scripts.beat(
            self._key,
            self._name,
            lease=self._parts.lease_ms,
            known=beat.known,
            join=beat.join,
            weight=self._weight,
        )

    async def _beat(self, beat: do.Beat) -> None:
        reply = await self._requests.ask(self._beat_command(beat))
        now = _clock.boottime()
        if reply is LOST or isinstance(reply, ErrorReply):
            self.act(self._core.beat_lost(now))
        else:
            self.act(self._core.beaten(reply, now))

    async def _assign(self, action: do.Assign) -> None:
        command = ownership_scripts.assign(
            self._key,
            seen=action.seen,
            least=action.least,
            target=encode(action.target),
        )
        reply = await self._requests.ask(command)
        now = _clock.boottime()
        if reply is LOST or isinstance(reply, ErrorReply):
            self.act(self._core.beat_lost(now))
        else:
            self.act(self._core.assigned(reply, action.target, now))

    async def _leave(self) -> None:
        reply = await self._requests.ask(ownership_scripts.leave(self._key, self._name))
        self._leaving = False
        again = reply is LOST or isinstance(reply, ErrorReply)
        self.act(self._core.leave_lost() if again else ())

    def _publish(self) -> None:
        """Tell the other members to look; else they find it out by their beats."""
        with suppress(ConnectionLost):
            self.connection.send([commands.publish(self.channel, b"")])

    def _own(self, version: int, shards: Iterable[int]) -> None:
        now, wanted = _clock.boottime(), set(shards)
        for number in sorted(wanted - self._owners.keys()):
            # A shard that this member has not found itself, because it looks later.
            shard = self._shards.get(number)
            if shard is not None:
                self._owners[number] = self._make_owner(shard)
        for number, owner in self._owners.items():
            if number in wanted:
                owner.act(owner.core.wanted(version, now))
            else:
                owner.act(owner.core.unwanted(now))

    def _make_owner(self, shard: Shard) -> ShardOwner:
        core = OwnedShard(
            self._name, self._run, lease=self._parts.lease, drain=self._parts.drain
        )
        return ShardOwner(
            shard,
            core,
            self._parts,
            on_news=self._publish,
            on_version=self._version_seen,
        )

    def _version_seen(self, version: int) -> None:
        self.act(self._core.version_seen(version, _clock.boottime()))
