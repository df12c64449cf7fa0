"""Regression tests of defects that the first tests of the core found."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from penstock._core.backoff import ReconnectBackoff
from penstock._core.ledger.states import State
from penstock.codecs import encode_any, text_codec
from penstock.durations import seconds
from penstock.errors import (
    BufferFull,
    ClosedError,
    ConfigurationError,
    PenstockError,
    SendUnknown,
)
from penstock.events import printable
from penstock.options import Ordering
from support.ledger import (
    GIVEN_UP,
    KEY,
    NONE,
    SHARD,
    A,
    B,
    Fields,
    SpyLedger,
    claim,
    ids,
    known,
    later,
    left_unsettled,
    only,
    raw,
    state_of,
)


def test_the_reader_is_woken_when_the_last_queued_entry_is_taken() -> None:
    ledger = SpyLedger(max_messages=10)
    ledger.read(*range(6))
    assert ledger.read_budget() == 0
    for _ in range(6):
        ledger.start_next()
    assert ledger.capacity_signals, "4 idle workers wait until a handler finishes"


def test_the_reader_is_woken_when_all_queued_entries_were_lost() -> None:
    ledger = SpyLedger(max_messages=10, lease=30.0)
    ledger.read(*range(10))
    assert ledger.read_budget() == 0
    [renewal] = ledger.to_renew(100.0)
    assert len(ledger.removals.lose_all_but(renewal, [])) == 10
    assert ledger.flow.held == 0
    assert ledger.capacity_signals, "nothing runs, so nothing else will wake the reader"


def test_the_reader_is_woken_when_outcomes_that_blocked_reading_were_lost() -> None:
    ledger = SpyLedger(max_messages=10, max_uncommitted=3, lease=30.0)
    ledger.read(*range(5))
    ledger.process_next(5)
    assert ledger.read_budget() == 0
    [renewal] = ledger.to_renew(100.0)
    assert len(ledger.removals.lose_all_but(renewal, [])) == 5
    assert ledger.acks.uncommitted == 0
    assert ledger.acks.to_send() == []
    assert ledger.capacity_signals


def test_a_running_entry_does_not_free_a_lane_of_a_later_order() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, 3, key="k")
    one = ledger.start_next()
    ledger.order_by(SHARD)
    two = ledger.work.take()  # (wrong in itself: entry 1 still runs)
    ledger.finish(one, ack=True)
    assert two is None or ledger.work.take() is None, (
        "entries 2 and 3 of one key run at once"
    )


def test_an_id_is_in_one_acknowledgement_batch_only() -> None:
    ledger = SpyLedger(lease=30.0)
    old = left_unsettled(ledger, 1)
    claim(ledger, 1)
    ledger.ack(old)
    ledger.process_next()
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_a_claimed_entry_keeps_its_place_in_the_order_of_reading() -> None:
    ledger = SpyLedger()
    left_unsettled(ledger, 1)
    ledger.read(2)
    claim(ledger, 1)
    before = ids(ledger._queue)
    ledger.order_by(KEY)
    ledger.order_by(NONE)
    assert ids(ledger._queue) == before


def test_an_unsettled_entry_that_a_claim_finds_deleted_leaves_the_ledger() -> None:
    ledger = SpyLedger()
    old = left_unsettled(ledger, 1)
    ledger.deliveries.recovered(A, [[raw(1), None]], 0.0, {}, claimed=True)
    ledger.ack(old)
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_a_late_ack_after_closing_is_refused() -> None:
    ledger = SpyLedger(lease=30.0)
    old = left_unsettled(ledger, 1)
    ledger.read(2, now=100.0)  # the lease of 1 ends
    ledger.close()
    assert not ledger.ack(old), "accepted, but never sent, and kept alive forever"


def test_bytes_are_cut_before_they_are_escaped() -> None:
    class Huge(bytes):
        def decode(self, *args: Any) -> str:
            pytest.fail(f"{len(self)} bytes are decoded")

    printable(Huge(b"\xff" * 10_000_000))


@pytest.mark.parametrize("encode", [text_codec.encode, encode_any])
def test_text_with_a_lone_surrogate_is_a_configuration_error(
    encode: Callable[[str], bytes],
) -> None:
    with pytest.raises(ConfigurationError):
        encode("\ud800")


def test_a_huge_integer_is_not_a_duration() -> None:
    with pytest.raises(ConfigurationError):
        seconds(10**400, "linger")


@pytest.mark.parametrize(
    "error",
    [ClosedError("consumer"), BufferFull(1, 2), SendUnknown("s", "r")],
    ids=repr,
)
def test_errors_survive_copying_and_pickling(error: PenstockError) -> None:
    assert str(copy.copy(error)) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - ours


def test_a_huge_factor_does_not_overflow() -> None:
    assert ReconnectBackoff(factor=1e10, failures=64).failed(0.5) == 0.6


def test_an_entry_confirmed_while_pending_entries_are_read_is_not_recovered() -> None:
    """The read and the acknowledgement race, since each has its own connection."""
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.process_next(2)
    [batch] = ledger.acks.to_send()
    with ledger.deliveries.recovering(A):
        # The server lists both as pending before it gets the acknowledgement.
        ledger.ack_confirmed(batch)
        assert ledger.recover(1, 2, 3) == 1
    assert ledger.start_next().id == raw(3)
    # Afterwards an id is delivered again only because the group was rewound.
    assert ledger.read(1) == 1


def test_an_entry_read_before_the_group_was_recreated_is_not_lost() -> None:
    """The entry is then pending for no consumer and is read again in its place."""
    ledger = SpyLedger(lease=30.0, strict=True)
    ledger.recover(1, 2, 3, attempts=1)
    ledger.shards.group_recreated(A, 20.0)
    first = ledger.start_next()
    ledger.removals.lose(first)
    assert ledger.may_start(first)
    [renewal] = ledger.to_renew(25.0)
    assert ledger.removals.lose_all_but(renewal, []) == []
    ledger.leases.renewed(renewal, 25.0)
    ledger.finish(first, ack=True)
    assert ids([ledger.take_next()]) == [raw(2)]
    # However often it is asked for: the reader may have no space to read it again.
    [renewal] = ledger.to_renew(40.0)
    assert renewal.late
    assert ledger.removals.lose_all_but(renewal, [raw(1), raw(3)]) == []
    assert ledger.counters.lost == 0


@pytest.mark.parametrize("found", ["read again", "counted", "renewed"])
def test_an_entry_that_the_recreated_group_has_delivered_may_be_lost_again(
    found: str,
) -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=10.0)
    ledger.shards.group_recreated(A, 20.0)
    [renewal] = ledger.to_renew(25.0)
    assert renewal.late, "it may belong to another consumer"
    ledger.leases.renewed(renewal, 25.0)
    entry = ledger.start_next()
    match found:
        case "read again":
            ledger.read(1, now=26.0)
        case "counted":
            ledger.leases.counted(entry, 26.0)
        case _:
            ledger.leases.renewed(renewal, 26.0, {raw(1)})
    [renewal] = ledger.to_renew(37.0)
    assert not renewal.late
    assert ledger.removals.lose_all_but(renewal, []) == [raw(1)]


def test_an_entry_that_the_recreated_group_has_given_to_another_is_lost() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, now=10.0)
    ledger.shards.group_recreated(A, 20.0)
    [renewal] = ledger.to_renew(25.0)
    assert ledger.removals.lose_all_but(renewal, [], {raw(2)}) == [raw(2)]
    assert [*ledger.shards.ids(A)] == [raw(1)]


def test_an_entry_that_has_left_does_not_count_as_undelivered() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=10.0)
    [renewal] = ledger.to_renew(25.0)
    ledger.removals.drop(A)
    ledger.shards.group_recreated(A, 26.0)
    ledger.leases.renewed(renewal, 25.0)
    assert not ledger.shards.of(A).undelivered


# -- signals that were missing -----------------------------------------------------


def test_workers_are_signalled_when_possible_poison_messages_are_no_longer_held() -> (
    None
):
    ledger = SpyLedger()
    ledger.recover(1, attempts=1)
    ledger.hold_starts(held=True)
    assert ledger.take_next() is None
    assert ledger.ready_signals == 0
    ledger.hold_starts(held=False)
    assert ledger.ready_signals == 1
    assert ids([ledger.take_next()]) == [raw(1)]
    ledger.hold_starts(held=True)
    ledger.hold_starts(held=False)
    assert ledger.ready_signals == 1, "nothing waits"


def test_the_reader_is_woken_when_all_waiting_entries_are_set_aside() -> None:
    ledger = SpyLedger(max_messages=10)
    ledger.recover(*range(8), attempts=1)
    ledger.flow.waiting_changed(2)
    assert ledger.read_budget() == 0
    ledger.hold_starts(held=True)
    signals = ledger.capacity_signals
    assert ledger.take_next() is None
    assert ledger.capacity_signals > signals, "two workers are idle"
    assert ledger.read_budget() == 2


def test_workers_are_signalled_when_a_lost_retry_frees_its_lane() -> None:
    ledger = SpyLedger(ordering=KEY, lease=30.0)
    ledger.read(1, 2, 3, key="k")
    ledger.fail_next()
    assert ledger.take_next() is None
    [renewal] = [r for r in ledger.to_renew(25.0) if r.late]
    assert len(ledger.removals.lose_all_but(renewal, [raw(2), raw(3)])) == 1
    assert ledger.work.length == 1
    assert ledger.ready_signals == 1


def test_workers_are_signalled_when_a_lost_deferred_entry_frees_its_lane() -> None:
    ledger = SpyLedger(ordering=KEY, lease=30.0)
    ledger.read(1, key="k")
    ledger.start_next()
    # The stream was recreated, and the id has another key.
    ledger.read(1, key="l", rewound=True)
    ledger.read(2, key="l")
    assert ledger.take_next() is None
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert ledger.work.length == 1
    assert ledger.ready_signals == 1


def test_workers_are_signalled_when_a_lost_held_suspect_frees_its_lane() -> None:
    ledger = SpyLedger(ordering=KEY, lease=30.0)
    ledger.recover(2, 3, key="l", attempts=1)
    ledger.recover(4, key="l")
    ledger.hold_starts(held=True)
    assert ledger.take_next() is None
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(4)])) == 2
    assert ids([ledger.take_next()]) == [raw(4)]
    assert ledger.ready_signals > 0


def test_an_entry_that_replaces_a_lost_one_in_the_queue_needs_no_further_signal() -> (
    None
):
    ledger = SpyLedger(ordering=KEY, lease=30.0)
    ledger.read(1, 2, key="k")
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert ledger.work.length == 1
    assert ledger.ready_signals == 0


# -- recovery ----------------------------------------------------------------------


def test_an_entry_lost_while_its_fields_were_not_requested_is_not_a_message() -> None:
    """Recovery reads no fields of held entries, and a renewal may lose one meanwhile.

    The reply then has no fields for an entry that has left the ledger.
    """
    ledger = SpyLedger()
    ledger.read(1)
    lost = ledger.start_next()
    ledger.removals.lose(lost)
    assert ledger.deliveries.recovered(A, [[raw(1), ()]], 0.0, {raw(1): 1}) == 0
    assert not known(ledger, A, raw(1))
    assert ledger.counters.deleted == 0, "the entry is not deleted"
    assert ledger.take_next() is None


# -- dead letters ------------------------------------------------------------------


def test_a_dead_letter_is_not_resent_if_its_entry_was_redelivered_meanwhile() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.fail_next(GIVEN_UP)
    [sent] = ledger.acks.dead_letters_to_send(10)
    assert ledger.read(1, rewound=True) == 1
    assert ledger.flow.held == 2
    assert ledger.read_budget() > 0
    ledger.dead_letter_unconfirmed(sent)
    assert state_of(sent) is State.LOST
    assert (ledger.acks.dead_lettering, ledger.acks.dead_letters_to_send(10)) == (0, [])
    assert (ledger.flow.held, ledger.flow.size) == (1, 10)
    ledger.process_next()
    assert only(ledger.acks.to_send()).ids == [raw(1)]


def test_the_reader_is_woken_when_a_dead_letter_is_not_resent() -> None:
    ledger = SpyLedger(max_messages=2)
    ledger.read(1)
    ledger.fail_next(GIVEN_UP)
    [sent] = ledger.acks.dead_letters_to_send(10)
    ledger.read(1, rewound=True)
    assert ledger.read_budget() == 0
    ledger.dead_letter_unconfirmed(sent)
    assert ledger.capacity_signals == 1


def test_released_entries_wait_for_no_dead_letter_and_take_no_capacity() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    for _ in range(2):
        ledger.fail_next(GIVEN_UP)
    [sent] = ledger.acks.dead_letters_to_send(1)
    assert list(ledger.removals.release()) == [(A, 2, [raw(1), raw(2)])]
    assert (ledger.acks.dead_lettering, ledger.flow.held, ledger.flow.size) == (0, 0, 0)
    for answer in (ledger.dead_letter_unconfirmed, ledger.dead_letter_written):
        answer(sent)
    ledger.dead_letter_confirmed(sent, ours=True)
    assert state_of(sent) is State.RELEASED
    assert (ledger.acks.dead_lettering, ledger.flow.held, ledger.flow.size) == (0, 0, 0)
    assert ledger.acks.dead_letters_to_send(1) == []


def test_a_dropped_retry_does_not_keep_its_fields_until_it_would_be_due() -> None:
    fields = Fields([b"msg", b"large"])
    alive = ref(fields)
    ledger = SpyLedger()
    ledger.deliveries.received(A, [[raw(1), fields]], 0.0, 10)
    ledger.fail_next(later(due=1e9))
    ledger.removals.drop(A)
    del fields
    gc.collect()
    assert alive() is None


# -- order -------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", [KEY, SHARD])
def test_choosing_the_same_order_again_keeps_it_across_a_retry(
    ordering: Ordering,
) -> None:
    ledger = SpyLedger(ordering=ordering)
    ledger.read(1, 2, 3, key="k")
    ledger.fail_next(later(due=5.0))
    ledger.order_by(ordering)
    assert ledger.take_next() is None, "the first entry runs first"
    ledger.retries.make_due(5.0)
    assert [ledger.process_next()[0].id for _ in range(3)] == [raw(1), raw(2), raw(3)]


def test_an_entry_taken_without_an_order_is_put_back_into_its_lane_of_a_new_one() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1, 2, key="k")
    taken = ledger.start_next()
    ledger.order_by(KEY)
    ledger.put_back(taken)
    assert ledger.work.length == 1, "more than one entry of a key may be taken"
    assert [ledger.process_next()[0].id for _ in range(2)] == [raw(2), raw(1)]


def test_an_entry_deleted_while_pending_is_reported_once() -> None:
    ledger = SpyLedger()
    assert ledger.deliveries.take_deleted() == []
    ledger.deliveries.deleted(A, [raw(1), raw(2), raw(1)])
    ledger.deliveries.recovered(B, [[raw(3), None]], 0.0, {})
    assert ledger.deliveries.take_deleted() == [(A, [raw(1), raw(2)]), (B, [raw(3)])]
    assert ledger.deliveries.take_deleted() == []
    assert ledger.counters.deleted == 3
