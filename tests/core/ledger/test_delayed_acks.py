"""Delayed acknowledgements: an entry is due a while after it was handed out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.ledger.delayed_acks import DelayedAcks
from penstock._core.ledger.entry import Entry, ShardState
from penstock._core.ledger.states import State
from penstock.message import Shard


def entry(number: int) -> Entry:
    shard_state = ShardState(Shard("orders", 0, b"orders"))
    return Entry(shard_state, b"%d-0" % number, (), 0, 1, 0.0, State.RUNNING)


def ignore() -> None:
    pass


def test_nothing_is_due_before_an_entry_is_handed_out() -> None:
    delay = DelayedAcks(5.0, ignore)
    assert delay.next_due is None
    assert delay.take_due(1e9) == []


def test_an_entry_is_due_the_given_seconds_after_it_was_handed_out() -> None:
    delay = DelayedAcks(5.0, ignore)
    one = entry(1)
    delay.handed_out(one, now=100.0)
    assert delay.next_due == 105.0
    assert delay.take_due(104.9) == []
    assert delay.take_due(105.0) == [one]
    assert delay.next_due is None
    assert delay.take_due(1e9) == []


def test_without_a_delay_an_entry_is_due_at_once() -> None:
    delay = DelayedAcks(0.0, ignore)
    one = entry(1)
    delay.handed_out(one, now=100.0)
    assert delay.take_due(100.0) == [one]


def test_only_the_first_entry_that_waits_is_due_next() -> None:
    first: list[int] = []
    delay = DelayedAcks(5.0, lambda: first.append(number))
    for number in (1, 2):
        delay.handed_out(entry(number), now=100.0)
    delay.take_due(105.0)
    for number in (3, 4):
        delay.handed_out(entry(number), now=106.0)
    assert first == [1, 3]


@pytest.mark.parametrize("state", set(State) - {State.RUNNING, State.UNSETTLED})
def test_an_entry_that_has_an_outcome_or_waits_again_is_not_due(state: State) -> None:
    delay = DelayedAcks(5.0, ignore)
    one, two = entry(1), entry(2)
    delay.handed_out(one, now=100.0)
    delay.handed_out(two, now=100.0)
    one.state, two.state = state, State.UNSETTLED
    assert delay.take_due(105.0) == [two]


def test_an_entry_that_was_put_back_is_due_after_it_is_handed_out_again() -> None:
    delay = DelayedAcks(5.0, ignore)
    one, two = entry(1), entry(2)
    delay.handed_out(one, now=100.0)
    delay.handed_out(two, now=101.0)
    delay.handed_out(one, now=102.0)
    assert delay.take_due(106.0) == [two]
    assert delay.take_due(107.0) == [one]


@given(
    st.lists(st.integers(0, 10)),
    st.lists(st.integers(0, 20)),
    st.integers(0, 20),
)
@settings(max_examples=200, deadline=None)
def test_every_entry_becomes_due_once_and_in_order(
    waits: list[int], looks: list[int], seconds: int
) -> None:
    delay, now, handed = DelayedAcks(seconds, ignore), 0, []
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
