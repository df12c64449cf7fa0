"""Dead letters: a message that is given up is copied, and only then acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import (
    DROP,
    LOAD_BALANCED,
    RESUMABLE,
    ROLLING,
    STOP,
    ConfigurationError,
    Consumer,
    DeadLetters,
    Fields,
    GaveUp,
    Message,
    Prefetch,
    Producer,
    Retry,
    admin,
)
from penstock._core.ledger.states import State
from support.events import Events
from support.failing import Boom, handled, running
from support.proxy import proxy
from support.server import server, with_login
from support.waiting import deliveries, eventually, numbers, pending, read, send

ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, backoff=[0.01])


class Order(msgspec.Struct):
    id: int


async def fails(message: Message[Any]) -> None:
    raise Boom(f"no way, {message.id}")


async def test_after_the_last_attempt_a_message_is_dead_lettered_with_its_details(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async with Producer(url, shards=2) as producer:
        receipt = await producer.send(
            stream, b"\x00\xff", key="k", headers={"a": "1", "dead.id": "forged"}
        )
    consumer = Consumer(
        stream, url=url, group="g", name="me", retry=THRICE, on_event=events
    )
    async with running(consumer, fails):
        await eventually(lambda: done(redis, f"{stream}:{receipt.shard}"))
        await consumer.commit()
        assert consumer.statistics().dead_lettered == 1
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert (dead_letter.payload, dead_letter.key) == (b"\x00\xff", "k")
    assert dead_letter.headers == {"a": "1", "dead.id": "forged"}
    assert (dead_letter.stream, dead_letter.shard) == (stream, receipt.shard)
    assert (dead_letter.entry_id, dead_letter.group, dead_letter.consumer) == (
        receipt.id,
        "g",
        "me",
    )
    assert (dead_letter.attempts, dead_letter.error) == (3, "Boom")
    assert "no way" in dead_letter.reason
    assert "raise Boom" in dead_letter.traceback
    assert dead_letter.time is not None
    assert dead_letter.time.utcoffset() is not None
    [event] = events.named("gave_up")
    assert event.facts["attempt"] == 3
    assert "no way" not in str(event)


async def done(redis: Any, key: str) -> bool:
    groups = await redis.xinfo_groups(key)
    return bool(groups[0]["pending"] == 0 and groups[0]["last-delivered-id"] != b"0-0")


class Mute(Exception):  # noqa: N818 - what it does
    def __str__(self) -> str:
        raise ZeroDivisionError


async def test_an_exception_without_text_is_handled_like_any_other(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)

    async def handle(_: Message[bytes]) -> None:
        raise Mute

    async with running(Consumer(stream, url=url, group="g", retry=ONCE), handle):
        await eventually(lambda: handled(redis, stream, 2))
    found = await admin.dead.list(stream, url=url)
    assert [dead_letter.reason for dead_letter in found] == ["Mute", "Mute"]


async def test_a_redriven_message_returns_to_its_shard_with_all_its_attempts(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    fixed = False
    attempts = []

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        if not fixed:
            raise Boom

    consumer = Consumer(stream, url=url, group="g", retry=THRICE)
    async with running(consumer, handle):
        await eventually(lambda: is_dead(redis, stream, 1))
        fixed = True
        assert await admin.dead.redrive(stream, url=url) == 1
        await eventually(lambda: handled(redis, stream, 2))
    assert attempts == [1, 2, 3, 1]
    assert await redis.xlen(f"{stream}.dead") == 0


async def is_dead(redis: Any, stream: str, count: int) -> bool:
    return bool(await redis.xlen(f"{stream}.dead") == count)


@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED])
async def test_a_rejected_message_is_dead_lettered_at_once(
    url: str, stream: str, redis: Any, mode: Any
) -> None:
    await send(url, stream, 1, 2)

    async def handle(message: Message[bytes]) -> None:
        if message.payload == b"1":
            message.reject("a bad one")
            message.reject("twice is once")

    consumer = Consumer(stream, url=url, mode=mode, group="g")
    async with running(consumer, handle):
        await eventually(lambda: handled(redis, stream, 2))
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert (dead_letter.reason, dead_letter.attempts) == ("a bad one", 1)


async def test_with_manual_acks_a_message_may_be_rejected_late(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        first, second = await read(consumer, 2)
        second.ack()
        first.reject("late")  # long after the next call
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert (dead_letter.reason, dead_letter.payload) == ("late", b"1")


@pytest.mark.parametrize("how", ["loop", "next", "take", "run", "batches"])
async def test_an_undecodable_message_is_dead_lettered_and_not_delivered(
    url: str, stream: str, redis: Any, how: str
) -> None:
    bad = [b"{", b'{"id": "one"}', b"[" * 5000, b""]
    for payload in bad:
        await redis.xadd(stream, {"msg": payload})
    await redis.xadd(stream, {"other": "x"})
    await redis.xadd(stream, {"msg": b'{"id": 7}'})
    consumer = Consumer(stream, url=url, group="g", payload=Order)
    async with consumer, asyncio.timeout(10):
        assert await READERS[how](consumer) == Order(7)
    found = await admin.dead.list(stream, url=url)
    assert [dead_letter.payload for dead_letter in found] == [*bad, None]
    assert {dead_letter.error for dead_letter in found} == {"DecodeError"}
    assert await pending(redis, stream, "g") == 0


async def by_loop(consumer: Consumer[Order]) -> Order | None:
    async for message in consumer:
        return message.payload
    return None


async def by_next(consumer: Consumer[Order]) -> Order:
    return (await consumer.next()).payload


async def by_take(consumer: Consumer[Order]) -> Order:
    while not (messages := await consumer.take(10, timeout=0.05)):
        pass
    return messages[0].payload


async def by_run(consumer: Consumer[Order]) -> Order:
    seen: list[Order] = []

    async def handle(message: Message[Order]) -> None:
        seen.append(message.payload)
        await consumer.aclose()

    await consumer.run(handle, concurrency=3)
    return seen[0]


async def by_batches(consumer: Consumer[Order]) -> Order | None:
    async for messages in consumer.batches(3, linger=0.05):
        return messages[0].payload
    return None


READERS: dict[str, Callable[[Any], Awaitable[Order | None]]] = {
    "loop": by_loop,
    "next": by_next,
    "take": by_take,
    "run": by_run,
    "batches": by_batches,
}


async def test_a_foreign_entry_is_dead_lettered_with_all_its_fields(
    url: str, stream: str, redis: Any
) -> None:
    pairs = [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]
    await redis.execute_command("XADD", stream, "*", *[w for p in pairs for w in p])
    async with Consumer(stream, url=url, group="g") as consumer:
        assert await consumer.next(timeout=0.1) is None
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert dead_letter.fields == Fields(pairs)


async def test_the_dead_letter_stream_may_be_named(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    consumer = Consumer(
        stream, url=url, group="g", retry=ONCE, dead_letters=f"{stream}-failed"
    )
    async with running(consumer, fails):
        await eventually(lambda: handled(redis, stream, 1))
    assert await redis.xlen(f"{stream}-failed") == 1
    assert not await redis.exists(f"{stream}.dead")


@pytest.mark.parametrize("name", ["", "orders", "{stream}", 7])
def test_an_invalid_name_of_the_dead_letter_stream_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError):
        Consumer("orders", url="redis://x", group="g", dead_letters=name)


@pytest.mark.parametrize("drop", [DROP, "drop"])
async def test_messages_may_be_dropped_instead_of_dead_lettered(
    url: str, stream: str, redis: Any, events: Events, drop: DeadLetters | str
) -> None:
    await send(url, stream, 1)
    consumer = Consumer(
        stream, url=url, group="g", retry=ONCE, dead_letters=drop, on_event=events
    )
    async with running(consumer, fails):
        await eventually(lambda: handled(redis, stream, 1))
        assert consumer.statistics().dropped == 1
    assert not await redis.exists(f"{stream}.dead")
    assert events.named("gave_up")[0].facts["then"] == "dropped"


async def test_with_stop_a_failed_message_stops_the_consumer_and_stays_pending(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10))
    finished: set[str] = set()

    async def handle(message: Message[bytes]) -> None:
        await asyncio.sleep(0.05)
        if message.payload == b"3":
            raise Boom("canary")
        finished.add(str(message.id))

    async with Consumer(
        stream, url=url, group="g", retry=ONCE, dead_letters=STOP
    ) as consumer:
        with pytest.raises(GaveUp, match="Boom") as caught:
            async with asyncio.timeout(10):
                await consumer.run(handle, concurrency=2)
    assert "canary" not in str(caught.value)
    assert isinstance(caught.value.__cause__, Boom)
    # The message of the other handler has been finished and acknowledged.
    left = await deliveries(redis, stream, "g")
    assert left[caught.value.id] == 2
    assert 3 <= len(finished) < 9
    assert not finished & left.keys()
    assert not await redis.exists(f"{stream}.dead")


async def test_without_scripts_the_copy_precedes_the_acknowledgement(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(5))
    await redis.execute_command(
        *("ACL", "SETUSER", "noscript", "on", ">pw", "~*", "&*", "+@all", "-@scripting")
    )
    login = with_login(url, "noscript", "pw")
    async with running(Consumer(stream, url=login, group="g", retry=ONCE), fails):
        await eventually(lambda: handled(redis, stream, 5))
    found = await admin.dead.list(stream, url=url)
    assert sorted(int(dead_letter.payload or b"") for dead_letter in found) == list(
        range(5)
    )


async def test_an_entry_of_ten_thousand_fields_is_dead_lettered_too(
    url: str, stream: str, redis: Any
) -> None:
    words = [b"%d" % number for number in range(10_000)]
    await redis.execute_command("XADD", stream, "*", *words)
    async with running(Consumer(stream, url=url, group="g"), fails):
        await eventually(lambda: handled(redis, stream, 1))
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert [word for pair in dead_letter.fields for word in pair] == words


async def test_a_lost_reply_creates_no_second_dead_letter(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with proxy(url) as between:
        between.cut_on, between.cut_next_reply = b"EVAL", True
        async with running(
            Consumer(stream, url=between.url, group="g", retry=ONCE), fails
        ) as consumer:
            await eventually(lambda: handled(redis, stream, 1))
            await consumer.commit()
        assert between.cuts == 1
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_while_the_server_has_no_memory_failed_messages_stay_pending(
    tmp_path: Path, events: Events
) -> None:
    async with server(tmp_path) as own:
        redis = own.client()
        await send(own.url, "s", *range(10))
        consumer = Consumer("s", url=own.url, group="g", retry=ONCE, on_event=events)

        async def refused() -> bool:
            return bool(events.named("dead_letters_refused"))

        async def odd_ones_fail(message: Message[bytes]) -> None:
            await redis.config_set("maxmemory", 1)
            if int(message.payload) % 2:
                raise Boom

        async with running(consumer, odd_ones_fail):
            await eventually(refused)
            # The other messages are acknowledged meanwhile.
            await eventually(lambda: five_left(redis))
            assert await redis.xlen("s.dead") == 0
            await redis.config_set("maxmemory", 0)
            await eventually(lambda: handled(redis, "s", 10))
        assert await redis.xlen("s.dead") == 5
        await redis.aclose()


async def five_left(redis: Any) -> bool:
    return await pending(redis, "s", "g") == 5


async def test_a_dead_letter_stream_of_another_type_loses_nothing(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    await redis.set(f"{stream}.dead", "a string")
    consumer = Consumer(stream, url=url, group="g", retry=ONCE, on_event=events)

    async def refused() -> bool:
        return bool(events.named("dead_letters_refused"))

    async with running(consumer, fails):
        await eventually(refused)
        assert await pending(redis, stream, "g") == 1
        await redis.delete(f"{stream}.dead")
        await eventually(lambda: handled(redis, stream, 1))
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_a_dead_letter_that_can_t_be_written_on_closing_is_released(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    await redis.set(f"{stream}.dead", "a string")
    consumer = Consumer(
        stream, url=url, group="g", retry=THRICE, close_timeout=0.2, on_event=events
    )

    async def dead_lettering() -> bool:
        return bool(events.named("gave_up"))

    async with running(consumer, fails):
        await eventually(dead_lettering)
    assert await deliveries(redis, stream, "g")
    await redis.delete(f"{stream}.dead")
    # Its attempts are used up, so it is not started again.
    async with Consumer(stream, url=url, group="g", retry=THRICE) as second:
        assert await second.next(timeout=0.5) is None
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert dead_letter.attempts == 3


async def test_dead_letters_can_be_read_as_a_stream(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 7)
    async with running(Consumer(stream, url=url, group="g", retry=ONCE), fails):
        await eventually(lambda: handled(redis, stream, 1))
    async with Consumer(f"{stream}.dead", url=url, group="watch") as consumer:
        [message] = await read(consumer, 1)
        assert numbers([message]) == [7]
        assert message.headers["dead.error"] == "Boom"
        assert message.headers["dead.attempts"] == "1"


async def test_rejecting_a_message_that_others_have_claimed_dead_letters_nothing(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    async with Consumer(
        stream, url=url, group="g", auto_commit=ROLLING, retry=ONCE, on_event=events
    ) as consumer:
        [message] = await read(consumer, 1)
        assert await consumer.next(timeout=0) is None
        # Its lease ended unnoticed here, and another consumer has claimed it.
        await redis.xclaim(stream, "g", "other", 0, [str(message.id)])
        message._entry.state = State.LOST
        message.reject("late")
        assert consumer.statistics().late == 1
    assert not events.named("gave_up")
    assert not await redis.exists(f"{stream}.dead")


async def test_dead_lettering_does_not_wait_for_a_deleted_group(
    url: str, stream: str, redis: Any
) -> None:
    """It takes the whole read budget, and only reading recreates the group."""
    await send(url, stream, 1, 2)
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if seen == [1]:
            await redis.xgroup_destroy(stream, "g")
        raise Boom

    async def both_are_dead() -> bool:
        kept = [fields[b"msg"] for _, fields in await redis.xrange(f"{stream}.dead")]
        return set(kept) == {b"1", b"2"}

    consumer = Consumer(
        stream, url=url, group="g", retry=ONCE, prefetch=Prefetch(max_messages=1)
    )
    async with running(consumer, handle):
        await eventually(both_are_dead)
    assert await pending(redis, stream, "g") == 0
