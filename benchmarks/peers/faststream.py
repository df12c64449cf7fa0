"""FastStream, https://faststream.airt.ai: its Redis broker, with `StreamSub`.

`max_records` is the COUNT; `NACK_ON_ERROR` is an XACK by the middleware after each
handler's return, which in batch mode is one for the list.
"""

from __future__ import annotations

import asyncio
from typing import Any

from faststream import AckPolicy
from faststream.redis import BinaryMessageFormatV1, RedisBroker, StreamSub
from redis.asyncio import Redis

from benchmarks.clock import Clock
from benchmarks.filling import fill
from benchmarks.job import COUNT, GROUP, STREAM, Job
from benchmarks.waiting import by_50, drained

PACKAGES = ("faststream", "redis", "hiredis")


async def prepare(job: Job) -> None:
    body = await BinaryMessageFormatV1.encode(
        message=b"x" * job.payload, reply_to=None, headers=None, correlation_id="c"
    )
    fill(job.direct, [STREAM], ("__data__", body), job.messages, GROUP)


async def consume(job: Job, clock: Clock, **manner: Any) -> None:
    """Handle all messages."""
    await prepare(job)
    batch = manner.pop("batch", False)
    done = asyncio.Event()
    seen = 0

    def count(messages: int) -> None:
        nonlocal seen
        seen += messages
        if seen >= job.messages:
            done.set()

    async def handle(message: bytes) -> None:
        if message:
            count(1)

    async def handle_all(messages: list[bytes]) -> None:
        count(sum(1 for message in messages if message))

    stream = StreamSub(
        STREAM, group=GROUP, consumer="c", max_records=COUNT, batch=batch
    )
    with clock.timed(job.messages):
        broker = RedisBroker(job.url, logger=None)
        broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR, **manner)(
            handle_all if batch else handle
        )
        await broker.start()
        await done.wait()
        async with Redis.from_url(job.direct) as redis:
            await drained(redis, STREAM, GROUP)
    await broker.stop()


async def single(job: Job, clock: Clock) -> None:
    """As it comes: one message after the other."""
    await consume(job, clock)


async def workers(job: Job, clock: Clock) -> None:
    """16 handlers."""
    await consume(job, clock, max_workers=16)


async def batch(job: Job, clock: Clock) -> None:
    """Lists, acknowledged at once."""
    await consume(job, clock, batch=True)


async def send_50(job: Job, clock: Clock) -> None:
    """50 publishes at a time."""
    payload = b"x" * job.payload
    with clock.timed(job.messages):
        async with RedisBroker(job.url, logger=None) as broker:
            await by_50(lambda: broker.publish(payload, stream=STREAM), job.messages)


WAYS = {"single": single, "workers": workers, "batch": batch, "send_50": send_50}
