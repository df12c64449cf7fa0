"""The ledger: reading, outcomes, leases, order and closing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import ref

import pytest

from penstock._core.ledger.entry import Entry, move, move_all
from penstock._core.ledger.failure_policy import RetryAt
from penstock._core.ledger.states import TRANSITIONS, IllegalTransition, State
from penstock._core.protocol.replies import RawEntry
from support.ledger import (
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
    left_unsettled,
    only,
    raw,
    state_of,
)

# -- the table ---------------------------------------------------------------------

PAIRS = [(event, state) for event in TRANSITIONS for state in State]
# Every event, the states that it starts from, and the one that it leads to.
PICTURE = """
take                    QUEUED -> RUNNING
take redelivered        REDELIVERED -> RUNNING
start                   QUEUED TO_COUNT REDELIVERED -> RUNNING
put back                RUNNING -> TO_COUNT
ack                     RUNNING UNSETTLED -> TO_ACK
nack                    RUNNING -> FAILED
leave unsettled         RUNNING FAILED -> UNSETTLED
retry                   RUNNING FAILED UNSETTLED -> LOST
become due              POSTPONED -> TO_COUNT
discard                 RUNNING FAILED UNSETTLED -> TO_ACK
dead-letter             RUNNING FAILED UNSETTLED -> TO_DEAD_LETTER
send dead letter        TO_DEAD_LETTER -> DEAD_LETTERING
dead letter confirmed   DEAD_LETTERING -> DONE
dead letter written     DEAD_LETTERING -> TO_ACK
dead letter unconfirmed DEAD_LETTERING -> TO_DEAD_LETTER
finish                  RUNNING -> DONE
send ack                TO_ACK -> ACKING
ack confirmed           ACKING -> DONE
ack unconfirmed         ACKING -> TO_ACK
apply                   RUNNING FAILED UNSETTLED -> DONE
drop                    QUEUED TO_COUNT REDELIVERED POSTPONED -> DONE
release                 QUEUED TO_COUNT REDELIVERED POSTPONED RUNNING FAILED UNSETTLED \
                        TO_DEAD_LETTER DEAD_LETTERING -> RELEASED
lose                    QUEUED TO_COUNT REDELIVERED POSTPONED RUNNING FAILED UNSETTLED \
                        TO_DEAD_LETTER TO_ACK -> LOST
"""


def pictured() -> Iterator[tuple[tuple[str, State], State]]:
    for line in PICTURE.strip().splitlines():
        before, after = line[24:].split(" -> ")
        for state in before.split():
            yield (line[:24].strip(), State[state]), State[after]


LEGAL = dict(pictured())
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]


def test_the_transition_table_is_as_documented() -> None:
    listed = {
        (event, state): after
        for event, table in TRANSITIONS.items()
        for state, after in table.items()
    }
    assert listed == LEGAL


def test_the_end_states_are_final_and_reachable_from_every_state() -> None:
    ends = {State.DONE, State.RELEASED, State.LOST}
    for table in TRANSITIONS.values():
        assert not ends & set(table)
    reached = set(ends)
    for _ in State:
        reached |= {before for (_, before), after in LEGAL.items() if after in reached}
    assert reached == set(State)


def entry_in(state: State) -> tuple[SpyLedger, Entry]:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger._queue[0]
    entry.state = state
    return ledger, entry


def refusal(event: str, state: State) -> str:
    return f"^{event} is not possible for entry b'1-0', which is {state.name}; "


@pytest.mark.parametrize(("event", "state"), ILLEGAL)
def test_an_event_without_a_transition_is_refused_by_its_name(
    event: str, state: State
) -> None:
    _, entry = entry_in(state)
    table = TRANSITIONS[event]
    with pytest.raises(IllegalTransition, match=refusal(event, state)):
        move(entry, table)
    with pytest.raises(IllegalTransition, match=refusal(event, state)):
        move_all([entry], table)
    assert entry.state is state


@pytest.mark.parametrize(("event", "state"), LEGAL)
def test_an_event_moves_the_entry_to_the_state_of_the_table(
    event: str, state: State
) -> None:
    for mover in (move, lambda entry, table: move_all([entry], table)):
        _, entry = entry_in(state)
        mover(entry, TRANSITIONS[event])
        assert entry.state is LEGAL[event, state]


@pytest.mark.parametrize(
    "state", set(State) - {State.QUEUED, State.REDELIVERED, State.TO_COUNT}
)
def test_an_entry_that_does_not_wait_cannot_be_taken(state: State) -> None:
    ledger, _ = entry_in(state)
    with pytest.raises(IllegalTransition, match=refusal("take", state)):
        ledger.work.take()


def test_a_queued_entry_cannot_be_acknowledged() -> None:
    ledger, entry = entry_in(State.QUEUED)
    with pytest.raises(IllegalTransition, match=refusal("ack", State.QUEUED)):
        ledger.ack(entry)


@pytest.mark.parametrize("state", [s for e, s in ILLEGAL if e == "send ack"])
def test_an_entry_without_an_outcome_cannot_be_sent_as_acknowledged(
    state: State,
) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    [entry] = ledger.process_next()
    entry.state = state
    with pytest.raises(IllegalTransition, match=refusal("send ack", state)):
        ledger.acks.to_send()


@pytest.mark.parametrize("state", [s for e, s in ILLEGAL if e == "ack confirmed"])
def test_an_entry_that_was_not_sent_can_be_neither_confirmed_nor_unconfirmed(
    state: State,
) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    [entry] = ledger.process_next()
    batch = only(ledger.acks.to_send())
    entry.state = state
    with pytest.raises(IllegalTransition, match=refusal("ack confirmed", state)):
        ledger.ack_confirmed(batch)
    with pytest.raises(IllegalTransition, match=refusal("ack unconfirmed", state)):
        ledger.acks.unconfirmed(batch)


@pytest.mark.parametrize("state", [s for e, s in ILLEGAL if e == "release"])
def test_an_entry_with_an_outcome_is_not_released(state: State) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    entry.state = state
    assert list(ledger.removals.release()) == []
    assert entry.state is state


def test_an_illegal_transition_is_reported_as_a_bug_of_penstock() -> None:
    error = IllegalTransition("take", State.DONE, b"1-0\r\n" + b"x" * 1000)
    assert isinstance(error, AssertionError)
    assert "please report it" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 200


# -- reading -----------------------------------------------------------------------


def test_an_entry_is_held_until_its_handler_has_finished() -> None:
    ledger = SpyLedger()
    assert ledger.read(1, 2) == 2
    assert (ledger.flow.held, ledger.flow.size, ledger.work.length) == (2, 20, 2)
    first = ledger.start_next()
    assert (ledger.flow.held, ledger.flow.size, ledger.work.length) == (2, 20, 1)
    ledger.finish(first, ack=True)
    assert (ledger.flow.held, ledger.flow.size, ledger.work.length) == (1, 10, 1)
    ledger.process_next()
    assert (ledger.flow.held, ledger.flow.size) == (0, 0)
    assert ledger.work.take() is None


def test_an_entry_has_its_shard_size_and_delivery_count() -> None:
    ledger = SpyLedger()
    entries: list[RawEntry] = [[raw(1), [b"msg", b"x"]], [raw(2), [b"msg", b"y"]]]
    ledger.deliveries.received(A, entries, now=7.5, size=41)
    one, two = ledger.start_next(), ledger.start_next()
    assert one.shard is A
    assert (one.id, one.fields) == (raw(1), [b"msg", b"x"])
    assert one.deliveries == two.deliveries == 1
    assert not one.suspected
    assert one.leased_at == 7.5
    # Its share of the reply, rounded down; the remainder is not counted.
    assert (one.size, two.size, ledger.flow.size) == (20, 20, 40)
    assert repr(one) == "<Entry b'1-0' RUNNING>"


def test_entries_run_in_the_order_of_reading() -> None:
    ledger = SpyLedger()
    ledger.read(2, 3)
    ledger.read(1, shard=B)
    ledger.read(4)
    assert ids(ledger.start_next() for _ in range(4)) == [raw(n) for n in (2, 3, 1, 4)]


def test_an_entry_that_the_ledger_has_is_not_recorded_again() -> None:
    ledger = SpyLedger()
    assert ledger.read(1, 2) == 2
    assert ledger.read(2, 3) == 1
    assert ledger.read(1, shard=B) == 1, "an id is unique within its shard only"
    assert (ledger.flow.held, ledger.flow.size, ledger.counters.received) == (4, 40, 4)
    queued, running, acked, unsettled = (ledger.start_next() for _ in range(4))
    assert queued.state is State.RUNNING
    ledger.finish(acked, ack=True)
    ledger.finish(unsettled, ack=False)
    ledger.acks.to_send()
    assert ledger.read(1, 2, 3) == 0
    assert ledger.read(1, shard=B) == 0
    assert running.state is State.RUNNING


def test_an_entry_that_is_twice_in_one_reply_is_recorded_once() -> None:
    ledger = SpyLedger()
    assert ledger.read(1, 1) == 1
    assert (ledger.flow.held, ledger.flow.size) == (1, 10)


def test_an_entry_delivered_again_after_its_acknowledgement_is_recorded_again() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.process_next()
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert ledger.read(1) == 1


def test_an_empty_read_changes_nothing() -> None:
    ledger = SpyLedger()
    assert ledger.deliveries.received(A, [], 0.0, 0) == 0
    assert (ledger.flow.held, ledger.flow.size, ledger.read_budget()) == (0, 0, 8)


def test_a_deleted_entry_is_acknowledged_and_handed_to_no_worker() -> None:
    ledger = SpyLedger()
    assert (
        ledger.deliveries.received(
            A, [[raw(1), None], [raw(2), [b"msg", b""]]], 0.0, 20
        )
        == 1
    )
    assert (ledger.flow.held, ledger.counters.deleted, ledger.acks.uncommitted) == (
        1,
        1,
        1,
    )
    assert ledger.outcome_signals == 1
    assert ledger.start_next().id == raw(2)
    batch = only(ledger.acks.to_send())
    assert batch.ids == [raw(1)]
    assert not batch.entries
    ledger.ack_confirmed(batch)
    assert ledger.acks.uncommitted == 0
    assert ledger.counters.acked == 0, "a deleted entry is no message"


def test_a_deleted_entry_is_counted_once_until_its_acknowledgement_is_confirmed() -> (
    None
):
    ledger = SpyLedger()
    for _ in range(2):
        ledger.deliveries.received(A, [[raw(1), None]], 0.0, 10)
        ledger.deliveries.received(B, [[raw(1), None]], 0.0, 10)
    assert (ledger.counters.deleted, ledger.acks.uncommitted) == (2, 2)
    of_a, of_b = ledger.acks.to_send()
    ledger.deliveries.received(A, [[raw(1), None]], 0.0, 10)
    ledger.acks.unconfirmed(of_a)
    ledger.ack_confirmed(of_b)
    ledger.deliveries.received(A, [[raw(1), None]], 0.0, 10)
    assert only(ledger.acks.to_send()).ids == [raw(1)]
    ledger.deliveries.received(B, [[raw(1), None]], 0.0, 10)
    assert (ledger.counters.deleted, ledger.acks.uncommitted) == (3, 2)


def test_deleted_entries_are_awaited_until_they_are_confirmed_or_replaced() -> None:
    ledger = SpyLedger()
    assert ledger.shards.deleted_in_flight() == []
    ledger.deliveries.received(A, [(raw(1), None)], 0.0, 0)
    ledger.deliveries.received(B, [(raw(2), None)], 0.0, 0)
    (a, of_a), (b, of_b) = ledger.shards.deleted_in_flight()
    assert (of_a, of_b) == ({raw(1)}, {raw(2)})
    assert a.awaits_any(of_a)
    first, _ = ledger.acks.to_send()
    assert a.awaits_any(of_a), "it is on its way"
    ledger.ack_confirmed(first)
    assert not a.awaits_any(of_a)
    assert b.awaits_any(of_b)
    ledger.removals.lose_shard(B)
    assert not b.awaits_any(of_b), "it is not sent again"


def test_deleted_entries_that_a_claim_found_are_counted_once() -> None:
    ledger = SpyLedger()
    ledger.deliveries.received(A, [[raw(1), None]], 0.0, 10)
    ledger.deliveries.deleted(A, [raw(1), raw(2), raw(2)])
    ledger.deliveries.deleted(B, [raw(1)])
    ledger.deliveries.deleted(B, [])
    assert ledger.deliveries.take_deleted() == [(A, [raw(1), raw(2)]), (B, [raw(1)])]
    assert not ledger.deliveries.take_deleted()
    assert ledger.counters.deleted == 3
    assert ledger.acks.uncommitted == 1, "the claim has removed them on the server"


def test_an_entry_deleted_while_it_is_held_is_handled_nevertheless() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    assert ledger.deliveries.received(A, [[raw(1), None]], 0.0, 20) == 0
    assert ledger.counters.deleted == 0
    ledger.process_next()
    assert only(ledger.acks.to_send()).ids == [raw(1)]


# -- outcomes ----------------------------------------------------------------------


def test_an_acknowledged_entry_leaves_when_the_server_confirms() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    [entry] = ledger.process_next()
    assert state_of(entry) is State.TO_ACK
    assert entry.unconfirmed
    assert ledger.shards.unconfirmed() == [entry]
    batch = only(ledger.acks.to_send())
    assert batch.shard_state.shard is A
    assert batch.ids == [raw(1)]
    assert not batch.repeated
    assert state_of(entry) is State.ACKING
    assert entry.unconfirmed
    assert (ledger.acks.uncommitted, ledger.counters.acked) == (1, 0)
    assert known(ledger, A, raw(1))
    ledger.ack_confirmed(batch)
    assert entry.state is State.DONE
    assert not entry.unconfirmed
    assert (ledger.acks.uncommitted, ledger.counters.acked) == (0, 1)
    assert not known(ledger, A, raw(1))
    assert ledger.shards.unconfirmed() == []


def test_acknowledgements_are_sent_once_and_in_one_batch_per_shard() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.read(3, shard=B)
    assert ledger.acks.to_send() == []
    ledger.process_next(3)
    batches = ledger.acks.to_send()
    assert [(b.shard_state.shard, b.ids) for b in batches] == [
        (A, [raw(1), raw(2)]),
        (B, [raw(3)]),
    ]
    assert ledger.acks.to_send() == []


def test_an_entry_without_an_outcome_stays_unsettled_and_can_be_acked_later() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    ledger.finish(entry, ack=False)
    assert entry.state is State.UNSETTLED
    assert (ledger.flow.held, ledger.acks.uncommitted, ledger.counters.left) == (
        0,
        0,
        1,
    )
    assert ledger.acks.to_send() == []
    assert ledger.ack(entry)
    assert only(ledger.acks.to_send()).ids == [raw(1)]


@pytest.mark.parametrize("ack", [True, False])
def test_an_entry_acked_by_its_handler_takes_capacity_until_the_handler_ends(
    ack: bool,  # noqa: FBT001
) -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    assert ledger.ack(entry)
    assert (ledger.flow.held, ledger.acks.uncommitted) == (1, 1)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.uncommitted) == (1, 10, 0)
    ledger.finish(entry, ack=ack)
    assert entry.state is State.DONE
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.uncommitted) == (0, 0, 0)
    assert ledger.counters.left == 0
    assert ledger.acks.to_send() == []


def test_acknowledging_twice_is_the_same_as_once() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    assert ledger.ack(entry)
    assert ledger.ack(entry)
    ledger.finish(entry, ack=True)
    batch = only(ledger.acks.to_send())
    assert ledger.ack(entry)
    ledger.ack_confirmed(batch)
    assert ledger.ack(entry)
    assert batch.ids == [raw(1)]
    assert (ledger.acks.uncommitted, ledger.counters.acked) == (0, 1)
    assert ledger.acks.to_send() == []


def test_fields_are_dropped_with_the_outcome() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    acked, unsettled, early = (ledger.start_next() for _ in range(3))
    ledger.finish(acked, ack=True)
    ledger.finish(unsettled, ack=False)
    ledger.ack(early)
    assert acked.fields == unsettled.fields == early.fields == ()


def test_a_batch_without_a_reply_is_resent_before_later_outcomes() -> None:
    ledger = SpyLedger()
    ledger.deliveries.received(A, [[raw(1), None], [raw(2), [b"msg", b""]]], 0.0, 20)
    ledger.process_next()
    ledger.acks.unconfirmed(only(ledger.acks.to_send()))
    assert ledger.acks.uncommitted == 2
    ledger.deliveries.received(A, [[raw(3), None], [raw(4), [b"msg", b""]]], 0.0, 20)
    ledger.process_next()
    again = only(ledger.acks.to_send())
    assert again.ids == [raw(2), raw(4), raw(1), raw(3)]
    assert again.repeated
    ledger.ack_confirmed(again)
    assert ledger.acks.uncommitted == 0
    ledger.read(5)
    ledger.process_next()
    assert not only(ledger.acks.to_send()).repeated


def test_only_the_shard_that_got_no_reply_is_marked_as_repeated() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.read(1, shard=B)
    ledger.process_next(2)
    of_a, of_b = ledger.acks.to_send()
    ledger.acks.unconfirmed(of_a)
    ledger.ack_confirmed(of_b)
    ledger.read(2, shard=B)
    ledger.process_next()
    assert [batch.repeated for batch in ledger.acks.to_send()] == [True, False]


def test_the_committer_is_woken_for_the_first_outcome_and_for_max_pending() -> None:
    ledger = SpyLedger(max_pending=3)
    ledger.read(*range(9))
    signals = []
    for _ in range(4):
        ledger.process_next()
        signals.append((ledger.outcome_signals, ledger.acks.full))
    assert signals == [(1, False), (1, False), (2, True), (2, True)]
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert not ledger.acks.full
    taken = [ledger.start_next() for _ in range(3)]
    signals = []
    for entry in taken:
        ledger.ack(entry)
        signals.append((ledger.outcome_signals, ledger.acks.full))
    assert signals == [(3, False), (3, False), (4, True)]


def test_one_outcome_that_is_also_max_pending_wakes_the_committer_once() -> None:
    ledger = SpyLedger(max_pending=1)
    ledger.read(1)
    ledger.process_next()
    assert ledger.outcome_signals == 1
    assert ledger.acks.full


# -- without acks ------------------------------------------------------------------


@pytest.mark.parametrize("ack", [True, False])
def test_without_acks_an_entry_is_done_when_its_handler_has_finished(
    ack: bool,  # noqa: FBT001
) -> None:
    ledger = SpyLedger(acks=False)
    ledger.read(1)
    entry = ledger.start_next()
    ledger.finish(entry, ack=ack)
    assert entry.state is State.DONE
    assert entry.fields == ()
    assert not known(ledger, A, raw(1))
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.uncommitted) == (0, 0, 0)
    assert (ledger.counters.acked, ledger.counters.left) == (1, 0)
    assert ledger.outcome_signals == 0
    assert ledger.acks.to_send() == []


# -- leases ------------------------------------------------------------------------


def test_an_unsettled_entry_leaves_the_ledger_when_its_lease_has_ended() -> None:
    ledger = SpyLedger(lease=30.0)
    left_unsettled(ledger, 1, now=0.0)
    left_unsettled(ledger, 2, now=5.0)
    ledger.read(3, now=29.9)
    assert known(ledger, A, raw(1))
    ledger.read(4, now=40.0)
    assert not known(ledger, A, raw(1))
    assert not known(ledger, A, raw(2))
    assert known(ledger, A, raw(3))


def test_ended_leases_are_removed_at_most_three_times_a_lease() -> None:
    ledger = SpyLedger(lease=30.0)
    left_unsettled(ledger, 1, now=0.0)
    ledger.read(2, now=25.0)
    ledger.read(3, now=34.9)
    assert known(ledger, A, raw(1))
    ledger.read(4, now=35.1)
    assert not known(ledger, A, raw(1))


def test_only_unsettled_entries_leave_when_their_leases_end() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, 3, 4, 5, now=0.0)
    running, settled, sent, unsettled = (ledger.start_next() for _ in range(4))
    ledger.finish(sent, ack=True)
    ledger.acks.to_send()
    ledger.finish(settled, ack=True)
    ledger.finish(unsettled, ack=False)
    ledger.read(9, shard=B, now=100.0)
    left = [n for n in range(1, 6) if known(ledger, A, raw(n))]
    assert left == [1, 2, 3, 5]
    assert running.state is State.RUNNING


def test_an_unsettled_entry_can_be_acked_after_it_left_the_ledger() -> None:
    ledger = SpyLedger(lease=30.0)
    entry = left_unsettled(ledger, 1)
    ledger.read(2, now=100.0)
    assert not known(ledger, A, raw(1))
    assert ledger.ack(entry)
    assert ledger.shards.unconfirmed() == [entry]
    batch = only(ledger.acks.to_send())
    assert batch.ids == [raw(1)]
    ledger.ack_confirmed(batch)
    assert entry.state is State.DONE
    assert ledger.acks.uncommitted == 0
    assert not known(ledger, A, raw(1))


def test_an_entry_that_is_redelivered_after_its_lease_runs_again() -> None:
    ledger = SpyLedger(lease=30.0)
    old = left_unsettled(ledger, 1)
    assert ledger.read(1, now=100.0) == 1
    new = ledger.start_next()
    assert new is not old
    assert new.id == old.id


@pytest.mark.parametrize("refused", [False, True])
def test_an_outcome_after_the_entry_was_redelivered_is_late(*, refused: bool) -> None:
    ledger = SpyLedger(lease=30.0)
    old = left_unsettled(ledger, 1)
    assert not ledger.is_lost(old)
    ledger.read(1, now=100.0)
    new = ledger.start_next()
    assert ledger.is_lost(old)
    if refused:
        assert ledger.refuse(old, RetryAt(1.0, due=101.0), ())
    else:
        assert ledger.ack(old)
    assert old.state is State.LOST
    assert ledger.counters.late == 1
    assert new.state is State.RUNNING
    assert not ledger.acks.to_send()


def test_leases_are_renewed_after_a_third_except_for_unsettled_entries() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, 3, 4, 5, now=0.0)
    _running, settled, sent, unsettled = (ledger.start_next() for _ in range(4))
    ledger.ack(sent)
    ledger.acks.to_send()
    ledger.ack(settled)
    ledger.finish(unsettled, ack=False)
    ledger.read(6, now=1.0)
    ledger.read(7, shard=B, now=0.0)
    assert ledger.to_renew(9.9) == []
    renewals = ledger.to_renew(10.0)
    assert [(r.shard_state.shard, r.ids, r.count) for r in renewals] == [
        (A, [raw(n) for n in (1, 2, 3, 5)], None),
        (B, [raw(7)], None),
    ]
    assert not any(renewal.late for renewal in renewals)


def test_past_two_thirds_of_a_lease_every_renewal_has_to_ask_the_server_first() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=0.0)
    ledger.read(2, now=10.0)
    ledger.read(3, shard=B, now=10.0)
    taken = [ledger.start_next() for _ in range(3)]
    assert taken
    assert [renewal.late for renewal in ledger.to_renew(19.9)] == [False]
    assert [renewal.late for renewal in ledger.to_renew(20.0)] == [True, True], (
        "while the server is asked about one, the others may be lost"
    )


def test_a_renewed_lease_begins_when_the_renewal_was_sent() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, now=0.0)
    [renewal] = ledger.to_renew(12.0)
    ledger.leases.renewed(renewal, 12.0)
    assert ledger.to_renew(21.9) == []
    assert ledger.to_renew(22.0) != []
    assert ledger.counters.lost == 0


def test_entries_claimed_by_others_leave_the_queue_and_their_lane() -> None:
    ledger = SpyLedger(lease=30.0, ordering=KEY)
    ledger.read(1, 2, 3, 4, key="k")
    ledger.read(5, key="l")
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(3), raw(4)])) == 3
    assert ledger.counters.lost == 3
    assert (ledger.flow.held, ledger.flow.size) == (2, 20)
    assert ledger.start_next().id == raw(3)
    assert ledger.work.take() is None
    assert len(ledger._ready_queue._lanes) == 1
    assert not known(ledger, A, raw(1))


def test_an_entry_claimed_by_others_leaves_the_middle_of_its_lane() -> None:
    ledger = SpyLedger(lease=30.0, ordering=KEY)
    ledger.read(1, 2, 3, key="k")
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(1), raw(3)])) == 1
    assert ledger.flow.held == 2
    assert ids(entry for _ in range(2) for entry in ledger.process_next()) == [
        raw(1),
        raw(3),
    ]
    assert ledger.work.take() is None
    assert not ledger._ready_queue._lanes


def test_without_an_order_a_lost_entry_leaves_the_queue() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, 3)
    [renewal] = ledger.to_renew(25.0)
    ledger.removals.lose_all_but(renewal, [raw(1), raw(3)])
    assert ids([ledger.work.take(), ledger.work.take(), ledger.work.take()]) == [
        raw(1),
        raw(3),
        None,
    ]


def test_an_outcome_for_a_lost_entry_is_dropped() -> None:
    ledger = SpyLedger(lease=30.0, ordering=KEY)
    ledger.read(1, 2, key="k")
    entry = ledger.start_next()
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert entry.state is State.LOST
    assert ledger.flow.held == 2, "the handler still runs"
    assert ledger.work.take() is None, "its lane is blocked"
    assert ledger.ack(entry), "the user did nothing wrong"
    ledger.finish(entry, ack=True)
    assert (ledger.flow.held, ledger.acks.uncommitted, ledger.counters.left) == (
        1,
        0,
        0,
    )
    assert ledger.start_next().id == raw(2)
    assert ledger.acks.to_send() == []


def test_an_outcome_that_was_not_sent_is_lost_with_its_entry() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, 3)
    ledger.process_next(2)
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(2), raw(3)])) == 1
    assert ledger.acks.uncommitted == 1
    assert only(ledger.acks.to_send()).ids == [raw(2)]


def test_an_outcome_that_was_sent_is_not_lost_when_a_reply_does_not_list_it() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1, 2, 3)
    _running, gone, sent = (ledger.start_next() for _ in range(3))
    ledger.ack(gone)
    [renewal] = ledger.to_renew(25.0)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    ledger.ack(sent)
    batch = only(ledger.acks.to_send())
    assert len(ledger.removals.lose_all_but(renewal, [raw(1)])) == 0
    assert (gone.state, sent.state) == (State.DONE, State.ACKING)
    ledger.ack_confirmed(batch)
    assert ledger.counters.lost == 0


def test_an_entry_that_became_unsettled_after_the_renewal_was_sent_can_be_lost() -> (
    None
):
    ledger = SpyLedger(lease=30.0)
    ledger.read(1)
    entry = ledger.start_next()
    [renewal] = ledger.to_renew(25.0)
    ledger.finish(entry, ack=False)
    assert len(ledger.removals.lose_all_but(renewal, [])) == 1
    assert entry.state is State.LOST
    assert not known(ledger, A, raw(1))


def test_a_renewal_does_not_set_back_a_lease_that_a_counted_start_has_renewed() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1)
    entry = ledger.start_next()
    [renewal] = ledger.to_renew(12.0)
    ledger.leases.counted(entry, 13.0)
    ledger.leases.renewed(renewal, 12.0)
    assert entry.leased_at == 13.0


def test_losing_an_entry_that_was_delivered_again_keeps_the_later_delivery() -> None:
    ledger = SpyLedger(lease=30.0)
    ledger.read(1)
    old = ledger.start_next()
    [renewal] = ledger.to_renew(25.0)
    ledger.finish(old, ack=False)
    assert claim(ledger, 1) == 1
    assert len(ledger.removals.lose_all_but(renewal, [])) == 1
    assert known(ledger, A, raw(1))
    assert ledger.start_next() is not old


def test_after_a_pause_of_a_whole_lease_leases_are_renewed_before_work_continues() -> (
    None
):
    ledger = SpyLedger(lease=30.0)
    assert not ledger.leases.overdue(1e9), "nothing is queued"
    ledger.read(1, 2, now=0.0)
    assert not ledger.leases.overdue(29.9)
    assert ledger.leases.overdue(30.0)
    [renewal] = ledger.to_renew(30.0)
    ledger.leases.renewed(renewal, 30.0)
    assert not ledger.leases.overdue(59.9)
    assert ledger.leases.overdue(60.0)
    ledger.start_next()
    ledger.start_next()
    assert not ledger.leases.overdue(60.0), "running entries are not taken next"


def test_without_acks_no_lease_is_ever_overdue() -> None:
    ledger = SpyLedger(acks=False)
    ledger.read(1)
    assert not ledger.leases.overdue(1e9)


def test_an_unsettled_entry_that_this_consumer_claims_is_handed_out_again() -> None:
    ledger = SpyLedger()
    old = left_unsettled(ledger, 1)
    assert claim(ledger, 1) == 1
    new = ledger.start_next()
    assert new.id == old.id
    assert new is not old
    assert ledger.counters.received == 2


def test_an_entry_in_progress_is_not_handed_out_again_by_a_claim() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3, 4)
    _running, settled, sent = (ledger.start_next() for _ in range(3))
    ledger.ack(sent)
    ledger.acks.to_send()
    ledger.ack(settled)
    assert claim(ledger, 1, 2, 3, 4) == 0
    assert ledger.flow.held == 4


# -- order -------------------------------------------------------------------------


def test_without_an_order_any_entry_may_run() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3, key="k")
    assert ledger.work.length == 3
    assert ledger.start_next().lane is None


def test_entries_of_a_key_run_one_at_a_time_in_the_order_of_reading() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    ledger.read(3, key="l")
    ledger.read(4, key="k")
    assert ledger.work.length == 2
    one, three = ledger.start_next(), ledger.start_next()
    assert ids([one, three]) == [raw(1), raw(3)]
    assert ledger.work.take() is None
    ledger.finish(one, ack=False)
    two = ledger.start_next()
    assert two.id == raw(2)
    assert ledger.work.take() is None
    ledger.finish(three, ack=True)
    assert ledger.work.take() is None
    ledger.finish(two, ack=True)
    assert ledger.start_next().id == raw(4)


def test_a_lane_is_free_when_the_handler_has_finished_and_not_when_it_acks() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    one = ledger.start_next()
    ledger.ack(one)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert ledger.work.take() is None
    ledger.finish(one, ack=False)
    assert ledger.start_next().id == raw(2)


def test_a_key_is_a_lane_within_its_shard_only() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, key="k")
    ledger.read(1, key="k", shard=B)
    assert ledger.work.length == 2


def test_entries_without_a_key_share_one_lane_per_shard() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2)
    ledger.read(3, key="")
    ledger.read(4, shard=B)
    assert ids([ledger.work.take(), ledger.work.take(), ledger.work.take()]) == [
        raw(1),
        raw(3),
        raw(4),
    ]
    assert ledger.work.take() is None


def test_ordering_by_shard_ignores_keys() -> None:
    ledger = SpyLedger(ordering=SHARD)
    ledger.read(1, key="k")
    ledger.read(2, key="l")
    ledger.read(3, shard=B)
    assert ids([ledger.work.take(), ledger.work.take(), ledger.work.take()]) == [
        raw(1),
        raw(3),
        None,
    ]


def test_a_lane_exists_as_long_as_one_of_its_entries_does() -> None:
    ledger = SpyLedger(ordering=KEY)
    for number in range(50):
        ledger.read(number, key=str(number))
    assert len(ledger._ready_queue._lanes) == 50
    ledger.process_next(50)
    assert not ledger._ready_queue._lanes


def test_waiting_entries_are_queued_by_a_new_order() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, key="k")
    ledger.read(3, key="l")
    ledger.order_by(NONE)
    assert ledger.work.length == 3
    assert not ledger._ready_queue._lanes
    ledger.order_by(SHARD)
    assert ledger.work.length == 1
    assert ids(entry for _ in range(3) for entry in ledger.process_next()) == [
        raw(1),
        raw(2),
        raw(3),
    ]


def test_a_new_order_affects_neither_running_nor_acknowledged_entries() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3, 4, key="k")
    running = ledger.start_next()
    ledger.process_next()
    ledger.order_by(KEY)
    assert ledger.work.length == 1
    ledger.finish(running, ack=True)
    assert ledger.work.length == 1, "the running entry was in no lane"
    assert ids(entry for _ in range(2) for entry in ledger.process_next()) == [
        raw(3),
        raw(4),
    ]
    assert ledger.work.take() is None


def test_a_running_entry_frees_no_lane_of_an_order_that_has_ended() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, key="k")
    entry = ledger.start_next()
    ledger.order_by(NONE)
    ledger.finish(entry, ack=True)
    assert ledger.flow.held == 0


# -- closing -----------------------------------------------------------------------


def test_release_sets_counts_that_exclude_waiting_and_interrupted_entries() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    ledger.recover(4, attempts=2)
    ledger.read(5, shard=B)
    running, unsettled = ledger.start_next(), ledger.start_next()
    ledger.finish(unsettled, ack=False)
    released = [
        (shard.stream, count, ids_) for shard, count, ids_ in ledger.removals.release()
    ]
    assert released == [
        ("a", 0, [raw(3), raw(1)]),
        ("a", 3, [raw(4)]),
        ("a", 2, [raw(2)]),
        ("b", 0, [raw(5)]),
    ]
    assert running.state is State.RELEASED
    assert unsettled.state is State.RELEASED
    assert not any(known(ledger, A, raw(n)) for n in (1, 2, 3, 4))
    assert ledger.work.take() is None
    assert (ledger.flow.held, ledger.flow.size) == (1, 10), "the handler still runs"
    ledger.finish(running, ack=True)
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.uncommitted) == (0, 0, 0)
    assert list(ledger.removals.release()) == []


def test_an_acknowledged_entry_is_not_released() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3)
    settled, sent = ledger.start_next(), ledger.start_next()
    ledger.ack(sent)
    batch = only(ledger.acks.to_send())
    ledger.ack(settled)
    assert [ids_ for _, _, ids_ in ledger.removals.release()] == [[raw(3)]]
    ledger.ack_confirmed(batch)
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert settled.state is sent.state is State.DONE


def test_a_released_entry_cannot_be_acknowledged() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    list(ledger.removals.release())
    assert not ledger.ack(entry)
    ledger.finish(entry, ack=True)
    assert not ledger.ack(entry)
    assert ledger.acks.to_send() == []


def test_releasing_leaves_no_lane_behind() -> None:
    ledger = SpyLedger(ordering=KEY)
    ledger.read(1, 2, 3, key="k")
    running = ledger.start_next()
    list(ledger.removals.release())
    ledger.finish(running, ack=True)
    assert not ledger._ready_queue._lanes
    assert ledger.work.take() is None
    assert ledger.flow.held == 0


def test_an_entry_is_not_tracked_by_the_garbage_collector() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    assert not gc.is_tracked(ledger.start_next())


def test_closing_keeps_no_entry_alive_and_sends_no_signal() -> None:
    ledger = SpyLedger()
    ledger.read(*range(5))
    ledger.deliveries.received(B, [[raw(1), None]], 0.0, 10)
    running, unsettled, settled, sent = (ledger.start_next() for _ in range(4))
    ledger.finish(unsettled, ack=False)
    ledger.ack(sent)
    ledger.acks.to_send()
    ledger.ack(settled)
    signals = ledger.capacity_signals, ledger.outcome_signals
    ledger.close()
    assert (ledger.capacity_signals, ledger.outcome_signals) == signals
    assert all(not a.entries and not a.to_ack for a in ledger.shards.values())
    assert running.state is unsettled.state is State.RELEASED
    assert ledger.work.take() is None
    ledger.finish(running, ack=True)
    ledger.finish(settled, ack=True)
    assert ledger.flow.held == 1, "the handler of the sent entry still runs"
    ledger.close()


@pytest.mark.parametrize("acks", [True, False])
def test_queued_entries_are_freed_with_a_closed_ledger(acks: bool) -> None:  # noqa: FBT001
    fields = Fields([b"msg", b"large"])
    alive = ref(fields)
    ledger = SpyLedger(acks=acks)
    ledger.deliveries.received(A, [[raw(1), fields]], 0.0, 10)
    ledger.close()
    del fields, ledger
    gc.collect()
    assert alive() is None
