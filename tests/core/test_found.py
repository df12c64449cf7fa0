"""Defects that the first tests of the core found, each as it was met."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from core.test_ledger import (
    KEY,
    NONE,
    A,
    Books,
    claim,
    ids,
    left_open,
    raw,
    the,
)
from penstock._core.retry import Backoff
from penstock.codecs import encode_any, text_codec
from penstock.errors import (
    BufferFull,
    ClosedError,
    ConfigurationError,
    PenstockError,
    SendUnknown,
)
from penstock.events import printable
from penstock.options import seconds


def test_the_reader_is_rung_when_the_last_queued_entry_is_taken() -> None:
    books = Books(max_messages=10)
    books.read(*range(6))
    assert books.room() == 0
    for _ in range(6):
        books.started()
    assert books.room_rings, "4 idle workers starve until a handler ends"


def test_the_reader_is_rung_when_all_that_is_queued_was_lost() -> None:
    books = Books(max_messages=10, lease=30.0)
    books.read(*range(10))
    assert books.room() == 0
    [renewal] = books.to_renew(100.0)
    assert books.lose_all_but(renewal, []) == 10
    assert books.held == 0
    assert books.room_rings, "nothing runs, so nobody else will ever ring"


def test_the_reader_is_rung_when_outcomes_that_held_it_up_were_lost() -> None:
    books = Books(max_messages=10, max_uncommitted=3, lease=30.0)
    books.read(*range(5))
    books.done(5)
    assert books.room() == 0
    [renewal] = books.to_renew(100.0)
    assert books.lose_all_but(renewal, []) == 5
    assert books.uncommitted == 0
    assert books.plan() == []
    assert books.room_rings


def test_what_runs_in_a_lane_does_not_free_one_that_was_filed_anew() -> None:
    books = Books(ordering=KEY)
    books.read(1, 2, 3, key="k")
    one = books.started()
    books.order_by(KEY)
    two = books.take()  # (already wrong: 1 still runs)
    books.finish(one, ack=True)
    assert two is None or books.take() is None, "two and three of one key run at once"


def test_an_id_is_in_one_plan_only() -> None:
    books = Books(lease=30.0)
    old = left_open(books, 1)
    claim(books, 1)
    books.ack(old)
    books.done()
    assert the(books.plan()).ids == [raw(1)]


def test_a_claimed_entry_keeps_its_place_in_the_order_of_reading() -> None:
    books = Books()
    left_open(books, 1)
    books.read(2)
    claim(books, 1)
    before = ids(books._queue)
    books.order_by(NONE)
    assert ids(books._queue) == before


def test_an_open_entry_that_a_takeover_finds_deleted_leaves_the_books() -> None:
    books = Books()
    old = left_open(books, 1)
    books.received(A, [[raw(1), None]], 0.0, 0, claimed=True)
    books.ack(old)
    assert the(books.plan()).ids == [raw(1)]


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
    assert Backoff(factor=1e10, failures=64).failed(0.5) == 2.0


def test_what_is_confirmed_while_pending_entries_are_read_does_not_come_again() -> None:
    """The read and the acknowledgement have a connection each, and race."""
    books = Books()
    books.read(1, 2)
    books.done(2)
    [batch] = books.plan()
    with books.recovering(A):
        # The server lists both as pending, and takes the acknowledgement after that.
        books.committed(batch)
        assert books.read(1, 2, 3) == 1
    assert books.started().id == raw(3)
    # Afterwards an id that comes again is one that was set back to.
    assert books.read(1) == 1
