"""Renewal of leases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply, PendingEntry
from penstock._tasks.group import Membership
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims, min_idle

__all__ = ["renew"]


async def renew(
    connection: CommandConnection,
    ledger: Ledger,
    member: Membership,
    claims: OwnClaims,
    lease: float,
) -> tuple[list[bytes], ErrorReply | None]:
    """Renew the leases that are due, see `LeaseTerms.renew_after`.

    If so much time has passed that other consumers may have claimed some of the
    entries, the server is asked for the owners first: where scripts are forbidden, the
    claim itself does not tell.

    Args:
        connection: The command connection.
        ledger: The consumer's ledger.
        member: The consumer's place in the group.
        claims: Claims the consumer's own entries.
        lease: The lease in seconds.

    Returns:
        The ids of the entries that other consumers own now, and a transient refusal.

    Raises:
        ConnectionLost: The connection ended before the replies.
    """
    renewals = ledger.to_renew(_clock.boottime())
    late = [due for due in renewals if due.late]
    owned, lost, refused = await _ask_first(connection, ledger, member, late)
    kept = [due for due in renewals if not due.late] + owned
    kept = [due for due in kept if due.ids]
    # This process may have stood still since it asked. If the leases seemed to have
    # begun before that, the next claim without a script would demand an idle time that
    # the entries do not have, and they would count as lost.
    claimed_at = _clock.boottime()
    renewed = [_claim(due, claimed_at, lease) for due in kept]
    for due, reply in zip(kept, await claims.claim(connection, renewed), strict=True):
        if not isinstance(reply, ErrorReply):
            lost += ledger.removals.lose_all_but(due, reply)
            ledger.leases.renewed(due, claimed_at, frozenset(reply))
        elif _is_gone(reply):
            # Without a group, no other consumer can own the entries. They are handled
            # here, though they may be redelivered.
            ledger.leases.renewed(due, claimed_at)
        else:
            refused = reply
    return lost, refused


async def _ask_first(
    connection: CommandConnection,
    ledger: Ledger,
    member: Membership,
    late: Sequence[LeaseRenewal],
) -> tuple[list[LeaseRenewal], list[bytes], ErrorReply | None]:
    """Ask who owns entries that may belong to other consumers.

    Returns:
        What may be claimed of the renewals, and what `renew` returns.
    """
    kept: list[LeaseRenewal] = []
    lost: list[bytes] = []
    refused: ErrorReply | None = None
    questions = [_ask_for_any_owner(member, due) for due in late]
    asked_at = _clock.boottime()
    asked = iter(await connection.calls([each for asks in questions for each in asks]))
    for due, asks in zip(late, questions, strict=True):
        answers = [next(asked) for _ in asks]
        error = next((each for each in answers if isinstance(each, ErrorReply)), None)
        if error is None:
            found = _Owners(member, [one for page in answers for one in page])
            lost += ledger.removals.lose_all_but(due, found.own, found.others)
            kept.append(_owned(ledger, due, found.own, asked_at))
        elif _is_gone(error):
            kept.append(due)
        else:
            # Other consumers may own the entries, so they are not claimed.
            refused = error
    return kept, lost, refused


class _Owners:
    """The owners of pending entries.

    Args:
        member: This consumer's place in the group.
        pending: The entries.

    Attributes:
        own: The ids of the entries that this consumer owns.
        others: The ids of those that other consumers own.
    """

    def __init__(self, member: Membership, pending: Iterable[PendingEntry]) -> None:
        name = member.name.encode()
        self.own: set[bytes] = set()
        self.others: set[bytes] = set()
        for each in pending:
            (self.own if each.consumer == name else self.others).add(each.id)


def _ask_for_any_owner(member: Membership, due: LeaseRenewal) -> list[Command]:
    return [
        commands.xpending_between(
            due.shard_state.shard.key, member.group, None, low=id_, high=id_, count=1
        )
        for id_ in due.ids
    ]


def _owned(
    ledger: Ledger, due: LeaseRenewal, owned: Collection[bytes], asked_at: float
) -> LeaseRenewal:
    """Return the part of a renewal that this consumer owns.

    The rest is pending for nobody: the group was recreated. If it were claimed without
    a script, it could be taken from a consumer that gets it meanwhile.
    """
    parts: dict[bool, list[Entry]] = {True: [], False: []}
    for entry in due.entries:
        parts[entry.id in owned].append(entry)
    ledger.leases.renewed(replace(due, entries=parts[False]), asked_at)
    return replace(due, entries=parts[True])


def _claim(due: LeaseRenewal, at: float, lease: float) -> OwnClaim:
    youngest = max(entry.leased_at for entry in due.entries)
    return OwnClaim(due.shard_state.shard, due.ids, min_idle(at - youngest, lease))


def _is_gone(reply: ErrorReply) -> bool:
    """Return whether there is no group any more, in which an entry has an owner."""
    return reply.kind in {ErrorKind.REPAIR, ErrorKind.ISOLATE}
