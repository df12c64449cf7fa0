"""The observer of outcomes: it gets entries once the server has confirmed them."""

from __future__ import annotations

from collections.abc import Sequence

from penstock._core.ledger.entry import Entry
from support.ledger import GIVEN_UP, SpyLedger, ids, only


def observed(ledger: SpyLedger) -> list[Entry]:
    seen: list[Entry] = []

    def observe(entries: Sequence[Entry]) -> None:
        seen.extend(entries)

    ledger.acks.observer = observe
    return seen


def test_an_acknowledgement_is_observed_once_it_is_confirmed() -> None:
    ledger = SpyLedger()
    seen = observed(ledger)
    ledger.read(1, 2)
    entries = ledger.process_next(2)
    batch = only(ledger.acks.to_send())
    ledger.acks.unconfirmed(batch)
    assert seen == []
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert seen == entries


def test_a_transaction_is_observed() -> None:
    ledger = SpyLedger()
    seen = observed(ledger)
    ledger.read(1)
    entry = ledger.start_next()
    ledger.applied(entry)
    assert seen == [entry]


def test_a_dead_letter_is_observed_unless_another_consumer_has_the_entry() -> None:
    ledger = SpyLedger()
    seen = observed(ledger)
    ledger.read(1, 2)
    for _ in range(2):
        ledger.fail_next(GIVEN_UP)
    ours, theirs = ledger.acks.dead_letters_to_send(2)
    ledger.dead_letter_confirmed(ours, ours=True)
    ledger.dead_letter_confirmed(theirs, ours=False)
    assert ids(seen) == [ours.id]
    assert seen[0].disposition == GIVEN_UP


def test_a_dead_letter_that_is_written_first_is_observed_when_it_is_acknowledged() -> (
    None
):
    ledger = SpyLedger()
    seen = observed(ledger)
    ledger.read(1)
    ledger.fail_next(GIVEN_UP)
    [entry] = ledger.acks.dead_letters_to_send(1)
    ledger.dead_letter_written(entry)
    assert seen == []
    ledger.ack_confirmed(only(ledger.acks.to_send()))
    assert seen == [entry]
    assert entry.disposition == GIVEN_UP
