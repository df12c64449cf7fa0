"""Statistics that the ledger reports."""

from __future__ import annotations

from penstock._core.ledger.failure_policy import Dropped, RetryAt
from support.ledger import GIVEN_UP, SpyLedger


def test_every_possible_outcome_of_a_message_is_counted() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2, 3, 4, 5, 6)
    ledger.finish(ledger.start_next(), ack=True)
    ledger.finish(ledger.start_next(), ack=False)
    ledger.fail(ledger.start_next(), RetryAt(5.0, 5.0))
    ledger.fail(ledger.start_next(), Dropped("no"))
    ledger.fail(ledger.start_next(), GIVEN_UP)
    counted = ledger.statistics()
    assert (counted.received, counted.left_open, counted.retried) == (6, 1, 1)
    assert (counted.dropped, counted.uncommitted, counted.queued) == (1, 2, 1)
    # The waiting entry, the postponed one, and the one to dead-letter.
    assert (counted.in_hand, counted.bytes_in_hand) == (3, 30)
    for batch in ledger.acks.to_send():
        ledger.ack_confirmed(batch)
    [dead_lettering] = ledger.acks.dead_letters_to_send(10)
    ledger.dead_letter_confirmed(dead_lettering, ours=True)
    counted = ledger.statistics()
    assert (counted.acknowledged, counted.dead_lettered) == (2, 1)
    assert (counted.in_hand, counted.uncommitted) == (2, 0)
