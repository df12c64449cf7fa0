"""What is in hand when its stream was deleted and recreated."""

from __future__ import annotations

import pytest

from penstock._core.ledger.states import State
from support.ledger import GIVEN_UP, KEY, A, B, Books, ids, later, now, raw, the


def deleted(books: Books, number: int) -> None:
    """Have a pending entry come back that is deleted from its stream."""
    assert not books.deliveries.recovered(A, [[raw(number), None]], 0.0, {})


def test_what_waits_is_gone_and_makes_room() -> None:
    books = Books(max_messages=4)
    books.read(1, 2, 3, 4)
    assert books.read_budget() == 0
    rings = books.room_rings
    assert books.stream_recreated(A) == [raw(n) for n in (1, 2, 3, 4)]
    assert books.flow.held == books.flow.size == 0
    assert books.next() is None
    assert books.room_rings == rings + 1
    assert books.counters.lost == 4


def test_what_a_handler_has_ends_there_and_a_new_one_of_its_id_is_handled() -> None:
    books = Books()
    books.read(1)
    old = books.started()
    assert books.stream_recreated(A) == [raw(1)]
    assert now(old) is State.LOST
    assert books.read(1) == 1
    new = books.started()
    assert new is not old
    assert books.ack(old)
    books.finish(old, ack=False)
    assert not books.acks.to_send()
    books.ack(new)
    books.finish(new, ack=False)
    assert the(books.acks.to_send()).entries == [new]
    assert books.counters.late == 1


def test_what_is_acknowledged_and_not_sent_is_not_sent() -> None:
    books = Books()
    books.read(1, 2, 3)
    books.done()
    books.done()
    assert books.acks.uncommitted == 2
    assert set(books.stream_recreated(A)) == {raw(1), raw(2), raw(3)}
    assert books.acks.uncommitted == 0
    assert not books.acks.to_send()


@pytest.mark.parametrize("answered", [True, False])
def test_what_is_on_its_way_is_not_sent_again(*, answered: bool) -> None:
    books = Books()
    books.read(1)
    deleted(books, 2)
    books.done()
    batch = the(books.acks.to_send())
    assert books.stream_recreated(A) == []
    assert books.read(1, 2) == 2
    if answered:
        books.ack_confirmed(batch)
    else:
        books.acks.unconfirmed(batch)
    assert books.acks.uncommitted == 0
    assert not books.acks.to_send()
    assert [*books.shards.ids(A)] == [raw(1), raw(2)]
    books.done()
    books.done()
    batch = the(books.acks.to_send())
    assert batch.ids == [raw(1), raw(2)]
    assert not batch.repeated


def test_deleted_entries_are_not_acknowledged_any_more() -> None:
    books = Books()
    deleted(books, 1)
    assert books.acks.uncommitted == 1
    assert books.stream_recreated(A) == []
    assert books.acks.uncommitted == 0
    assert books.read(1) == 1


def test_what_is_given_up_or_postponed_is_gone() -> None:
    books = Books()
    books.read(1, 2)
    books.fail(books.started(), GIVEN_UP)
    books.fail(books.started(), later())
    assert books.acks.dead_lettering == 1
    assert set(books.stream_recreated(A)) == {raw(1), raw(2)}
    assert books.acks.dead_lettering == books.flow.held == 0
    assert not books.acks.dead_letters_to_send(9)
    assert books.retries.make_due(99.0) == 0


@pytest.mark.parametrize("reply", ["buried", "copied", "unburied"])
def test_a_dead_letter_on_its_way_is_not_sent_again(reply: str) -> None:
    books = Books()
    books.read(1)
    books.fail(books.started(), GIVEN_UP)
    [entry] = books.acks.dead_letters_to_send(9)
    assert books.stream_recreated(A) == []
    books.read(1)
    match reply:
        case "buried":
            books.dead_letter_confirmed(entry, ours=True)
        case "copied":
            books.dead_letter_written(entry)
        case "unburied":
            books.dead_letter_unconfirmed(entry)
    assert books.acks.dead_lettering == books.acks.uncommitted == 0
    assert not books.acks.dead_letters_to_send(9)
    assert not books.acks.to_send()
    assert books.flow.held == 1


def test_what_is_left_open_can_be_acknowledged_and_is_not_sent() -> None:
    books = Books()
    books.read(1, 2)
    old = books.started()
    books.finish(old, ack=False)
    gone = books.started()
    books.finish(gone, ack=False)
    books.read(3, now=100.0)  # their lease is over
    assert books.stream_recreated(A) == [raw(3)]
    assert now(old) is State.UNSETTLED
    assert books.ack(old)
    assert not books.acks.to_send()
    assert books.acks.uncommitted == 0


def test_other_shards_and_orders_go_on() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, key="k")
    books.read(1, shard=B, key="k")
    first = books.started()
    books.stream_recreated(A)
    books.read(1, key="k")
    other = books.started()
    assert other.shard is B
    assert books.next() is None, "its lane is its predecessor's still"
    books.finish(first, ack=True)
    assert ids([books.next()]) == [raw(1)]


def test_without_acknowledgements_what_waits_is_handed_out_all_the_same() -> None:
    books = Books(acks=False)
    books.read(1, 2)
    assert books.stream_recreated(A) == []
    assert ids([books.next(), books.next()]) == [raw(1), raw(2)]
