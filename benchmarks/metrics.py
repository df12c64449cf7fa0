"""What metrics cost: a run with 16 handlers, with and without them, in turn.

With metrics, attempts are recorded, and a thread reads them all each second, as
Prometheus would. A handler that does nothing shows the cost at its largest; the other
one gives the event loop a turn, as any handler that waits for something does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.consume import prepare
from benchmarks.harness import GROUP, STREAM, Contender, Settings, measure
from benchmarks.reading import check_group
from penstock import Consumer, Message
from penstock.observe.prometheus import register

Handler = Callable[[Message[Any]], Awaitable[None]]


async def nothing(_: Message[Any]) -> None:
    """Do nothing."""


async def turn(_: Message[Any]) -> None:
    """Give the event loop a turn."""
    await asyncio.sleep(0)


@contextmanager
def scraped(consumer: Consumer[Any]) -> Iterator[None]:
    """Register a consumer, and read its metrics each second."""
    registry, stop = CollectorRegistry(), threading.Event()

    def scrape() -> None:
        while not stop.wait(1):
            generate_latest(registry)

    thread = threading.Thread(target=scrape)
    with register(consumer, registry=registry):
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def without(handler: Handler) -> Callable[[Settings], Awaitable[None]]:
    async def job(settings: Settings) -> None:
        await run(Consumer(STREAM, url=settings.url, group=GROUP), settings, handler)

    return job


def with_metrics(handler: Handler) -> Callable[[Settings], Awaitable[None]]:
    async def job(settings: Settings) -> None:
        consumer = Consumer(STREAM, url=settings.url, group=GROUP)
        with scraped(consumer):
            await run(consumer, settings, handler)

    return job


async def run(consumer: Consumer[Any], settings: Settings, handler: Handler) -> None:
    seen = 0

    async def handle(message: Message[Any]) -> None:
        nonlocal seen
        await handler(message)
        seen += 1
        if seen == settings.messages:
            await consumer.aclose()

    async with consumer:
        await consumer.run(handle, concurrency=16)


async def main(settings: Settings) -> None:
    """Run it."""
    contenders = []
    for name, handler in (("nothing", nothing), ("a turn", turn)):
        base = Contender(f"{name}, without metrics", without(handler))
        base.raw = base
        contenders += [
            base,
            Contender(f"{name}, with metrics", with_metrics(handler), raw=base),
        ]
    await measure(settings, contenders, prepare, check_group)
