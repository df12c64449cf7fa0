from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import ref

import pytest

from penstock._core.ledger.entry import Entry, move, move_all
from penstock._core.ledger.states import TRANSITIONS, IllegalTransition, State
from penstock._core.protocol.replies import RawEntry
from support.ledger import (
    KEY,
    NONE,
    SHARD,
    A,
    B,
    Books,
    Fields,
    claim,
    ids,
    known,
    left_open,
    now,
    raw,
    the,
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


def test_the_table_is_the_picture() -> None:
    listed = {
        (event, state): after
        for event, table in TRANSITIONS.items()
        for state, after in table.items()
    }
    assert listed == LEGAL


def test_nothing_leads_out_of_what_has_left_and_everything_else_can_leave() -> None:
    ends = {State.DONE, State.RELEASED, State.LOST}
    for table in TRANSITIONS.values():
        assert not ends & set(table)
    reached = set(ends)
    for _ in State:
        reached |= {before for (_, before), after in LEGAL.items() if after in reached}
    assert reached == set(State)


def entry_in(state: State) -> tuple[Books, Entry]:
    books = Books()
    books.read(1)
    entry = books._queue[0]
    entry.state = state
    return books, entry


def refusal(event: str, state: State) -> str:
    return f"^{event} is not possible for entry b'1-0', which is {state.name}; "


@pytest.mark.parametrize(("event", "state"), ILLEGAL)
def test_an_event_that_the_table_has_no_line_for_is_refused_by_name(
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
def test_an_event_of_the_table_moves_the_entry(event: str, state: State) -> None:
    for mover in (move, lambda entry, table: move_all([entry], table)):
        _, entry = entry_in(state)
        mover(entry, TRANSITIONS[event])
        assert entry.state is LEGAL[event, state]


@pytest.mark.parametrize(
    "state", set(State) - {State.QUEUED, State.REDELIVERED, State.TO_COUNT}
)
def test_what_does_not_wait_can_not_be_taken(state: State) -> None:
    books, _ = entry_in(state)
    with pytest.raises(IllegalTransition, match=refusal("take", state)):
        books.work.take()


def test_what_nobody_has_taken_can_not_be_acknowledged() -> None:
    books, entry = entry_in(State.QUEUED)
    with pytest.raises(IllegalTransition, match=refusal("ack", State.QUEUED)):
        books.ack(entry)


@pytest.mark.parametrize("state", [s for e, s in ILLEGAL if e == "send ack"])
def test_what_is_not_settled_can_not_be_planned(state: State) -> None:
    books = Books()
    books.read(1)
    [entry] = books.done()
    entry.state = state
    with pytest.raises(IllegalTransition, match=refusal("send ack", state)):
        books.acks.to_send()


@pytest.mark.parametrize("state", [s for e, s in ILLEGAL if e == "ack confirmed"])
def test_what_is_not_sent_can_not_be_confirmed_or_taken_back(state: State) -> None:
    books = Books()
    books.read(1)
    [entry] = books.done()
    batch = the(books.acks.to_send())
    entry.state = state
    with pytest.raises(IllegalTransition, match=refusal("ack confirmed", state)):
        books.ack_confirmed(batch)
    with pytest.raises(IllegalTransition, match=refusal("ack unconfirmed", state)):
        books.acks.unconfirmed(batch)


@pytest.mark.parametrize("state", [s for e, s in ILLEGAL if e == "release"])
def test_what_has_an_outcome_is_not_released(state: State) -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    entry.state = state
    assert list(books.removals.release()) == []
    assert entry.state is state


def test_an_illegal_transition_is_our_bug_and_no_error_of_the_users() -> None:
    error = IllegalTransition("take", State.DONE, b"1-0\r\n" + b"x" * 1000)
    assert isinstance(error, AssertionError)
    assert "please report it" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 200


# -- reading -----------------------------------------------------------------------


def test_what_is_read_is_held_until_its_handler_is_done() -> None:
    books = Books()
    assert books.read(1, 2) == 2
    assert (books.flow.held, books.flow.size, books.work.length) == (2, 20, 2)
    first = books.started()
    assert (books.flow.held, books.flow.size, books.work.length) == (2, 20, 1)
    books.finish(first, ack=True)
    assert (books.flow.held, books.flow.size, books.work.length) == (1, 10, 1)
    books.done()
    assert (books.flow.held, books.flow.size) == (0, 0)
    assert books.work.take() is None


def test_an_entry_knows_where_it_is_from_and_how_often_it_came() -> None:
    books = Books()
    entries: list[RawEntry] = [[raw(1), [b"msg", b"x"]], [raw(2), [b"msg", b"y"]]]
    books.deliveries.received(A, entries, now=7.5, size=41)
    one, two = books.started(), books.started()
    assert one.shard is A
    assert (one.id, one.fields) == (raw(1), [b"msg", b"x"])
    assert one.deliveries == two.deliveries == 1
    assert not one.suspected
    assert one.leased_at == 7.5
    # Its share of the reply, rounded down; the rest is lost on nobody.
    assert (one.size, two.size, books.flow.size) == (20, 20, 40)
    assert repr(one) == "<Entry b'1-0' RUNNING>"


def test_entries_run_in_the_order_of_reading() -> None:
    books = Books()
    books.read(2, 3)
    books.read(1, shard=B)
    books.read(4)
    assert ids(books.started() for _ in range(4)) == [raw(n) for n in (2, 3, 1, 4)]


def test_an_entry_that_is_known_is_not_booked_twice() -> None:
    books = Books()
    assert books.read(1, 2) == 2
    assert books.read(2, 3) == 1
    assert books.read(1, shard=B) == 1, "an id is known in its shard only"
    assert (books.flow.held, books.flow.size, books.counters.received) == (4, 40, 4)
    queued, running, acked, opened = (books.started() for _ in range(4))
    assert queued.state is State.RUNNING
    books.finish(acked, ack=True)
    books.finish(opened, ack=False)
    books.acks.to_send()
    assert books.read(1, 2, 3) == 0
    assert books.read(1, shard=B) == 0
    assert running.state is State.RUNNING


def test_an_entry_that_is_twice_in_one_reply_is_booked_once() -> None:
    books = Books()
    assert books.read(1, 1) == 1
    assert (books.flow.held, books.flow.size) == (1, 10)


def test_an_entry_that_the_server_took_back_before_we_acked_is_booked_again() -> None:
    books = Books()
    books.read(1)
    books.done()
    books.ack_confirmed(the(books.acks.to_send()))
    assert books.read(1) == 1


def test_an_empty_read_changes_nothing() -> None:
    books = Books()
    assert books.deliveries.received(A, [], 0.0, 0) == 0
    assert (books.flow.held, books.flow.size, books.read_budget()) == (0, 0, 8)


def test_a_deleted_entry_is_acknowledged_and_reaches_nobody() -> None:
    books = Books()
    assert (
        books.deliveries.received(A, [[raw(1), None], [raw(2), [b"msg", b""]]], 0.0, 20)
        == 1
    )
    assert (books.flow.held, books.counters.deleted, books.acks.uncommitted) == (
        1,
        1,
        1,
    )
    assert books.outcome_rings == 1
    assert books.started().id == raw(2)
    batch = the(books.acks.to_send())
    assert batch.ids == [raw(1)]
    assert not batch.entries
    books.ack_confirmed(batch)
    assert books.acks.uncommitted == 0
    assert books.counters.acked == 0, "it was no message"


def test_a_deleted_entry_is_met_once_until_the_server_has_let_it_go() -> None:
    books = Books()
    for _ in range(2):
        books.deliveries.received(A, [[raw(1), None]], 0.0, 10)
        books.deliveries.received(B, [[raw(1), None]], 0.0, 10)
    assert (books.counters.deleted, books.acks.uncommitted) == (2, 2)
    of_a, of_b = books.acks.to_send()
    books.deliveries.received(A, [[raw(1), None]], 0.0, 10)
    books.acks.unconfirmed(of_a)
    books.ack_confirmed(of_b)
    books.deliveries.received(A, [[raw(1), None]], 0.0, 10)
    assert the(books.acks.to_send()).ids == [raw(1)]
    books.deliveries.received(B, [[raw(1), None]], 0.0, 10)
    assert (books.counters.deleted, books.acks.uncommitted) == (3, 2)


def test_entries_that_a_takeover_found_deleted_are_counted_once() -> None:
    books = Books()
    books.deliveries.received(A, [[raw(1), None]], 0.0, 10)
    books.deliveries.deleted(A, [raw(1), raw(2), raw(2)])
    books.deliveries.deleted(B, [raw(1)])
    books.deliveries.deleted(B, [])
    assert books.deliveries.take_deleted() == [(A, [raw(1), raw(2)]), (B, [raw(1)])]
    assert not books.deliveries.take_deleted()
    assert books.counters.deleted == 3
    assert books.acks.uncommitted == 1, "the server has let them go already"


def test_an_entry_that_is_deleted_while_we_have_it_is_ours_all_the_same() -> None:
    books = Books()
    books.read(1)
    assert books.deliveries.received(A, [[raw(1), None]], 0.0, 20) == 0
    assert books.counters.deleted == 0
    books.done()
    assert the(books.acks.to_send()).ids == [raw(1)]


# -- outcomes ----------------------------------------------------------------------


def test_an_acknowledged_entry_leaves_when_the_server_confirms() -> None:
    books = Books()
    books.read(1)
    [entry] = books.done()
    assert now(entry) is State.TO_ACK
    assert entry.unconfirmed
    assert books.shards.unconfirmed() == [entry]
    batch = the(books.acks.to_send())
    assert batch.shard_state.shard is A
    assert batch.ids == [raw(1)]
    assert not batch.repeated
    assert now(entry) is State.ACKING
    assert entry.unconfirmed
    assert (books.acks.uncommitted, books.counters.acked) == (1, 0)
    assert known(books, A, raw(1))
    books.ack_confirmed(batch)
    assert entry.state is State.DONE
    assert not entry.unconfirmed
    assert (books.acks.uncommitted, books.counters.acked) == (0, 1)
    assert not known(books, A, raw(1))
    assert books.shards.unconfirmed() == []


def test_a_plan_is_a_batch_a_shard_and_takes_each_outcome_once() -> None:
    books = Books()
    books.read(1, 2)
    books.read(3, shard=B)
    assert books.acks.to_send() == []
    books.done(3)
    batches = books.acks.to_send()
    assert [(b.shard_state.shard, b.ids) for b in batches] == [
        (A, [raw(1), raw(2)]),
        (B, [raw(3)]),
    ]
    assert books.acks.to_send() == []


def test_an_entry_without_an_outcome_stays_open_and_can_be_acked_later() -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    books.finish(entry, ack=False)
    assert entry.state is State.UNSETTLED
    assert (books.flow.held, books.acks.uncommitted, books.counters.left) == (0, 0, 1)
    assert books.acks.to_send() == []
    assert books.ack(entry)
    assert the(books.acks.to_send()).ids == [raw(1)]


@pytest.mark.parametrize("ack", [True, False])
def test_an_entry_acked_by_its_handler_keeps_its_room_until_the_handler_ends(
    ack: bool,  # noqa: FBT001
) -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    assert books.ack(entry)
    assert (books.flow.held, books.acks.uncommitted) == (1, 1)
    books.ack_confirmed(the(books.acks.to_send()))
    assert (books.flow.held, books.flow.size, books.acks.uncommitted) == (1, 10, 0)
    books.finish(entry, ack=ack)
    assert entry.state is State.DONE
    assert (books.flow.held, books.flow.size, books.acks.uncommitted) == (0, 0, 0)
    assert books.counters.left == 0
    assert books.acks.to_send() == []


def test_acknowledging_twice_is_the_same_as_once() -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    assert books.ack(entry)
    assert books.ack(entry)
    books.finish(entry, ack=True)
    batch = the(books.acks.to_send())
    assert books.ack(entry)
    books.ack_confirmed(batch)
    assert books.ack(entry)
    assert batch.ids == [raw(1)]
    assert (books.acks.uncommitted, books.counters.acked) == (0, 1)
    assert books.acks.to_send() == []


def test_fields_are_let_go_with_the_outcome() -> None:
    books = Books()
    books.read(1, 2, 3)
    acked, opened, early = (books.started() for _ in range(3))
    books.finish(acked, ack=True)
    books.finish(opened, ack=False)
    books.ack(early)
    assert acked.fields == opened.fields == early.fields == ()


def test_a_batch_without_a_reply_is_sent_again_before_what_came_later() -> None:
    books = Books()
    books.deliveries.received(A, [[raw(1), None], [raw(2), [b"msg", b""]]], 0.0, 20)
    books.done()
    books.acks.unconfirmed(the(books.acks.to_send()))
    assert books.acks.uncommitted == 2
    books.deliveries.received(A, [[raw(3), None], [raw(4), [b"msg", b""]]], 0.0, 20)
    books.done()
    again = the(books.acks.to_send())
    assert again.ids == [raw(2), raw(4), raw(1), raw(3)]
    assert again.repeated
    books.ack_confirmed(again)
    assert books.acks.uncommitted == 0
    books.read(5)
    books.done()
    assert not the(books.acks.to_send()).repeated


def test_only_the_shard_that_got_no_reply_is_repeated() -> None:
    books = Books()
    books.read(1)
    books.read(1, shard=B)
    books.done(2)
    of_a, of_b = books.acks.to_send()
    books.acks.unconfirmed(of_a)
    books.ack_confirmed(of_b)
    books.read(2, shard=B)
    books.done()
    assert [batch.repeated for batch in books.acks.to_send()] == [True, False]


def test_the_committer_is_rung_for_the_first_outcome_and_for_as_many_as_may() -> None:
    books = Books(max_pending=3)
    books.read(*range(9))
    rings = []
    for _ in range(4):
        books.done()
        rings.append((books.outcome_rings, books.acks.full))
    assert rings == [(1, False), (1, False), (2, True), (2, True)]
    books.ack_confirmed(the(books.acks.to_send()))
    assert not books.acks.full
    taken = [books.started() for _ in range(3)]
    rings = []
    for entry in taken:
        books.ack(entry)
        rings.append((books.outcome_rings, books.acks.full))
    assert rings == [(3, False), (3, False), (4, True)]


def test_one_outcome_that_is_also_as_many_as_may_rings_once() -> None:
    books = Books(max_pending=1)
    books.read(1)
    books.done()
    assert books.outcome_rings == 1
    assert books.acks.full


# -- without acks ------------------------------------------------------------------


@pytest.mark.parametrize("ack", [True, False])
def test_without_acks_an_entry_is_gone_when_its_handler_is_done(ack: bool) -> None:  # noqa: FBT001
    books = Books(acks=False)
    books.read(1)
    entry = books.started()
    books.finish(entry, ack=ack)
    assert entry.state is State.DONE
    assert entry.fields == ()
    assert not known(books, A, raw(1))
    assert (books.flow.held, books.flow.size, books.acks.uncommitted) == (0, 0, 0)
    assert (books.counters.acked, books.counters.left) == (1, 0)
    assert books.outcome_rings == 0
    assert books.acks.to_send() == []


# -- leases ------------------------------------------------------------------------


def test_an_open_entry_leaves_the_books_when_its_lease_has_ended() -> None:
    books = Books(lease=30.0)
    left_open(books, 1, now=0.0)
    left_open(books, 2, now=5.0)
    books.read(3, now=29.9)
    assert known(books, A, raw(1))
    books.read(4, now=40.0)
    assert not known(books, A, raw(1))
    assert not known(books, A, raw(2))
    assert known(books, A, raw(3))


def test_leases_are_looked_at_three_times_a_lease_and_no_more() -> None:
    books = Books(lease=30.0)
    left_open(books, 1, now=0.0)
    books.read(2, now=25.0)
    books.read(3, now=34.9)
    assert known(books, A, raw(1))
    books.read(4, now=35.1)
    assert not known(books, A, raw(1))


def test_only_what_is_open_leaves_with_its_lease() -> None:
    books = Books(lease=30.0)
    books.read(1, 2, 3, 4, 5, now=0.0)
    running, settled, sent, opened = (books.started() for _ in range(4))
    books.finish(sent, ack=True)
    books.acks.to_send()
    books.finish(settled, ack=True)
    books.finish(opened, ack=False)
    books.read(9, shard=B, now=100.0)
    left = [n for n in range(1, 6) if known(books, A, raw(n))]
    assert left == [1, 2, 3, 5]
    assert running.state is State.RUNNING


def test_an_open_entry_can_be_acked_after_it_left_the_books() -> None:
    books = Books(lease=30.0)
    entry = left_open(books, 1)
    books.read(2, now=100.0)
    assert not known(books, A, raw(1))
    assert books.ack(entry)
    assert books.shards.unconfirmed() == [entry]
    batch = the(books.acks.to_send())
    assert batch.ids == [raw(1)]
    books.ack_confirmed(batch)
    assert entry.state is State.DONE
    assert books.acks.uncommitted == 0
    assert not known(books, A, raw(1))


def test_an_entry_that_comes_again_after_its_lease_runs_again() -> None:
    books = Books(lease=30.0)
    old = left_open(books, 1)
    assert books.read(1, now=100.0) == 1
    new = books.started()
    assert new is not old
    assert new.id == old.id


def test_what_has_used_up_a_third_of_its_lease_is_to_be_renewed_unless_open() -> None:
    books = Books(lease=30.0)
    books.read(1, 2, 3, 4, 5, now=0.0)
    _running, settled, sent, opened = (books.started() for _ in range(4))
    books.ack(sent)
    books.acks.to_send()
    books.ack(settled)
    books.finish(opened, ack=False)
    books.read(6, now=1.0)
    books.read(7, shard=B, now=0.0)
    assert books.to_renew(9.9) == []
    renewals = books.to_renew(10.0)
    assert [(r.shard_state.shard, r.ids, r.count) for r in renewals] == [
        (A, [raw(n) for n in (1, 2, 3, 5)], None),
        (B, [raw(7)], None),
    ]
    assert not any(renewal.late for renewal in renewals)


def test_past_two_thirds_of_a_lease_it_is_asked_first_for_all() -> None:
    books = Books(lease=30.0)
    books.read(1, now=0.0)
    books.read(2, now=10.0)
    books.read(3, shard=B, now=10.0)
    taken = [books.started() for _ in range(3)]
    assert taken
    assert [renewal.late for renewal in books.to_renew(19.9)] == [False]
    assert [renewal.late for renewal in books.to_renew(20.0)] == [True, True], (
        "while one is asked about, what becomes of the others?"
    )


def test_a_renewed_lease_runs_from_when_it_was_asked_for() -> None:
    books = Books(lease=30.0)
    books.read(1, now=0.0)
    [renewal] = books.to_renew(12.0)
    books.leases.renewed(renewal, 12.0)
    assert books.to_renew(21.9) == []
    assert books.to_renew(22.0) != []
    assert books.counters.lost == 0


def test_what_others_have_taken_over_leaves_the_queue_and_its_lane() -> None:
    books = Books(lease=30.0, ordering=KEY)
    books.read(1, 2, 3, 4, key="k")
    books.read(5, key="l")
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(3), raw(4)])) == 3
    assert books.counters.lost == 3
    assert (books.flow.held, books.flow.size) == (2, 20)
    assert books.started().id == raw(3)
    assert books.work.take() is None
    assert len(books._ready_queue._lanes) == 1
    assert not known(books, A, raw(1))


def test_what_others_have_taken_over_waits_in_no_lane() -> None:
    books = Books(lease=30.0, ordering=KEY)
    books.read(1, 2, 3, key="k")
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(1), raw(3)])) == 1
    assert books.flow.held == 2
    assert ids(entry for _ in range(2) for entry in books.done()) == [raw(1), raw(3)]
    assert books.work.take() is None
    assert not books._ready_queue._lanes


def test_what_was_lost_without_an_order_leaves_the_queue() -> None:
    books = Books(lease=30.0)
    books.read(1, 2, 3)
    [renewal] = books.to_renew(25.0)
    books.removals.lose_all_but(renewal, [raw(1), raw(3)])
    assert ids([books.work.take(), books.work.take(), books.work.take()]) == [
        raw(1),
        raw(3),
        None,
    ]


def test_what_a_handler_makes_of_what_it_has_lost_is_dropped() -> None:
    books = Books(lease=30.0, ordering=KEY)
    books.read(1, 2, key="k")
    entry = books.started()
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert entry.state is State.LOST
    assert books.flow.held == 2, "the handler is still at work"
    assert books.work.take() is None, "in its lane"
    assert books.ack(entry), "nobody did wrong"
    books.finish(entry, ack=True)
    assert (books.flow.held, books.acks.uncommitted, books.counters.left) == (1, 0, 0)
    assert books.started().id == raw(2)
    assert books.acks.to_send() == []


def test_an_outcome_that_was_not_sent_yet_is_lost_too() -> None:
    books = Books(lease=30.0)
    books.read(1, 2, 3)
    books.done(2)
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(2), raw(3)])) == 1
    assert books.acks.uncommitted == 1
    assert the(books.acks.to_send()).ids == [raw(2)]


def test_an_outcome_that_was_sent_is_not_lost_by_a_reply_that_misses_it() -> None:
    books = Books(lease=30.0)
    books.read(1, 2, 3)
    _running, gone, sent = (books.started() for _ in range(3))
    books.ack(gone)
    [renewal] = books.to_renew(25.0)
    books.ack_confirmed(the(books.acks.to_send()))
    books.ack(sent)
    batch = the(books.acks.to_send())
    assert len(books.removals.lose_all_but(renewal, [raw(1)])) == 0
    assert (gone.state, sent.state) == (State.DONE, State.ACKING)
    books.ack_confirmed(batch)
    assert books.counters.lost == 0


def test_an_open_entry_can_be_lost_too_if_it_ran_when_it_was_asked_for() -> None:
    books = Books(lease=30.0)
    books.read(1)
    entry = books.started()
    [renewal] = books.to_renew(25.0)
    books.finish(entry, ack=False)
    assert len(books.removals.lose_all_but(renewal, [])) == 1
    assert entry.state is State.LOST
    assert not known(books, A, raw(1))


def test_to_lose_an_entry_that_has_come_again_leaves_the_new_one_alone() -> None:
    books = Books(lease=30.0)
    books.read(1)
    old = books.started()
    [renewal] = books.to_renew(25.0)
    books.finish(old, ack=False)
    assert claim(books, 1) == 1
    assert len(books.removals.lose_all_but(renewal, [])) == 1
    assert known(books, A, raw(1))
    assert books.started() is not old


def test_after_a_standstill_of_a_lease_leases_come_first() -> None:
    books = Books(lease=30.0)
    assert not books.leases.overdue(1e9), "nothing is queued"
    books.read(1, 2, now=0.0)
    assert not books.leases.overdue(29.9)
    assert books.leases.overdue(30.0)
    [renewal] = books.to_renew(30.0)
    books.leases.renewed(renewal, 30.0)
    assert not books.leases.overdue(59.9)
    assert books.leases.overdue(60.0)
    books.started()
    books.started()
    assert not books.leases.overdue(60.0), "what runs is not taken next"


def test_without_acks_there_are_no_leases_to_come_first() -> None:
    books = Books(acks=False)
    books.read(1)
    assert not books.leases.overdue(1e9)


def test_what_was_left_open_here_and_is_claimed_by_us_is_handed_out_again() -> None:
    books = Books()
    old = left_open(books, 1)
    assert claim(books, 1) == 1
    new = books.started()
    assert new.id == old.id
    assert new is not old
    assert books.counters.received == 2


def test_what_we_are_at_work_on_is_not_handed_out_again_by_a_claim() -> None:
    books = Books()
    books.read(1, 2, 3, 4)
    _running, settled, sent = (books.started() for _ in range(3))
    books.ack(sent)
    books.acks.to_send()
    books.ack(settled)
    assert claim(books, 1, 2, 3, 4) == 0
    assert books.flow.held == 4


# -- order -------------------------------------------------------------------------


def test_without_an_order_any_entry_may_run() -> None:
    books = Books()
    books.read(1, 2, 3, key="k")
    assert books.work.length == 3
    assert books.started().lane is None


def test_entries_of_a_key_run_one_at_a_time_in_the_order_of_reading() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    books.read(3, key="l")
    books.read(4, key="k")
    assert books.work.length == 2
    one, three = books.started(), books.started()
    assert ids([one, three]) == [raw(1), raw(3)]
    assert books.work.take() is None
    books.finish(one, ack=False)
    two = books.started()
    assert two.id == raw(2)
    assert books.work.take() is None
    books.finish(three, ack=True)
    assert books.work.take() is None
    books.finish(two, ack=True)
    assert books.started().id == raw(4)


def test_a_lane_is_free_when_the_handler_is_done_and_not_when_it_acks() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    one = books.started()
    books.ack(one)
    books.ack_confirmed(the(books.acks.to_send()))
    assert books.work.take() is None
    books.finish(one, ack=False)
    assert books.started().id == raw(2)


def test_a_key_is_a_lane_in_its_shard_only() -> None:
    books = Books(ordering=KEY)
    books.read(1, key="k")
    books.read(1, key="k", shard=B)
    assert books.work.length == 2


def test_entries_without_a_key_are_one_lane_a_shard() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2)
    books.read(3, key="")
    books.read(4, shard=B)
    assert ids([books.work.take(), books.work.take(), books.work.take()]) == [
        raw(1),
        raw(3),
        raw(4),
    ]
    assert books.work.take() is None


def test_ordered_by_shard_keys_do_not_matter() -> None:
    books = Books(ordering=SHARD)
    books.read(1, key="k")
    books.read(2, key="l")
    books.read(3, shard=B)
    assert ids([books.work.take(), books.work.take(), books.work.take()]) == [
        raw(1),
        raw(3),
        None,
    ]


def test_lanes_are_there_as_long_as_an_entry_of_theirs_is() -> None:
    books = Books(ordering=KEY)
    for number in range(50):
        books.read(number, key=str(number))
    assert len(books._ready_queue._lanes) == 50
    books.done(50)
    assert not books._ready_queue._lanes


def test_what_waits_is_filed_anew_under_another_order() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    books.read(3, key="l")
    books.order_by(NONE)
    assert books.work.length == 3
    assert not books._ready_queue._lanes
    books.order_by(SHARD)
    assert books.work.length == 1
    assert ids(entry for _ in range(3) for entry in books.done()) == [
        raw(1),
        raw(2),
        raw(3),
    ]


def test_filing_anew_leaves_what_runs_and_what_is_done_alone() -> None:
    books = Books()
    books.read(1, 2, 3, 4, key="k")
    running = books.started()
    books.done()
    books.order_by(KEY)
    assert books.work.length == 1
    books.finish(running, ack=True)
    assert books.work.length == 1, "it was in no lane"
    assert ids(entry for _ in range(2) for entry in books.done()) == [raw(3), raw(4)]
    assert books.work.take() is None


def test_what_runs_frees_no_lane_that_is_not_there_any_more() -> None:
    books = Books(ordering=KEY)
    books.read(1, key="k")
    entry = books.started()
    books.order_by(NONE)
    books.finish(entry, ack=True)
    assert books.flow.held == 0


# -- closing -----------------------------------------------------------------------


def test_what_no_handler_has_seen_is_given_back_uncounted() -> None:
    books = Books()
    books.read(1, 2, 3)
    books.back(4, attempts=2)
    books.read(5, shard=B)
    running, opened = books.started(), books.started()
    books.finish(opened, ack=False)
    given = [
        (shard.stream, count, back) for shard, count, back in books.removals.release()
    ]
    assert given == [
        ("a", 0, [raw(3), raw(1)]),
        ("a", 3, [raw(4)]),
        ("a", 2, [raw(2)]),
        ("b", 0, [raw(5)]),
    ]
    assert running.state is State.RELEASED
    assert opened.state is State.RELEASED
    assert not any(known(books, A, raw(n)) for n in (1, 2, 3, 4))
    assert books.work.take() is None
    assert (books.flow.held, books.flow.size) == (1, 10), "the handler is still at work"
    books.finish(running, ack=True)
    assert (books.flow.held, books.flow.size, books.acks.uncommitted) == (0, 0, 0)
    assert list(books.removals.release()) == []


def test_what_is_acknowledged_is_not_given_back() -> None:
    books = Books()
    books.read(1, 2, 3)
    settled, sent = books.started(), books.started()
    books.ack(sent)
    batch = the(books.acks.to_send())
    books.ack(settled)
    assert [back for _, _, back in books.removals.release()] == [[raw(3)]]
    books.ack_confirmed(batch)
    books.ack_confirmed(the(books.acks.to_send()))
    assert settled.state is sent.state is State.DONE


def test_what_was_given_back_can_not_be_acknowledged() -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    list(books.removals.release())
    assert not books.ack(entry)
    books.finish(entry, ack=True)
    assert not books.ack(entry)
    assert books.acks.to_send() == []


def test_no_lane_is_left_over_by_giving_back() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, 3, key="k")
    running = books.started()
    list(books.removals.release())
    books.finish(running, ack=True)
    assert not books._ready_queue._lanes
    assert books.work.take() is None
    assert books.flow.held == 0


def test_an_entry_is_no_work_for_the_garbage_collector() -> None:
    books = Books()
    books.read(1)
    assert not gc.is_tracked(books.started())


def test_closing_keeps_no_entry_alive_and_rings_nobody() -> None:
    books = Books()
    books.read(*range(5))
    books.deliveries.received(B, [[raw(1), None]], 0.0, 10)
    running, opened, settled, sent = (books.started() for _ in range(4))
    books.finish(opened, ack=False)
    books.ack(sent)
    books.acks.to_send()
    books.ack(settled)
    rings = books.room_rings, books.outcome_rings
    books.close()
    assert (books.room_rings, books.outcome_rings) == rings
    assert all(not a.entries and not a.to_ack for a in books.shards.values())
    assert running.state is opened.state is State.RELEASED
    assert books.work.take() is None
    books.finish(running, ack=True)
    books.finish(settled, ack=True)
    assert books.flow.held == 1, "the handler of the one that was sent is at work"
    books.close()


@pytest.mark.parametrize("acks", [True, False])
def test_what_was_queued_dies_with_a_closed_ledger(acks: bool) -> None:  # noqa: FBT001
    fields = Fields([b"msg", b"large"])
    alive = ref(fields)
    books = Books(acks=acks)
    books.deliveries.received(A, [[raw(1), fields]], 0.0, 10)
    books.close()
    del fields, books
    gc.collect()
    assert alive() is None
