"""How a consumer ends: nothing finished stays unsaid, nothing taken is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Self

from penstock._connection.reconnect import CommandConnection
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.group import Membership
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims
from penstock._tasks.leases.pending_pages import pending_pages
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["TOO_LATE", "Limits", "channel", "release_entries"]

TOO_LATE: Final = "close_timeout is over"
"""Why connections are aborted while something is still being sent."""

# Ids asked for at a time.
_PAGE = 500
# Seconds that closing may take in any case: a round trip to a server that answers.
_LEAST: Final = 0.25
# Seconds of `close_timeout` that are kept for the server, and the part of it, if less.
_RESERVE: Final = 2.0
_PART: Final = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Until when each step of closing may take, by the monotonic clock.

    Attributes:
        reading: Reads under way have come back.
        handlers: Handlers may run.
        cancelled: Handlers that were cancelled may come to their end.
        dead_letters: Dead dead_letters may be written, before the rest is given back.
        end: Everything has been sent; then connections are aborted.
    """

    reading: float
    handlers: float
    cancelled: float
    dead_letters: float
    end: float

    @classmethod
    def of(cls, now: float, timeout: float) -> Self:
        """Divide `close_timeout` among the steps."""
        end = now + max(timeout, _LEAST)
        handlers = now + timeout - min(timeout / _PART, _RESERVE)
        rest = end - handlers
        return cls(
            reading=now + (end - now) / 2,
            handlers=handlers,
            cancelled=handlers + rest / _PART,
            dead_letters=handlers + rest / 2,
            end=end,
        )


def channel(shard: Shard, group: str) -> bytes:
    """Return the channel on which a consumer reports that it has released entries."""
    return b"penstock:released:" + shard.key + b":" + group.encode()


async def release_entries(
    connection: CommandConnection,
    claims: OwnClaims,
    released: Iterable[tuple[Shard, int, Sequence[bytes]]],
    member: Membership,
    *,
    idle: float,
    stranded: Sequence[Shard] = (),
    on_event: OnEvent,
) -> None:
    """Leave what has no outcome to others, at once.

    Args:
        connection: The command connection.
        claims: Claims entries that are ours.
        released: What the ledger let go: shard, delivery count, ids.
        member: Whose entries they are.
        idle: The lease in seconds: whoever claims at it finds them ended.
        stranded: Shards of which entries may have come whose reply did not.
        on_event: Told how many could not be given back: they wait for their lease.
    """
    batch: list[OwnClaim] = []
    notified: set[Shard] = set()
    messages, ms = 0, int(idle * 1000)
    for shard, count, ids in released:
        messages += len(ids)
        batch.append(OwnClaim(shard, ids, count=count, idle=ms))
        notified.add(shard)
    try:
        # In one write: the server does one after the other. To publish may be refused
        # by an ACL; the others find it at their next search.
        answers = await claims.claim(
            connection, batch, _notifications(member, notified)
        )
        for shard in stranded:
            answers += await _release_stranded(connection, claims, member, shard, ms)
        await connection.calls(_notifications(member, stranded))
    except ConnectionLost as error:
        facts: dict[str, object] = {"messages": messages, "reason": error.reason}
        on_event(Event("not_given_back", logging.WARNING, facts))
        return
    refused = [reply for reply in answers if isinstance(reply, ErrorReply)]
    if refused:
        facts = {"messages": messages, "reply": refused[0].text}
        on_event(Event("not_given_back", logging.WARNING, facts))


def _notifications(member: Membership, shards: Iterable[Shard]) -> list[Command]:
    """Word that entries of shards were given back."""
    return [commands.publish(channel(each, member.group), b"") for each in shards]


async def _release_stranded(
    connection: CommandConnection,
    claims: OwnClaims,
    member: Membership,
    shard: Shard,
    idle: int,
) -> list[list[bytes] | ErrorReply]:
    """Give back what is pending in our name and was never booked here."""
    answers: list[list[bytes] | ErrorReply] = []
    pages = pending_pages(connection.calls, shard, member, _PAGE)
    async with aclosing(pages):
        async for page in pages:
            if isinstance(page, ErrorReply):
                answers.append(page)
            else:
                claim = OwnClaim(shard, page, idle=idle)
                answers += await claims.claim(connection, [claim])
    return answers
