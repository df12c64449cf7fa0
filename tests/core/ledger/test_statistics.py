"""The statistics are the books' own numbers."""

from __future__ import annotations

from penstock._core.ledger.failure_policy import Dropped, RetryAt
from support.ledger import GIVEN_UP, Books


def test_every_way_that_a_message_can_go_is_counted() -> None:
    books = Books()
    books.read(1, 2, 3, 4, 5, 6)
    books.finish(books.started(), ack=True)
    books.finish(books.started(), ack=False)
    books.fail(books.started(), RetryAt(5.0, 5.0))
    books.fail(books.started(), Dropped("no"))
    books.fail(books.started(), GIVEN_UP)
    counted = books.statistics()
    assert (counted.received, counted.left_open, counted.retried) == (6, 1, 1)
    assert (counted.dropped, counted.uncommitted, counted.queued) == (1, 2, 1)
    # The one that waits, the one that is tried again, and the one that is dying.
    assert (counted.in_hand, counted.bytes_in_hand) == (3, 30)
    for batch in books.acks.to_send():
        books.ack_confirmed(batch)
    [dead_lettering] = books.acks.dead_letters_to_send(10)
    books.dead_letter_confirmed(dead_lettering, ours=True)
    counted = books.statistics()
    assert (counted.acknowledged, counted.dead_lettered) == (2, 1)
    assert (counted.in_hand, counted.uncommitted) == (2, 0)
