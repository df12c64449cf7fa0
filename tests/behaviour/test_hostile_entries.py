"""Hostile entries: an entry may have any content, and none of it is trusted."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import (
    EARLIEST,
    REALTIME,
    Consumer,
    Fields,
    Message,
    Producer,
    Retry,
    admin,
)
from penstock._core.messages import dead_letter
from support.dead_letters import origin
from support.events import Events
from support.failing import Boom, running
from support.waiting import eventually, pending

FORGED = dead_letter.write([b"msg", b"forged", b"key", b"f"], origin("elsewhere"))

ENTRIES: dict[str, list[bytes]] = {
    "everything twice": [
        *(b"msg", b"1", b"msg", b"2", b"key", b"a", b"key", b"b"),
        *(b"content-type", b"text/a", b"content-type", b"text/b"),
        *(b"h", b"first", b"h", b"second"),
    ],
    "body last": [b"h", b"first", b"key", b"a", b"h", b"second", b"msg", b"1"],
    "names": [
        b"msg",
        b"1",
        b"",
        b"empty",
        b"\xff\x00",
        b"\xfe",
        b"n" * 10_000,
        b"long",
    ],
    "lines": [b"msg", b"1", b"a\r\nb", b"\r\n$5\r\n", b"\x1b[31m", b"\x1b[0m"],
    "attempts": [b"msg", b"1", b"dead.attempts", b"99", b"attempt", b"99"],
    "a dead letter's trail": [b"msg", b"1", *FORGED[4:]],
    "a dead letter twice": dead_letter.write(FORGED, origin("elsewhere", id="9-9")),
    "half a trail": [b"msg", b"1", *FORGED[4:-2]],
    "a trail in front": [*FORGED[4:], b"msg", b"1"],
    "only a trail": FORGED[4:],
    "a value named": [b"msg", b"content-type", b"key", b"msg", b"x", b"key"],
}


def pairs(fields: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(fields[::2], fields[1::2], strict=True))


def text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


@pytest.fixture(params=ENTRIES.values(), ids=list(ENTRIES))
async def entry(request: pytest.FixtureRequest, redis: Any, stream: str) -> list[bytes]:
    fields: list[bytes] = request.param
    await redis.execute_command("XADD", stream, "*", *fields)
    return fields


async def test_all_fields_are_delivered_and_the_first_of_a_name_counts(
    url: str, stream: str, entry: list[bytes]
) -> None:
    async with Consumer(
        stream, url=url, mode=REALTIME, start=EARLIEST, payload=Fields
    ) as consumer:
        message = await consumer.next()
    assert list(message.payload) == pairs(entry)
    firsts = dict(reversed(pairs(entry)))
    others = [pair for pair in pairs(entry) if pair[0] not in {b"msg", b"key"}]
    assert message.attempt == 1
    assert message.key == (text(firsts[b"key"]) if b"key" in firsts else None)
    assert list(message.headers.pairs) == [(text(n), text(v)) for n, v in others]
    assert dict(message.headers) == {
        text(n): text(v) for n, v in firsts.items() if n not in {b"msg", b"key"}
    }


async def test_attempts_are_the_server_s_and_the_dead_letter_is_a_genuine_one(
    url: str, stream: str, redis: Any, events: Events, entry: list[bytes]
) -> None:
    attempts: list[int] = []

    async def fail(message: Message[Fields]) -> None:
        attempts.append(message.attempt)
        raise Boom

    async def is_dead_lettered() -> bool:
        if not await redis.exists(f"{stream}.dead"):
            return False
        return await pending(redis, stream, "g") == 0

    consumer = Consumer(
        stream,
        url=url,
        group="g",
        payload=Fields,
        retry=Retry(max_attempts=2, backoff=[0.01]),
        on_event=events,
    )
    async with running(consumer, fail):
        await eventually(is_dead_lettered)
    assert attempts == [1, 2]
    [letter] = await admin.dead.list(stream, url=url)
    assert (letter.stream, letter.attempts, letter.group) == (stream, 2, "g")
    assert list(letter.fields) == pairs(entry)
    assert await admin.dead.redrive(stream, url=url) == 1
    [first, again] = await redis.execute_command("XRANGE", stream, "-", "+")
    assert again[1] == first[1]
    assert await admin.dead.list(stream, url=url) == []
    for event in events:
        assert str(event).isprintable()


async def test_a_dead_letter_that_fails_becomes_a_dead_letter_of_a_dead_letter(
    url: str, stream: str, redis: Any, entry: list[bytes]
) -> None:
    dead = f"{stream}.dead"
    await redis.execute_command("XADD", dead, "*", *entry)
    async with Consumer(dead, url=url, group="g", payload=Fields) as consumer:
        (await consumer.next()).reject("no")
        await consumer.commit()
    [letter] = await admin.dead.list(dead, url=url)
    assert (letter.stream, letter.reason) == (dead, "no")
    assert list(letter.fields) == pairs(entry)


async def test_headers_that_look_like_those_of_a_dead_letter_are_preserved(
    url: str, stream: str
) -> None:
    trail = {text(name): text(value) for name, value in pairs(FORGED[4:])}
    async with Producer(url) as producer:
        await producer.send(stream, b"x", headers=trail)
    async with Consumer(stream, url=url, group="g") as consumer:
        message = await consumer.next()
        assert dict(message.headers) == trail
        message.reject()
        await consumer.commit()
    [letter] = await admin.dead.list(stream, url=url)
    assert dict(letter.headers) == trail
    assert letter.reason == "rejected"
