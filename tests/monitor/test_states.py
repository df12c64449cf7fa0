"""The states of groups and consumers, and what a collector remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock._core.protocol.replies import ConsumerInfo, GroupInfo, StreamInfo
from penstock.message import EntryId, Shard
from penstock.monitor._evaluation import Evaluator
from penstock.monitor._history import History, Sample
from penstock.monitor._lag import Lag
from penstock.monitor._observation import GroupSeen, ShardSeen, StreamSeen, age
from penstock.monitor._states import Limits, consumer_state
from penstock.monitor.model import ConsumerState, GroupState, GroupStatus

NOW = 1_800_000_000_000
MINUTE = 60_000


@dataclass
class Facts:
    """What a poll finds of one group in one shard; ages are in milliseconds."""

    lag: int = 0
    exact: bool = True
    pending: int = 0
    delivered: int | None = 10 * MINUTE
    oldest: int | None = None
    idle: int | None = None
    asked: list[int] = field(default_factory=lambda: [500])
    last: int = 5 * MINUTE
    added: int | None = 100
    read: int | None = 100
    number: int = 0


class Polls:
    """An evaluator that is polled at moments of a test."""

    def __init__(self, **limits: Any) -> None:
        self.evaluator = Evaluator(Limits(**limits))
        self.clock = 100.0

    def poll(self, *shards: Facts, after: float = 2.0) -> GroupStatus:
        """Poll some time after the last poll, and return the group."""
        self.clock += after
        now = NOW + int(1000 * self.clock)
        seen = StreamSeen("s", [_shard(facts, now) for facts in shards], 0)
        self.evaluator.begin()
        status = self.evaluator.stream(seen, now=now, clock=self.clock)
        [group] = status.groups
        return group

    def state(self, *shards: Facts, after: float = 2.0) -> GroupState | None:
        return self.poll(*shards, after=after).state


def _id(ago: int | None, now: int) -> EntryId:
    return EntryId.MIN if ago is None else EntryId(now - ago)


def _shard(facts: Facts, now: int) -> ShardSeen:
    info = StreamInfo(
        10, _id(facts.last, now), EntryId(1), EntryId.MIN, None, facts.added
    )
    group = GroupInfo(
        b"g",
        len(facts.asked),
        facts.pending,
        bytes(_id(facts.delivered, NOW)),
        facts.lag,
        facts.read,
    )
    seen = GroupSeen(
        group,
        Lag(facts.lag, facts.exact),
        None if facts.oldest is None else _id(facts.oldest, now),
        facts.idle,
        [ConsumerInfo(b"c%d" % n, 0, idle) for n, idle in enumerate(facts.asked)],
    )
    shard = Shard("s", facts.number, b"s:%d" % facts.number)
    return ShardSeen(shard, info, {b"g": seen})


def test_a_group_that_nobody_has_read_is_unread_at_once() -> None:
    assert Polls().state(Facts(lag=3, delivered=None, asked=[])) is GroupState.UNREAD


@pytest.mark.parametrize("work", [{"lag": 3}, {"pending": 3}])
@pytest.mark.parametrize("asked", [[], [10_001], [99_000, 10_500]])
def test_a_group_with_work_that_nobody_asks_for_has_no_consumers(
    work: dict[str, int], asked: list[int]
) -> None:
    assert Polls().state(Facts(**work, asked=asked)) is GroupState.NO_CONSUMERS  # type: ignore[arg-type]


def test_without_work_nobody_has_to_ask() -> None:
    assert Polls().state(Facts(asked=[])) is GroupState.IDLE


def test_one_poll_does_not_show_whether_a_group_with_work_moves() -> None:
    polls = Polls()
    assert polls.state(Facts(lag=3, oldest=70_000)) is None
    assert polls.state(Facts(lag=3, oldest=70_000)) is GroupState.STALLED


def test_a_group_that_has_not_moved_since_two_polls_is_stalled_if_its_work_is_old() -> (
    None
):
    for oldest, state in ((59_000, GroupState.IDLE), (61_000, GroupState.STALLED)):
        polls = Polls()
        polls.state(Facts(lag=3, oldest=oldest - 2000))
        assert polls.state(Facts(lag=3, oldest=oldest)) is state


def test_a_group_is_stalled_after_a_minute_without_a_movement() -> None:
    polls = Polls()
    polls.poll(Facts(lag=3, pending=1, oldest=1000))
    polls.poll(Facts(lag=3, pending=2, oldest=1000))
    assert polls.state(Facts(lag=3, pending=2), after=59) is GroupState.OK
    assert polls.state(Facts(lag=3, pending=2), after=2) is GroupState.STALLED
    assert polls.state(Facts(lag=2, pending=2, delivered=9 * MINUTE)) is GroupState.OK


def test_once_watched_for_a_minute_old_work_alone_is_no_stall() -> None:
    polls = Polls()
    for step in range(40):
        facts = Facts(lag=3, oldest=9 * MINUTE, delivered=10 * MINUTE - step // 3)
        state = polls.state(facts)
    assert state is GroupState.OK


def test_a_long_handler_that_renews_its_lease_is_no_stall() -> None:
    polls = Polls()
    facts = Facts(pending=1, oldest=30 * MINUTE, idle=20_000)
    polls.poll(facts)
    assert polls.state(facts, after=90) is GroupState.IDLE
    lapsed = Facts(pending=1, oldest=30 * MINUTE, idle=61_000)
    assert polls.state(lapsed, after=2) is GroupState.STALLED


def test_the_lease_is_that_of_the_groups_consumers() -> None:
    facts = Facts(pending=1, oldest=30 * MINUTE, idle=61_000)
    polls = Polls(lease=120)
    polls.poll(facts)
    assert polls.state(facts, after=90) is GroupState.IDLE


def test_a_growing_lag_is_behind_and_a_shrinking_one_is_not() -> None:
    polls = Polls()
    polls.poll(Facts(lag=10, oldest=3000, delivered=9 * MINUTE))
    assert polls.state(Facts(lag=20, oldest=3000, delivered=8 * MINUTE)) is (
        GroupState.BEHIND
    )
    assert polls.state(Facts(lag=5, oldest=3000, delivered=7 * MINUTE)) is GroupState.OK


def test_what_was_added_a_moment_ago_is_no_lag_that_grows() -> None:
    polls = Polls()
    polls.poll(Facts(lag=0))
    assert polls.state(Facts(lag=20, oldest=900, delivered=8 * MINUTE)) is GroupState.OK


def test_bounds_that_grow_are_no_lag_that_grows() -> None:
    """The position keeps its distance in time, so the group keeps pace."""
    polls = Polls()
    polls.poll(Facts(lag=10, exact=False, oldest=5000, last=0, delivered=-100_000))
    later = Facts(lag=90, exact=False, oldest=5000, last=0, delivered=-102_500)
    assert polls.state(later) is GroupState.OK
    fallen = Facts(lag=95, exact=False, oldest=5000, last=0, delivered=-103_000)
    assert polls.state(fallen) is GroupState.BEHIND


def test_a_position_that_falls_back_in_time_is_behind_without_any_count() -> None:
    """As on Redis 6.2, which counts nothing."""
    old: dict[str, Any] = {"exact": False, "oldest": 5000, "added": None, "read": None}
    polls = Polls()
    polls.poll(Facts(lag=10, last=100, delivered=9 * MINUTE, **old))
    state = polls.state(Facts(lag=10, last=100, delivered=9 * MINUTE - 500, **old))
    assert state is GroupState.BEHIND


def test_traffic_of_the_last_minute_makes_the_difference_of_ok_and_idle() -> None:
    assert Polls().state(Facts(last=59_000)) is GroupState.OK
    assert Polls().state(Facts(last=61_000)) is GroupState.IDLE
    polls = Polls()
    polls.poll(Facts(pending=0))
    assert polls.state(Facts(pending=0, delivered=9 * MINUTE)) is GroupState.OK
    assert polls.state(Facts(pending=0, delivered=9 * MINUTE), after=61) is (
        GroupState.IDLE
    )


def test_one_shard_that_nobody_reads_makes_the_group_have_no_consumers() -> None:
    read, left = Facts(number=0), Facts(number=1, lag=2, asked=[30_000])
    assert Polls().state(read, left) is GroupState.NO_CONSUMERS


def test_a_shard_that_is_new_to_a_group_is_not_taken_for_stalled() -> None:
    polls = Polls()
    for _ in range(2):
        polls.poll(Facts(number=0))
    new = Facts(number=1, lag=2, oldest=90_000)
    assert polls.state(Facts(number=0), new) is GroupState.BEHIND


def test_sums_over_shards() -> None:
    polls = Polls()
    shards = [
        Facts(number=0, lag=3, pending=1, oldest=4000, idle=100, asked=[500, 20_000]),
        Facts(
            number=1, lag=4, exact=False, oldest=9000, asked=[70_000, 20_000, 90_000]
        ),
    ]
    status = polls.poll(*shards)
    assert (status.lag, status.lag_exact, status.pending, status.backlog) == (
        *(7, False, 1, 8),
    )
    assert status.oldest_age_seconds == 9
    assert status.oldest_idle_seconds == 0.1
    # By where each of them asked last.
    assert (status.consumers, status.live, status.silent, status.gone) == (3, 1, 1, 1)


def test_a_missing_count_of_one_shard_is_missing_in_the_sum() -> None:
    status = Polls().poll(Facts(number=0), Facts(number=1, read=None))
    assert status.entries_read is None


def test_nothing_to_do_has_the_age_0_and_ids_that_are_no_times_have_none() -> None:
    assert Polls().poll(Facts()).oldest_age_seconds == 0
    assert Polls().poll(Facts(lag=2)).oldest_age_seconds is None
    assert age(EntryId(5), NOW) is None
    assert age(EntryId(NOW + 2 * 86_400_000), NOW) is None
    assert age(EntryId(NOW + 500), NOW) == 0
    assert age(EntryId(NOW - 1500), NOW) == 1.5
    assert age(EntryId((NOW - 1500) * 10**6), NOW) == 1.5  # nanoseconds


def test_rates_and_the_time_until_a_group_has_caught_up() -> None:
    polls = Polls()
    first = polls.poll(Facts(lag=100, added=1000, read=900))
    assert (first.in_per_second, first.out_per_second, first.eta_seconds) == (
        *(None, None, None),
    )
    second = polls.poll(Facts(lag=80, added=1020, read=940))
    assert (second.in_per_second, second.out_per_second) == (10, 20)
    assert second.eta_seconds == 8
    third = polls.poll(Facts(lag=200, added=1200, read=1000))
    assert third.eta_seconds is None
    # Without the server's count of what was read, by the lag.
    polls = Polls()
    polls.poll(Facts(lag=100, added=1000, read=None))
    status = polls.poll(Facts(lag=80, added=1020, read=None))
    assert (status.in_per_second, status.out_per_second) == (10, 20)


def test_without_the_servers_counts_there_are_no_rates() -> None:
    polls = Polls()
    for _ in range(2):
        status = polls.poll(Facts(lag=100, added=None, read=None))
    assert (status.in_per_second, status.out_per_second) == (None, None)
    for _ in range(2):
        status = polls.poll(Facts(lag=100, exact=False, read=None))
    assert status.out_per_second is None


def test_a_group_keeps_few_samples_however_often_it_is_polled() -> None:
    history = History()
    for step in range(600):
        history.note(Sample(step * 0.5, step, True, step, step, None))  # noqa: FBT003
    assert len(history.samples) <= 10
    assert history.samples[-1].at - history.samples[0].at <= 60
    assert history.samples[-1].at - history.samples[0].at > 45
    into, _ = history.rates
    assert into == 2


def test_what_is_gone_is_forgotten() -> None:
    polls = Polls()
    polls.poll(Facts(number=0), Facts(number=1))
    polls.poll(Facts(number=0))
    polls.poll(Facts(number=0))
    assert len(polls.evaluator._traces) == 1
    assert polls.evaluator.lags("s", "g") == [0, 0]
    assert polls.evaluator.lags("s", "other") == []


@pytest.mark.parametrize(
    ("idle", "state"),
    [
        (9.9, ConsumerState.LIVE),
        (10.1, ConsumerState.SILENT),
        (60.0, ConsumerState.SILENT),
        (60.1, ConsumerState.GONE),
    ],
)
def test_a_consumer_is_live_silent_or_gone(idle: float, state: ConsumerState) -> None:
    assert consumer_state(idle, Limits()) is state
