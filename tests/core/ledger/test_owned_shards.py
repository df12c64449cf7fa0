"""Owned shards in the ledger: entries that are held, given up, or lost with a shard."""

from __future__ import annotations

import pytest

from penstock._core.ledger.states import State
from support.ledger import KEY, A, B, SpyLedger, ids, only, raw

NEVER = float("inf")


def owned(**options: object) -> SpyLedger:
    return SpyLedger(lease=NEVER, **options)  # type: ignore[arg-type]


def test_no_entry_of_a_held_shard_is_taken_and_those_of_others_are() -> None:
    ledger = owned()
    ledger.read(1, 2)
    ledger.read(3, shard=B)
    ledger.work.hold_shard(A.key, held=True)
    assert ids([ledger.take_next()]) == [raw(3)]
    assert ledger.take_next() is None
    assert ledger.work.length == 0
    ledger.work.hold_shard(A.key, held=False)
    ledger.work.begin_turn(0.0)
    assert ids([ledger.take_next(), ledger.take_next()]) == [raw(1), raw(2)]


def test_entries_of_a_held_shard_keep_their_order_and_their_places() -> None:
    ledger = owned()
    ledger.read(1, 3)
    ledger.read(2, shard=B)
    first = ledger.start_next()
    ledger.work.hold_shard(A.key, held=True)
    ledger.read(5)
    ledger.put_back(first)
    ledger.work.hold_shard(B.key, held=True)
    assert ledger.take_next() is None
    ledger.work.hold_shard(A.key, held=False)
    assert [ledger.start_next().id for _ in range(3)] == [raw(1), raw(3), raw(5)]
    assert ledger.take_next() is None
    ledger.work.hold_shard(B.key, held=False)
    assert ledger.start_next().id == raw(2)


def test_the_reader_is_woken_when_a_shard_with_all_waiting_entries_is_held() -> None:
    ledger = owned(max_messages=100)
    ledger.read(*range(ledger.read_budget()))
    assert ledger.read_budget() == 0
    ledger.work.hold_shard(A.key, held=True)
    assert ledger.capacity_signals == 1


def test_shards_of_other_members_are_no_reason_to_count_starts() -> None:
    """It would cost a command a message, at any rate."""
    ledger = owned(max_messages=10_000)
    ledger.work.hold_shard(B.key, held=True)
    ledger.read_budget(now=0.0)
    ledger.read(*range(5000))
    ledger.process_next(5000)
    ledger.read_budget(now=1.0)
    ledger.work.begin_turn(1.0)
    assert not ledger.work.counts_starts


def test_a_second_delivery_of_a_held_shard_waits_until_it_is_held_no_more() -> None:
    """A handler runs the first one, and the group was set back to it."""
    ledger = owned()
    ledger.read(1)
    running = ledger.start_next()
    ledger.read(1, rewound=True)
    assert ledger.take_next() is None  # a handler runs it
    ledger.work.hold_shard(A.key, held=True)
    ledger.finish(running, ack=False)
    assert ledger.take_next() is None
    ledger.work.hold_shard(A.key, held=False)
    again = ledger.take_next()
    assert again is not None
    assert again.id == raw(1)


def test_two_shards_are_held_one_by_one() -> None:
    ledger = owned()
    ledger.read(1)
    ledger.read(2, shard=B)
    for shard in (A, B):
        ledger.work.hold_shard(shard.key, held=True)
    assert ledger.take_next() is None
    ledger.work.hold_shard(A.key, held=False)
    assert ids([ledger.take_next()]) == [raw(1)]
    assert ledger.take_next() is None
    ledger.work.hold_shard(A.key, held=False)  # which changes nothing
    assert ledger.take_next() is None


def test_an_entry_that_is_read_while_its_shard_is_held_waits() -> None:
    ledger = owned(ordering=KEY)
    ledger.work.hold_shard(A.key, held=True)
    ledger.read(1, key="k")
    ledger.read(2, key="k")
    assert ledger.take_next() is None
    ledger.work.hold_shard(A.key, held=False)
    first = ledger.take_next()
    assert first is not None
    assert first.id == raw(1)
    assert ledger.take_next() is None
    ledger.work.hold_shard(A.key, held=True)
    assert ledger.work.is_held(first)
    ledger.finish(first, ack=True)
    assert ledger.take_next() is None


def test_shards_are_held_when_their_time_has_come() -> None:
    ledger, asked = owned(), list[float]()
    ledger.work.hold_at = 5.0
    ledger.work.on_hold_due = asked.append
    ledger.work.begin_turn(4.9)
    assert asked == []
    ledger.work.begin_turn(5.0)
    assert asked == [5.0]


def test_by_default_nothing_is_held() -> None:
    work = owned().work
    assert work.hold_at == NEVER
    work.on_hold_due(0.0)


def test_a_shard_is_done_with_when_no_entry_is_held_and_no_handler_runs() -> None:
    ledger = owned(ordering=KEY)
    assert ledger.is_done_with(A)
    ledger.read(1, key="k")
    assert not ledger.is_done_with(A)
    entry = ledger.start_next()
    ledger.ack(entry)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    # Its handler has acknowledged it, and goes on.
    assert not ledger.is_done_with(A)
    ledger.finish(entry, ack=False)
    assert ledger.is_done_with(A)


def test_what_is_outstanding_of_a_shard_is_handlers_and_unanswered_outcomes() -> None:
    ledger = owned()
    ledger.read(1, 2)
    ledger.read(3, shard=B)
    done, running = ledger.start_next(), ledger.start_next()
    assert (ledger.running_of(A), ledger.unanswered_of(A)) == (2, 0)
    ledger.processed(done)
    assert (ledger.running_of(A), ledger.unanswered_of(A)) == (1, 0)
    batch = only(ledger.acks.to_send())
    assert (ledger.running_of(A), ledger.unanswered_of(A)) == (1, 1)
    ledger.ack_confirmed(batch)
    ledger.finish(running, ack=True)
    assert (ledger.running_of(A), ledger.unanswered_of(A)) == (0, 0)


def test_with_an_order_a_handler_that_has_acknowledged_is_outstanding() -> None:
    ledger = owned(ordering=KEY)
    ledger.read(1, key="k")
    entry = ledger.start_next()
    ledger.ack(entry)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert (ledger.running_of(A), ledger.unanswered_of(A)) == (1, 0)


def test_what_waits_is_released_and_what_users_have_is_not() -> None:
    ledger = owned()
    ledger.read(1, 2, 3)
    running, left = ledger.start_next(), ledger.start_next()
    ledger.finish(left, ack=False)
    assert left.state is State.UNSETTLED
    assert ledger.removals.release_waiting(A) == [(A, 0, [raw(3)])]
    assert running.state is State.RUNNING
    assert ledger.removals.release_waiting(A) == []


def test_a_lost_shard_tells_whoever_watches_and_its_outcomes_do_not_count() -> None:
    ledger, told = owned(), list[str]()
    ledger.shards.own(A, 3, b"3:a:r.1")
    ledger.read(1, 2)
    entry = ledger.start_next()
    assert (entry.epoch, entry.shard_state.token) == (3, b"3:a:r.1")
    ledger.watchers[lambda: told.append("")] = None
    assert ledger.lose_shard(A) == [raw(2), raw(1)]
    assert told
    assert ledger.is_lost(entry)
    ledger.processed(entry)
    assert not ledger.acks.to_send()
    assert ledger.counters.late == 1
    # A stream that is recreated keeps its owner.
    ledger.read(5)
    assert ledger.start_next().epoch == 3


@pytest.mark.parametrize("epoch", [0, 7])
def test_an_entry_has_the_epoch_under_which_it_was_read(epoch: int) -> None:
    ledger = owned()
    if epoch:
        ledger.shards.own(A, epoch, b"7:a:r.1")
    ledger.read(1)
    old = ledger.start_next()
    ledger.shards.own(A, epoch + 1, b"8:a:r.2")
    assert old.epoch == epoch


def test_the_lease_of_an_entry_is_that_of_its_shard() -> None:
    ledger = owned()
    ledger.read(1)
    entry = ledger.start_next()
    assert ledger.leases.left(entry, 3.0) == NEVER
    entry.shard_state.owned_until = 10.0
    assert ledger.leases.left(entry, 3.0) == 7.0
    assert ledger.leases.left(entry, 11.0) == 0.0
