"""How a consumer ends: nothing finished stays unsaid, nothing taken is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from penstock._core import commands
from penstock._core.replies import ErrorReply
from penstock._link.link import Line
from penstock._tasks.membership import Membership
from penstock._tasks.own_claims import OwnClaim, OwnClaims
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["channel", "give_back"]

# Ids asked for at a time.
_PAGE = 500


def channel(shard: Shard, group: str) -> bytes:
    """Return the channel on which a consumer reports that it has released entries."""
    return b"penstock:released:" + shard.key + b":" + group.encode()


async def give_back(
    line: Line,
    claims: OwnClaims,
    released: Iterable[tuple[Shard, int, Sequence[bytes]]],
    member: Membership,
    *,
    idle: float,
    strays: Sequence[Shard] = (),
    on_event: OnEvent,
) -> None:
    """Leave what has no outcome to others, at once.

    Args:
        line: The command connection.
        claims: Claims entries that are ours.
        released: What the ledger let go: shard, delivery count, ids.
        member: Whose entries they are.
        idle: The lease in seconds: whoever claims at it finds them ended.
        strays: Shards of which entries may have come whose reply did not.
        on_event: Told how many could not be given back: they wait for their lease.
    """
    batch: list[OwnClaim] = []
    told: set[Shard] = set()
    messages, ms = 0, int(idle * 1000)
    for shard, count, ids in released:
        messages += len(ids)
        batch.append(OwnClaim(shard, ids, count=count, idle=ms))
        told.add(shard)
    try:
        answers = await claims.claim(line, batch)
        for shard in strays:
            answers += await _give_back_strays(line, claims, member, shard, ms)
        # Refused by an ACL, the others find it at their next search.
        news = [channel(shard, member.group) for shard in told | set(strays)]
        await line.calls([commands.publish(name, b"") for name in news])
    except ConnectionLost as error:
        facts: dict[str, object] = {"messages": messages, "reason": error.reason}
        on_event(Event("not_given_back", logging.WARNING, facts))
        return
    refused = [reply for reply in answers if isinstance(reply, ErrorReply)]
    if refused:
        facts = {"messages": messages, "reply": refused[0].text}
        on_event(Event("not_given_back", logging.WARNING, facts))


async def _give_back_strays(
    line: Line, claims: OwnClaims, member: Membership, shard: Shard, idle: int
) -> list[list[bytes] | ErrorReply]:
    """Give back what is pending in our name and was never booked here."""
    answers: list[list[bytes] | ErrorReply] = []
    after = b"0-0"
    while True:
        ask = commands.xpending_page(shard.key, member.group, member.name, after, _PAGE)
        [reply] = await line.calls([ask])
        if isinstance(reply, ErrorReply):
            return [*answers, reply]
        page = [line.id for line in reply]
        if page:
            answers += await claims.claim(line, [OwnClaim(shard, page, idle=idle)])
            after = page[-1]
        if len(page) < _PAGE:
            return answers
