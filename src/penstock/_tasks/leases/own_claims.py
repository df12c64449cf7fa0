"""Claims of a consumer's own entries: renewals, counted starts, releases.

XCLAIM gives an entry to whoever asks. A claim that is late, because the server was
frozen or the network slow, must not take an entry back from a consumer that has
claimed it meanwhile. So the server is asked in the same step who owns it, by a script.
Where scripts are forbidden, the idle clock has to do: a claim by another consumer has
reset it, so XCLAIM is told how idle our own entry must be at least. That holds unless
the claim is late by half a lease.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.commands import Command, Word
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._tasks.group import Membership
from penstock.message import Shard

__all__ = ["Caller", "OwnClaim", "OwnClaims", "batched", "min_idle"]

T = TypeVar("T")

# Ids in one command, so that none occupies the server for long.
_PAGE: Final = 500


class Caller(Protocol):
    """A connection, or what has one."""

    @property
    def number(self) -> int:
        """Changes with every connection."""

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies, errors as values."""


def batched(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split what is to be claimed into parts of a few hundred."""
    for start in range(0, len(items), _PAGE):
        yield items[start : start + _PAGE]


def min_idle(age: float, lease: float) -> int:
    """Return how many milliseconds an entry of ours has been idle at least.

    Args:
        age: Seconds since the server can have given it to us, see `Entry.leased_at`. It
            may have done so later, by as long as a read or a reply took.
        lease: The lease in seconds.
    """
    return max(0, int((age - LeaseTerms(lease).delivery_slack) * 1000))


@dataclass(frozen=True, slots=True)
class OwnClaim:
    """A claim of entries that this consumer owns, as far as it knows.

    Attributes:
        shard: Where they are.
        ids: The entries.
        min_idle: Milliseconds for which they have been idle at least, if they are ours.
        count: What their delivery count is set to; None to leave it.
        idle: Milliseconds for which they are to count as idle; None to start anew.
    """

    shard: Shard
    ids: Sequence[bytes]
    min_idle: int = 0
    count: int | None = None
    idle: int | None = None

    def parts(self) -> list[OwnClaim]:
        """Split it into claims of a few hundred entries."""
        return [replace(self, ids=ids) for ids in batched(self.ids)]

    @property
    def words(self) -> tuple[Word, ...]:
        """What XCLAIM is to set, in its own words."""
        idle = () if self.idle is None else (b"IDLE", self.idle)
        count = () if self.count is None else (b"RETRYCOUNT", self.count)
        return (*idle, *count)


class OwnClaims:
    """Claims entries anew that this consumer owns, and none that it does not.

    Args:
        member: Whose they are.
    """

    def __init__(self, member: Membership) -> None:
        self._member = member
        # The connections on which scripts were refused. On a new one it is tried again:
        # the user may have got the permission meanwhile.
        self._no_scripts_on: set[int] = set()

    async def claim(
        self,
        caller: Caller,
        claims: Sequence[OwnClaim],
        then: Sequence[Command] = (),
    ) -> list[list[bytes] | ErrorReply]:
        """Claim entries; returns, per claim, the ids that were ours, or a refusal.

        Args:
            caller: Sends the commands.
            claims: What to claim.
            then: Commands to send behind them in the same write, whose replies do not
                matter.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        parts = [part for claim in claims for part in claim.parts()]
        sent = [self.command(caller, part) for part in parts]
        answers = (await caller.calls([*sent, *then]))[: len(sent)]
        refused = [
            number
            for number, (command, reply) in enumerate(zip(sent, answers, strict=True))
            if self.script_refused(caller, command, reply)
        ]
        if refused:
            again = [self.command(caller, parts[number]) for number in refused]
            replied = await caller.calls([*again, *then])
            for number, reply in zip(refused, replied, strict=False):
                answers[number] = reply
        replies = iter(answers)
        return [_joined([next(replies) for _ in claim.parts()]) for claim in claims]

    def command(self, caller: Caller, claim: OwnClaim) -> Command:
        """Return the command for a claim of a few hundred entries."""
        key, member, words = claim.shard.key, self._member, claim.words
        if caller.number not in self._no_scripts_on:
            return scripts.claim_own(key, member.group, member.name, claim.ids, words)
        return commands.xclaim(
            key,
            member.group,
            member.name,
            claim.ids,
            idle=claim.min_idle,
            words=words,
        )

    def script_refused(self, caller: Caller, command: Command, reply: Any) -> bool:
        """Return whether a command's script was refused; the next ones have none."""
        if not isinstance(reply, ErrorReply) or reply.trouble is not ErrorKind.FATAL:
            return False
        scripted = command[0] == b"EVAL"
        if scripted:
            self._no_scripts_on.add(caller.number)
        return scripted


def _joined(answers: Sequence[Any]) -> list[bytes] | ErrorReply:
    for reply in answers:
        if isinstance(reply, ErrorReply):
            return reply
    return [id_ for reply in answers for id_ in reply]
