"""streaQ, https://streaq.readthedocs.io: its worker in burst mode.

A message's body is a key of its own, beside the stream of task ids. There is no COUNT:
it reads as many as it has room for. The task keeps no result (`ttl=0`).
"""

from __future__ import annotations

from typing import Any

from streaq import Worker

from benchmarks.clock import Clock
from benchmarks.job import STREAM, Job

PACKAGES = ("streaq", "coredis", "hiredis")


def worker_of(url: str, task: Any, concurrency: int = 32) -> tuple[Any, Any]:
    """A worker, and its task."""
    worker = Worker(
        redis_url=url,
        queue_name=STREAM,
        concurrency=concurrency,
        handle_signals=False,
    )
    return worker, worker.task(ttl=0, silent=True)(task)


async def enqueue(worker: Any, task: Any, job: Job) -> None:
    """Enqueue all messages, 100 at a time."""
    payload = "x" * job.payload
    left = job.messages
    while left:
        some = min(left, 100)
        await worker.enqueue_many([task.enqueue(payload) for _ in range(some)])
        left -= some


async def consume(job: Job, clock: Clock) -> None:
    """32 tasks at a time; ends when nothing is left."""
    seen = 0

    async def handle(message: str) -> None:
        nonlocal seen
        if message:
            seen += 1

    sender, task = worker_of(job.direct, handle)
    async with sender:
        await enqueue(sender, task, job)
    worker, _ = worker_of(job.url, handle)
    worker.burst = True
    with clock.timed(job.messages):
        await worker.run_async()
    if seen != job.messages:
        raise RuntimeError(f"{seen} of {job.messages} were handled")


async def send_100(job: Job, clock: Clock) -> None:
    """`enqueue_many` of 100."""

    async def handle(message: str) -> None: ...

    worker, task = worker_of(job.url, handle)
    with clock.timed(job.messages):
        async with worker:
            await enqueue(worker, task, job)


WAYS = {"consume": consume, "send_100": send_100}
