"""Messages whose reply is lost and whose repeat is refused, for its id for example."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import Outgoing, Producer, Receipt, SendFailed, SendUnknown
from support.events import Events
from support.proxy import proxy

BOTH = pytest.mark.parametrize("how", [{"resend": True}, {"idempotent": True}])


async def ids(redis: Any, stream: str) -> list[str]:
    return [id_.decode() for id_, _ in await redis.xrange(stream)]


@BOTH
async def test_a_repeat_that_is_refused_does_not_say_that_nothing_is_stored(
    url: str, stream: str, redis: Any, events: Events, how: dict[str, Any]
) -> None:
    """The reply to the first write was lost, and its id may be given only once."""
    async with (
        proxy(url) as between,
        Producer(between.url, on_event=events, **how) as producer,
    ):
        await producer.send(stream, b"0", id="1-1")
        between.cut_on, between.cut_next_reply = stream.encode(), True
        outcome = await asyncio.gather(
            producer.send(stream, b"1", id="2-1"), return_exceptions=True
        )
        assert between.cuts == 1
    assert await redis.xlen(stream) == 2
    if "resend" in how:
        assert isinstance(outcome[0], SendUnknown)
        assert events.named("send_unknown")
    else:
        assert isinstance(outcome[0], Receipt)
    assert not events.named("send_failed")


@BOTH
@pytest.mark.parametrize("call", ["send_many", "enqueue", "enqueue_nowait"])
async def test_each_message_of_a_repeated_write_has_an_outcome_that_is_true(
    url: str, stream: str, redis: Any, how: dict[str, Any], call: str
) -> None:
    """The replies to one write of eight messages are lost."""
    others = f"{stream}-other"
    await redis.set(f"{stream}-string", "no stream")
    messages = [
        Outgoing(b"0", id="5-1"),
        Outgoing(b"1", timestamp=6),
        Outgoing(b"2", timestamp=7),
        Outgoing(b"3", id="8-1"),
    ]
    async with proxy(url) as between, Producer(between.url, **how) as producer:
        await producer.send(stream, b"first", id="1-1")
        between.cut_on, between.cut_next_reply = stream.encode(), True
        outcomes: list[Any]
        if call == "send_many":
            calls = [
                producer.send_many(stream, messages),
                producer.send_many(f"{stream}-string", [b"4"]),
                producer.send_many(others, [b"5", b"6"]),
            ]
            outcomes = [one for each in await asyncio.gather(*calls) for one in each]
        else:
            futures = []
            for one in messages:
                choices: Any = {"id": one.id, "timestamp": one.timestamp}
                choices = {name: it for name, it in choices.items() if it is not None}
                futures.append(producer.enqueue_nowait(stream, one.payload, **choices))
            futures.append(producer.enqueue_nowait(f"{stream}-string", b"4"))
            futures += [producer.enqueue_nowait(others, b"%d" % n) for n in (5, 6)]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert between.cuts == 1
    kinds = [type(outcome) for outcome in outcomes]
    found = await ids(redis, stream)
    # Whatever was not stored, nobody said of a stored message that it was not.
    assert SendFailed not in kinds
    if "idempotent" in how:
        assert kinds == [*[Receipt] * 4, SendUnknown, Receipt, Receipt]
        assert found == ["1-1", *(str(one.id) for one in outcomes[:4])]
    else:
        assert kinds == [*[SendUnknown] * 4, SendUnknown, Receipt, Receipt]
        assert found == ["1-1", "5-1", "6-0", "7-0", "8-1"]
        assert all("refused then" in str(one) for one in outcomes[:5])


async def test_a_repeat_with_the_last_timestamp_is_stored_again_by_resend(
    url: str, stream: str, redis: Any
) -> None:
    """The server chooses the rest of its id, so nothing refuses the repeat."""
    async with proxy(url) as between, Producer(between.url, resend=True) as producer:
        await producer.send(stream, b"first", id="1-1")
        between.cut_on, between.cut_next_reply = stream.encode(), True
        receipt = await producer.send(stream, b"1", timestamp=6)
    assert str(receipt.id) == "6-1"
    assert await ids(redis, stream) == ["1-1", "6-0", "6-1"]


@BOTH
async def test_a_first_write_that_is_refused_for_its_id_has_failed_for_certain(
    url: str, stream: str, redis: Any, how: dict[str, Any]
) -> None:
    async with Producer(url, **how) as producer:
        await producer.send(stream, b"first", id="5-1")
        with pytest.raises(SendFailed) as caught:
            await producer.send(stream, b"1", id="5-1")
        assert caught.value.code == "ID"
        [outcome] = await producer.send_many(stream, [Outgoing(b"1", timestamp=4)])
        assert isinstance(outcome, SendFailed)
    assert await ids(redis, stream) == ["5-1"]
