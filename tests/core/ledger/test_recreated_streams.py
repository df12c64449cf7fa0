"""Entries that are held when their stream is deleted and recreated."""

from __future__ import annotations

import pytest

from penstock._core.ledger.states import State
from support.ledger import (
    GIVEN_UP,
    KEY,
    A,
    B,
    SpyLedger,
    ids,
    later,
    only,
    raw,
    state_of,
)


def recover_deleted(ledger: SpyLedger, number: int) -> None:
    """Recover a pending entry that is deleted from its stream."""
    assert not ledger.deliveries.recovered(A, [[raw(number), None]], 0.0, {})


def test_waiting_entries_are_lost_and_free_their_capacity() -> None:
    ledger = SpyLedger(max_messages=4)
    ledger.read(1, 2, 3, 4)
    assert ledger.read_budget() == 0
    signals = ledger.capacity_signals
    assert ledger.stream_recreated(A) == [raw(n) for n in (1, 2, 3, 4)]
    assert ledger.flow.held == ledger.flow.size == 0
    assert ledger.take_next() is None
    assert ledger.capacity_signals == signals + 1
    assert ledger.counters.lost == 4


def test_a_running_entry_is_lost_and_a_new_entry_with_its_id_is_handled() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    old = ledger.start_next()
    assert ledger.stream_recreated(A) == [raw(1)]
    assert state_of(old) is State.LOST
    assert ledger.read(1) == 1
    new = ledger.start_next()
    assert new is not old
    assert ledger.ack(old)
    ledger.finish(old, ack=False)
    assert not ledger.acks.to_send()
    ledger.ack(new)
    ledger.finish(new, ack=False)
    assert only(ledger.acks.to_send()).entries == [new]
    assert ledger.counters.late == 1


def test_an_acknowledgement_that_was_not_sent_is_dropped() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    ledger.process_next()
    ledger.process_next()
    assert ledger.acks.uncommitted == 2
    assert set(ledger.stream_recreated(A)) == {raw(1), raw(2), raw(3)}
    assert ledger.acks.uncommitted == 0
    assert not ledger.acks.to_send()


@pytest.mark.parametrize("answered", [True, False])
def test_an_acknowledgement_in_flight_is_not_sent_again(*, answered: bool) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    recover_deleted(ledger, 2)
    ledger.process_next()
    batch = only(ledger.acks.to_send())
    assert ledger.stream_recreated(A) == []
    assert ledger.read(1, 2) == 2
    if answered:
        ledger.ack_confirmed(batch)
    else:
        ledger.acks.unconfirmed(batch)
    assert ledger.acks.uncommitted == 0
    assert not ledger.acks.to_send()
    assert [*ledger.shards.ids(A)] == [raw(1), raw(2)]
    ledger.process_next()
    ledger.process_next()
    batch = only(ledger.acks.to_send())
    assert batch.ids == [raw(1), raw(2)]
    assert not batch.repeated


def test_deleted_ids_are_no_longer_acknowledged() -> None:
    ledger = SpyLedger()
    recover_deleted(ledger, 1)
    assert ledger.acks.uncommitted == 1
    assert ledger.stream_recreated(A) == []
    assert ledger.acks.uncommitted == 0
    assert ledger.read(1) == 1


def test_entries_to_dead_letter_or_to_retry_are_lost() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.fail(ledger.start_next(), GIVEN_UP)
    ledger.fail(ledger.start_next(), later())
    assert ledger.acks.dead_lettering == 1
    assert set(ledger.stream_recreated(A)) == {raw(1), raw(2)}
    assert ledger.acks.dead_lettering == ledger.flow.held == 0
    assert not ledger.acks.dead_letters_to_send(9)
    assert ledger.retries.make_due(99.0) == 0


@pytest.mark.parametrize("reply", ["confirmed", "written", "unconfirmed"])
def test_a_dead_letter_in_flight_is_not_sent_again(reply: str) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.fail(ledger.start_next(), GIVEN_UP)
    [entry] = ledger.acks.dead_letters_to_send(9)
    assert ledger.stream_recreated(A) == []
    ledger.read(1)
    match reply:
        case "confirmed":
            ledger.dead_letter_confirmed(entry, ours=True)
        case "written":
            ledger.dead_letter_written(entry)
        case "unconfirmed":
            ledger.dead_letter_unconfirmed(entry)
    assert ledger.acks.dead_lettering == ledger.acks.uncommitted == 0
    assert not ledger.acks.dead_letters_to_send(9)
    assert not ledger.acks.to_send()
    assert ledger.flow.held == 1


def test_an_unsettled_entry_accepts_an_ack_that_is_not_sent() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    old = ledger.start_next()
    ledger.finish(old, ack=False)
    gone = ledger.start_next()
    ledger.finish(gone, ack=False)
    ledger.read(3, now=100.0)  # their lease is over
    assert ledger.stream_recreated(A) == [raw(3)]
    assert state_of(old) is State.UNSETTLED
    assert ledger.ack(old)
    assert ledger.counters.late == 1
    assert not ledger.acks.to_send()
    assert ledger.acks.uncommitted == 0


def test_other_shards_and_lanes_go_on() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    ledger.read(1, shard=B, key="k")
    first = ledger.start_next()
    ledger.stream_recreated(A)
    ledger.read(1, key="k")
    other = ledger.start_next()
    assert other.shard is B
    assert ledger.take_next() is None, "the earlier entry still blocks its lane"
    ledger.finish(first, ack=True)
    assert ids([ledger.take_next()]) == [raw(1)]


def test_without_acknowledgements_waiting_entries_are_still_handed_out() -> None:
    ledger = SpyLedger(acks=False)
    ledger.read(1, 2)
    assert ledger.stream_recreated(A) == []
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(1), raw(2)]
