"""Delivery counts that are set again on the server after an outage."""

from __future__ import annotations

from penstock._core.ledger.failure_policy import RetryAt
from penstock._core.ledger.lease_clock import LeaseRenewal
from penstock._core.ledger.states import State
from support.ledger import A, B, SpyLedger, raw, state_of


def counts_to_set(
    ledger: SpyLedger, at: float = 0.0
) -> dict[tuple[bytes, int | None], list[bytes]]:
    renewals: list[LeaseRenewal] = ledger.leases.to_count_again(at)
    assert not any(renewal.late for renewal in renewals)
    return {(each.shard_state.shard.key, each.count): each.ids for each in renewals}


def test_running_entries_are_counted_again_and_waiting_ones_are_not() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.read(3, shard=B)
    ledger.start_next()
    assert counts_to_set(ledger) == {(A.key, 2): [raw(1)]}


def test_counts_are_set_per_shard_and_attempt_number() -> None:
    ledger = SpyLedger()
    ledger.recover(1, attempts=2)
    ledger.recover(2, shard=B, attempts=0)
    ledger.start_next()
    ledger.start_next()
    assert counts_to_set(ledger) == {(A.key, 4): [raw(1)], (B.key, 2): [raw(2)]}


def test_a_failed_entry_keeps_the_count_of_its_failed_attempt() -> None:
    ledger = SpyLedger()
    ledger.recover(1, attempts=1)
    ledger.fail(ledger.start_next(), RetryAt(5.0, 5.0))
    assert counts_to_set(ledger) == {(A.key, 3): [raw(1)]}


def test_an_entry_with_an_outcome_is_counted_only_on_a_further_attempt() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    ledger.recover(2, attempts=1)
    for _ in range(2):
        entry = ledger.start_next()
        ledger.finish(entry, ack=True)
        assert state_of(entry) is State.TO_ACK
    assert counts_to_set(ledger) == {(A.key, 3): [raw(2)]}


def test_an_entry_that_another_consumer_may_have_claimed_is_not_counted() -> None:
    ledger = SpyLedger(lease=60.0)
    ledger.read(1)
    ledger.start_next()
    assert counts_to_set(ledger, 39.0)
    assert not counts_to_set(ledger, 40.0)
