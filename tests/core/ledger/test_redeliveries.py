"""Redeliveries: entries that are delivered again after a rewind."""

from __future__ import annotations

import gc
from collections import Counter
from weakref import ref

import pytest

from penstock._core.ledger.states import IllegalTransition, State
from penstock.message import EntryId
from support.ledger import (
    KEY,
    SHARD,
    A,
    Fields,
    SpyLedger,
    ids,
    known,
    left_unsettled,
    only,
    raw,
    state_of,
)

# -- redelivery --------------------------------------------------------------------


def test_a_waiting_entry_that_is_redelivered_is_handed_out_once() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    assert ledger.read(1, 2, rewound=True) == 0
    assert ledger.flow.held == 2
    assert ids([ledger.take_next(), ledger.take_next(), ledger.take_next()]) == [
        raw(1),
        raw(2),
        None,
    ]


def test_an_entry_redelivered_after_its_confirmation_is_handled_like_a_new_one() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1)
    ledger.process_next()
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert ledger.read(1, rewound=True) == 1
    assert state_of(ledger._queue[0]) is State.QUEUED
    ledger.process_next()
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_a_redelivered_entry_waits_for_its_handler_whose_outcome_is_dropped() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    old = ledger.start_next()
    assert ledger.read(1, rewound=True) == 1
    assert state_of(old) is State.LOST
    [new] = ledger._queue
    assert state_of(new) is State.REDELIVERED
    assert ledger.flow.held == 2
    assert ledger.take_next() is None
    assert ledger.work.length == 0, "the redelivered entry is deferred"
    assert ledger.ack(old), "the user did nothing wrong"
    assert ledger.ready_signals == 0
    ledger.finish(old, ack=True)
    assert ledger.ready_signals == 1, "the deferred entry was not signalled"
    assert (ledger.flow.held, ledger.acks.uncommitted, ledger.counters.lost) == (
        1,
        0,
        0,
    )
    assert ledger.acks.to_send() == []
    assert ledger.take_next() is new
    assert state_of(new) is State.RUNNING
    ledger.finish(new, ack=True)
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_other_entries_are_handed_out_before_one_that_waits_for_its_handler() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    first, second = ledger.start_next(), ledger.start_next()
    ledger.read(1, 2, 3, 4, rewound=True)
    assert ids([ledger.take_next(), ledger.take_next(), ledger.take_next()]) == [
        raw(3),
        raw(4),
        None,
    ]
    ledger.finish(second, ack=True)
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(2), None]
    ledger.finish(first, ack=True)
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(1), None]


def test_a_handler_that_ends_before_the_redelivery_is_deferred_sends_no_signal() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1)
    old = ledger.start_next()
    ledger.read(2, 1, rewound=True)
    ledger.finish(old, ack=False)
    assert ledger.ready_signals == 0, "the read has woken a worker"
    assert ledger.counters.left == 0
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(2), raw(1)]


def test_a_repeatedly_redelivered_entry_waits_for_the_last_running_delivery() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    first = ledger.start_next()
    assert [ledger.read(1, rewound=True) for _ in range(3)] == [1, 0, 0]
    ledger.finish(first, ack=True)
    second = ledger.start_next()
    assert ledger.read(1, rewound=True) == 1
    assert ledger.take_next() is None
    ledger.finish(second, ack=True)
    third = ledger.start_next()
    assert len({id(entry) for entry in (first, second, third)}) == 3
    ledger.finish(third, ack=True)
    assert only(ledger.acks.to_send()).ids == [raw(1)]
    assert ledger.acks.uncommitted == 1


def test_an_outcome_that_was_not_sent_is_dropped_after_a_redelivery() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    one, _ = ledger.process_next(2)
    assert ledger.read(1, rewound=True) == 1
    assert state_of(one) is State.LOST
    assert ledger.acks.uncommitted == 1
    assert only(ledger.acks.to_send()).ids == [raw(2)]
    assert ids([ledger.take_next()]) == [raw(1)]


def test_confirming_a_sent_outcome_keeps_the_later_delivery_in_the_ledger() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.process_next(2)
    batch = only(ledger.acks.to_send())
    assert ledger.read(1, rewound=True) == 1
    assert ledger.acks.uncommitted == 2
    ledger.ack_confirmed(batch)
    assert (ledger.acks.uncommitted, ledger.counters.acked) == (0, 2)
    assert known(ledger, A, raw(1))
    assert not known(ledger, A, raw(2))
    ledger.process_next()
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert not known(ledger, A, raw(1))
    # Without further redeliveries, entries leave as usual.
    ledger.read(3)
    ledger.process_next()
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert not known(ledger, A, raw(3))


def test_an_outcome_whose_reply_was_lost_is_resent_beside_that_of_the_redelivery() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1)
    ledger.process_next()
    batch = only(ledger.acks.to_send())
    ledger.read(1, rewound=True)
    ledger.acks.unconfirmed(batch)
    ledger.process_next()
    both = only(ledger.acks.to_send())
    assert both.ids == [raw(1), raw(1)]
    ledger.ack_confirmed(both)
    assert (ledger.acks.uncommitted, ledger.counters.acked) == (0, 2)
    assert not known(ledger, A, raw(1))


def test_an_unsettled_entry_that_is_redelivered_is_handed_out_again() -> None:
    ledger = SpyLedger()
    old = left_unsettled(ledger, 1)
    assert ledger.read(1, rewound=True) == 1
    assert ledger.ack(old)
    assert ledger.acks.to_send() == [], "only the later delivery counts"
    ledger.process_next()
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_an_id_whose_ack_is_in_flight_is_acknowledged_again_if_it_is_redelivered() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1)
    ledger.process_next()
    batch = only(ledger.acks.to_send())
    for _ in range(2):
        assert ledger.read(1) == 0
    assert ledger.acks.uncommitted == 2
    assert ledger.counters.deleted == 0, "the entry is not deleted"
    ledger.ack_confirmed(batch)
    assert not known(ledger, A, raw(1))
    again = only(ledger.acks.to_send())
    assert (again.ids, list(again.entries)) == ([raw(1)], [])
    ledger.ack_confirmed(again)
    assert ledger.acks.uncommitted == 0


def test_in_a_lane_a_redelivery_waits_behind_its_earlier_delivery() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    old = ledger.start_next()
    ledger.read(1, 2, key="k", rewound=True)
    assert ledger.take_next() is None
    ledger.finish(old, ack=True)
    assert ids(ledger.process_next()) == [raw(2)], "it was read before the redelivery"
    assert ids(ledger.process_next()) == [raw(1)]
    assert ledger.take_next() is None
    assert not ledger._ready_queue._lanes


def test_without_acks_a_redelivered_entry_is_a_message_like_any_other() -> None:
    """Without acknowledgements no entry is pending, so two handlers may have it."""
    ledger = SpyLedger(acks=False)
    ledger.read(1)
    old = ledger.start_next()
    assert ledger.read(1, rewound=True) == 1
    ledger.process_next()
    ledger.finish(old, ack=True)
    assert ledger.counters.acked == 2
    assert (ledger.flow.held, ledger.flow.size) == (0, 0)
    assert not known(ledger, A, raw(1))


def test_without_acks_an_entry_waits_in_its_lane() -> None:
    ledger = SpyLedger(acks=False, ordering=KEY)
    ledger.read(1, 2, key="k")
    ledger.read(3, key="other")
    first = ledger.start_next()
    assert ids([ledger.start_next()]) == [raw(3)]
    assert ledger.take_next() is None, "entry 2 waits for entry 1"
    ledger.finish(first, ack=True)
    assert ids([ledger.start_next()]) == [raw(2)]


def test_an_entry_that_waits_for_its_handler_can_be_lost_to_others() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1)
    old = ledger.start_next()
    ledger.read(1, 2, rewound=True, now=10.0)
    [renewal] = ledger.to_renew(35.0)
    assert renewal.ids == [raw(1), raw(2)]
    assert ledger.take_next() is not None
    assert len(ledger.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert (ledger.flow.held, ledger.flow.size) == (2, 20)
    ledger.finish(old, ack=True)
    assert ledger.take_next() is None
    assert ledger.ready_signals == 0


def test_a_redelivered_entry_is_lost_from_the_queue_too() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1)
    old = ledger.start_next()
    ledger.read(1, rewound=True, now=10.0)
    [renewal] = ledger.to_renew(35.0)
    assert len(ledger.removals.lose_all_but(renewal, [])) == 1
    assert ledger.work.length == 0
    ledger.finish(old, ack=True)
    assert (ledger.flow.held, ledger.flow.size) == (0, 0)


def test_an_entry_that_waits_for_its_handler_is_released_on_closing() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    old = ledger.start_next()
    ledger.read(1, rewound=True)
    assert ledger.take_next() is None
    assert list(ledger.removals.release()) == [(A, 0, [raw(1)])]
    assert ledger.flow.held == 1
    ledger.finish(old, ack=True)
    assert (ledger.flow.held, ledger.flow.size, ledger.ready_signals) == (0, 0, 0)


def test_taking_a_lost_entry_from_the_queue_is_an_illegal_transition() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    entry.state = State.LOST
    ledger._queue.append(entry)
    with pytest.raises(IllegalTransition, match=r"^take is not possible"):
        ledger.take_next()


# -- regressions -------------------------------------------------------------------


def test_any_number_of_redeliveries_can_wait_for_their_handlers() -> None:
    ledger = SpyLedger(max_messages=5000)
    ledger.read(*range(3000))
    for _ in range(3000):
        ledger.start_next()
    ledger.read(*range(3000), rewound=True)
    assert ledger.take_next() is None


def test_the_reader_is_woken_when_all_waiting_entries_are_deferred() -> None:
    ledger = SpyLedger(max_messages=100)
    ledger.read(*range(8))
    for _ in range(8):
        ledger.start_next()
    ledger.read(*range(8), rewound=True)
    assert ledger.read_budget() == 0
    assert ledger.take_next() is None
    assert ledger.capacity_signals
    assert ledger.read_budget() > 0


def test_only_the_latest_running_delivery_ends_the_deferral() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    first = ledger.start_next()
    ledger.ack(first)  # before its handler has finished
    ledger.read(1, rewound=True)
    second = ledger.start_next()
    ledger.read(1, rewound=True)
    ledger.finish(first, ack=True)
    assert ledger.take_next() is None, "the second delivery still runs"
    ledger.finish(second, ack=True)
    assert ids([ledger.take_next()]) == [raw(1)]


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_recovered_entry_waits_for_its_earlier_handler_too(attempts: int) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    old = ledger.start_next()
    ledger.read(1, rewound=True)
    ledger.removals.release_shard(A)
    # The shard is read again, beginning with this consumer's pending entries; or the
    # entry is claimed.
    ledger.recover(1, attempts=attempts)
    assert ledger.take_next() is None
    assert (ledger.work.length, ledger.flow.held) == (0, 2)
    count = attempts + 1 if attempts else 0
    assert ledger.removals.release_shard(A) == [(A, count, [raw(1)])]
    ledger.recover(1, attempts=attempts, claimed=True)
    ledger.recover(2, attempts=1)
    assert ids([ledger.take_next()]) == [raw(2)], "it is no suspect: its handler lives"
    signals = ledger.ready_signals
    ledger.finish(old, ack=True)
    assert ledger.ready_signals == signals + 1
    assert ledger.work.take() is None
    again = ledger.start_next()
    assert (again.id, again.deliveries) == (raw(1), attempts + 1)


def test_an_entry_to_count_is_found_behind_one_that_waits_for_its_handler() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.start_next()
    ledger.read(1, rewound=True)
    ledger.recover(2, delivered=True)
    assert ledger.work.next_is_counted, "take() returns None, and its worker would wait"
    assert ids(ledger.work.take_counted()) == [raw(2)]
    assert not ledger.work.next_is_repeated


def test_closing_keeps_no_deferred_entry_alive() -> None:
    fields = Fields([b"msg", b"large"])
    alive = ref(fields)
    ledger = SpyLedger()
    ledger.deliveries.received(A, [[raw(1), fields]], 0.0, 10)
    handled = ledger.start_next()
    ledger.read(1, rewound=True)
    ledger.close()
    del fields, ledger, handled
    gc.collect()
    assert alive() is None


def recreate_stream(ledger: SpyLedger) -> None:
    """Recreate a stream in which an id has another key while its handler runs."""
    ledger.read(1, key="k")
    ledger.start_next()
    ledger.read(1, key="l", rewound=True)
    assert ledger.take_next() is None


def test_the_lane_of_a_deferred_entry_is_free_when_that_entry_is_lost() -> None:
    ledger = SpyLedger(ordering=KEY, lease=30.0)
    recreate_stream(ledger)
    ledger.read(2, key="l")
    [renewal] = ledger.to_renew(25.0)
    ledger.removals.lose_all_but(renewal, [raw(2)])
    assert ids([ledger.take_next()]) == [raw(2)]


def test_the_lane_of_a_deferred_entry_is_free_when_that_entry_is_dropped() -> None:
    ledger = SpyLedger(ordering=KEY)
    recreate_stream(ledger)
    ledger.read(2, key="l")
    assert ledger.removals.drop(A) == 2
    ledger.read(3, key="l")
    assert ids([ledger.take_next()]) == [raw(3)]


def test_a_deferred_entry_has_its_lane_in_a_new_order() -> None:
    ledger = SpyLedger()
    ledger.read(1, key="k")
    old = ledger.start_next()
    ledger.read(1, 2, key="k", rewound=True)
    two = ledger.start_next()
    ledger.finish(two, ack=True)
    assert ledger.take_next() is None
    ledger.read(3, key="k")
    ledger.order_by(KEY)
    ledger.finish(old, ack=True)
    running = Counter(ids([ledger.take_next(), ledger.take_next()]))
    assert running == {raw(1): 1, None: 1}, "more than one entry of a key runs"


def test_an_entry_acked_early_frees_no_lane_of_a_new_order() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, 3, key="k")
    early = ledger.start_next()
    ledger.ack(early)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    ledger.order_by(SHARD)
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(2), None]
    ledger.finish(early, ack=True)
    assert ledger.take_next() is None, "entry 2 is running"


# -- rewinding ---------------------------------------------------------------------


def test_no_outcome_of_an_entry_above_a_rewind_is_sent() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    ledger.process_next(3)
    ledger.removals.rewind(A, EntryId(1))
    assert only(ledger.acks.to_send()).ids == [raw(1)]
    assert ledger.read(2, 3, rewound=True) == 2


def test_a_running_entry_above_a_rewind_is_lost_and_its_redelivery_waits_for_it() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1, 2)
    first, second = ledger.start_next(), ledger.start_next()
    ledger.removals.rewind(A, EntryId(1))
    assert (state_of(first), state_of(second)) == (State.RUNNING, State.LOST)
    assert not known(ledger, A, raw(2)), "it could be acknowledged unseen"
    ledger.read(2, rewound=True)
    assert ledger.take_next() is None
    ledger.finish(second, ack=True)
    assert ids([ledger.take_next()]) == [raw(2)]
    assert ledger.acks.to_send() == []


def test_an_unsettled_entry_above_a_rewind_cannot_be_acknowledged() -> None:
    ledger = SpyLedger()
    old = left_unsettled(ledger, 1)
    ledger.removals.rewind(A, EntryId.MIN)
    assert ledger.ack(old)
    assert (ledger.acks.to_send(), ledger.counters.late) == ([], 1)


def test_an_acknowledgement_in_flight_is_not_affected_by_a_rewind() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.process_next()
    batch = only(ledger.acks.to_send())
    ledger.removals.rewind(A, EntryId.MIN)
    ledger.ack_confirmed(batch)
    assert not known(ledger, A, raw(1))
