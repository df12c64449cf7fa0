"""How a consumer ends: nothing finished stays unsaid, nothing taken is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from penstock._core import commands
from penstock._core.commands import Command
from penstock._core.replies import ErrorReply
from penstock._link.link import Line
from penstock._tasks.leases import channel
from penstock._tasks.membership import Membership
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["give_back"]

# Ids in one command, so that none holds the server up for long.
_PAGE = 500


async def give_back(
    line: Line,
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
        released: What the ledger let go: shard, delivery count, ids.
        member: Whose entries they are.
        idle: The lease in seconds: whoever claims at it finds them ended.
        strays: Shards of which entries may have come whose reply did not.
        on_event: Told how many could not be given back: they wait for their lease.
    """
    batch: list[Command] = []
    told: set[Shard] = set()
    messages = 0
    for shard, deliveries, ids in released:
        messages += len(ids)
        batch += _claims(member, shard, ids, idle, deliveries)
        told.add(shard)
    try:
        answers = await line.calls(batch)
        for shard in strays:
            answers += await _give_back_strays(line, member, shard, idle)
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
    line: Line, member: Membership, shard: Shard, idle: float
) -> list[object]:
    """Give back what is pending in our name and was never booked here."""
    answers: list[object] = []
    after = b"0-0"
    while True:
        ask = commands.xpending_page(shard.key, member.group, member.name, after, _PAGE)
        [reply] = await line.calls([ask])
        if isinstance(reply, ErrorReply):
            return [*answers, reply]
        page = [line.id for line in reply]
        if page:
            answers += await line.calls([*_claims(member, shard, page, idle, None)])
            after = page[-1]
        if len(page) < _PAGE:
            return answers


def _claims(
    member: Membership,
    shard: Shard,
    ids: Sequence[bytes],
    idle: float,
    deliveries: int | None,
) -> Iterator[Command]:
    for start in range(0, len(ids), _PAGE):
        yield commands.xclaim_give_back(
            shard.key,
            member.group,
            member.name,
            ids[start : start + _PAGE],
            idle=int(idle * 1000),
            deliveries=deliveries,
        )
