"""Retries: a failed message is tried again, and others do not wait for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from penstock import (
    DISABLED,
    REALTIME,
    ROLLING,
    Backoff,
    Claim,
    ConfigurationError,
    Consumer,
    Message,
    Prefetch,
    Producer,
    Retry,
    UsageError,
)
from support.events import Events
from support.failing import Attempts, Boom, handled, recording, running
from support.waiting import deliveries, eventually, pending, read, send

QUICK = Retry(max_attempts=3, backoff=[0.02])


async def test_a_failed_message_is_tried_again_and_the_others_are_handled_meanwhile(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(50))
    attempts: Attempts = defaultdict(list)

    async def fails_twice(message: Message[bytes]) -> None:
        if int(message.payload) == 0 and message.attempt < 3:
            raise Boom("canary")

    consumer = Consumer(
        stream, url=url, group="g", retry=Retry(backoff=[0.5]), on_event=events
    )
    async with running(consumer, recording(attempts, fails_twice)):
        await eventually(lambda: handled(redis, stream, 50))
        assert consumer.statistics().retried == 2
    assert [attempt for attempt, _ in attempts[0]] == [1, 2, 3]
    others = [attempts[number] for number in range(1, 50)]
    assert all(len(tried) == 1 for tried in others)
    # The others did not wait for it.
    assert max(tried[0][1] for tried in others) < attempts[0][1][1]
    failed = events.named("handler_failed")
    assert [event.facts["attempt"] for event in failed] == [1, 2]
    assert all(event.facts["again_in"] == 0.5 for event in failed)
    assert "canary" not in "".join(map(str, events))
    assert not await redis.exists(f"{stream}.dead")


async def test_the_backoff_grows_and_is_observed(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    attempts: Attempts = defaultdict(list)

    async def fails(_: Message[bytes]) -> None:
        raise Boom

    backoff = Backoff(first=0.05, factor=3, max=0.2, jitter=0)
    retry = Retry(max_attempts=4, backoff=backoff)
    consumer = Consumer(stream, url=url, group="g", retry=retry)
    async with running(consumer, recording(attempts, fails)):
        await eventually(lambda: handled(redis, stream, 1))
    times = [when for _, when in attempts[1]]
    waits = [after - before for before, after in pairwise(times)]
    for nominal, wait in zip([0.05, 0.15, 0.2], waits, strict=True):
        assert nominal <= wait < nominal + 0.5


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        (Retry(max_attempts=4, backoff=[0.05, 0.15]), [0.05, 0.15, 0.15]),
        (Retry(max_attempts=4, backoff=lambda n: n * 0.04), [0.04, 0.08, 0.12]),
    ],
)
async def test_the_backoff_may_be_a_list_or_a_function(
    url: str, redis: Any, events: Events, retry: Retry, waits: list[float]
) -> None:
    stream = f"backoff-{id(retry)}"
    await send(url, stream, 1)

    async def fails(_: Message[bytes]) -> None:
        raise Boom

    consumer = Consumer(stream, url=url, group="g", retry=retry, on_event=events)
    async with running(consumer, fails):
        await eventually(lambda: handled(redis, stream, 1))
    reported = [event.facts.get("again_in") for event in events.named("handler_failed")]
    assert reported == [*waits, None]


async def test_a_backoff_function_that_fails_loses_no_message(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)

    async def fails_once(message: Message[bytes]) -> None:
        if message.attempt == 1:
            raise Boom

    retry = Retry(backoff=lambda _: 1 / 0)
    consumer = Consumer(stream, url=url, group="g", retry=retry, on_event=events)
    async with running(consumer, fails_once):
        await eventually(lambda: handled(redis, stream, 1))
    [reported] = events.named("backoff_failed")
    assert reported.facts == {"error": "ZeroDivisionError"}


async def test_exceptions_can_be_classified(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 0, 1, 2, 3)
    attempts: Attempts = defaultdict(list)
    kinds = [ConnectionError, ConnectionResetError, ValueError, BrokenPipeError]

    async def fails(message: Message[bytes]) -> None:
        raise kinds[int(message.payload)]

    retry = Retry(
        max_attempts=2,
        backoff=[0.01],
        on=ConnectionError,
        give_up_on=(BrokenPipeError,),
    )
    consumer = Consumer(stream, url=url, group="g", retry=retry, on_event=events)
    async with running(consumer, recording(attempts, fails), concurrency=4):
        await eventually(lambda: handled(redis, stream, 4))
    assert {number: len(tried) for number, tried in attempts.items()} == {
        0: 2,
        1: 2,
        2: 1,
        3: 1,
    }
    assert await redis.xlen(f"{stream}.dead") == 4


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_handler_that_takes_too_long_is_cancelled_and_tried_again(
    url: str, stream: str, redis: Any, events: Events, *, swallows: bool
) -> None:
    await send(url, stream, 1, 2)
    attempts: Attempts = defaultdict(list)

    async def hangs(message: Message[bytes]) -> None:
        if message.attempt == 1 and int(message.payload) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise

    retry = Retry(timeout=0.1, backoff=[0.02])
    consumer = Consumer(stream, url=url, group="g", retry=retry, on_event=events)
    async with running(consumer, recording(attempts, hangs), concurrency=2):
        await eventually(lambda: handled(redis, stream, 2))
    assert [attempt for attempt, _ in attempts[1]] == [1, 2]
    assert 0.1 <= attempts[1][1][1] - attempts[1][0][1] < 1
    [failed] = events.named("handler_failed")
    assert failed.facts["error"] == "TimeoutError"


async def test_a_handler_that_does_not_end_is_reported_and_the_others_continue(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(20))
    release = asyncio.Event()

    async def ignores_cancellation(message: Message[bytes]) -> None:
        while int(message.payload) == 0 and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def stuck() -> bool:
        return bool(events.named("handler_stuck"))

    async def only_one_left() -> bool:
        return await pending(redis, stream, "g") == 1

    retry = Retry(timeout=0.05)
    consumer = Consumer(stream, url=url, group="g", retry=retry, on_event=events)
    async with running(consumer, ignores_cancellation, concurrency=2):
        await eventually(only_one_left)
        await eventually(stuck)
        release.set()
        await eventually(lambda: handled(redis, stream, 20))


@pytest.mark.parametrize("delay", [0.2, None])
async def test_a_nacked_message_is_tried_again_after_the_delay(
    url: str, stream: str, redis: Any, delay: float | None
) -> None:
    await send(url, stream, 1)
    attempts: Attempts = defaultdict(list)

    async def nacks_once(message: Message[bytes]) -> None:
        if message.attempt == 1:
            message.nack(delay)
            message.nack(delay)  # a second call changes nothing

    retry = Retry(backoff=[0.05])
    consumer = Consumer(stream, url=url, group="g", retry=retry)
    async with running(consumer, recording(attempts, nacks_once)):
        await eventually(lambda: handled(redis, stream, 1))
    (_, first), (attempt, second) = attempts[1]
    assert attempt == 2
    wanted = 0.05 if delay is None else delay
    assert wanted <= second - first < wanted + 0.5


async def test_a_message_that_a_loop_nacks_is_redelivered_to_it(
    url: str, stream: str
) -> None:
    await send(url, stream, 1, 2)
    seen = []
    async with Consumer(stream, url=url, group="g", retry=QUICK) as consumer:
        async with asyncio.timeout(10):
            async for message in consumer:
                seen.append((message.payload, message.attempt))
                if seen == [(b"1", 1)]:
                    message.nack()
                if len(seen) == 3:
                    break
    assert seen[0] == (b"1", 1)
    assert sorted(seen[1:]) == [(b"1", 2), (b"2", 1)]


@pytest.mark.parametrize("policy", [ROLLING, DISABLED])
async def test_messages_that_are_acked_by_hand_can_be_nacked_after_the_next_call(
    url: str, stream: str, redis: Any, policy: Any
) -> None:
    await send(url, stream, 1)
    async with Consumer(
        stream, url=url, group="g", auto_commit=policy, retry=QUICK
    ) as consumer:
        [first] = await read(consumer, 1)
        assert await consumer.next(timeout=0) is None
        first.nack(0.05)
        [second] = await read(consumer, 1)
        assert (second.attempt, second.payload) == (2, b"1")
        assert first.lost
        second.ack()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


async def test_a_message_has_one_outcome(url: str, stream: str, redis: Any) -> None:
    await send(url, stream, *range(4))
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        acked, nacked, rejected, plain = await read(consumer, 4)
        acked.ack()
        acked.ack()
        for call in (acked.nack, acked.reject):
            with pytest.raises(UsageError, match="acknowledged already"):
                call()
        nacked.nack(60)
        rejected.reject("no")
        for message in (nacked, rejected):
            with pytest.raises(UsageError, match="too late"):
                message.ack()
        with pytest.raises(UsageError, match="too late"):
            nacked.reject()
        with pytest.raises(ConfigurationError, match="not a duration"):
            plain.nack(-1)
        plain.ack()
        await consumer.commit()
        assert len(await deliveries(redis, stream, "g")) == 1  # the one that waits


async def test_an_outcome_from_another_thread_is_refused(url: str, stream: str) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        [message] = await read(consumer, 1)
        for call in (message.ack, message.nack, message.reject):
            with pytest.raises(UsageError, match="outside the consumer's thread"):
                await asyncio.to_thread(call)
        message.ack()


@pytest.mark.parametrize("ordering", ["key", "shard"])
async def test_with_an_ordering_a_failing_message_holds_back_only_its_own_lane(
    url: str, stream: str, redis: Any, ordering: str
) -> None:
    other = f"{stream}-other"
    async with Producer(url) as producer:
        for number in range(30):
            key = "slow" if number % 3 == 0 else "quick"
            to = stream if number % 3 == 0 else other
            await producer.enqueue(to, b"%d" % number, key=key)
    order: dict[str, list[tuple[int, int]]] = defaultdict(list)

    async def handle(message: Message[bytes]) -> None:
        number = int(message.payload)
        order[message.stream].append((number, message.attempt))
        if number == 3 and message.attempt < 4:
            raise Boom

    consumer = Consumer(stream, other, url=url, group="g", retry=Retry(backoff=[0.1]))
    async with running(consumer, handle, concurrency=8, ordering=ordering):
        await eventually(lambda: handled(redis, other, 20))
        # The other lane is handled completely while this one waits.
        assert order[stream] in ([(0, 1), (3, 1)], [(0, 1), (3, 1), (3, 2)])
        await eventually(lambda: handled(redis, stream, 10))
    assert [n for n, _ in order[other]] == [n for n in range(30) if n % 3]
    tried = [(0, 1), (3, 1), (3, 2), (3, 3), (3, 4)]
    assert order[stream] == tried + [(n, 1) for n in range(6, 30, 3)]


async def test_a_message_that_waits_for_its_next_attempt_is_not_claimed_by_others(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    lease = Claim(idle=0.3, interval=0.1)

    async def fails(_: Message[bytes]) -> None:
        raise Boom

    retry = Retry(backoff=[1.2], max_attempts=2)
    first = Consumer(stream, url=url, group="g", claim=lease, retry=retry)
    async with running(first, fails):
        await eventually(lambda: waits(first))
        async with Consumer(stream, url=url, group="g", claim=lease) as second:
            assert await second.next(timeout=1.0) is None
        assert first.statistics().lost == 0


async def waits(consumer: Consumer[Any]) -> bool:
    return consumer.statistics().retried == 1


async def test_a_message_that_waits_for_its_next_attempt_is_released_with_its_count(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)

    async def fails(_: Message[bytes]) -> None:
        raise Boom

    retry = Retry(backoff=[60])
    first = Consumer(stream, url=url, group="g", retry=retry)
    async with running(first, fails):
        await eventually(lambda: waits(first))
    assert list((await deliveries(redis, stream, "g")).values()) == [2]
    async with Consumer(stream, url=url, group="g") as second:
        [message] = await read(second, 1, within=2)
        assert message.attempt == 2


async def test_failed_messages_that_wait_are_bounded_by_prefetch(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(200))

    async def fails(_: Message[bytes]) -> None:
        raise Boom

    few = Prefetch(max_messages=20)
    retry = Retry(backoff=[60])
    consumer = Consumer(stream, url=url, group="g", retry=retry, prefetch=few)

    async def full() -> bool:
        return consumer.statistics().in_hand >= 20

    async with running(consumer, fails, concurrency=4):
        await eventually(full)
        await asyncio.sleep(0.1)
        assert consumer.statistics().in_hand <= 21
        assert await pending(redis, stream, "g") <= 21


@pytest.mark.parametrize(
    "options",
    [
        {"mode": REALTIME},
        {"group": "g", "auto_commit": "delayed"},
        {"group": "g", "auto_commit": "immediate"},
    ],
)
def test_retry_is_refused_where_no_message_can_be_tried_again(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ConfigurationError, match="retry="):
        Consumer("s", url="redis://localhost", retry=Retry(), **options)
