"""Defects that the first tests of the core found, each as it was met."""

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
from penstock.errors import (
    BufferFull,
    ClosedError,
    ConfigurationError,
    PenstockError,
    SendUnknown,
)
from penstock.events import printable
from penstock.options import Ordering, seconds
from support.ledger import (
    GIVEN_UP,
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
    later,
    left_open,
    now,
    raw,
    the,
)


def test_the_reader_is_rung_when_the_last_queued_entry_is_taken() -> None:
    books = Books(max_messages=10)
    books.read(*range(6))
    assert books.read_budget() == 0
    for _ in range(6):
        books.started()
    assert books.room_rings, "4 idle workers starve until a handler ends"


def test_the_reader_is_rung_when_all_that_is_queued_was_lost() -> None:
    books = Books(max_messages=10, lease=30.0)
    books.read(*range(10))
    assert books.read_budget() == 0
    [renewal] = books.to_renew(100.0)
    assert len(books.removals.lose_all_but(renewal, [])) == 10
    assert books.flow.held == 0
    assert books.room_rings, "nothing runs, so nobody else will ever ring"


def test_the_reader_is_rung_when_outcomes_that_held_it_up_were_lost() -> None:
    books = Books(max_messages=10, max_uncommitted=3, lease=30.0)
    books.read(*range(5))
    books.done(5)
    assert books.read_budget() == 0
    [renewal] = books.to_renew(100.0)
    assert len(books.removals.lose_all_but(renewal, [])) == 5
    assert books.acks.uncommitted == 0
    assert books.acks.to_send() == []
    assert books.room_rings


def test_what_runs_in_a_lane_does_not_free_one_that_was_filed_anew() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, 3, key="k")
    one = books.started()
    books.order_by(SHARD)
    two = books.work.take()  # (already wrong: 1 still runs)
    books.finish(one, ack=True)
    assert two is None or books.work.take() is None, (
        "two and three of one key run at once"
    )


def test_an_id_is_in_one_plan_only() -> None:
    books = Books(lease=30.0)
    old = left_open(books, 1)
    claim(books, 1)
    books.ack(old)
    books.done()
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_a_claimed_entry_keeps_its_place_in_the_order_of_reading() -> None:
    books = Books()
    left_open(books, 1)
    books.read(2)
    claim(books, 1)
    before = ids(books._queue)
    books.order_by(KEY)
    books.order_by(NONE)
    assert ids(books._queue) == before


def test_an_open_entry_that_a_takeover_finds_deleted_leaves_the_books() -> None:
    books = Books()
    old = left_open(books, 1)
    books.deliveries.recovered(A, [[raw(1), None]], 0.0, {}, claimed=True)
    books.ack(old)
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_a_late_ack_after_closing_is_refused() -> None:
    books = Books(lease=30.0)
    old = left_open(books, 1)
    books.read(2, now=100.0)  # the lease of 1 ends
    books.close()
    assert not books.ack(old), "accepted, never sent, and kept alive for ever"


def test_bytes_too_are_cut_before_they_are_escaped() -> None:
    class Huge(bytes):
        def decode(self, *args: Any) -> str:
            pytest.fail(f"{len(self)} bytes are decoded")

    printable(Huge(b"\xff" * 10_000_000))


@pytest.mark.parametrize("encode", [text_codec.encode, encode_any])
def test_text_with_a_lone_surrogate_is_our_error(
    encode: Callable[[str], bytes],
) -> None:
    with pytest.raises(ConfigurationError):
        encode("\ud800")


def test_a_huge_integer_is_no_duration() -> None:
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


def test_what_is_confirmed_while_pending_entries_are_read_does_not_come_again() -> None:
    """The read and the acknowledgement have a connection each, and race."""
    books = Books()
    books.read(1, 2)
    books.done(2)
    [batch] = books.acks.to_send()
    with books.deliveries.recovering(A):
        # The server lists both as pending, and takes the acknowledgement after that.
        books.ack_confirmed(batch)
        assert books.back(1, 2, 3) == 1
    assert books.started().id == raw(3)
    # Afterwards an id that comes again is one that was set back to.
    assert books.read(1) == 1


def test_what_was_read_before_the_group_was_made_anew_is_not_lost_with_it() -> None:
    """It is pending for nobody then, and will be read again: it keeps its place."""
    books = Books(lease=30.0, strict=True)
    books.back(1, 2, 3, attempts=1)
    books.shards.group_recreated(A, 20.0)
    first = books.started()
    books.removals.lose(first)
    assert books.may_start(first)
    [renewal] = books.to_renew(25.0)
    assert books.removals.lose_all_but(renewal, []) == []
    books.leases.renewed(renewal, 25.0)
    books.finish(first, ack=True)
    assert ids([books.next()]) == [raw(2)]
    # By the next time they have been read again, if they are ours.
    [renewal] = books.to_renew(40.0)
    assert books.removals.lose_all_but(renewal, [raw(1), raw(3)]) == [raw(2)]
    assert books.counters.lost == 1


# -- what may be taken and nobody was told of --------------------------------------


def test_suspects_are_told_of_when_they_may_be_tried_again() -> None:
    books = Books()
    books.back(1, attempts=1)
    books.hold_suspects(held=True)
    assert books.next() is None
    assert books.ready_rings == 0
    books.hold_suspects(held=False)
    assert books.ready_rings == 1
    assert ids([books.next()]) == [raw(1)]
    books.hold_suspects(held=True)
    books.hold_suspects(held=False)
    assert books.ready_rings == 1, "nothing waits"


def test_the_reader_is_rung_when_all_that_waits_has_to_step_aside() -> None:
    books = Books(max_messages=10)
    books.back(*range(8), attempts=1)
    books.flow.waiting_changed(2)
    assert books.read_budget() == 0
    books.hold_suspects(held=True)
    rings = books.room_rings
    assert books.next() is None
    assert books.room_rings > rings, "two have nothing to do"
    assert books.read_budget() == 2


def test_what_a_postponed_entry_held_up_is_told_of_when_that_is_lost() -> None:
    books = Books(ordering=KEY, lease=30.0)
    books.read(1, 2, 3, key="k")
    books.failed()
    assert books.next() is None
    [renewal] = [r for r in books.to_renew(25.0) if r.late]
    assert len(books.removals.lose_all_but(renewal, [raw(2), raw(3)])) == 1
    assert books.work.length == 1
    assert books.ready_rings == 1


def test_what_an_entry_held_up_that_was_set_aside_is_told_of_when_that_is_lost() -> (
    None
):
    books = Books(ordering=KEY, lease=30.0)
    books.read(1, key="k")
    books.started()
    # The stream was made anew, and the id has another key.
    books.read(1, key="l", rewound=True)
    books.read(2, key="l")
    assert books.next() is None
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert books.work.length == 1
    assert books.ready_rings == 1


def test_what_a_suspect_held_up_that_had_stepped_aside_is_told_of() -> None:
    books = Books(ordering=KEY, lease=30.0)
    books.back(2, 3, key="l", attempts=1)
    books.back(4, key="l")
    books.hold_suspects(held=True)
    assert books.next() is None
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(4)])) == 2
    assert ids([books.next()]) == [raw(4)]
    assert books.ready_rings > 0


def test_what_takes_the_place_of_what_was_lost_was_told_of_with_it() -> None:
    books = Books(ordering=KEY, lease=30.0)
    books.read(1, 2, key="k")
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert books.work.length == 1
    assert books.ready_rings == 0


# -- what comes back ---------------------------------------------------------------


def test_what_was_lost_while_its_body_was_not_asked_for_is_no_message() -> None:
    """Bodies are read of what is not in hand; and a renewal may tell meanwhile."""
    books = Books()
    books.read(1)
    lost = books.started()
    books.removals.lose(lost)
    assert books.deliveries.recovered(A, [[raw(1), ()]], 0.0, {raw(1): 1}) == 0
    assert not known(books, A, raw(1))
    assert books.counters.deleted == 0, "it is there"
    assert books.next() is None


# -- dead letters ------------------------------------------------------------------


def test_what_came_again_while_its_letter_was_on_its_way_is_not_sent_again() -> None:
    books = Books()
    books.read(1)
    books.failed(GIVEN_UP)
    [sent] = books.acks.dead_letters_to_send(10)
    assert books.read(1, rewound=True) == 1
    assert books.flow.held == 2
    assert books.read_budget() > 0
    books.dead_letter_unconfirmed(sent)
    assert now(sent) is State.LOST
    assert (books.acks.dead_lettering, books.acks.dead_letters_to_send(10)) == (0, [])
    assert (books.flow.held, books.flow.size) == (1, 10)
    books.done()
    assert the(books.acks.to_send()).ids == [raw(1)]


def test_the_reader_is_rung_when_a_letter_is_not_sent_again() -> None:
    books = Books(max_messages=2)
    books.read(1)
    books.failed(GIVEN_UP)
    [sent] = books.acks.dead_letters_to_send(10)
    books.read(1, rewound=True)
    assert books.read_budget() == 0
    books.dead_letter_unconfirmed(sent)
    assert books.room_rings == 1


def test_given_back_nothing_waits_for_its_letter_or_takes_room() -> None:
    books = Books()
    books.read(1, 2)
    for _ in range(2):
        books.failed(GIVEN_UP)
    [sent] = books.acks.dead_letters_to_send(1)
    assert list(books.removals.release()) == [(A, 2, [raw(1), raw(2)])]
    assert (books.acks.dead_lettering, books.flow.held, books.flow.size) == (0, 0, 0)
    for answer in (books.dead_letter_unconfirmed, books.dead_letter_written):
        answer(sent)
    books.dead_letter_confirmed(sent, ours=True)
    assert now(sent) is State.RELEASED
    assert (books.acks.dead_lettering, books.flow.held, books.flow.size) == (0, 0, 0)
    assert books.acks.dead_letters_to_send(1) == []


def test_what_has_left_keeps_no_body_until_its_next_attempt_would_have_come() -> None:
    fields = Fields([b"msg", b"large"])
    alive = ref(fields)
    books = Books()
    books.deliveries.received(A, [[raw(1), fields]], 0.0, 10)
    books.failed(later(due=1e9))
    books.removals.drop(A)
    del fields
    gc.collect()
    assert alive() is None


# -- order -------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", [KEY, SHARD])
def test_another_run_in_the_same_order_keeps_it_over_a_retry(
    ordering: Ordering,
) -> None:
    books = Books(ordering=ordering)
    books.read(1, 2, 3, key="k")
    books.failed(later(due=5.0))
    books.order_by(ordering)
    assert books.next() is None, "the first one comes first"
    books.retries.make_due(5.0)
    assert [books.done()[0].id for _ in range(3)] == [raw(1), raw(2), raw(3)]


def test_what_was_taken_in_no_order_and_is_put_back_is_filed() -> None:
    books = Books()
    books.read(1, 2, key="k")
    taken = books.started()
    books.order_by(KEY)
    books.put_back(taken)
    assert books.work.length == 1, "one of a key at a time"
    assert [books.done()[0].id for _ in range(2)] == [raw(2), raw(1)]


def test_what_was_deleted_while_pending_is_told_once() -> None:
    books = Books()
    assert books.deliveries.take_deleted() == []
    books.deliveries.deleted(A, [raw(1), raw(2), raw(1)])
    books.deliveries.recovered(B, [[raw(3), None]], 0.0, {})
    assert books.deliveries.take_deleted() == [(A, [raw(1), raw(2)]), (B, [raw(3)])]
    assert books.deliveries.take_deleted() == []
    assert books.counters.deleted == 3
