"""Claims of a consumer's own entries: renewals, counted starts, releases.

XCLAIM assigns an entry to any consumer that claims it. A claim that is late, because
the server was frozen or the network slow, must not take an entry back from a consumer
that has claimed it meanwhile. So a script checks the owner in the same step.
Where scripts are forbidden, the idle time has to be enough: a claim by another consumer
has reset it, so XCLAIM is sent with the least idle time that an entry of this consumer
must have. That works unless the claim is late by half a lease. Another claim of this
consumer that was under way has reset it as well, so what XCLAIM has not claimed need
not be lost: the server is asked for its owner, and its idle time is demanded then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.commands import Command, Word
from penstock._core.protocol.replies import ErrorKind, ErrorReply, PendingEntry
from penstock._tasks.group import Membership
from penstock.message import Shard

__all__ = [
    "CommandSender",
    "OwnClaim",
    "OwnClaims",
    "ask_owners",
    "batched",
    "may_demand_too_much",
    "min_idle",
]

T = TypeVar("T")

# The most ids of one command, so that none occupies the server for long.
_PAGE: Final = 500


class CommandSender(Protocol):
    """A connection, or an object that has one."""

    @property
    def number(self) -> int:
        """A number that is different forevery connection."""

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies, errors as values."""


def batched(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in parts of a few hundred."""
    for start in range(0, len(items), _PAGE):
        yield items[start : start + _PAGE]


def min_idle(age: float, lease: float) -> int:
    """Return the least milliseconds for which an own entry has been idle.

    Args:
        age: The seconds since the lease may have begun, see `Entry.leased_at`. It may
            have begun later, by as long as a read or a reply took.
        lease: The lease in seconds.
    """
    return int(max(0.0, age - LeaseTerms(lease).delivery_slack) * 1000)


@dataclass(frozen=True, slots=True)
class OwnClaim:
    """A claim of entries that this consumer owns, as far as it knows.

    Attributes:
        shard: The shard of the entries.
        ids: The ids of the entries.
        min_idle: The least milliseconds for which the entries have been idle if this
            consumer owns them.
        count: The delivery count to set; None to leave it.
        idle: The milliseconds of idle time to set; None for 0.
    """

    shard: Shard
    ids: Sequence[bytes]
    min_idle: int = 0
    count: int | None = None
    idle: int | None = None

    def parts(self) -> list[OwnClaim]:
        """Return the claim, split into claims of a few hundred entries."""
        return [replace(self, ids=ids) for ids in batched(self.ids)]

    @property
    def words(self) -> tuple[Word, ...]:
        """The options of XCLAIM that set the idle time and the delivery count."""
        idle = () if self.idle is None else (b"IDLE", self.idle)
        count = () if self.count is None else (b"RETRYCOUNT", self.count)
        return (*idle, *count)


class OwnClaims:
    """Claims entries that this consumer owns, and none that it does not.

    Args:
        member: The consumer's place in the group.

    Attributes:
        member: The same.
    """

    def __init__(self, member: Membership) -> None:
        self.member = member
        # The numbers of the connections on which scripts were refused. Scripts are
        # tried again on a new connection: the user may have got the permission.
        self._no_scripts_on: set[int] = set()

    async def claim(
        self,
        sender: CommandSender,
        claims: Sequence[OwnClaim],
        then: Sequence[Command] = (),
    ) -> list[list[bytes] | ErrorReply]:
        """Claim entries; return the ids that this consumer owned, or a refusal.

        Args:
            sender: Sends the commands.
            claims: The claims, for each of which one result is returned.
            then: Commands to send after the claims in the same write, whose replies do
                not matter.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        parts = [part for claim in claims for part in claim.parts()]
        sent = [self.command(sender, part) for part in parts]
        answers = (await sender.calls([*sent, *then]))[: len(sent)]
        sent = await self._without_scripts(sender, parts, sent, answers, then)
        answers = list(map(self.read, parts, sent, answers))
        await self._claim_doubtful(sender, parts, sent, answers)
        replies = iter(answers)
        return [_joined([next(replies) for _ in claim.parts()]) for claim in claims]

    async def _without_scripts(
        self,
        sender: CommandSender,
        parts: Sequence[OwnClaim],
        sent: list[Command],
        answers: list[Any],
        then: Sequence[Command],
    ) -> list[Command]:
        """Send claims again whose scripts were refused, and replace their replies.

        Returns:
            The latest command of each claim.
        """
        refused = [
            number
            for number, (command, reply) in enumerate(zip(sent, answers, strict=True))
            if self.script_refused(sender, command, reply)
        ]
        if not refused:
            return sent
        again, latest = [self.command(sender, parts[n]) for n in refused], [*sent]
        replied = await sender.calls([*again, *then])
        for number, command, reply in zip(refused, again, replied, strict=False):
            latest[number], answers[number] = command, reply
        return latest

    async def _claim_doubtful(
        self,
        sender: CommandSender,
        parts: Sequence[OwnClaim],
        sent: Sequence[Command],
        answers: list[Any],
    ) -> None:
        """Claim what is this consumer's and had not been idle for long enough.

        Args:
            sender: Sends the commands.
            parts: The claims.
            sent: Their commands.
            answers: The replies, to which the ids of such entries are added.
        """
        for number, (part, command) in enumerate(zip(parts, sent, strict=True)):
            reply = answers[number]
            if isinstance(reply, ErrorReply) or not may_demand_too_much(part, command):
                continue
            missing = [id_ for id_ in part.ids if id_ not in set(reply)]
            if not missing:
                continue
            again = self.claim_again(part, await sender.calls(self.ask(part, missing)))
            if again is not None:
                [claimed] = await sender.calls([self.command(sender, again)])
                if not isinstance(claimed, ErrorReply):
                    answers[number] = [*reply, *claimed]

    def ask(self, claim: OwnClaim, ids: Sequence[bytes]) -> list[Command]:
        """Return commands that ask for each entry whether this consumer owns it."""
        return ask_owners(self.member, claim.shard, ids)

    def claim_again(self, claim: OwnClaim, pages: Sequence[Any]) -> OwnClaim | None:
        """Return the claim of those entries that are this consumer's, if there are any.

        Args:
            claim: The claim that has not claimed them.
            pages: The replies to `ask`.
        """
        found: list[PendingEntry] = [
            pending
            for page in pages
            if not isinstance(page, ErrorReply)
            for pending in page
        ]
        if not found:
            return None
        idle = min(pending.idle for pending in found)
        return replace(claim, ids=[each.id for each in found], min_idle=idle)

    def command(self, sender: CommandSender, claim: OwnClaim) -> Command:
        """Return the command for a claim of a few hundred entries."""
        key, member, words = claim.shard.key, self.member, claim.words
        name = member.name_in(claim.shard)
        if sender.number not in self._no_scripts_on:
            return scripts.claim_own(key, member.group, name, claim.ids, words)
        return commands.xclaim(
            key,
            member.group,
            name,
            claim.ids,
            idle=claim.min_idle,
            words=words,
        )

    def read(
        self, claim: OwnClaim, command: Command, reply: Any
    ) -> list[bytes] | ErrorReply:
        """Return the ids that this consumer owned, or the refusal.

        Args:
            claim: The claim of a few hundred entries.
            command: Its command.
            reply: The reply.
        """
        ids: list[bytes] | ErrorReply = reply
        return ids

    def script_refused(
        self, sender: CommandSender, command: Command, reply: Any
    ) -> bool:
        """Return whether a command's script was refused.

        If it was, the next commands for the same connection use no script.
        """
        if not isinstance(reply, ErrorReply) or reply.kind is not ErrorKind.FATAL:
            return False
        scripted = command[0] == b"EVAL"
        if scripted:
            self._no_scripts_on.add(sender.number)
        return scripted


def may_demand_too_much(claim: OwnClaim, command: Command) -> bool:
    """Return whether a claim may miss own entries that have been claimed meanwhile."""
    return command[0] == b"XCLAIM" and claim.min_idle > 0


def ask_owners(member: Membership, shard: Shard, ids: Iterable[bytes]) -> list[Command]:
    """Return commands that ask for each entry whether this consumer owns it.

    One command from the first to the last id would not do. Any number of own pending
    entries that the ledger does not know may lie between them: entries whose
    acknowledgement was dropped because their key had another type for a while, for
    example.

    Args:
        member: The consumer's place in the group.
        shard: The shard of the entries.
        ids: The ids of the entries.
    """
    key, group, name = shard.key, member.group, member.name_in(shard)
    return [
        commands.xpending_between(key, group, name, low=id_, high=id_, count=1)
        for id_ in ids
    ]


def _joined(answers: Sequence[Any]) -> list[bytes] | ErrorReply:
    for reply in answers:
        if isinstance(reply, ErrorReply):
            return reply
    return [id_ for reply in answers for id_ in reply]
