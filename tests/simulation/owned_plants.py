"""Owned plants: defects of consumers that own shards, see `plants`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from penstock._core.ledger.removals import Removals
from penstock._core.ownership.outstanding import Outstanding
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.shard_steps import READ, ShardSteps
from penstock._core.protocol import ownership_scripts, reply_parsing

__all__ = ["OWNED_PLANTS"]


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
def freed_while_read() -> Iterator[None]:
    """Free a shard before its last read is answered."""

    def answered(self: Outstanding) -> bool:
        return self.handlers_done and not self.writes

    with patch.object(Outstanding, "answered", property(answered)):
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


OWNED_PLANTS = {
    each.__name__: each
    for each in (
        strays_not_claimed,
        started_while_held,
        freed_while_read,
        freed_while_handled,
        acks_of_anybody,
        lost_state_kept,
    )
}
"""These defects by name."""
