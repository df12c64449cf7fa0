"""`testing.message`: messages for handlers that tests call directly."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type

import msgspec
import pytest

from penstock import ConfigurationError, EntryId, Message, UsageError
from penstock.testing import Outcome, RecordedMessage, Sent, Status, message


class Order(msgspec.Struct):
    id: int


def test_a_message_has_what_it_is_given() -> None:
    order = Order(7)
    it = message(
        order,
        key="k",
        headers={"type": "t"},
        id="5-1",
        stream="orders",
        shard=2,
        attempt=3,
    )
    assert_type(it, RecordedMessage[Order])
    typed: Message[Order] = it
    assert typed.payload is order
    assert it.key == "k"
    assert dict(it.headers) == {"type": "t"}
    assert it.id == EntryId(5, 1)
    assert (it.stream, it.shard, it.attempt, it.epoch) == ("orders", 2, 3, 0)
    assert not it.lost
    assert it.lease_left() > 1


def test_a_message_has_defaults_for_the_rest() -> None:
    first, second = message(None), message(object())
    assert first.payload is None
    assert first.key is None
    assert dict(first.headers) == {}
    assert first.id != second.id
    assert abs(first.timestamp - datetime.now(UTC)).total_seconds() < 60
    assert (first.stream, first.shard, first.attempt) == ("test", 0, 1)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert message(b"", time=noon).timestamp == noon


def test_a_message_without_an_outcome_has_none() -> None:
    it = message(b"")
    assert it.outcome is None
    assert it.transactions == []


def test_an_acknowledgement_is_recorded() -> None:
    it = message(b"", attempt=2)
    assert it.ack()
    assert it.ack()
    assert it.outcome == Outcome(Status.ACKNOWLEDGED, attempts=2)
    assert it.outcome.status == "acknowledged"
    with pytest.raises(UsageError, match="acknowledged already"):
        it.nack()


def test_a_nack_is_recorded_with_its_delay() -> None:
    it = message(b"")
    assert it.nack(delay=5)
    assert it.outcome == Outcome(Status.RETRIED, 1, delay=5)
    with pytest.raises(UsageError, match="nacked"):
        it.ack()


def test_a_nack_of_the_last_attempt_is_a_dead_letter() -> None:
    it = message(b"", attempt=5)
    it.nack()
    assert it.outcome == Outcome(Status.DEAD_LETTERED, 5, reason="nacked")


def test_a_rejection_is_recorded_with_its_reason() -> None:
    it = message(b"")
    assert it.reject("no such customer")
    assert it.outcome == Outcome(Status.DEAD_LETTERED, 1, reason="no such customer")


async def test_a_transaction_is_recorded_and_acknowledges() -> None:
    it = message(b"", key="a")
    async with it.transaction() as tx:
        tx.send("totals", Order(1), key=it.key, headers={"type": "t"})
        tx.command("HINCRBY", "clicks", "a", 1)
        assert it.outcome is None
    assert tx.applied
    assert [receipt.stream for receipt in tx.receipts] == ["totals"]
    [record] = it.transactions
    assert record.sent == [Sent("totals", Order(1), "a", {"type": "t"})]
    assert record.commands == [("HINCRBY", "clicks", "a", 1)]
    assert record.applied
    assert it.outcome == Outcome(Status.ACKNOWLEDGED, 1)


async def test_a_transaction_whose_block_raises_is_not_applied() -> None:
    it = message(b"")
    with pytest.raises(ValueError, match="no"):
        async with it.transaction() as tx:
            tx.command("INCR", "n")
            raise ValueError("no")
    [record] = it.transactions
    assert not record.applied
    assert it.outcome is None


async def test_a_transaction_refuses_what_a_real_one_refuses() -> None:
    it = message(b"")
    async with it.transaction() as tx:
        with pytest.raises(ConfigurationError, match="HINCRBY"):
            tx.command("HINCRBY", "clicks", "a", "many")
        with pytest.raises(ConfigurationError, match="stream name"):
            tx.send("", b"")
    assert it.transactions[0].sent == []
    assert it.transactions[0].commands == []
    with pytest.raises(UsageError, match="acknowledged already"):
        it.transaction()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"attempt": 0}, "attempt"),
        ({"shard": -1}, "shard"),
        ({"stream": ""}, "stream name"),
        ({"headers": {"key": "x"}}, "reserved"),
        ({"key": 7}, "must be strings"),
        ({"id": "today"}, "not an entry id"),
        ({"time": datetime(2026, 3, 1)}, "naive"),  # noqa: DTZ001 - that is the point
        ({"id": "1-1", "time": datetime.now(UTC)}, "leave time= out"),
    ],
)
def test_what_no_message_can_have_is_refused(
    options: dict[str, object], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        message(b"", **options)  # type: ignore[arg-type]
