"""Acknowledging by the next call: a message is processed when its caller calls again.

Each way to call is tested with messages in a real group, and the group's pending list
is checked after all acknowledgements have been sent.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from penstock import (
    DISABLED,
    PROCESSED,
    ROLLING,
    Claim,
    Consumer,
    Message,
)
from support.events import Events
from support.waiting import eventually, numbers, pending, read, send

Calls: TypeAlias = Callable[[Consumer[bytes]], Awaitable[list[Message[bytes]]]]

COUNT = 3


async def one_by_one_in_tasks(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    return [await asyncio.create_task(consumer.next()) for _ in range(COUNT)]


async def gathered(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    return await asyncio.gather(*(consumer.next() for _ in range(COUNT)))


async def gathered_takes(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    taken = await asyncio.gather(*(consumer.take(1, timeout=5) for _ in range(COUNT)))
    return [message for messages in taken for message in messages]


async def in_a_task_group(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(consumer.next()) for _ in range(COUNT)]
    return [task.result() for task in tasks]


async def in_tasks_with_wait(
    consumer: Consumer[bytes],
) -> list[Message[bytes]]:
    tasks = [asyncio.create_task(consumer.next()) for _ in range(COUNT)]
    done, _ = await asyncio.wait(tasks)
    return [task.result() for task in done]


async def created_first_and_awaited_later(
    consumer: Consumer[bytes],
) -> list[Message[bytes]]:
    calls = [consumer.next() for _ in range(COUNT)]
    return [await call for call in calls]


async def with_wait_for(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    calls = [asyncio.wait_for(consumer.next(), 5) for _ in range(COUNT)]
    return [await call for call in calls]


async def take_with_wait_for(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    return await asyncio.wait_for(consumer.take(COUNT), 5)


async def shielded(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    calls = [asyncio.shield(consumer.next()) for _ in range(COUNT)]
    return [await call for call in calls]


async def as_completed(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    calls = [consumer.next() for _ in range(COUNT)]
    return [await each for each in asyncio.as_completed(calls)]


async def loop_steps_gathered(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    loop = aiter(consumer)
    return await asyncio.gather(*(anext(loop) for _ in range(COUNT)))


async def in_a_generator(consumer: Consumer[bytes]) -> list[Message[bytes]]:
    async def batches() -> Any:
        while True:
            yield await consumer.take(COUNT)

    return list(await anext(batches()))


RECEIVED = [
    one_by_one_in_tasks,
    gathered,
    gathered_takes,
    in_a_task_group,
    in_tasks_with_wait,
    created_first_and_awaited_later,
    with_wait_for,
    take_with_wait_for,
    shielded,
    as_completed,
    loop_steps_gathered,
    in_a_generator,
]


def function_name(calls: Any) -> str:
    return str(calls.__name__)


@pytest.mark.parametrize("calls", RECEIVED, ids=function_name)
async def test_received_messages_are_processed_when_their_caller_calls_again(
    url: str, stream: str, redis: Any, calls: Calls
) -> None:
    await send(url, stream, *range(COUNT + 1))
    async with Consumer(stream, url=url, group="g") as consumer:
        messages = await calls(consumer)
        assert sorted(numbers(messages)) == list(range(COUNT))
        await consumer.commit()
        assert await pending(redis, stream, "g") >= COUNT
        await consumer.next()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 1
        await consumer.next(timeout=0)
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("policy", [ROLLING, DISABLED])
@pytest.mark.parametrize("calls", RECEIVED, ids=function_name)
async def test_with_manual_acks_calling_again_acknowledges_nothing(
    url: str, stream: str, redis: Any, calls: Calls, policy: Any
) -> None:
    events = Events()
    await send(url, stream, *range(COUNT))
    async with Consumer(
        stream, url=url, group="g", auto_commit=policy, on_event=events
    ) as consumer:
        messages = await calls(consumer)
        await consumer.next(timeout=0)
        await consumer.commit()
        assert await pending(redis, stream, "g") == COUNT
        for message in messages:
            message.ack()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0
    assert not events.named("not_acknowledged")


# -- never received --------------------------------------------------------------------


async def in_tasks_without_a_reference(consumer: Consumer[bytes]) -> None:
    for _ in range(COUNT):
        asyncio.create_task(consumer.next())  # noqa: RUF006 - this is tested
    await eventually(lambda: are_all_received(consumer))


async def gathered_until_a_timeout(consumer: Consumer[bytes]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.gather(*(consumer.next() for _ in range(COUNT + 1)))


async def gathered_with_a_failing_call(consumer: Consumer[bytes]) -> None:
    async def fails() -> None:
        await eventually(lambda: are_all_received(consumer))
        raise LookupError

    with pytest.raises(LookupError):
        await asyncio.gather(fails(), *(consumer.next() for _ in range(COUNT)))


async def are_all_received(consumer: Consumer[bytes]) -> bool:
    return consumer.statistics().in_hand == COUNT and not consumer.statistics().queued


@pytest.mark.parametrize(
    "calls",
    [
        in_tasks_without_a_reference,
        gathered_until_a_timeout,
        gathered_with_a_failing_call,
    ],
    ids=function_name,
)
async def test_messages_that_never_reached_a_caller_are_not_acknowledged(
    url: str, stream: str, redis: Any, calls: Any, events: Events
) -> None:
    await send(url, stream, *range(COUNT))
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        await calls(consumer)
        assert await consumer.next(timeout=0.1) is None
        await consumer.commit()
        assert await pending(redis, stream, "g") == COUNT
    assert await pending(redis, stream, "g") == COUNT
    [event] = events.named("not_acknowledged")
    assert event.facts["messages"] == COUNT
    async with Consumer(stream, url=url, group="g") as consumer:
        assert numbers(await read(consumer, COUNT)) == list(range(COUNT))


async def test_the_message_of_a_task_is_not_acknowledged_before_the_task_is_awaited(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2, 3)
    async with Consumer(stream, url=url, group="g") as consumer:
        ahead = asyncio.create_task(consumer.next())
        await eventually(lambda: is_done(ahead))
        for _ in range(2):
            await consumer.next()
        await consumer.next(timeout=0)
        await consumer.commit()
        # The two are processed; the one whose task has not been awaited is not.
        assert await pending(redis, stream, "g") == 1
        assert numbers([await ahead]) == [1]
        await consumer.next(timeout=0)
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


async def is_done(task: asyncio.Task[Any]) -> bool:
    return task.done()


async def test_leaving_cleanly_leaves_the_message_of_an_unawaited_task_pending(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g") as consumer:
        ahead = asyncio.create_task(consumer.next())
        await eventually(lambda: is_done(ahead))
        await consumer.next()
    assert await pending(redis, stream, "g") == 1


# -- callers that end ------------------------------------------------------------------


async def fetch(consumer: Consumer[bytes]) -> Message[bytes]:
    return await consumer.next()


async def fetch_several(consumer: Consumer[bytes]) -> Message[bytes]:
    [message] = await consumer.take(1)
    return message


async def fetch_by_a_loop(consumer: Consumer[bytes]) -> Message[bytes]:
    async for message in consumer:
        return message
    raise AssertionError


async def fetch_by_a_loop_over_batches(consumer: Consumer[bytes]) -> Message[bytes]:
    async for [message] in consumer.batches(1):
        return message
    raise AssertionError


@pytest.mark.parametrize(
    "fetches",
    [fetch, fetch_several, fetch_by_a_loop, fetch_by_a_loop_over_batches],
    ids=function_name,
)
@pytest.mark.parametrize("acks", [False, True])
async def test_the_end_of_a_task_acknowledges_nothing(
    url: str, stream: str, redis: Any, fetches: Any, events: Events, *, acks: bool
) -> None:
    """Services may have a task per message; these must not fill the buffer."""
    await send(url, stream, *range(20))
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        for _ in range(20):
            message = await asyncio.create_task(fetches(consumer))
            if acks:
                message.ack()
        await eventually(lambda: is_empty(consumer))
        await consumer.commit()
        assert await pending(redis, stream, "g") == (0 if acks else 20)
    assert await pending(redis, stream, "g") == (0 if acks else 20)
    reported = events.named("not_acknowledged")
    assert [event.facts["messages"] for event in reported] == ([] if acks else [20])


async def is_empty(consumer: Consumer[bytes]) -> bool:
    return consumer.statistics().in_hand == 0


async def test_wait_for_around_a_function_that_calls_next_acknowledges_nothing_early(
    url: str, stream: str, redis: Any
) -> None:
    """`wait_for(fetch(), 5)` runs `fetch` in a task of its own before Python 3.12."""
    own_task = sys.version_info < (3, 12)
    await send(url, stream, 1, 2, 3)
    async with Consumer(stream, url=url, group="g") as consumer:
        messages = [await asyncio.wait_for(fetch(consumer), 5) for _ in range(3)]
        await consumer.commit()
        assert await pending(redis, stream, "g") == (3 if own_task else 1)
        for message in messages:
            message.ack()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


async def test_the_failure_of_a_task_acknowledges_nothing(
    url: str, stream: str, redis: Any
) -> None:
    async def fails(consumer: Consumer[bytes]) -> None:
        await consumer.next()
        raise LookupError

    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        await asyncio.gather(fails(consumer), return_exceptions=True)
    assert await pending(redis, stream, "g") == 1


async def test_leaving_does_not_acknowledge_messages_from_loops_of_other_tasks(
    url: str, stream: str, redis: Any
) -> None:
    may_end = asyncio.Event()

    async def breaks(consumer: Consumer[bytes]) -> None:
        async for _ in consumer:
            break
        await may_end.wait()

    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g") as consumer:
        task = asyncio.create_task(breaks(consumer))
        await eventually(lambda: is_open(consumer, 1))
        async for _ in consumer:
            break
    assert await pending(redis, stream, "g") == 1
    may_end.set()
    await task


async def is_open(consumer: Consumer[bytes], count: int) -> bool:
    return consumer._open.ledger.counters.left == count


async def test_tasks_that_share_an_iterator_acknowledge_only_their_own_messages(
    url: str, stream: str, redis: Any
) -> None:
    """A task that asks for more has not processed the message of another task."""
    held, release = asyncio.Event(), asyncio.Event()

    async def holds(loop: Any) -> None:
        await anext(loop)
        held.set()
        await release.wait()
        await anext(loop)

    await send(url, stream, *range(10))
    async with Consumer(stream, url=url, group="g") as consumer:
        loop = aiter(consumer)
        task = asyncio.create_task(holds(loop))
        await held.wait()
        for _ in range(8):
            await anext(loop)
        await consumer.commit()
        assert await pending(redis, stream, "g") - consumer.statistics().queued == 2
        release.set()
        await task
        await consumer.commit()
        assert await pending(redis, stream, "g") - consumer.statistics().queued == 2


async def test_wait_for_around_a_loop_step_acknowledges_with_the_next_step(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(4))
    async with Consumer(stream, url=url, group="g") as consumer:
        loop = aiter(consumer)
        for done in range(4):
            await asyncio.wait_for(anext(loop), 5)
            await consumer.commit()
            assert await pending(redis, stream, "g") == 4 - done


async def test_unacknowledged_messages_are_reported_when_their_lease_ends(
    url: str, stream: str, events: Events
) -> None:
    await send(url, stream, *range(5))
    async with Consumer(
        stream, url=url, group="g", on_event=events, claim=Claim(idle=0.6)
    ) as consumer:
        for number in range(4):
            message = await asyncio.create_task(fetch(consumer))
            if number % 2:
                message.ack()
        await asyncio.sleep(0.3)
        assert not events.named("not_acknowledged")
        await eventually(lambda: are_reported(events, 2))
    for event in events.named("not_acknowledged"):
        assert "message.ack()" in str(event.facts["hint"])


async def are_reported(events: Events, count: int) -> bool:
    reported = [event.facts["messages"] for event in events.named("not_acknowledged")]
    return sum(map(int, map(str, reported))) == count


# -- other threads ---------------------------------------------------------------------


async def test_the_next_call_of_a_thread_acknowledges_its_message(
    url: str, stream: str, redis: Any
) -> None:
    loop = asyncio.get_running_loop()
    seen: list[tuple[int, int]] = []

    def reads(consumer: Consumer[bytes]) -> None:
        for _ in range(4):
            call = asyncio.run_coroutine_threadsafe(consumer.next(), loop)
            number = int(call.result(5).payload)
            asyncio.run_coroutine_threadsafe(consumer.commit(), loop).result(5)
            left = asyncio.run_coroutine_threadsafe(pending(redis, stream, "g"), loop)
            seen.append((number, left.result(5)))

    await send(url, stream, *range(4))
    async with Consumer(stream, url=url, group="g") as consumer:
        await asyncio.to_thread(reads, consumer)
    assert seen == [(0, 4), (1, 3), (2, 2), (3, 1)]
    # The thread has not left the consumer.
    assert await pending(redis, stream, "g") == 1


async def test_concurrent_calls_of_a_thread_acknowledge_nothing(
    url: str, stream: str, redis: Any
) -> None:
    loop = asyncio.get_running_loop()

    def reads(consumer: Consumer[bytes]) -> list[Message[bytes]]:
        calls = [
            asyncio.run_coroutine_threadsafe(consumer.next(), loop) for _ in range(3)
        ]
        return [call.result(5) for call in calls]

    await send(url, stream, *range(3))
    async with Consumer(stream, url=url, group="g") as consumer:
        messages = await asyncio.to_thread(reads, consumer)
        assert sorted(numbers(messages)) == [0, 1, 2]
        await consumer.next(timeout=0)
        await consumer.commit()
        assert await pending(redis, stream, "g") == 3


async def test_calls_from_callbacks_of_the_event_loop_acknowledge_nothing(
    url: str, stream: str, redis: Any
) -> None:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = []

    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g") as consumer:
        for count in (1, 2):
            loop.call_soon(lambda: tasks.append(loop.create_task(consumer.next())))
            await eventually(lambda count=count: are_done(tasks, count))  # type: ignore[misc]
        await consumer.commit()
        assert await pending(redis, stream, "g") == 2
        tasks[0].result().ack()
        await consumer.commit()
        assert await pending(redis, stream, "g") == 1


async def are_done(tasks: list[asyncio.Task[Any]], count: int) -> bool:
    return sum(task.done() for task in tasks) == count


async def test_a_failed_task_of_the_user_is_reported_by_asyncio(
    url: str, stream: str
) -> None:
    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))

    async def fails(consumer: Consumer[bytes]) -> None:
        await consumer.next()
        raise LookupError

    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=PROCESSED) as consumer:
        tasks = [asyncio.create_task(fails(consumer))]
        await eventually(lambda: is_done(tasks[0]))
        assert not reported
        tasks.clear()
        await asyncio.sleep(0)
        assert reported == ["Task exception was never retrieved"]
