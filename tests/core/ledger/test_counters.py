"""Counters: what has happened, by stream, handler and cause."""

from __future__ import annotations

from penstock._core.ledger.counters import Counters
from penstock._core.ledger.failure_policy import DeadLettered
from support.ledger import A, B, SpyLedger, later


def test_the_total_adds_all_counts() -> None:
    one = Counters(received=3, late=1)
    two = Counters(received=4, lost=2)
    for counters, handler in ((one, "f"), (two, "f"), (two, "g")):
        counters.count_retry(handler)
        counters.count_dead_letter(handler, "attempts")
    total = Counters.total([one, two])
    assert (total.received, total.late, total.lost) == (7, 1, 2)
    assert total.retries == {"f": 2, "g": 1}
    assert total.dead_letters == {("f", "attempts"): 2, ("g", "attempts"): 1}
    assert (total.retried, total.dead) == (3, 3)
    assert Counters.total([]) == Counters()


def test_each_stream_is_counted_by_itself() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    ledger.read(3, shard=B)
    counters = ledger.shards.counters
    assert (counters["a"].received, counters["b"].received) == (2, 1)
    assert ledger.counters.received == 3
    ledger.stream_recreated(A)
    assert (counters["a"].lost, counters["b"].lost) == (2, 0)
    ledger.read(1)
    assert counters["a"].received == 3, "the new state of a shard counts on"


def test_retries_and_dead_letters_are_counted_with_handler_and_cause() -> None:
    ledger = SpyLedger()
    ledger.read(1, 2)
    first, second = ledger.work.take_fresh(2)
    first.handler = second.handler = "f"
    ledger.fail(first, later())
    ledger.fail(second, DeadLettered("no", cause="rejected"))
    for entry in ledger.acks.dead_letters_to_send(10):
        ledger.dead_letter_confirmed(entry, ours=True)
    counters = ledger.shards.counters["a"]
    assert counters.retries == {"f": 1}
    assert counters.dead_letters == {("f", "rejected"): 1}
