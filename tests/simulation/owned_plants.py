"""Owned plants: defects of consumers that own shards, see `plants`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from penstock._core.ledger.removals import Removals
from penstock._core.ownership.outstanding import Outstanding
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.shard_steps import READ, ShardSteps
from penstock._core.protocol import ownership_scripts, reply_parsing
from penstock._tasks.reading.assignment import Assignment
from penstock.message import Shard
from penstock.options import StartAt

__all__ = ["OWNED_PLANTS", "reads_not_awaited", "strays_not_claimed"]


@contextmanager
def strays_not_claimed() -> Iterator[None]:
    """Hand out what was read though a late read of another owner has taken entries."""

    def claim_strays(_: OwnedShard, __: Any) -> list[Any]:
        return []

    with patch.object(OwnedShard, "_claim_strays", claim_strays):
        yield


@contextmanager
def started_while_held() -> Iterator[None]:
    """Start handlers of a shard though its lease is over by this member's clock."""

    def may_start(self: ShardSteps, _: float) -> bool:
        return self.state in READ

    with (
        patch.object(ShardSteps, "may_start", may_start),
        patch.object(ShardSteps, "starts_until", float("inf")),
    ):
        yield


@contextmanager
def reads_not_awaited() -> Iterator[None]:
    """Free a shard before its last read is answered.

    This alone does no harm: what the read takes after its shard was freed is a stray,
    which the next owner claims before it hands out anything behind it.
    """

    def answered(self: Outstanding) -> bool:
        return self.handlers_done and not self.writes

    with patch.object(Outstanding, "answered", property(answered)):
        yield


@contextmanager
def freed_while_read() -> Iterator[None]:
    """Free a shard before its last read is answered, and claim no strays."""
    with reads_not_awaited(), strays_not_claimed():
        yield


@contextmanager
def freed_while_handled() -> Iterator[None]:
    """Free a shard while handlers run, and outcomes are on their way."""

    def answered(self: Outstanding) -> bool:
        return not self.reading

    with patch.object(Outstanding, "answered", property(answered)):
        yield


_COMPARED = b"if is ~= ARGV[1] then return {0, is or ''} end\n"


@contextmanager
def acks_of_anybody() -> Iterator[None]:
    """Acknowledge and claim without comparing the token."""
    guard = ownership_scripts.GUARD
    assert guard.count(_COMPARED) == 1
    script = guard.replace(_COMPARED, b"is = ARGV[1]\n")
    parsers = {**reply_parsing._BY_SCRIPT, script: reply_parsing._BY_SCRIPT[guard]}
    with (
        patch.object(reply_parsing, "_BY_SCRIPT", parsers),
        patch.object(ownership_scripts, "GUARD", script),
    ):
        yield


@contextmanager
def lost_state_kept() -> Iterator[None]:
    """Keep the entries of a shard that is lost, with their outcomes."""

    def lose_shard(_: Removals, __: Any) -> list[bytes]:
        return []

    with patch.object(Removals, "lose_shard", lose_shard):
        yield


@contextmanager
def growth_missed() -> Iterator[None]:
    """Own none of the shards that a stream gets after a member has opened."""
    add = Assignment._add

    async def add_unless_owned(
        self: Assignment, shards: Sequence[Shard], start: StartAt
    ) -> None:
        if self.owned is None:
            await add(self, shards, start)

    with patch.object(Assignment, "_add", add_unless_owned):
        yield


OWNED_PLANTS = {
    each.__name__: each
    for each in (
        strays_not_claimed,
        started_while_held,
        freed_while_read,
        freed_while_handled,
        acks_of_anybody,
        lost_state_kept,
        growth_missed,
    )
}
"""These defects by name."""
