"""Release: on closing, entries without an outcome become available to others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Self

from penstock._connection.command_connection import CommandConnection
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.group import Membership
from penstock._tasks.leases.own_claims import OwnClaim, OwnClaims
from penstock._tasks.leases.pending_pages import pending_pages
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["TOO_LATE", "CloseDeadlines", "channel", "release_entries"]

TOO_LATE: Final = "close_timeout has expired"
"""Why connections are aborted while something is still being sent."""

# The most ids that one command lists.
_PAGE = 500
# The seconds that closing may take in any case: a round trip to a server that answers.
_LEAST: Final = 0.25
# The seconds of `close_timeout` that are reserved for the server, or a fourth of it if
# that is less.
_RESERVE: Final = 2.0
_PART: Final = 4


@dataclass(frozen=True, slots=True)
class CloseDeadlines:
    """The deadlines of the steps of closing, by the monotonic clock.

    Attributes:
        reading: The deadline for reads and claims that are under way.
        handlers: The deadline for running handlers, which are cancelled then.
        cancelled: The deadline for cancelled handlers.
        dead_letters: The deadline for dead letters that are written before the other
            entries are released.
        end: The deadline foreverything; then connections are aborted.
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
    return (
        b"penstock:released:"
        + shard.key
        + b":"
        + group.encode("utf-8", "surrogateescape")
    )


async def release_entries(
    connection: CommandConnection,
    claims: OwnClaims,
    released: Iterable[tuple[Shard, int, Sequence[bytes]]],
    member: Membership,
    *,
    idle: float,
    stranded: Sequence[Shard] = (),
    on_event: OnEvent,
) -> int:
    """Release entries without an outcome: other consumers can have them at once.

    Args:
        connection: The command connection.
        claims: Claims the consumer's own entries.
        released: The entries that the ledger has released: shard, delivery count, ids.
        member: The consumer's place in the group.
        idle: The lease in seconds. It is set as idle time, so that other consumers find
            the leases ended.
        stranded: Shards of which entries may be pending whose reply was lost.
        on_event: Receives the number of entries that could not be released: they are
            available when their lease has ended.

    Returns:
        How many of the entries that the ledger has released are available now.
    """
    batch: list[OwnClaim] = []
    notified: dict[Shard, None] = {}
    messages, ms = 0, int(idle * 1000)
    for shard, count, ids in released:
        messages += len(ids)
        batch.append(OwnClaim(shard, ids, count=count, idle=ms))
        notified[shard] = None
    try:
        # One write is enough: the server runs the commands in their order. If an ACL
        # forbids to publish, other consumers find the entries at their next search.
        answers = await claims.claim(
            connection, batch, _notifications(member, notified)
        )
        refused = _refusals(batch, answers)
        for shard in stranded:
            refused += await _release_stranded(connection, claims, member, shard, ms)
        await connection.calls(_notifications(member, stranded))
    except ConnectionLost as error:
        facts: dict[str, object] = {"messages": messages, "reason": error.reason}
        on_event(Event("not_given_back", logging.WARNING, facts))
        return 0
    if refused:
        kept, reply = sum(each.messages for each in refused), refused[0].reply
        facts = {"messages": kept, "reply": reply.text}
        on_event(Event("not_given_back", logging.WARNING, facts))
        return max(0, messages - kept)
    return messages


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A refused release of some entries, of none if they could not be listed."""

    messages: int
    reply: ErrorReply


def _refusals(
    batch: Sequence[OwnClaim], answers: Sequence[list[bytes] | ErrorReply]
) -> list[_Refusal]:
    return [
        _Refusal(len(claim.ids), reply)
        for claim, reply in zip(batch, answers, strict=True)
        if isinstance(reply, ErrorReply)
    ]


def _notifications(member: Membership, shards: Iterable[Shard]) -> list[Command]:
    """Return commands that notify other consumers of released entries."""
    if not member.others_claim:
        return []
    return [commands.publish(channel(each, member.group), b"") for each in shards]


async def _release_stranded(
    connection: CommandConnection,
    claims: OwnClaims,
    member: Membership,
    shard: Shard,
    idle: int,
) -> list[_Refusal]:
    """Release own pending entries that are not in the ledger; return the refusals."""
    refused: list[_Refusal] = []
    name = member.name_in(shard)
    pages = pending_pages(connection.calls, shard, member.group, name, _PAGE)
    async with aclosing(pages):
        async for page in pages:
            if isinstance(page, ErrorReply):
                refused.append(_Refusal(0, page))
            # Others may have claimed by now what they can claim already.
            elif kept := [each for each in page if each.idle < idle]:
                waited = min(each.idle for each in kept)
                claim = OwnClaim(shard, [each.id for each in kept], waited, idle=idle)
                answers = await claims.claim(connection, [claim])
                refused += _refusals([claim], answers)
    return refused
