"""Renewal of leases, and the question of who owns an entry."""

from __future__ import annotations

from collections.abc import Iterable

from penstock._connection.reconnect import CommandConnection
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._tasks.clock import now
from penstock._tasks.group import Membership
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims, min_idle
from penstock.message import Shard

__all__ = ["ask_owners", "renew"]


async def renew(
    connection: CommandConnection,
    ledger: Ledger,
    member: Membership,
    claims: OwnClaims,
    lease: float,
) -> tuple[list[bytes], ErrorReply | None]:
    """Renew what has used up a third of its lease.

    Where so much time has passed that others may have claimed it, it is asked first who
    owns it: where scripts are forbidden, the claim itself does not tell.

    Returns:
        The ids of what other consumers own now, and a refusal that may pass.

    Raises:
        ConnectionLost: The connection ended before the replies.
    """
    asked_at = now()
    renewals = ledger.to_renew(asked_at)
    late = [due for due in renewals if due.late]
    kept = [due for due in renewals if not due.late]
    lost: list[bytes] = []
    refused: ErrorReply | None = None
    questions = [ask_owners(member, due.shard_state.shard, due.ids) for due in late]
    asked = iter(await connection.calls([each for asks in questions for each in asks]))
    for due, asks in zip(late, questions, strict=True):
        answers = [next(asked) for _ in asks]
        error = next((each for each in answers if isinstance(each, ErrorReply)), None)
        if error is None:
            ours = [pending.id for page in answers for pending in page]
            lost += ledger.removals.lose_all_but(due, ours)
        elif not _is_gone(error):
            refused = error
            continue  # it may be others', and is not taken back unasked
        kept.append(due)
    kept = [due for due in kept if due.ids]
    renewed = [_claim(due, asked_at, lease) for due in kept]
    for due, reply in zip(kept, await claims.claim(connection, renewed), strict=True):
        if not isinstance(reply, ErrorReply):
            lost += ledger.removals.lose_all_but(due, reply)
            ledger.leases.renewed(due, asked_at)
        elif _is_gone(reply):
            # Nobody else can have it. It is handled here, though it may come again.
            ledger.leases.renewed(due, asked_at)
        else:
            refused = reply
    return lost, refused


def _claim(due: LeaseRenewal, at: float, lease: float) -> OwnClaim:
    youngest = max(entry.leased_at for entry in due.entries)
    return OwnClaim(due.shard_state.shard, due.ids, min_idle(at - youngest, lease))


def _is_gone(reply: ErrorReply) -> bool:
    """Tell whether there is no group any more in which something could be whose."""
    return reply.trouble in {ErrorKind.REPAIR, ErrorKind.ISOLATE}


def ask_owners(member: Membership, shard: Shard, ids: Iterable[bytes]) -> list[Command]:
    """Ask for each entry whether it is ours still.

    Not for all from the first to the last: any number of ours may lie between them that
    nobody here knows of, for example those whose acknowledgement was dropped because
    their key was of another type for a while.
    """
    key, group, name = shard.key, member.group, member.name
    return [
        commands.xpending_between(key, group, name, low=id_, high=id_, count=1)
        for id_ in ids
    ]
