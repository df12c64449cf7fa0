"""Guarded writes: claims and acknowledgements that count only under a shard's token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from penstock._core.ledger.pending_acks import AckBatch
from penstock._core.protocol import ownership_scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.leases.own_claims import CommandSender, OwnClaim, OwnClaims
from penstock._tasks.ownership.owned_shards import OwnedMembership, OwnedShards

__all__ = ["GuardedAcks", "GuardedClaims"]

# The most ids of one command: each is a word on Lua's stack, which has 8,000.
_PAGE: Final = 1000


class GuardedClaims(OwnClaims):
    """Claims entries of owned shards.

    Under its token, all that is pending in a shard is this consumer's, whatever name it
    was read under.

    Args:
        member: The consumer's membership of the group.
    """

    def __init__(self, member: OwnedMembership) -> None:
        super().__init__(member)
        self._owned = member.owned

    def command(self, sender: CommandSender, claim: OwnClaim) -> Command:
        """Return the command for a claim of a few hundred entries."""
        name = self._owned.of(claim.shard).consumer
        xclaim = (b"XCLAIM", name, 0, *claim.ids, *claim.words, b"JUSTID")
        return self._owned.guard(claim.shard, commands=[xclaim])

    def script_refused(
        self, sender: CommandSender, command: Command, reply: Any
    ) -> bool:
        """Return False: there is no other way to claim."""
        return False

    def read(
        self, claim: OwnClaim, command: Command, reply: Any
    ) -> list[bytes] | ErrorReply:
        """Return the ids that are pending in the shard: none after another owner."""
        if isinstance(reply, Fenced):
            sent = ownership_scripts.guard_token(command)
            self._owned.fenced(claim.shard, sent, reply)
            return []
        if isinstance(reply, ErrorReply):
            return reply
        [claimed] = reply.replies
        return claimed if isinstance(claimed, ErrorReply) else list(claimed)


class GuardedAcks:
    """Acknowledges entries of owned shards.

    Args:
        owned: The shards.
    """

    def __init__(self, owned: OwnedShards) -> None:
        self._owned = owned

    def commands(self, batch: AckBatch) -> list[Command]:
        """Return the commands that acknowledge a batch."""
        shard, ids = batch.shard_state.shard, batch.ids
        pages = [ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE)]
        return [self._owned.guard(shard, commands=[(b"XACK", *page)]) for page in pages]

    def read(
        self, batch: AckBatch, sent: Sequence[Command], replies: Sequence[Any]
    ) -> int | ErrorReply | None:
        """Return how many were pending; None if the shard is another's."""
        number = 0
        for command, reply in zip(sent, replies, strict=True):
            if isinstance(reply, Fenced):
                token = ownership_scripts.guard_token(command)
                self._owned.fenced(batch.shard_state.shard, token, reply)
                return None
            answer = reply if isinstance(reply, ErrorReply) else reply.replies[0]
            if isinstance(answer, ErrorReply):
                return answer
            number += answer
        return number

    def not_sent_again(self, batch: AckBatch) -> None:
        """Have what is pending delivered again, since no lease of it ends."""
        self._owned.on_unacknowledged(batch.shard_state.shard)
