"""Whether a consumer still has something to do up to an id."""

from __future__ import annotations

import pytest

from penstock.message import EntryId
from support.ledger import A, B, Books


def filled(*, acks: bool = True) -> Books:
    books = Books(acks=acks)
    entries = [[b"%d-1" % n, [b"msg", b"x"]] for n in (1, 2, 3)]
    books.deliveries.received(A, entries, 0.0, 30)
    return books


def up_to(number: int) -> EntryId:
    return EntryId(number, 1)


def test_what_waits_or_runs_up_to_it_is_to_be_done() -> None:
    books = filled()
    assert not books.unfinished(A, EntryId(0, 9), settled=True)
    assert books.unfinished(A, up_to(1), settled=True)
    assert not books.unfinished(B, up_to(3), settled=True)
    assert books.work.take() is not None
    assert books.unfinished(A, up_to(1), settled=True)


def test_it_is_done_when_its_acknowledgement_is_confirmed() -> None:
    books = filled()
    entry = books.work.take()
    assert entry is not None
    books.finish(entry, ack=True)
    assert books.shards.to_ack(A, entry.id)
    assert books.unfinished(A, up_to(1), settled=True)
    # Where it is sent on demand, there is nothing more to be done for it.
    assert not books.unfinished(A, up_to(1), settled=False)
    [batch] = books.acks.to_send()
    assert not books.shards.to_ack(A, entry.id)
    assert books.unfinished(A, up_to(1), settled=False)
    books.ack_confirmed(batch)
    assert not books.unfinished(A, up_to(1), settled=True)
    assert not books.shards.to_ack(A, entry.id)
    assert books.unfinished(A, up_to(2), settled=True)


def test_what_is_left_open_is_its_user_s_to_do() -> None:
    books = filled()
    entry = books.work.take()
    assert entry is not None
    books.finish(entry, ack=False)
    assert not books.unfinished(A, up_to(1), settled=True)
    assert not books.shards.to_ack(A, entry.id)


@pytest.mark.parametrize("number", [1, 2])
def test_without_acknowledgements_it_is_what_waits(number: int) -> None:
    books = filled(acks=False)
    for _ in range(number):
        assert books.unfinished(A, up_to(number), settled=True)
        assert books.work.take() is not None
    assert not books.unfinished(A, up_to(number), settled=True)
    assert books.unfinished(A, up_to(3), settled=True)
