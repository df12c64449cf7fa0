"""Owner requests: the commands of one shard's ownership, and what their replies mean.

Each is sent in a task of its own, since the consumer goes on meanwhile, and again until
it is answered. A claim is not: executed late, it would claim for a name that is not
read any more. So the core has it claimed again for another one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from penstock import _clock
from penstock._core.ownership import actions as do
from penstock._core.ownership.actions import ShardAction
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.states import OWNED
from penstock._core.ownership.tokens import Token
from penstock._core.protocol import ownership_scripts
from penstock._core.protocol.ownership_replies import Fenced, Guarded, Taken
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._tasks.group import join
from penstock._tasks.ownership.owner_parts import OwnerParts
from penstock._tasks.ownership.requests import LOST, Requests
from penstock._tasks.reporting import ShardReporter
from penstock.errors import ConnectionLost, ServerError
from penstock.message import Shard

__all__ = ["OwnerRequests"]


class OwnerRequests:
    """Sends the commands that a shard's core asks for.

    Args:
        shard: The shard.
        core: Decides.
        parts: What all owners share.
        act: Does what the core asks for next.
    """

    def __init__(
        self,
        shard: Shard,
        core: OwnedShard,
        parts: OwnerParts,
        act: Callable[[Sequence[ShardAction]], None],
    ) -> None:
        self._shard = shard
        self._core = core
        self._parts = parts
        self._act = act
        member = parts.member
        facts = {"stream": shard.stream, "shard": shard.number}
        facts["group"] = member.group
        self._requests = Requests(parts.connection, facts, parts.on_event)
        self._report = ShardReporter(member.group, parts.on_event).report
        self._owner_key = member.owned.owner_key(shard)

    async def take(self, action: do.Take) -> None:
        """Ask for the shard."""
        core, parts = self._core, self._parts
        command = ownership_scripts.take(
            self._shard.key,
            self._owner_key,
            parts.member.group,
            parts.member.name,
            version=action.version,
            run=core.token.run,
            serial=action.serial,
            least=action.least,
            lease=parts.lease_ms,
        )
        reply = await self._requests.ask(command)
        if isinstance(reply, ErrorReply) and reply.kind is ErrorKind.REPAIR:
            await self._floor()
        if reply is LOST or isinstance(reply, ErrorReply):
            self._act(core.take_lost(_clock.boottime()))
            return
        if isinstance(reply, Taken) and reply.kept is not None:
            text = reply.kept.text
            self._report("reaping_refused", self._shard, logging.WARNING, reply=text)
        actions = core.take_answered(reply, _clock.boottime())
        if core.state in OWNED:
            epoch = core.token.number
            parts.ledger.shards.own(self._shard, epoch, core.token.encode())
            parts.spawn(partial(self._open_reader, core.token))
            self._report("shard_taken", self._shard, logging.INFO, epoch=epoch)
        self._act(actions)

    async def _open_reader(self, token: Token) -> None:
        def is_wanted() -> bool:
            return self._core.token == token and self._core.state in OWNED

        await self._parts.readers.open(self._shard, await self._floor(), is_wanted)

    async def _floor(self) -> bytes:
        """Return an id up to which the group has acknowledged everything.

        The group is created where it is missing.
        """
        parts, connection = self._parts, self._parts.connection
        try:
            [floor] = await join(connection, parts.member, [self._shard], [parts.start])
        except ConnectionLost as error:
            await connection.restore(error.reason)
        except ServerError:
            pass  # the reader examines what is wrong with the shard
        else:
            return floor
        return b"0-0"  # at worst all entries are delivered again

    async def keep(self, action: do.Keep) -> None:
        """Begin the lease anew."""
        token = action.token
        command = ownership_scripts.keep(
            self._owner_key, token.encode(), lease=self._parts.lease_ms
        )
        reply = await self._requests.ask(command)
        now = _clock.boottime()
        if reply is LOST or isinstance(reply, ErrorReply):
            self._act(self._core.keep_lost(token))
        elif isinstance(reply, Fenced):
            self._act(self._core.fenced(token, reply.token, now))
        else:
            self._act(self._core.kept(token, now))

    async def free(self, action: do.Free) -> None:
        """Give the shard up."""
        token = action.token
        command = ownership_scripts.free(self._owner_key, token.encode())
        reply = await self._requests.ask(command)
        if reply is LOST or isinstance(reply, ErrorReply):
            self._act(self._core.free_lost(token))
        else:
            self._report("shard_freed", self._shard, logging.INFO, epoch=token.number)
            self._act(self._core.freed(token, _clock.boottime()))

    async def recover(self, action: do.Recover) -> None:
        """Claim what is pending for others, and have all that is pending recorded."""
        if action.claim and not await self._claim(action.token, action.reader):
            return
        self._parts.readers.recover_again(self._shard)
        now = _clock.boottime()
        self._act(self._core.recovered(action.token, action.turn, now))

    async def claim_strays(self, action: do.ClaimStrays) -> None:
        """The same, for what late reads have taken."""
        if await self._claim(action.token, action.reader):
            self._parts.readers.recover_again(self._shard)
            self._act(self._core.strays_recorded(action.token))

    async def _claim(self, token: Token, reader: int) -> bool:
        """Claim what is pending for others; return whether nothing of it is left.

        If not, the shard is another's or is read under another name, and that is
        followed by other actions.
        """
        core, owned = self._core, self._parts.member.owned
        while (core.token, core.reader) == (token, reader):
            core.write_sent()
            command = owned.guard(self._shard, claim=self._parts.lease_ms)
            reply = await self._requests.ask(command)
            now = _clock.boottime()
            if isinstance(reply, Fenced):
                self._act(core.fenced(token, reply.token, now))
            elif reply is LOST:
                self._act(core.claim_lost(token, now))
            self._act(core.write_answered(token))
            if isinstance(reply, Guarded) and not reply.more:
                return True
            if isinstance(reply, ErrorReply) and reply.kind is ErrorKind.REPAIR:
                return True  # without the group nothing is pending
        return False
