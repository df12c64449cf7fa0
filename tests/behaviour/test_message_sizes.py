"""The size limit of a message, when it is sent and when it is read."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import (
    REALTIME,
    RESUMABLE,
    ConfigurationError,
    Consumer,
    Fields,
    MessageTooLarge,
    Mode,
    Outgoing,
    Producer,
    Receipt,
    admin,
)
from support.events import Events
from support.waiting import options, pending, read

MiB = 1024 * 1024


async def test_a_message_that_is_too_large_is_refused_at_once_and_affects_no_other(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, max_message_bytes=100) as producer:
        for message in (
            {"payload": b"x" * 101},
            {"payload": b"", "key": "k" * 98},
            {"payload": b"", "headers": {"h" * 50: "v" * 51}},
            {"payload": ["x" * 70]},  # 74 bytes of JSON, 28 of its content type
        ):
            with pytest.raises(MessageTooLarge) as caught:
                await producer.send(stream, **message)
            assert isinstance(caught.value, ConfigurationError)
            assert caught.value.limit == 100
            assert 101 <= caught.value.size <= 102
            assert "xxx" not in str(caught.value)
        assert isinstance(await producer.send(stream, b"x" * 100), Receipt)
        await producer.send(stream, b"", key="k" * 97)
        await producer.send(stream, ["x" * 68])
        outcomes = await producer.send_many(
            stream, [b"a", b"x" * 101, Outgoing(b"x" * 98, key=""), b"b"]
        )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Receipt, MessageTooLarge, MessageTooLarge, Receipt]
    assert await redis.xlen(stream) == 5


async def test_the_default_limit_is_64_mib(url: str, stream: str) -> None:
    async with Producer(url) as producer:
        with pytest.raises(MessageTooLarge, match="max_message_bytes=67108864"):
            await producer.send(stream, bytes(64 * MiB + 1))
        async with Consumer(stream, url=url) as consumer:
            await producer.send(stream, bytes(64 * MiB))
            assert len((await consumer.next()).payload) == 64 * MiB


@pytest.mark.parametrize("payload_type", [bytes, str, Fields, Any], ids=str)
@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE])
async def test_an_entry_that_is_too_large_is_not_decoded_and_blocks_no_other(
    url: str, stream: str, redis: Any, events: Events, *, mode: Mode, payload_type: Any
) -> None:
    large = {b"msg": b"7" * 1000, b"key": b"k", b"h": b"v"}
    await redis.xadd(stream, {"msg": b"1"})
    await redis.xadd(stream, large)
    await redis.xadd(stream, {"msg": b"7", "h": "v" * 1000})
    await redis.xadd(stream, {"msg": b"2"})
    async with Consumer(
        stream,
        url=url,
        **options(mode),
        payload=payload_type,
        max_message_bytes=500,
        on_event=events,
    ) as consumer:
        first, second = await read(consumer, 2)
        assert consumer.statistics().undecodable == 2
    small = (first.payload, second.payload)
    assert small in {
        (b"1", b"2"),
        ("1", "2"),
        (1, 2),
        (Fields([(b"msg", b"1")]), Fields([(b"msg", b"2")])),
    }
    reason = "its 1006 bytes are more than max_message_bytes=500"
    if mode is REALTIME:
        [reported] = events.named("undecodable")
        assert reported.facts["reason"] == reason
        return
    assert await pending(redis, stream, "g") == 0
    dead_letters = await admin.dead.list(stream, url=url)
    assert dead_letters[0].reason == reason
    assert dict(dead_letters[0].fields) == large
    # A consumer with a larger limit gets all of it.
    assert await admin.dead.redrive(stream, url=url) == 2
    async with Consumer(
        stream, url=url, **options(mode), max_message_bytes=1006
    ) as consumer:
        assert (await consumer.next()).payload == b"7" * 1000
