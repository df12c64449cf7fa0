"""The commit policies except for PROCESSED and ROLLING, and the mode RESUMABLE."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import (
    DELAYED,
    DISABLED,
    EARLIEST,
    IMMEDIATE,
    LATEST,
    LOAD_BALANCED,
    PROCESSED,
    RESUMABLE,
    ROLLING,
    AutoCommit,
    Commit,
    Consumer,
    Message,
    Mode,
    Prefetch,
    UsageError,
)
from support.events import Events
from support.waiting import eventually, numbers, pending, read, send

GROUP_MODES = [RESUMABLE, LOAD_BALANCED]


# -- DISABLED --------------------------------------------------------------------------


async def test_disabled_sends_acks_only_when_asked(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10))
    quick = Commit(interval=0)
    async with Consumer(
        stream, url=url, group="g", auto_commit=DISABLED, commit=quick
    ) as consumer:
        for message in (await read(consumer, 10))[:6]:
            message.ack()
        assert await consumer.next(timeout=0.1) is None
        assert await pending(redis, stream, "g") == 10
        await consumer.commit()
        assert await pending(redis, stream, "g") == 4


async def test_disabled_sends_acks_on_closing(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(4))
    async with Consumer(stream, url=url, group="g", auto_commit=DISABLED) as consumer:
        for message in (await read(consumer, 4))[:3]:
            message.ack()
    assert await pending(redis, stream, "g") == 1


async def test_disabled_continues_reading_however_many_acks_wait(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(3000))
    async with Consumer(
        stream,
        url=url,
        group="g",
        auto_commit=DISABLED,
        commit=Commit(max_pending=10),
        prefetch=Prefetch(max_messages=50),
    ) as consumer:
        for message in await read(consumer, 3000):
            message.ack()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


# -- DELAYED ---------------------------------------------------------------------------


async def test_delayed_acknowledges_after_its_delay_whether_processed_or_not(
    url: str, stream: str, redis: Any
) -> None:
    """The opposite of PROCESSED: the handler is still running."""
    await send(url, stream, 1)
    commit = Commit(interval=0, delay=0.15)
    done = asyncio.Event()
    taken = 0.0

    async def handle(_: Message[bytes]) -> None:
        nonlocal taken
        start = time.monotonic()
        assert await pending(redis, stream, "g") == 1
        await eventually(lambda: none_pending(redis, stream))
        taken = time.monotonic() - start
        done.set()
        await consumer.aclose()

    async with Consumer(
        stream, url=url, group="g", auto_commit=DELAYED, commit=commit
    ) as consumer:
        await consumer.run(handle)
    assert done.is_set()
    assert 0.1 < taken < 0.4


async def test_delayed_goes_on_when_a_run_is_cancelled_and_a_message_waits_again(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    started = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        started.set()
        await asyncio.Event().wait()

    commit = Commit(interval=0, delay=0.1)
    async with Consumer(
        stream, url=url, group="g", auto_commit=DELAYED, commit=commit
    ) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await started.wait()
        run.cancel()
        await asyncio.wait([run])
        await asyncio.sleep(0.3)
        assert await pending(redis, stream, "g") == 1
        assert numbers(await read(consumer, 1)) == [1]
        await eventually(lambda: none_pending(redis, stream))


async def none_pending(redis: Any, stream: str) -> bool:
    return await pending(redis, stream, "g") == 0


async def test_delayed_does_not_acknowledge_younger_messages_when_left_by_an_exception(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(3))
    with pytest.raises(LookupError):
        async with Consumer(
            stream, url=url, group="g", auto_commit=DELAYED
        ) as consumer:
            await read(consumer, 3)
            raise LookupError
    assert await pending(redis, stream, "g") == 3


async def test_delayed_acknowledges_all_messages_handed_out_when_left_cleanly(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(5))
    delayed = Consumer(
        stream,
        url=url,
        group="g",
        auto_commit=DELAYED,
        prefetch=Prefetch(max_messages=5),
    )
    async with delayed as consumer:
        await read(consumer, 3)
    assert await pending(redis, stream, "g") == 2


# -- IMMEDIATE -------------------------------------------------------------------------


async def test_immediate_is_acknowledged_on_delivery(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(5))
    async with Consumer(
        stream, url=url, group="g", auto_commit=IMMEDIATE, on_event=events
    ) as consumer:
        assert numbers(await read(consumer, 2)) == [0, 1]
        assert await pending(redis, stream, "g") == 0
    # Queued messages were acknowledged too and are lost, which is reported.
    [event] = events.named("dropped")
    assert event.facts["messages"] == 3


async def test_immediate_hands_out_once_what_a_cancelled_run_has_interrupted(
    url: str, stream: str
) -> None:
    """The server is not asked whose it is, so an outage makes no difference."""
    await send(url, stream, *range(3))
    began = asyncio.Event()

    async def handle(_: Message[bytes]) -> None:
        began.set()
        await asyncio.sleep(100)

    async with Consumer(stream, url=url, group="g", auto_commit=IMMEDIATE) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await began.wait()
        run.cancel()
        await asyncio.wait([run])
        assert run.cancelled()
        assert numbers(await read(consumer, 2)) == [1, 2]
        assert consumer.statistics().lost == 0


@pytest.mark.parametrize("policy", [DELAYED, IMMEDIATE])
async def test_a_policy_that_acks_by_itself_refuses_calls_of_ack(
    url: str, stream: str, policy: AutoCommit
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=policy) as consumer:
        message = await consumer.next()
        with pytest.raises(UsageError, match=policy.name):
            message.ack()
        await consumer.commit()


# -- SeaStreamer's scenarios -----------------------------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
@pytest.mark.parametrize("policy", [IMMEDIATE, DELAYED])
async def test_immediate_and_delayed_resume_where_they_stopped(
    url: str, stream: str, mode: Mode, policy: AutoCommit
) -> None:
    """SeaStreamer's T6."""

    def consumer(name: str, start: Any) -> Consumer[bytes]:
        return Consumer(
            stream,
            url=url,
            mode=mode,
            group=name,
            name=name,
            start=start,
            auto_commit=policy,
            commit=Commit(delay=0),
        )

    await send(url, stream, *range(5))
    async with consumer("a", LATEST) as half:
        async with consumer("b", EARLIEST) as full:
            assert numbers(await read(full, 5)) == [0, 1, 2, 3, 4]
        await send(url, stream, *range(5, 10))
        assert numbers(await read(half, 5)) == [5, 6, 7, 8, 9]
        async with consumer("b", EARLIEST) as full:
            assert numbers(await read(full, 5)) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("mode", GROUP_MODES)
@pytest.mark.parametrize("policy", [ROLLING, DISABLED])
async def test_only_messages_that_were_not_acked_are_redelivered(
    url: str, stream: str, redis: Any, mode: Mode, policy: AutoCommit
) -> None:
    """SeaStreamer's T7; its second half needs DISABLED, since ROLLING commits."""

    def consumer(name: str) -> Consumer[bytes]:
        return Consumer(
            stream,
            url=url,
            mode=mode,
            group=name,
            name=name,
            auto_commit=policy,
            commit=Commit(interval=0),
        )

    await send(url, stream, *range(5))
    async with consumer("c") as acking, consumer("d") as silent:
        assert numbers(await read(silent, 5)) == [0, 1, 2, 3, 4]
        for message in (await read(acking, 5))[:4]:
            message.ack()
        await send(url, stream, *range(5, 10))
        if policy is DISABLED:
            await acking.commit()
        else:
            await eventually(lambda: acked(redis, stream, 4))
    async with consumer("c") as acking, consumer("d") as silent:
        assert numbers(await read(acking, 6)) == [4, 5, 6, 7, 8, 9]
        assert numbers(await read(silent, 5)) == [0, 1, 2, 3, 4]


async def acked(redis: Any, stream: str, count: int) -> bool:
    [group] = [g for g in await redis.xinfo_groups(stream) if g["name"] == b"c"]
    return bool(group["entries-read"] - group["pending"] == count)


# -- RESUMABLE -------------------------------------------------------------------------


async def test_resumable_has_a_group_of_its_host_and_resumes_by_itself(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_ID", "web-1")
    await send(url, stream, *range(6))
    async with Consumer(stream, url=url, mode=RESUMABLE) as consumer:
        assert (consumer.group, consumer.name) == ("web-1:r", "web-1:r")
        assert numbers(await read(consumer, 3)) == [0, 1, 2]
    async with Consumer(stream, url=url, mode="resumable") as consumer:
        assert numbers(await read(consumer, 3)) == [3, 4, 5]


async def test_resumable_handles_in_the_order_of_the_stream_over_restarts(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(500))
    seen: list[int] = []
    for stop_at in (50, 120, 300, 500):

        async def handle(message: Message[bytes]) -> None:
            if len(seen) < stop_at:
                seen.append(int(message.payload))
                await asyncio.sleep(0)
            if len(seen) == stop_at:
                await consumer.aclose()

        async with Consumer(
            stream, url=url, mode=RESUMABLE, group="r", auto_commit=PROCESSED
        ) as consumer:
            await consumer.run(handle)
    assert seen == list(range(500))
