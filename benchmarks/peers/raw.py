"""Loops by hand: on redis-py's bare connection, and with its calls."""

from __future__ import annotations

import asyncio

from benchmarks import consume, produce
from benchmarks.clock import Clock
from benchmarks.harness import client
from benchmarks.job import COUNT, GROUP, STREAM, Job
from benchmarks.peers.penstock import prepare, settings

PACKAGES = ("redis", "hiredis")


async def bare(job: Job, clock: Clock) -> None:
    """Read 500, acknowledge 500, on the bare connection."""
    prepare(job)
    with clock.timed(job.messages):
        await consume.raw(settings(job))


async def redis_py(job: Job, clock: Clock) -> None:
    """The same with redis-py's calls."""
    prepare(job)
    with clock.timed(job.messages):
        await consume.redis_py(settings(job))


async def redis_py_each(job: Job, clock: Clock) -> None:
    """The same with an XACK for each message."""
    prepare(job)
    with clock.timed(job.messages):
        async with client(job.url) as redis:
            seen = 0
            while seen < job.messages:
                reply = await redis.xreadgroup(
                    GROUP, "redis-py", {STREAM: ">"}, count=COUNT, block=1000
                )
                for id_, fields in reply[0][1]:
                    if fields[b"msg"]:
                        seen += 1
                    await redis.xack(STREAM, GROUP, id_)


async def send(job: Job, clock: Clock) -> None:
    """Writes of 500 on the bare connection."""
    with clock.timed(job.messages):
        await produce.raw(settings(job))


async def redis_py_send(job: Job, clock: Clock) -> None:
    """redis-py's pipeline of 500."""
    with clock.timed(job.messages):
        await produce.redis_py(settings(job))


async def tasks(job: Job, clock: Clock) -> None:
    """No server: tasks that await what handlers await, for what the timers allow."""
    left = job.messages

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await asyncio.sleep(job.wait)

    with clock.timed(job.messages):
        await asyncio.gather(*(work() for _ in range(job.concurrency)))


WAYS = {
    "tasks": tasks,
    "consume": bare,
    "redis_py": redis_py,
    "redis_py_each": redis_py_each,
    "send": send,
    "redis_py_send": redis_py_send,
}
