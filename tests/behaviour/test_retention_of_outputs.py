"""`retention=` of a transaction's messages, and `dead_letter_retention=`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock import (
    KEEP_ALL,
    ConfigurationError,
    Consumer,
    MaxAge,
    MaxLen,
    Message,
    Retention,
    Retry,
    Router,
    TransactionBroken,
    admin,
)
from support.events import Events
from support.failing import Boom, handled, running
from support.server import server, with_login
from support.waiting import eventually, send

UNBOUNDED = "unbounded_stream"
ONCE = Retry(max_attempts=1)


async def fails(message: Message[bytes]) -> None:
    raise Boom(message.id)


async def outputs(
    url: str, stream: str, redis: Any, events: Events, retention: Retention | None
) -> int:
    """Send each of nine messages on in a transaction; return how many are kept."""
    await send(url, stream, *range(9))

    async def handle(message: Message[bytes]) -> None:
        async with message.transaction() as tx:
            tx.send(f"{stream}.out", message.payload, retention=retention)
            tx.send(f"{stream}.spread", b"", key="k", shards=2, retention=retention)

    async with running(Consumer(stream, url=url, group="g", on_event=events), handle):
        await eventually(lambda: handled(redis, stream, 9))
    return int(await redis.xlen(f"{stream}.out"))


async def test_a_transaction_bounds_the_streams_that_it_sends_to(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    assert await outputs(url, stream, redis, events, MaxLen(3, exact=True)) == 3
    assert [f[b"msg"] for _, f in await redis.xrange(f"{stream}.out")] == [
        b"6",
        b"7",
        b"8",
    ]
    lengths = [await redis.xlen(f"{stream}.spread:{n}") for n in range(2)]
    assert sorted(lengths) == [0, 3]
    assert not events.named(UNBOUNDED)


async def test_a_transaction_deletes_what_is_older_than_an_age(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.xadd(f"{stream}.out", {"msg": "old"}, id="1-1")
    assert await outputs(url, stream, redis, events, MaxAge(3600, exact=True)) == 9
    assert not events.named(UNBOUNDED)


async def test_streams_of_transactions_without_a_retention_are_reported_once(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    assert await outputs(url, stream, redis, events, None) == 9
    reported = [event.facts["stream"] for event in events.named(UNBOUNDED)]
    assert reported == [f"{stream}.out", f"{stream}.spread"]
    assert "retention=KEEP_ALL" in str(events.named(UNBOUNDED)[0])


async def test_streams_that_are_meant_to_grow_are_not_reported(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    assert await outputs(url, stream, redis, events, KEEP_ALL) == 9
    assert not events.named(UNBOUNDED)


async def test_a_retention_that_is_none_is_refused_in_the_block(
    url: str, stream: str, redis: Any
) -> None:
    wrong: Any = 5
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        message = await consumer.next()
        with pytest.raises(ConfigurationError, match="retention"):
            async with message.transaction() as tx:
                tx.send(f"{stream}.out", b"", retention=wrong)
    assert not await redis.exists(f"{stream}.out")
    with pytest.raises(ConfigurationError, match="retention"):
        Consumer(stream, group="g", dead_letter_retention=wrong)


async def letters(redis: Any, stream: str) -> list[bytes]:
    return [fields[b"msg"] for _, fields in await redis.xrange(f"{stream}.dead")]


async def test_dead_letters_are_bounded(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(9))
    consumer = Consumer(
        stream,
        url=url,
        group="g",
        retry=ONCE,
        dead_letter_retention=MaxLen(3, exact=True),
        on_event=events,
    )
    async with running(consumer, fails):
        await eventually(lambda: handled(redis, stream, 9))
    assert await letters(redis, stream) == [b"6", b"7", b"8"]
    assert not events.named(UNBOUNDED)
    found = await admin.dead.list(stream, url=url)
    assert [(letter.payload, letter.attempts) for letter in found] == [
        (b"6", 1),
        (b"7", 1),
        (b"8", 1),
    ]


async def test_dead_letters_are_bounded_where_scripts_are_forbidden(
    tmp_path: Path, stream: str
) -> None:
    async with server(
        tmp_path, "--user", *["u", "on", ">pw", "~*", "&*", "+@all", "-eval"]
    ) as own:
        await send(own.url, stream, *range(9))
        consumer = Consumer(
            stream,
            url=with_login(own.url, "u", "pw"),
            group="g",
            retry=ONCE,
            dead_letter_retention=MaxLen(3, exact=True),
        )
        async with own.client() as client:
            async with running(consumer, fails):
                await eventually(lambda: handled(client, stream, 9))
            assert await letters(client, stream) == [b"6", b"7", b"8"]


async def test_dead_letters_of_broken_transactions_are_bounded(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(9))
    broken = 0

    async def handle(message: Message[bytes]) -> None:
        nonlocal broken
        try:
            async with message.transaction() as tx:
                tx.command("PUBLISH", f"{stream}.full", "x", keys=())  # stays done
                tx.command("SET", f"{stream}.full", 2**63 - 1)
                tx.command("INCR", f"{stream}.full")
        except TransactionBroken:
            broken += 1
            raise

    consumer = Consumer(
        stream,
        url=url,
        group="g",
        retry=ONCE,
        dead_letter_retention=MaxLen(3, exact=True),
    )
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 9))
    assert broken == 9
    assert await letters(redis, stream) == [b"6", b"7", b"8"]
    found = await admin.dead.list(stream, url=url)
    assert {letter.error for letter in found} == {"TransactionBroken"}
    assert all("3 of 3, was refused" in letter.reason for letter in found)


async def test_dead_letters_without_a_retention_are_reported_once(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(9))
    async with running(
        Consumer(stream, url=url, group="g", retry=ONCE, on_event=events), fails
    ):
        await eventually(lambda: handled(redis, stream, 9))
    [event] = events.named(UNBOUNDED)
    assert event.facts["stream"] == f"{stream}.dead"
    assert "dead_letter_retention=" in str(event)
    assert await redis.xlen(f"{stream}.dead") == 9


async def test_a_router_bounds_the_dead_letters_of_all_its_handlers(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(9))
    router = Router(retry=ONCE, dead_letter_retention=MaxLen(2), on_event=events)
    router.handler(stream, group="g")(fails)
    async with router.running(url):
        await eventually(lambda: handled(redis, stream, 9))

    assert not events.named(UNBOUNDED)
