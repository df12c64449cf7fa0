"""Penstock."""

from __future__ import annotations

import asyncio

from benchmarks import consume, produce
from benchmarks.clock import Clock
from benchmarks.filling import fill
from benchmarks.harness import Settings
from benchmarks.job import COUNT, GROUP, STREAM, Job
from benchmarks.waiting import by_50
from penstock import KEEP_ALL, Batch, Consumer, Message, Producer

PACKAGES = ("redis", "hiredis")


def prepare(job: Job) -> None:
    fill(job.direct, job.keys, (b"msg", b"x" * job.payload), job.messages, GROUP)


def settings(job: Job) -> Settings:
    """The same for the loops of `consume` and `produce`."""
    return Settings(job.url, job.messages, 1, as_json=False)


def consumer(job: Job) -> Consumer[bytes]:
    shards = job.shards if job.shards > 1 else None
    return Consumer(STREAM, url=job.url, group=GROUP, shards=shards)


async def async_for(job: Job, clock: Clock) -> None:
    """One message after the other."""
    prepare(job)
    with clock.timed(job.messages):
        await consume.async_for(settings(job))


async def run_16(job: Job, clock: Clock) -> None:
    """16 handlers."""
    prepare(job)
    with clock.timed(job.messages):
        await consume.run_16(settings(job))


async def run_batch(job: Job, clock: Clock) -> None:
    """One handler of lists."""
    prepare(job)
    seen = 0

    async def handle(messages: list[Message[bytes]]) -> None:
        nonlocal seen
        for message in messages:
            if message.payload:
                seen += 1
        if seen == job.messages:
            await opened.aclose()

    with clock.timed(job.messages):
        async with consumer(job) as opened:
            await opened.run(handle, batch=Batch(COUNT))


async def run(job: Job, clock: Clock) -> None:
    """Handlers that may wait, as many at a time, over as many shards, as told."""
    prepare(job)
    seen = 0

    async def handle(message: Message[bytes]) -> None:
        nonlocal seen
        if job.wait:
            await asyncio.sleep(job.wait)
        if message.payload:
            seen += 1
        if seen == job.messages:
            await opened.aclose()

    with clock.timed(job.messages):
        async with consumer(job) as opened:
            await opened.run(handle, concurrency=job.concurrency)


async def enqueue(job: Job, clock: Clock) -> None:
    """Each enqueued, then a flush."""
    with clock.timed(job.messages):
        await produce.enqueue(settings(job))


async def send_50(job: Job, clock: Clock) -> None:
    """50 sends at a time."""
    payload = b"x" * job.payload
    with clock.timed(job.messages):
        async with Producer(job.url, retention=KEEP_ALL) as producer:
            await by_50(lambda: producer.send(STREAM, payload), job.messages)


WAYS = {
    "async_for": async_for,
    "run_16": run_16,
    "run_batch": run_batch,
    "run": run,
    "enqueue": enqueue,
    "send_50": send_50,
}
