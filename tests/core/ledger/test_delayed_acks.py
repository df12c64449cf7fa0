"""Delayed acknowledgements: an entry is due a while after it was handed out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.entry import Entry, ShardState
from penstock._core.ledger.states import State
from penstock.message import Shard


def entry(number: int) -> Entry:
    shard_state = ShardState(Shard("orders", 0, b"orders"))
    return Entry(shard_state, b"%d-0" % number, (), 0, 1, 0.0)


def test_nothing_is_due_before_an_entry_is_handed_out() -> None:
    delay = DelayedAcks(5.0)
    assert delay.next_due is None
    assert delay.take_due(1e9) == []


def test_an_entry_is_due_the_given_seconds_after_it_was_handed_out() -> None:
    delay = DelayedAcks(5.0)
    one = entry(1)
    delay.handed_out(one, now=100.0)
    assert delay.next_due == 105.0
    assert delay.take_due(104.9) == []
    assert delay.take_due(105.0) == [one]
    assert delay.next_due is None
    assert delay.take_due(1e9) == []


def test_without_a_delay_an_entry_is_due_at_once() -> None:
    delay = DelayedAcks(0.0)
    one = entry(1)
    delay.handed_out(one, now=100.0)
    assert delay.take_due(100.0) == [one]


def test_only_the_first_entry_that_waits_is_due_next() -> None:
    delay = DelayedAcks(5.0)
    assert delay.handed_out(entry(1), now=100.0)
    assert not delay.handed_out(entry(2), now=100.0)
    delay.take_due(105.0)
    assert delay.handed_out(entry(3), now=106.0)


def test_an_entry_that_was_redelivered_is_never_due() -> None:
    delay = DelayedAcks(5.0)
    one, two = entry(1), entry(2)
    delay.handed_out(one, now=100.0)
    delay.handed_out(two, now=100.0)
    one.state = State.LOST
    assert delay.take_due(105.0) == [two]


@given(
    st.lists(st.integers(0, 10)),
    st.lists(st.integers(0, 20)),
    st.integers(0, 20),
)
@settings(max_examples=200, deadline=None)
def test_every_entry_becomes_due_once_and_in_order(
    waits: list[int], looks: list[int], seconds: int
) -> None:
    delay, now, handed = DelayedAcks(seconds), 0, []
    for number, wait in enumerate(waits):
        now += wait
        handed.append((now + seconds, entry(number)))
        delay.handed_out(handed[-1][1], now)
    now, take_due = 0, []
    for look in looks:
        now += look
        take_due += delay.take_due(now)
        assert take_due == [one for due, one in handed if due <= now]
        left = [due for due, _ in handed if due > now]
        assert delay.next_due == (left[0] if left else None)
