"""Read fence: whether what was read is recorded, and what else has to be done."""

from __future__ import annotations

from collections.abc import Sequence

from penstock._core.ownership.actions import CallRevoked, ShardAction
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.tokens import Token
from penstock._core.protocol.ownership_replies import Taken
from penstock._core.protocol.replies import PendingSummary
from penstock._tasks.reading.read_fence import ReadFence

OURS = Token(1, "a", "run", 1)
BEHIND = [OURS.encode(), PendingSummary(0, None, None, None)]


class Rig:
    """A live shard and its fence, which records what it is asked to do."""

    def __init__(self) -> None:
        self.shard = OwnedShard("a", "run", lease=1e9, drain=30.0)
        self.shard.wanted(1, 0.0)
        self.shard.take_answered(Taken(1, more=False), 0.0)
        self.shard.recovered(OURS, 1, 0.0)
        self.shard.assigned(OURS, 0.0)
        self.acted: list[Sequence[ShardAction]] = []
        self.fence = ReadFence(
            self.shard,
            key=b"orders:0",
            owner=b"{orders:0}.owner:g",
            group="g",
            act=self.acted.append,
            on_holders=lambda _: None,
        )


def test_a_read_that_is_handed_out_asks_for_nothing_else() -> None:
    rig = Rig()
    assert rig.fence.read_answered(rig.fence.read_sent(), BEHIND)
    assert rig.fence.page_answered(rig.fence.ticket(), BEHIND)
    assert rig.acted == []


def test_a_read_that_is_answered_after_its_shard_was_given_up_is_not_recorded() -> None:
    rig = Rig()
    ticket = rig.fence.read_sent()
    rig.shard.unwanted(1.0)
    rig.shard.handlers_done(OURS)
    assert not rig.fence.read_answered(ticket, BEHIND)
    # An action without facts, as that of handing out is.
    assert rig.acted == [[CallRevoked()]]


def test_a_page_of_a_shard_that_is_another_s_is_not_recorded() -> None:
    rig = Rig()
    other = [b"2:b:other.1", BEHIND[1]]
    assert not rig.fence.page_answered(rig.fence.ticket(), other)
    assert len(rig.acted) == 1
