"""Acknowledging: which messages are acknowledged, and when."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import (
    DISABLED,
    EARLIEST,
    LOAD_BALANCED,
    PROCESSED,
    RESUMABLE,
    ROLLING,
    ClosedError,
    Commit,
    ConfigurationError,
    Consumer,
    EntryId,
    Message,
    UsageError,
)
from support.events import Events
from support.waiting import (
    deliveries,
    eventually,
    numbers,
    pending,
    read,
    record_shards,
    send,
)


async def ids(redis: Any, stream: str, start: int, end: int) -> set[str]:
    return {id_.decode() for id_, _ in (await redis.xrange(stream))[start:end]}


# -- PROCESSED -------------------------------------------------------------------------


async def test_a_loop_acknowledges_a_message_when_it_asks_for_the_next_one(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2, 3)
    at_once = Commit(interval=0)
    async with Consumer(stream, url=url, group="g", commit=at_once) as consumer:
        count = 0
        async for _ in consumer:
            count += 1
            await eventually(lambda: are_pending(redis, stream, 4 - count))
            if count == 3:
                break


async def are_pending(redis: Any, stream: str, count: int) -> bool:
    return await pending(redis, stream, "g") == count


@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED])
@pytest.mark.parametrize("policy", [PROCESSED, ROLLING, DISABLED])
async def test_a_message_in_progress_is_never_acknowledged_early(
    url: str, stream: str, redis: Any, mode: Any, policy: Any
) -> None:
    """In each sample, a delivered message that is not pending is in the journal."""
    journal: set[str] = set()
    await send(url, stream, *range(400))
    sampled = 0
    done = False

    async def sample() -> None:
        nonlocal sampled
        while not done:
            every = {i.decode() for i, _ in await redis.xrange(stream)}
            group = (await redis.xinfo_groups(stream))[0]
            waiting = set(await deliveries(redis, stream, "g"))
            last = group["last-delivered-id"].decode()
            delivered = {i for i in every if key(i) <= key(last)}
            acked = delivered - waiting
            assert acked <= journal
            sampled += len(acked)

    def key(id_: str) -> tuple[int, ...]:
        return tuple(map(int, id_.split("-")))

    async def handle(message: Message[bytes]) -> None:
        await asyncio.sleep(0.001)
        journal.add(str(message.id))
        if policy is not PROCESSED:
            message.ack()
        if policy is DISABLED and len(journal) % 10 == 0:
            await consumer.commit()
        if len(journal) == 400:
            await consumer.aclose()

    given: dict[str, Any] = {"mode": mode, "auto_commit": policy}
    often = Commit(interval=0.005)
    async with Consumer(stream, url=url, group="g", commit=often, **given) as consumer:
        sampler = asyncio.create_task(sample())
        await consumer.run(handle, concurrency=8)
        done = True
        await sampler
    assert sampled > 100
    assert await pending(redis, stream, "g") == 0


async def test_leaving_cleanly_acknowledges_the_messages_of_a_loop(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2, 3)
    async with Consumer(stream, url=url, group="g") as consumer:
        async for message in consumer:
            if message.payload == b"3":
                break
    assert await pending(redis, stream, "g") == 0


async def test_leaving_cleanly_acknowledges_the_messages_that_next_returned(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g") as consumer:
        await consumer.next()
        await consumer.next()
    assert await pending(redis, stream, "g") == 0


async def test_leaving_by_an_exception_leaves_the_current_message_pending(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2, 3)
    with pytest.raises(LookupError):
        async with Consumer(stream, url=url, group="g") as consumer:
            async for message in consumer:
                if message.payload == b"2":
                    raise LookupError
    assert set(await deliveries(redis, stream, "g")) == await ids(redis, stream, 1, 3)


async def test_leaving_by_cancellation_leaves_the_current_message_pending(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    got = asyncio.Event()

    async def consume() -> None:
        async with Consumer(stream, url=url, group="g") as consumer:
            await consumer.next()
            got.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await pending(redis, stream, "g") == 1


async def test_a_task_that_fails_leaves_its_message_pending(
    url: str, stream: str, redis: Any
) -> None:
    async def one(consumer: Consumer[bytes]) -> None:
        await consumer.next()
        raise LookupError

    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g") as consumer:
        await asyncio.gather(one(consumer), return_exceptions=True)
        assert numbers([await consumer.next()]) == [2]
    assert await deliveries(redis, stream, "g") == dict.fromkeys(
        await ids(redis, stream, 0, 1), 2
    )


async def test_wait_for_around_next_acknowledges_like_next_itself(
    url: str, stream: str, redis: Any
) -> None:
    """Before Python 3.12 `wait_for` awaits in a task of its own."""
    await send(url, stream, 1, 2, 3)
    at_once = Commit(interval=0)
    async with Consumer(stream, url=url, group="g", commit=at_once) as consumer:
        for done in range(3):
            await asyncio.wait_for(consumer.next(), 5)
            await eventually(lambda: are_pending(redis, stream, 3 - done))


async def test_a_handler_that_raises_leaves_its_message_unacknowledged(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(10))
    seen = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) == 10:
            await consumer.aclose()
        if int(message.payload) % 5 == 0:
            raise ValueError("canary " + message.payload.decode())

    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        await consumer.run(handle)
    assert seen == list(range(10))
    failed = await ids(redis, stream, 0, 1) | await ids(redis, stream, 5, 6)
    # Released as one attempt, since a handler has started.
    assert await deliveries(redis, stream, "g") == dict.fromkeys(failed, 2)
    reported = events.named("handler_failed")
    assert {event.facts["id"] for event in reported} == failed
    for event in reported:
        assert event.facts["attempt"] == 1
        assert event.facts["error"] == "ValueError"
        assert "canary" not in str(event)
        assert str(event.facts["at"]).startswith("behaviour/test_acknowledging.py:")


@pytest.mark.parametrize("error", [asyncio.CancelledError, TimeoutError])
async def test_a_handler_that_cancels_itself_has_failed_and_does_not_stop_run(
    url: str, stream: str, redis: Any, error: type[BaseException]
) -> None:
    await send(url, stream, 1, 2, 3)
    seen = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) == 3:
            await consumer.aclose()
        if len(seen) == 1:
            raise error

    async with Consumer(stream, url=url, group="g") as consumer:
        await consumer.run(handle)
    assert seen == [1, 2, 3]
    assert set(await deliveries(redis, stream, "g")) == await ids(redis, stream, 0, 1)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_an_exit_in_a_handler_ends_run_and_acknowledges_nothing(
    url: str, stream: str, redis: Any, error: type[BaseException]
) -> None:
    await send(url, stream, 1)

    async def handle(_: Message[bytes]) -> None:
        raise error

    consumer = Consumer(stream, url=url, group="g")
    async with consumer:
        with pytest.raises(error):
            await consumer.run(handle)
    assert await pending(redis, stream, "g") == 1


# -- ROLLING ---------------------------------------------------------------------------


async def test_rolling_acknowledges_only_acked_messages(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(6))
    rolling = Consumer(stream, url=url, group="g", auto_commit=ROLLING)
    async with rolling as consumer:
        messages = await read(consumer, 6)
        for message in messages[:4]:
            message.ack()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 2
    assert set(await deliveries(redis, stream, "g")) == await ids(redis, stream, 4, 6)


async def test_rolling_acks_work_late_and_twice_and_in_any_order(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(5))
    async with Consumer(stream, url=url, group="g", auto_commit="rolling") as consumer:
        messages = await read(consumer, 5)
        for message in reversed(messages):
            message.ack()
            message.ack()
        await consumer.commit()
        messages[0].ack()
        assert await pending(redis, stream, "g") == 0
        assert consumer.statistics().acknowledged == 5


async def test_rolling_delivers_messages_even_if_none_is_ever_acked(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(3000))
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        assert len(await read(consumer, 3000)) == 3000


async def test_rolling_in_run_acknowledges_only_what_the_handler_acks(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10))
    seen = 0

    async def handle(message: Message[bytes]) -> None:
        nonlocal seen
        seen += 1
        if int(message.payload) % 2:
            message.ack()
        if seen == 10:
            await consumer.aclose()

    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        await consumer.run(handle, concurrency=3)
    assert await pending(redis, stream, "g") == 5


async def test_an_ack_after_closing_raises_closed_error(url: str, stream: str) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        message = await consumer.next()
    with pytest.raises(ClosedError):
        message.ack()


async def test_an_explicit_ack_under_processed_takes_effect_at_once(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    with pytest.raises(LookupError):
        async with Consumer(stream, url=url, group="g") as consumer:
            (await consumer.next()).ack()
            raise LookupError
    assert await pending(redis, stream, "g") == 0


# -- the committer ---------------------------------------------------------------------


async def test_an_ack_arrives_within_the_interval_while_a_read_is_blocked(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    commit = Commit(interval=0.1)
    async with Consumer(
        stream, url=url, group="g", auto_commit=ROLLING, commit=commit
    ) as consumer:
        message = await consumer.next()
        # The stream is quiet now, and the reader is in a blocking read.
        start = time.monotonic()
        message.ack()
        await eventually(lambda: are_pending(redis, stream, 0))
        taken = time.monotonic() - start
    assert 0.09 < taken < 0.15


async def test_acks_are_sent_at_once_when_max_pending_is_reached(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(100))
    commit = Commit(interval=60, max_pending=100)
    async with Consumer(
        stream, url=url, group="g", auto_commit=ROLLING, commit=commit
    ) as consumer:
        messages = await read(consumer, 100)
        for message in messages[:99]:
            message.ack()
        await asyncio.sleep(0.05)  # long enough for a write that must not happen
        assert await pending(redis, stream, "g") == 100
        messages[99].ack()
        await eventually(lambda: are_pending(redis, stream, 0))


async def test_the_outcomes_of_a_batch_share_one_command_per_shard(
    url: str, stream: str, redis: Any
) -> None:
    streams = [f"{stream}-{n}" for n in range(4)]
    for name in streams:
        await send(url, name, *range(50))
    async with Consumer(
        *streams, url=url, group="g", auto_commit=ROLLING, commit=Commit(interval=60)
    ) as consumer:
        messages = await read(consumer, 200)
        before = await xacks(redis)
        for message in messages:
            message.ack()
        await consumer.commit()
        assert await xacks(redis) - before == 4


async def xacks(redis: Any) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_xack", {"calls": 0})["calls"])


async def test_commit_returns_once_the_server_has_the_acks(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(20))
    async with Consumer(
        stream, url=url, group="g", auto_commit=ROLLING, commit=Commit(interval=60)
    ) as consumer:
        for number in range(20):
            (await consumer.next()).ack()
            await consumer.commit()
            left = set(await deliveries(redis, stream, "g"))
            assert not left & await ids(redis, stream, 0, number + 1)


async def test_acknowledgements_of_entries_that_were_not_pending_are_reported(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(
        stream, url=url, group="g", auto_commit=ROLLING, on_event=events
    ) as consumer:
        one, two = await read(consumer, 2)
        await redis.xack(stream, "g", str(one.id))
        one.ack()
        two.ack()
        await consumer.commit()
    [event] = events.named("commit_mismatch")
    assert (event.facts["sent"], event.facts["acknowledged"]) == (2, 1)


# -- by id -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [ROLLING, DISABLED])
async def test_a_message_is_acknowledged_by_its_id(
    url: str, stream: str, redis: Any, policy: Any
) -> None:
    await record_shards(redis, stream, 2)
    for shard, id_ in ((0, "1-0"), (0, "9-9"), (1, "3-0"), (1, "9-9")):
        await redis.xadd(f"{stream}:{shard}", {"msg": "x"}, id=id_)
    async with Consumer(stream, url=url, group="g", auto_commit=policy) as consumer:
        await read(consumer, 4)
        assert consumer.ack(stream, "1-0", shard=0)
        assert consumer.ack(stream, "1-0", shard=0)  # twice is once
        # Without a number it is found in whichever shard has it.
        assert consumer.ack(stream, EntryId.parse("3-0"))
        with pytest.raises(UsageError, match="several shards"):
            consumer.ack(stream, "9-9")
        assert consumer.ack(stream, "9-9", shard=1)
        await consumer.commit()
        assert await pending(redis, f"{stream}:0", "g") == 1
        assert await pending(redis, f"{stream}:1", "g") == 0
        # Other shards and streams, an id that is done, and an unknown one.
        assert not consumer.ack(stream, "9-9", shard=7)
        assert not consumer.ack(f"{stream}-other", "9-9")
        assert not consumer.ack(stream, "3-0")
        assert not consumer.ack(stream, "1-1")
        with pytest.raises(ConfigurationError):
            consumer.ack(stream, "yesterday")
    with pytest.raises(ClosedError):
        consumer.ack(stream, "9-9")


async def test_only_what_was_handed_out_is_acknowledged_by_its_id(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        first = await consumer.next()

        async def is_queued() -> bool:
            return consumer.statistics().queued == 1

        await eventually(is_queued)
        [queued] = {EntryId.parse(i) for i in await ids(redis, stream, 0, 2)} - {
            first.id
        }
        assert not consumer.ack(stream, queued)
        second = await consumer.next()
        assert consumer.ack(stream, second.id)
        first.nack()  # nobody has it until its next attempt
        assert not consumer.ack(stream, first.id)


async def test_without_acknowledgements_an_id_can_t_be_acknowledged(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, start=EARLIEST) as consumer:
        message = await consumer.next()
        with pytest.raises(UsageError, match="nothing to acknowledge"):
            consumer.ack(stream, message.id)
