"""What comes again because the group, or the position, was set back."""

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
    Books,
    Fields,
    ids,
    known,
    left_open,
    now,
    raw,
    the,
)

# -- coming again ------------------------------------------------------------------


def test_what_waits_and_comes_again_is_handed_out_once() -> None:
    books = Books()
    books.read(1, 2)
    assert books.read(1, 2, rewound=True) == 0
    assert books.flow.held == 2
    assert ids([books.next(), books.next(), books.next()]) == [raw(1), raw(2), None]


def test_what_is_acknowledged_and_gone_comes_again_like_new() -> None:
    books = Books()
    books.read(1)
    books.done()
    books.ack_confirmed(the(books.acks.to_send()))
    assert books.read(1, rewound=True) == 1
    assert now(books._queue[0]) is State.QUEUED
    books.done()
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_what_a_handler_is_at_waits_for_it_and_its_outcome_does_not_count() -> None:
    books = Books()
    books.read(1)
    old = books.started()
    assert books.read(1, rewound=True) == 1
    assert now(old) is State.LOST
    [new] = books._queue
    assert now(new) is State.REDELIVERED
    assert books.flow.held == 2
    assert books.next() is None
    assert books.work.length == 0, "it is set aside"
    assert books.ack(old), "nobody did wrong"
    assert books.ready_rings == 0
    books.finish(old, ack=True)
    assert books.ready_rings == 1, "nobody was told of it"
    assert (books.flow.held, books.acks.uncommitted, books.counters.lost) == (1, 0, 0)
    assert books.acks.to_send() == []
    assert books.next() is new
    assert now(new) is State.RUNNING
    books.finish(new, ack=True)
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_others_are_handed_out_past_what_waits_for_its_handler() -> None:
    books = Books()
    books.read(1, 2)
    first, second = books.started(), books.started()
    books.read(1, 2, 3, 4, rewound=True)
    assert ids([books.next(), books.next(), books.next()]) == [raw(3), raw(4), None]
    books.finish(second, ack=True)
    assert ids([books.next(), books.next()]) == [raw(2), None]
    books.finish(first, ack=True)
    assert ids([books.next(), books.next()]) == [raw(1), None]


def test_a_handler_that_ends_before_its_turn_came_again_rings_nobody() -> None:
    books = Books()
    books.read(1)
    old = books.started()
    books.read(2, 1, rewound=True)
    books.finish(old, ack=False)
    assert books.ready_rings == 0, "the read told of it"
    assert books.counters.left == 0
    assert ids([books.next(), books.next()]) == [raw(2), raw(1)]


def test_what_comes_again_and_again_waits_for_the_last_that_has_it() -> None:
    books = Books()
    books.read(1)
    first = books.started()
    assert [books.read(1, rewound=True) for _ in range(3)] == [1, 0, 0]
    books.finish(first, ack=True)
    second = books.started()
    assert books.read(1, rewound=True) == 1
    assert books.next() is None
    books.finish(second, ack=True)
    third = books.started()
    assert len({id(entry) for entry in (first, second, third)}) == 3
    books.finish(third, ack=True)
    assert the(books.acks.to_send()).ids == [raw(1)]
    assert books.acks.uncommitted == 1


def test_an_outcome_that_was_not_sent_yet_does_not_count_any_more() -> None:
    books = Books()
    books.read(1, 2)
    one, _ = books.done(2)
    assert books.read(1, rewound=True) == 1
    assert now(one) is State.LOST
    assert books.acks.uncommitted == 1
    assert the(books.acks.to_send()).ids == [raw(2)]
    assert ids([books.next()]) == [raw(1)]


def test_an_outcome_that_was_sent_leaves_the_new_one_in_the_books() -> None:
    books = Books()
    books.read(1, 2)
    books.done(2)
    batch = the(books.acks.to_send())
    assert books.read(1, rewound=True) == 1
    assert books.acks.uncommitted == 2
    books.ack_confirmed(batch)
    assert (books.acks.uncommitted, books.counters.acked) == (0, 2)
    assert known(books, A, raw(1))
    assert not known(books, A, raw(2))
    books.done()
    books.ack_confirmed(the(books.acks.to_send()))
    assert not known(books, A, raw(1))
    # Where nothing comes again any more, entries leave as ever.
    books.read(3)
    books.done()
    books.ack_confirmed(the(books.acks.to_send()))
    assert not known(books, A, raw(3))


def test_an_outcome_whose_reply_was_lost_is_sent_beside_that_of_the_new_one() -> None:
    books = Books()
    books.read(1)
    books.done()
    batch = the(books.acks.to_send())
    books.read(1, rewound=True)
    books.acks.unconfirmed(batch)
    books.done()
    both = the(books.acks.to_send())
    assert both.ids == [raw(1), raw(1)]
    books.ack_confirmed(both)
    assert (books.acks.uncommitted, books.counters.acked) == (0, 2)
    assert not known(books, A, raw(1))


def test_what_was_left_open_is_handed_out_again() -> None:
    books = Books()
    old = left_open(books, 1)
    assert books.read(1, rewound=True) == 1
    assert books.ack(old)
    assert books.acks.to_send() == [], "the new one counts"
    books.done()
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_what_was_acknowledged_is_so_again_where_a_group_was_made_anew() -> None:
    books = Books()
    books.read(1)
    books.done()
    batch = the(books.acks.to_send())
    for _ in range(2):
        assert books.read(1) == 0
    assert books.acks.uncommitted == 2
    assert books.counters.deleted == 0, "it is there"
    books.ack_confirmed(batch)
    assert not known(books, A, raw(1))
    again = the(books.acks.to_send())
    assert (again.ids, list(again.entries)) == ([raw(1)], [])
    books.ack_confirmed(again)
    assert books.acks.uncommitted == 0


def test_in_a_lane_it_waits_behind_itself() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    old = books.started()
    books.read(1, 2, key="k", rewound=True)
    assert books.next() is None
    books.finish(old, ack=True)
    assert ids(books.done()) == [raw(2)], "which was here before"
    assert ids(books.done()) == [raw(1)]
    assert books.next() is None
    assert not books._ready_queue._lanes


def test_without_acks_it_is_a_message_like_any_other() -> None:
    """Nothing is pending that two handlers could quarrel over."""
    books = Books(acks=False)
    books.read(1)
    old = books.started()
    assert books.read(1, rewound=True) == 1
    books.done()
    books.finish(old, ack=True)
    assert books.counters.acked == 2
    assert (books.flow.held, books.flow.size) == (0, 0)
    assert not known(books, A, raw(1))


def test_without_acks_what_is_read_waits_in_its_lane() -> None:
    books = Books(acks=False, ordering=KEY)
    books.read(1, 2, key="k")
    books.read(3, key="other")
    first = books.started()
    assert ids([books.started()]) == [raw(3)]
    assert books.next() is None, "2 waits for 1"
    books.finish(first, ack=True)
    assert ids([books.started()]) == [raw(2)]


def test_what_waits_for_its_handler_can_be_lost_to_others() -> None:
    books = Books(lease=30.0)
    books.read(1)
    old = books.started()
    books.read(1, 2, rewound=True, now=10.0)
    [renewal] = books.to_renew(35.0)
    assert renewal.ids == [raw(1), raw(2)]
    assert books.next() is not None
    assert len(books.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert (books.flow.held, books.flow.size) == (2, 20)
    books.finish(old, ack=True)
    assert books.next() is None
    assert books.ready_rings == 0


def test_what_has_come_again_is_lost_from_the_queue_too() -> None:
    books = Books(lease=30.0)
    books.read(1)
    old = books.started()
    books.read(1, rewound=True, now=10.0)
    [renewal] = books.to_renew(35.0)
    assert len(books.removals.lose_all_but(renewal, [])) == 1
    assert books.work.length == 0
    books.finish(old, ack=True)
    assert (books.flow.held, books.flow.size) == (0, 0)


def test_what_waits_for_its_handler_is_given_back_on_closing() -> None:
    books = Books()
    books.read(1)
    old = books.started()
    books.read(1, rewound=True)
    assert books.next() is None
    assert list(books.removals.release()) == [(A, 0, [raw(1)])]
    assert books.flow.held == 1
    books.finish(old, ack=True)
    assert (books.flow.held, books.flow.size, books.ready_rings) == (0, 0, 0)


def test_only_what_was_set_back_to_can_be_taken_again() -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    entry.state = State.LOST
    books._queue.append(entry)
    with pytest.raises(IllegalTransition, match=r"^take is not possible"):
        books.next()


# -- defects, as they were met -----------------------------------------------------


def test_any_number_of_handlers_can_be_at_what_comes_again() -> None:
    books = Books(max_messages=5000)
    books.read(*range(3000))
    for _ in range(3000):
        books.started()
    books.read(*range(3000), rewound=True)
    assert books.next() is None


def test_the_reader_is_rung_when_all_that_waits_has_to_be_set_aside() -> None:
    books = Books(max_messages=100)
    books.read(*range(8))
    for _ in range(8):
        books.started()
    books.read(*range(8), rewound=True)
    assert books.read_budget() == 0
    assert books.next() is None
    assert books.room_rings
    assert books.read_budget() > 0


def test_only_the_handler_that_is_waited_for_makes_way() -> None:
    books = Books()
    books.read(1)
    first = books.started()
    books.ack(first)  # before it has ended
    books.read(1, rewound=True)
    second = books.started()
    books.read(1, rewound=True)
    books.finish(first, ack=True)
    assert books.next() is None, "the second one is at it"
    books.finish(second, ack=True)
    assert ids([books.next()]) == [raw(1)]


@pytest.mark.parametrize("attempts", [0, 1])
def test_whatever_read_brings_it_it_waits_for_its_handler(attempts: int) -> None:
    books = Books()
    books.read(1)
    old = books.started()
    books.read(1, rewound=True)
    books.removals.release_shard(A)
    # The shard is read again, and what is pending for us comes first; or it is claimed.
    books.back(1, attempts=attempts)
    assert books.next() is None
    assert (books.work.length, books.flow.held) == (0, 2)
    count = attempts + 1 if attempts else 0
    assert books.removals.release_shard(A) == [(A, count, [raw(1)])]
    books.back(1, attempts=attempts, claimed=True)
    books.back(2, attempts=1)
    assert ids([books.next()]) == [raw(2)], "nor is it a suspect: who has it lives"
    rings = books.ready_rings
    books.finish(old, ack=True)
    assert books.ready_rings == rings + 1
    assert books.work.take() is None
    again = books.started()
    assert (again.id, again.deliveries) == (raw(1), attempts + 1)


def test_what_is_due_is_found_behind_what_waits_for_its_handler() -> None:
    books = Books()
    books.read(1)
    books.started()
    books.read(1, rewound=True)
    books.back(2, delivered=True)
    assert books.work.next_is_counted, "or take() gives nothing, and its worker waits"
    assert ids(books.work.take_counted()) == [raw(2)]
    assert not books.work.next_is_repeated


def test_closing_keeps_nothing_alive_that_a_handler_was_to_make_way_for() -> None:
    fields = Fields([b"msg", b"large"])
    alive = ref(fields)
    books = Books()
    books.deliveries.received(A, [[raw(1), fields]], 0.0, 10)
    handled = books.started()
    books.read(1, rewound=True)
    books.close()
    del fields, books, handled
    gc.collect()
    assert alive() is None


def group_recreated_at(books: Books) -> None:
    """Have a stream made anew, where an id has another key and its handler is at it."""
    books.read(1, key="k")
    books.started()
    books.read(1, key="l", rewound=True)
    assert books.next() is None


def test_the_lane_of_what_was_set_aside_is_free_when_it_is_lost() -> None:
    books = Books(ordering=KEY, lease=30.0)
    group_recreated_at(books)
    books.read(2, key="l")
    [renewal] = books.to_renew(25.0)
    books.removals.lose_all_but(renewal, [raw(2)])
    assert ids([books.next()]) == [raw(2)]


def test_the_lane_of_what_was_set_aside_is_free_when_it_is_dropped() -> None:
    books = Books(ordering=KEY)
    group_recreated_at(books)
    books.read(2, key="l")
    assert books.removals.drop(A) == 2
    books.read(3, key="l")
    assert ids([books.next()]) == [raw(3)]


def test_what_was_set_aside_has_its_lane_in_a_new_order() -> None:
    books = Books()
    books.read(1, key="k")
    old = books.started()
    books.read(1, 2, key="k", rewound=True)
    two = books.started()
    books.finish(two, ack=True)
    assert books.next() is None
    books.read(3, key="k")
    books.order_by(KEY)
    books.finish(old, ack=True)
    running = Counter(ids([books.next(), books.next()]))
    assert running == {raw(1): 1, None: 1}, "one of a key at a time"


def test_what_was_acked_early_frees_no_lane_of_a_new_order() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, 3, key="k")
    early = books.started()
    books.ack(early)
    books.ack_confirmed(the(books.acks.to_send()))
    books.order_by(SHARD)
    assert ids([books.next(), books.next()]) == [raw(2), None]
    books.finish(early, ack=True)
    assert books.next() is None, "two is being handled"


# -- before it comes ---------------------------------------------------------------


def test_no_outcome_of_what_is_about_to_come_again_is_sent() -> None:
    books = Books()
    books.read(1, 2, 3)
    books.done(3)
    books.removals.rewind(A, EntryId(1))
    assert the(books.acks.to_send()).ids == [raw(1)]
    assert books.read(2, 3, rewound=True) == 2


def test_what_a_handler_is_at_makes_way_for_what_is_about_to_come_again() -> None:
    books = Books()
    books.read(1, 2)
    first, second = books.started(), books.started()
    books.removals.rewind(A, EntryId(1))
    assert (now(first), now(second)) == (State.RUNNING, State.LOST)
    assert not known(books, A, raw(2)), "so it can be acknowledged unseen"
    books.read(2, rewound=True)
    assert books.next() is None
    books.finish(second, ack=True)
    assert ids([books.next()]) == [raw(2)]
    assert books.acks.to_send() == []


def test_what_is_left_open_and_about_to_come_again_cannot_be_acknowledged() -> None:
    books = Books()
    old = left_open(books, 1)
    books.removals.rewind(A, EntryId.MIN)
    assert books.ack(old)
    assert (books.acks.to_send(), books.counters.late) == ([], 1)


def test_what_is_on_its_way_to_the_server_is_left_alone() -> None:
    books = Books()
    books.read(1)
    books.done()
    batch = the(books.acks.to_send())
    books.removals.rewind(A, EntryId.MIN)
    books.ack_confirmed(batch)
    assert not known(books, A, raw(1))
