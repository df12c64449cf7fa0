"""When a ledger lets more be read, and whom it tells."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.ledger.entry import SIZED_ABOVE
from penstock._core.protocol.replies import RawEntry
from support.ledger import KEY, SHARD, A, B, Books, claim, raw, the


def quick(**options: Any) -> Books:
    """Give empty books whose workers were quick, so that pace bounds nothing."""
    books = Books(**options)
    for number in range(20):
        books.read(*range(number * 2000, number * 2000 + books.read_budget()), shard=B)
        while books.work.length:
            books.done()
        for batch in books.acks.to_send():
            books.ack_confirmed(batch)
    books.read_budget()
    books.room_rings = books.outcome_rings = 0
    return books


# -- what is read ------------------------------------------------------------------


def test_reading_begins_with_a_few() -> None:
    books = Books(max_messages=1000)
    assert books.read_budget() == 8
    assert Books(max_messages=3).read_budget() == 3


def test_room_is_what_is_free() -> None:
    books = quick(max_messages=10)
    assert books.read_budget() == 10
    books.read(*range(4))
    assert books.read_budget() == 6
    for _ in range(4):
        books.started()
    assert books.read_budget() == 6, "what runs is held too"


def test_room_doubles_while_handlers_keep_up() -> None:
    books = Books(max_messages=1000)
    asked = [books.read_budget()]
    for time in range(5):
        books.read(*range(1000 * time, 1000 * time + asked[-1]))
        books.done(asked[-1])
        asked.append(books.read_budget(now=0.01 * (1 + time)))
    assert asked == [8, 16, 32, 64, 128, 256]


def test_no_more_waits_than_handlers_get_done_in_the_time_that_it_may_wait() -> None:
    books = Books(max_messages=1000, max_wait=2.0)
    assert books.read_budget(now=0.0) == 8
    books.read(*range(8))
    books.done(3)
    assert books.read_budget(now=1.0) == 0, "6 in 2 s: of those, 5 are here"
    books.done(2)
    # 2 in the last second.
    assert books.read_budget(now=2.0) == 0
    books.done(1)
    assert books.read_budget(now=3.0) == 0
    books.done(1)
    assert books.read_budget(now=4.0) == 1, "one more than the one that waits"


def test_where_a_message_takes_longer_than_one_may_wait_only_the_idle_get_some() -> (
    None
):
    books = Books(max_wait=1.0)
    books.read_budget(now=0.0)
    books.read(1)
    books.done()
    assert books.read_budget(now=100.0) == 0
    books.flow.waiting_changed(3)
    assert books.room_rings == 1
    assert books.read_budget(now=101.0) == 3
    books.read(2)
    assert books.read_budget(now=101.0) == 2


def test_with_less_than_half_free_nothing_is_read_while_there_is_work() -> None:
    books = quick(max_messages=10)
    books.read(*range(6))
    assert books.read_budget() == 0
    taken = [books.started() for _ in range(5)]
    assert books.read_budget() == 0, "one is there to be taken"
    taken.append(books.started())
    assert books.read_budget() == 4, "the queue ran empty: idle workers may want more"
    books.finish(taken[0], ack=True)
    assert books.read_budget() == 5


def test_half_of_what_should_wait_is_worth_a_read() -> None:
    books = Books(max_messages=1000)
    books.read(*range(5))
    assert books.read_budget() == 0
    books.started()
    assert books.read_budget() == 4


def test_who_has_nothing_to_do_is_read_for_whatever_waits_in_lanes() -> None:
    books = quick(max_messages=100, ordering=SHARD)
    books.read(*range(90))
    assert books.work.length == 1
    assert books.read_budget() == 0
    books.started()
    books.flow.waiting_changed(2)
    assert books.read_budget() == 2
    books.flow.waiting_changed(50)
    assert books.read_budget() == 10, "no more than may be held"


def test_hungry_workers_get_their_fill_beside_what_is_there_to_be_taken() -> None:
    books = Books(max_messages=100)
    books.flow.waiting_changed(20)
    assert books.read_budget() == 20
    books.read(*range(15))
    assert books.read_budget() == 5
    books.flow.waiting_changed(-20)
    assert books.read_budget() == 0


def test_bytes_bound_the_room_too() -> None:
    books = Books(max_messages=100, max_bytes=100)
    books.read(*range(8))
    assert books.read_budget() == 0
    assert not books.flow.at_capacity
    assert books.flow.fits == 2
    books.flow.waiting_changed(20)
    assert books.read_budget() == 2
    books.read(10, 11)
    assert books.read_budget() == 0
    assert books.flow.at_capacity
    books.flow.waiting_changed(-20)
    books.done(5)
    assert books.room_rings
    # 50 bytes are free.
    assert books.read_budget() == 5


def test_a_single_entry_that_is_larger_than_all_room_goes_through() -> None:
    books = Books(max_bytes=5)
    books.read(1)
    assert books.read_budget() == 0
    books.done()
    assert books.room_rings == 1
    assert books.read_budget() == 1


def test_a_server_that_takes_no_acks_stops_reading_in_the_end() -> None:
    books = Books(max_messages=10, max_uncommitted=30)
    for number in range(31):
        assert books.read_budget() > 0
        books.read(number)
        books.done()
    assert books.acks.uncommitted == 31
    assert books.read_budget() == 0
    books.flow.waiting_changed(1)
    assert books.read_budget() == 0, "however many wait"
    rings = books.room_rings
    books.ack_confirmed(the(books.acks.to_send()))
    assert books.room_rings == rings + 1
    assert books.read_budget() > 0


def test_outcomes_that_wait_for_their_user_do_not_stop_reading() -> None:
    books = Books(max_messages=10, max_pending=1, max_uncommitted=None)
    for number in range(1000):
        assert books.read_budget() > 0
        books.read(number)
        books.done()


def test_the_window_learns_from_what_was_new() -> None:
    books = Books(max_messages=100, max_bytes=1000)
    books.read(1)
    size = books.flow.size
    books.deliveries.received(B, [[raw(1), [b"msg", b""]]], 0.0, 500)
    books.deliveries.received(B, [[raw(1), [b"msg", b""]]], 0.0, 10_000)
    assert books.flow.size == size + 500
    books.done(2)
    assert books.read_budget() == 2, "500 bytes each, not 10,000"


# -- who is told -------------------------------------------------------------------


def test_the_reader_is_rung_when_half_is_free() -> None:
    books = quick(max_messages=10)
    books.read(*range(10))
    assert books.read_budget() == 0
    books.done(4)
    assert books.room_rings == 0
    books.done()
    assert books.room_rings == 1
    assert books.read_budget() == 5


def test_the_reader_is_rung_when_half_of_what_should_wait_is_taken() -> None:
    books = Books(max_messages=100)
    books.read(*range(8))
    assert books.read_budget() == 0
    for _ in range(3):
        books.started()
    assert books.room_rings == 0
    books.started()
    assert books.room_rings == 1
    assert books.read_budget() == 4


def test_the_reader_is_rung_once_when_as_much_is_taken_at_once() -> None:
    books = Books(max_messages=100)
    books.read(*range(8))
    assert books.read_budget() == 0
    books.work.take_fresh(3)
    assert books.room_rings == 0
    books.work.take_fresh(5)
    assert books.room_rings == 1


def test_the_reader_is_rung_by_a_worker_that_finds_nothing() -> None:
    books = Books(max_messages=4)
    books.read(*range(4))
    taken = [books.started() for _ in range(4)]
    assert books.read_budget() == 0
    books.finish(taken[0], ack=False)
    assert books.room_rings == 0, "one of four is not worth a round trip"
    books.flow.waiting_changed(1)
    assert books.room_rings == 1
    assert books.read_budget() == 1


def test_the_reader_is_rung_for_one_place_when_somebody_has_nothing_to_do() -> None:
    books = Books(max_messages=4)
    books.read(*range(4))
    taken = [books.started() for _ in range(4)]
    books.flow.waiting_changed(1)
    assert books.read_budget() == 0
    assert books.flow.at_capacity
    books.finish(taken[0], ack=False)
    assert books.room_rings == 1, "nobody else may ever finish"
    assert books.read_budget() == 1


def test_the_reader_is_rung_when_others_took_what_the_hungry_counted_on() -> None:
    books = quick(max_messages=100, ordering=KEY)
    books.read(*range(80), key="k")
    first = books.started()
    books.flow.waiting_changed(1)
    books.finish(first, ack=True)
    assert books.work.length == 1
    assert books.read_budget() == 0
    rings = books.room_rings
    books.started()
    assert books.room_rings == rings + 1
    assert books.read_budget() == 1


def test_the_reader_is_rung_as_soon_as_there_is_less_than_the_hungry_want() -> None:
    books = Books(max_messages=100)
    books.flow.waiting_changed(10)
    books.read(*range(10))
    assert books.read_budget() == 0
    books.started()
    assert books.room_rings == 1
    assert books.read_budget() == 1


def test_the_reader_is_rung_when_a_new_order_leaves_less_to_be_taken() -> None:
    books = Books(max_messages=4)
    books.read(1, 2, 3)
    books.flow.waiting_changed(2)
    assert books.read_budget() == 0
    books.order_by(SHARD)
    assert books.work.length == 1
    assert books.room_rings
    assert books.read_budget() == 1


def test_a_reader_that_found_room_is_not_rung() -> None:
    books = Books(max_messages=10)
    books.read(1)
    assert books.read_budget() > 0
    books.flow.waiting_changed(1)
    books.done()
    books.ack_confirmed(the(books.acks.to_send()))
    books.read(2)
    [renewal] = books.to_renew(100.0)
    books.removals.lose_all_but(renewal, [])
    assert books.room_rings == 0


def test_workers_that_wait_no_more_ring_nobody() -> None:
    books = Books(max_messages=10)
    books.read(*range(8))
    assert books.read_budget() == 0
    books.flow.waiting_changed(0)
    books.flow.waiting_changed(2)
    assert books.room_rings == 1
    books.flow.waiting_changed(-2)
    assert books.room_rings == 1


# -- takeovers ---------------------------------------------------------------------


def test_what_may_be_taken_over_is_what_should_wait_and_does_not() -> None:
    books = quick(max_messages=10)
    books.read(*range(6))
    assert books.read_budget() == 0
    assert books.claim_budget() == 4, "without the wait for a batch"
    books.read(*range(6, 10))
    assert books.claim_budget() == 0


def test_who_takes_over_is_bound_by_pace_too() -> None:
    books = Books(max_messages=100)
    assert books.claim_budget(now=0.0) == 8
    books.read(1)
    books.done()
    assert books.claim_budget(now=100.0) == 0
    books.flow.waiting_changed(1)
    assert books.claim_budget(now=100.0) == 1


def test_who_found_nothing_to_spare_is_rung_when_half_is_free() -> None:
    books = quick(max_messages=4)
    books.read(*range(4))
    assert books.claim_budget() == 0
    books.done()
    assert books.room_rings == 0
    books.done()
    assert books.room_rings == 1
    assert books.claim_budget() == 2


def test_who_found_nothing_to_spare_is_rung_when_the_reader_finds_room() -> None:
    books = quick(max_messages=4)
    claim(books, *range(4))
    assert books.claim_budget() == 0
    books.removals.drop(A)
    assert books.room_rings == 0
    assert books.read_budget() == 4, "between two reads, after a seek"
    assert books.room_rings == 1
    assert books.read_budget() == 4
    assert books.room_rings == 1, "once"


def test_who_found_something_to_spare_is_not_rung() -> None:
    books = quick(max_messages=4)
    books.read(1)
    assert books.claim_budget() == 3
    books.done()
    assert books.room_rings == 0


@pytest.mark.parametrize("acks", [True, False])
def test_of_a_large_reply_each_entry_takes_its_own_bytes(*, acks: bool) -> None:
    """Of a smaller one each takes its share: none of them can be large."""
    books = Books(acks=acks)
    entries: list[RawEntry] = [[b"1-1", [b"msg", b"x" * 999]], [b"1-2", [b"msg", b""]]]
    books.deliveries.received(A, entries, 0.0, SIZED_ABOVE + 1)
    assert books.flow.size == 1002 + 3
    assert [books.started().size for _ in entries] == [1002, 3]
    small = Books(acks=acks)
    small.deliveries.received(A, entries, 0.0, SIZED_ABOVE)
    assert small.flow.size == SIZED_ABOVE
