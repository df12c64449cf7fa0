"""Removals: entries that a seek drops, or that are released with their shard."""

from __future__ import annotations

from penstock._core.ledger.states import State
from support.ledger import (
    GIVEN_UP,
    SHARD,
    A,
    B,
    SpyLedger,
    ids,
    known,
    only,
    raw,
    state_of,
)

# -- dropping ----------------------------------------------------------------------


def test_drop_removes_waiting_entries_and_keeps_running_and_acknowledged_ones() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3, 4, 5)
    running, unsettled, _ = (
        ledger.start_next(),
        ledger.start_next(),
        ledger.process_next(),
    )
    ledger.finish(unsettled, ack=False)
    ledger.read(6, shard=B)
    waiting = list(ledger._queue)
    assert ledger.removals.drop(A) == 2
    assert [state_of(entry) for entry in waiting] == [
        State.DONE,
        State.DONE,
        State.QUEUED,
    ]
    assert sorted(ledger.shards.ids(A)) == [raw(1), raw(2), raw(3)]
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.uncommitted) == (2, 20, 1)
    assert ledger.counters.acked == 0
    assert ids([ledger.work.take(), ledger.work.take()]) == [raw(6), None]
    ledger.finish(running, ack=True)
    assert only(ledger.acks.to_send()).ids == [raw(3), raw(1)]


def test_dropping_a_shard_without_entries_does_nothing() -> None:
    ledger = SpyLedger()
    ledger.read(1, shard=B)
    assert ledger.removals.drop(A) == 0
    assert list(ledger.shards.ids(A)) == []
    assert ledger.flow.held == 1


def test_a_dropped_entry_is_neither_renewed_nor_lost() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2)
    [renewal] = ledger.to_renew(25.0)
    ledger.removals.drop(A)
    assert renewal.ids == []
    assert len(ledger.removals.lose_all_but(renewal, [])) == 0
    assert ledger.to_renew(25.0) == []


def test_losing_an_entry_whose_handler_has_finished_wakes_the_reader() -> None:
    """The reply to the count of its start came later than its failure."""
    ledger = SpyLedger(max_messages=1)
    ledger.read(1)
    entry = ledger.start_next()
    ledger.fail(entry, GIVEN_UP)
    assert ledger.read_budget() == 0
    signals = ledger.capacity_signals
    ledger.removals.lose(entry)
    assert ledger.capacity_signals == signals + 1
    assert ledger.read_budget() == 1


def test_an_abandoned_entry_is_handed_out_again_by_a_recreated_group() -> None:
    """Nobody here settles it, so a later delivery must not be taken for the same."""
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    ledger.finish(entry, ack=False)
    ledger.shards.group_recreated(A, now=5.0)
    ledger.removals.lose(entry)
    assert known(ledger, A, raw(1))
    ledger.removals.abandon(entry)
    assert state_of(entry) is State.LOST
    assert ledger.read(1) == 1
    assert ids(ledger.process_next()) == [raw(1)]


def test_an_entry_whose_transaction_is_fenced_is_lost_while_its_handler_runs() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    ledger.shards.group_recreated(A, now=5.0)
    ledger.fenced(entry)
    assert state_of(entry) is State.LOST
    assert not known(ledger, A, raw(1))
    assert (ledger.flow.held, ledger.counters.lost) == (1, 1)
    ledger.finish(entry, ack=True)
    assert ledger.acks.to_send() == []
    assert (ledger.flow.held, ledger.counters.late) == (0, 1)


def test_a_redelivered_entry_waits_for_its_earlier_handler_even_after_a_drop() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    old = ledger.start_next()
    ledger.read(1, rewound=True)
    assert ledger.work.take() is None
    assert ledger.removals.drop(A) == 1
    assert ledger.flow.held == 1
    ledger.read(1, rewound=True)
    assert ledger.work.take() is None
    ledger.finish(old, ack=True)
    assert ids([ledger.work.take()]) == [raw(1)]


def test_the_lane_of_a_running_entry_stays_blocked_after_a_drop() -> None:
    ledger = SpyLedger(ordering=SHARD)
    ledger.read(1, 2, 3)
    ledger.read(7, shard=B)
    running = ledger.start_next()
    assert ledger.removals.drop(A) == 2
    ledger.read(4, 5)
    assert ids([ledger.work.take(), ledger.work.take()]) == [raw(7), None]
    ledger.finish(running, ack=True)
    assert ids(ledger.process_next()) == [raw(4)]
    assert ids(ledger.process_next()) == [raw(5)]


# -- releasing ---------------------------------------------------------------------


def test_release_shard_releases_all_entries_except_running_and_acknowledged_ones() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1, 2, 3, 4)
    running, unsettled, (settled,) = (
        ledger.start_next(),
        ledger.start_next(),
        ledger.process_next(),
    )
    ledger.finish(unsettled, ack=False)
    ledger.read(1, shard=B)
    released = ledger.removals.release_shard(A)
    assert released == [(A, 0, [raw(4)]), (A, 2, [raw(2)])]
    assert (state_of(running), state_of(unsettled)) == (State.RUNNING, State.RELEASED)
    assert sorted(ledger.shards.ids(A)) == [raw(1), raw(3)]
    assert list(ledger.shards.ids(B)) == [raw(1)]
    assert not ledger.ack(unsettled)
    ledger.finish(running, ack=True)
    assert only(ledger.acks.to_send()).ids == [raw(3), raw(1)]
    assert settled.unconfirmed
    assert ledger.removals.release_shard(A) == []


def test_a_released_entry_is_not_renewed() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2)
    ledger.start_next()
    [renewal] = ledger.to_renew(25.0)
    ledger.removals.release_shard(A)
    assert renewal.ids == [raw(1)], "a renewal would reclaim it from other consumers"
