"""Flow control: read and claim budgets, and wake-ups of the reader."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.ledger.entry import SIZED_ABOVE
from penstock._core.protocol.replies import RawEntry
from support.ledger import KEY, SHARD, A, B, SpyLedger, claim, only, raw


def with_fast_workers(**options: Any) -> SpyLedger:
    """Return an empty ledger whose workers are too fast for the rate to bound it."""
    ledger = SpyLedger(**options)
    for number in range(20):
        ledger.read(
            *range(number * 2000, number * 2000 + ledger.read_budget()), shard=B
        )
        while ledger.work.length:
            ledger.process_next()
        for batch in ledger.acks.to_send():
            ledger.ack_confirmed(batch)
    ledger.read_budget()
    ledger.capacity_signals = ledger.outcome_signals = 0
    return ledger


# -- what is read ------------------------------------------------------------------


def test_the_first_read_is_small() -> None:
    ledger = SpyLedger(max_messages=1000)
    assert ledger.read_budget() == 8
    assert SpyLedger(max_messages=3).read_budget() == 3


def test_the_read_budget_is_what_is_free() -> None:
    ledger = with_fast_workers(max_messages=10)
    assert ledger.read_budget() == 10
    ledger.read(*range(4))
    assert ledger.read_budget() == 6
    for _ in range(4):
        ledger.start_next()
    assert ledger.read_budget() == 6, "running entries are held too"


def test_the_read_budget_doubles_while_handlers_keep_up() -> None:
    ledger = SpyLedger(max_messages=1000)
    asked = [ledger.read_budget()]
    for time in range(5):
        ledger.read(*range(1000 * time, 1000 * time + asked[-1]))
        ledger.process_next(asked[-1])
        asked.append(ledger.read_budget(now=0.01 * (1 + time)))
    assert asked == [8, 16, 32, 64, 128, 256]


def test_no_more_entries_wait_than_handlers_finish_within_max_wait() -> None:
    ledger = SpyLedger(max_messages=1000, max_wait=2.0)
    assert ledger.read_budget(now=0.0) == 8
    ledger.read(*range(8))
    ledger.process_next(3)
    assert ledger.read_budget(now=1.0) == 0, "6 may wait at 3 a second, and 5 do"
    ledger.process_next(2)
    # 2 were done in the last second.
    assert ledger.read_budget(now=2.0) == 0
    ledger.process_next(1)
    assert ledger.read_budget(now=3.0) == 0
    ledger.process_next(1)
    assert ledger.read_budget(now=4.0) == 1, "one more beside the one that waits"


def test_if_a_message_takes_longer_than_max_wait_only_idle_workers_are_read_for() -> (
    None
):
    ledger = SpyLedger(max_wait=1.0)
    ledger.read_budget(now=0.0)
    ledger.read(1)
    ledger.process_next()
    assert ledger.read_budget(now=100.0) == 0
    ledger.flow.waiting_changed(3)
    assert ledger.capacity_signals == 1
    assert ledger.read_budget(now=101.0) == 3
    ledger.read(2)
    assert ledger.read_budget(now=101.0) == 2


def test_with_less_than_half_free_nothing_is_read_while_entries_wait() -> None:
    ledger = with_fast_workers(max_messages=10)
    ledger.read(*range(6))
    assert ledger.read_budget() == 0
    taken = [ledger.start_next() for _ in range(5)]
    assert ledger.read_budget() == 0, "one entry can still be taken"
    taken.append(ledger.start_next())
    assert ledger.read_budget() == 4, (
        "the queue is empty, and idle workers may want more"
    )
    ledger.finish(taken[0], ack=True)
    assert ledger.read_budget() == 5


def test_half_of_the_entries_that_should_wait_is_worth_a_read() -> None:
    ledger = SpyLedger(max_messages=1000)
    ledger.read(*range(5))
    assert ledger.read_budget() == 0
    ledger.start_next()
    assert ledger.read_budget() == 4


def test_idle_workers_are_read_for_however_many_entries_wait_in_lanes() -> None:
    ledger = with_fast_workers(max_messages=100, ordering=SHARD)
    ledger.read(*range(90))
    assert ledger.work.length == 1
    assert ledger.read_budget() == 0
    ledger.start_next()
    ledger.flow.waiting_changed(2)
    assert ledger.read_budget() == 2
    ledger.flow.waiting_changed(50)
    assert ledger.read_budget() == 10, "not more than may be held"


def test_idle_workers_are_read_for_beyond_the_entries_that_can_be_taken() -> None:
    ledger = SpyLedger(max_messages=100)
    ledger.flow.waiting_changed(20)
    assert ledger.read_budget() == 20
    ledger.read(*range(15))
    assert ledger.read_budget() == 5
    ledger.flow.waiting_changed(-20)
    assert ledger.read_budget() == 0


def test_bytes_bound_the_read_budget_too() -> None:
    ledger = SpyLedger(max_messages=100, max_bytes=100)
    ledger.read(*range(8))
    assert ledger.read_budget() == 0
    assert not ledger.flow.at_capacity
    assert ledger.flow.capacity == 10
    assert ledger.flow.fits == 2
    ledger.flow.waiting_changed(20)
    assert ledger.read_budget() == 2
    ledger.read(10, 11)
    assert ledger.read_budget() == 0
    assert ledger.flow.at_capacity
    ledger.flow.waiting_changed(-20)
    ledger.process_next(5)
    assert ledger.capacity_signals
    # 50 bytes are free.
    assert ledger.read_budget() == 5


def test_a_single_entry_larger_than_max_bytes_is_read_alone() -> None:
    ledger = SpyLedger(max_bytes=5)
    ledger.read(1)
    assert ledger.read_budget() == 0
    ledger.process_next()
    assert ledger.capacity_signals == 1
    assert ledger.read_budget() == 1


def test_reading_stops_when_the_server_does_not_accept_acknowledgements() -> None:
    ledger = SpyLedger(max_messages=10, max_uncommitted=30)
    for number in range(31):
        assert ledger.read_budget() > 0
        ledger.read(number)
        ledger.process_next()
    assert ledger.acks.uncommitted == 31
    assert ledger.read_budget() == 0
    ledger.flow.waiting_changed(1)
    assert ledger.read_budget() == 0, "however many workers wait"
    signals = ledger.capacity_signals
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert ledger.capacity_signals == signals + 1
    assert ledger.read_budget() > 0


def test_outcomes_that_wait_for_their_user_do_not_stop_reading() -> None:
    ledger = SpyLedger(max_messages=10, max_pending=1, max_uncommitted=None)
    for number in range(1000):
        assert ledger.read_budget() > 0
        ledger.read(number)
        ledger.process_next()


def test_the_window_learns_sizes_only_from_new_entries() -> None:
    ledger = SpyLedger(max_messages=100, max_bytes=1000)
    ledger.read(1)
    size = ledger.flow.size
    ledger.deliveries.received(B, [[raw(1), [b"msg", b""]]], 0.0, 500)
    ledger.deliveries.received(B, [[raw(1), [b"msg", b""]]], 0.0, 10_000)
    assert ledger.flow.size == size + 500
    ledger.process_next(2)
    assert ledger.read_budget() == 2, "500 bytes each, not 10,000"


# -- wake-ups ----------------------------------------------------------------------


def test_the_reader_is_woken_when_half_of_the_capacity_is_free() -> None:
    ledger = with_fast_workers(max_messages=10)
    ledger.read(*range(10))
    assert ledger.read_budget() == 0
    ledger.process_next(4)
    assert ledger.capacity_signals == 0
    ledger.process_next()
    assert ledger.capacity_signals == 1
    assert ledger.read_budget() == 5


def test_the_reader_is_woken_when_half_of_the_entries_that_should_wait_are_taken() -> (
    None
):
    ledger = SpyLedger(max_messages=100)
    ledger.read(*range(8))
    assert ledger.read_budget() == 0
    for _ in range(3):
        ledger.start_next()
    assert ledger.capacity_signals == 0
    ledger.start_next()
    assert ledger.capacity_signals == 1
    assert ledger.read_budget() == 4


def test_the_reader_is_woken_once_when_several_entries_are_taken_at_once() -> None:
    ledger = SpyLedger(max_messages=100)
    ledger.read(*range(8))
    assert ledger.read_budget() == 0
    ledger.work.take_fresh(3)
    assert ledger.capacity_signals == 0
    ledger.work.take_fresh(5)
    assert ledger.capacity_signals == 1


def test_the_reader_is_woken_by_a_worker_that_finds_nothing() -> None:
    ledger = SpyLedger(max_messages=4)
    ledger.read(*range(4))
    taken = [ledger.start_next() for _ in range(4)]
    assert ledger.read_budget() == 0
    ledger.finish(taken[0], ack=False)
    assert ledger.capacity_signals == 0, "one of four is not worth a round trip"
    ledger.flow.waiting_changed(1)
    assert ledger.capacity_signals == 1
    assert ledger.read_budget() == 1


def test_the_reader_is_woken_for_a_single_free_place_when_a_worker_is_idle() -> None:
    ledger = SpyLedger(max_messages=4)
    ledger.read(*range(4))
    taken = [ledger.start_next() for _ in range(4)]
    ledger.flow.waiting_changed(1)
    assert ledger.read_budget() == 0
    assert ledger.flow.at_capacity
    ledger.finish(taken[0], ack=False)
    assert ledger.capacity_signals == 1, "no other handler may ever finish"
    assert ledger.read_budget() == 1


def test_the_reader_is_woken_when_others_take_the_entry_that_an_idle_worker_needs() -> (
    None
):
    ledger = with_fast_workers(max_messages=100, ordering=KEY)
    ledger.read(*range(80), key="k")
    first = ledger.start_next()
    ledger.flow.waiting_changed(1)
    ledger.finish(first, ack=True)
    assert ledger.work.length == 1
    assert ledger.read_budget() == 0
    signals = ledger.capacity_signals
    ledger.start_next()
    assert ledger.capacity_signals == signals + 1
    assert ledger.read_budget() == 1


def test_the_reader_is_woken_when_idle_workers_outnumber_the_waiting_entries() -> None:
    ledger = SpyLedger(max_messages=100)
    ledger.flow.waiting_changed(10)
    ledger.read(*range(10))
    assert ledger.read_budget() == 0
    ledger.start_next()
    assert ledger.capacity_signals == 1
    assert ledger.read_budget() == 1


def test_the_reader_is_woken_when_a_new_order_lets_fewer_entries_be_taken() -> None:
    ledger = SpyLedger(max_messages=4)
    ledger.read(1, 2, 3)
    ledger.flow.waiting_changed(2)
    assert ledger.read_budget() == 0
    ledger.order_by(SHARD)
    assert ledger.work.length == 1
    assert ledger.capacity_signals
    assert ledger.read_budget() == 1


def test_a_reader_with_a_budget_is_not_woken() -> None:
    ledger = SpyLedger(max_messages=10)
    ledger.read(1)
    assert ledger.read_budget() > 0
    ledger.flow.waiting_changed(1)
    ledger.process_next()
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    ledger.read(2)
    [renewal] = ledger.to_renew(100.0)
    ledger.removals.lose_all_but(renewal, [])
    assert ledger.capacity_signals == 0


def test_a_decrease_of_idle_workers_wakes_no_task() -> None:
    ledger = SpyLedger(max_messages=10)
    ledger.read(*range(8))
    assert ledger.read_budget() == 0
    ledger.flow.waiting_changed(0)
    ledger.flow.waiting_changed(2)
    assert ledger.capacity_signals == 1
    ledger.flow.waiting_changed(-2)
    assert ledger.capacity_signals == 1


# -- claims ------------------------------------------------------------------------


def test_the_claim_budget_is_what_should_wait_and_does_not() -> None:
    ledger = with_fast_workers(max_messages=10)
    ledger.read(*range(6))
    assert ledger.read_budget() == 0
    assert ledger.claim_budget() == 4, "a claim need not be worth a batch"
    ledger.read(*range(6, 10))
    assert ledger.claim_budget() == 0


def test_the_claim_budget_is_bound_by_the_rate_too() -> None:
    ledger = SpyLedger(max_messages=100)
    assert ledger.claim_budget(now=0.0) == 8
    ledger.read(1)
    ledger.process_next()
    assert ledger.claim_budget(now=100.0) == 0
    ledger.flow.waiting_changed(1)
    assert ledger.claim_budget(now=100.0) == 1


def test_after_a_claim_budget_of_0_the_claimer_is_woken_when_half_is_free() -> None:
    ledger = with_fast_workers(max_messages=4)
    ledger.read(*range(4))
    assert ledger.claim_budget() == 0
    ledger.process_next()
    assert ledger.capacity_signals == 0
    ledger.process_next()
    assert ledger.capacity_signals == 1
    assert ledger.claim_budget() == 2


def test_after_a_claim_budget_of_0_a_read_budget_wakes_the_claimer() -> None:
    ledger = with_fast_workers(max_messages=4)
    claim(ledger, *range(4))
    assert ledger.claim_budget() == 0
    ledger.removals.drop(A)
    assert ledger.capacity_signals == 0
    assert ledger.read_budget() == 4, "between two reads, after a seek"
    assert ledger.capacity_signals == 1
    assert ledger.read_budget() == 4
    assert ledger.capacity_signals == 1, "once"


def test_a_claimer_with_a_budget_is_not_woken() -> None:
    ledger = with_fast_workers(max_messages=4)
    ledger.read(1)
    assert ledger.claim_budget() == 3
    ledger.process_next()
    assert ledger.capacity_signals == 0


@pytest.mark.parametrize("acks", [True, False])
def test_in_a_large_reply_each_entry_takes_its_own_bytes(*, acks: bool) -> None:
    """In a smaller reply each entry takes its share, since none can be large."""
    ledger = SpyLedger(acks=acks)
    entries: list[RawEntry] = [[b"1-1", [b"msg", b"x" * 999]], [b"1-2", [b"msg", b""]]]
    ledger.deliveries.received(A, entries, 0.0, SIZED_ABOVE + 1)
    assert ledger.flow.size == 1002 + 3
    assert [ledger.start_next().size for _ in entries] == [1002, 3]
    small = SpyLedger(acks=acks)
    small.deliveries.received(A, entries, 0.0, SIZED_ABOVE)
    assert small.flow.size == SIZED_ABOVE
