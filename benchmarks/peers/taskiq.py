"""taskiq with taskiq-redis' `RedisStreamBroker`, https://taskiq-python.github.io."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from taskiq import TaskiqMessage
from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

from benchmarks.clock import Clock
from benchmarks.filling import fill
from benchmarks.job import COUNT, GROUP, STREAM, Job
from benchmarks.waiting import by_50, drained

PACKAGES = ("taskiq", "taskiq-redis", "redis", "hiredis")


def broker_of(job: Job, handle: Callable[[str], Awaitable[None]]) -> tuple[Any, Any]:
    """A broker, and its task."""
    broker = RedisStreamBroker(
        job.url,
        queue_name=STREAM,
        consumer_group_name=GROUP,
        consumer_id="0",
        xread_count=COUNT,
    )
    return broker, broker.task(task_name="handle")(handle)


async def consume(job: Job, clock: Clock) -> None:
    """16 tasks at a time."""
    done = asyncio.Event()
    seen = 0

    async def handle(message: str) -> None:
        nonlocal seen
        if message:
            seen += 1
        if seen >= job.messages:
            done.set()

    broker, _ = broker_of(job, handle)
    message = TaskiqMessage(
        task_id="1",
        task_name="handle",
        labels={},
        args=["x" * job.payload],
        kwargs={},
    )
    body = broker.formatter.dumps(message).message
    fill(job.direct, [STREAM], (b"data", body), job.messages, GROUP)
    with clock.timed(job.messages):
        await broker.startup()
        receiver = Receiver(
            broker,
            max_async_tasks=16,
            max_prefetch=COUNT,
            run_startup=False,
            validate_params=False,
        )
        finish = asyncio.Event()
        listening = asyncio.create_task(receiver.listen(finish))
        await done.wait()
        async with Redis.from_url(job.direct) as redis:
            await drained(redis, STREAM, GROUP)
    finish.set()
    await listening
    await broker.shutdown()


async def send_50(job: Job, clock: Clock) -> None:
    """50 tasks kicked at a time."""

    async def handle(message: str) -> None: ...

    payload = "x" * job.payload
    broker, task = broker_of(job, handle)
    with clock.timed(job.messages):
        await broker.startup()
        await by_50(lambda: task.kiq(payload), job.messages)
    await broker.shutdown()


WAYS = {"consume": consume, "send_50": send_50}
