"""Forking: a child can't use its parent's connections, nor does it disturb them."""

from __future__ import annotations

import asyncio
import os
import traceback
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from penstock import KEEP_ALL, ClosedError, Consumer, Producer, admin
from penstock.errors import UsageError
from support.events import Events
from support.waiting import numbers, read


def fork() -> int:
    """Fork; return 0 in the child."""
    with warnings.catch_warnings():
        # Python 3.12 warns about forking where there are threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


async def in_child(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a coroutine in a forked child, in a new event loop; return the exit status.

    asyncio does not allow a child to continue the parent's loop.
    """
    child = fork()
    if not child:
        try:
            asyncio.run(work())
        except BaseException:  # noqa: BLE001 - the test must not go on in the child
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    return os.waitstatus_to_exitcode(status)


async def check_it_still_works(
    producer: Producer, consumer: Consumer[bytes], stream: str, start: int
) -> None:
    """Check that the parent sends and handles messages as before."""
    for number in range(start, start + 100):
        await producer.enqueue(stream, b"%d" % number)
    await producer.flush()
    assert numbers(await read(consumer, 100)) == [*range(start, start + 100)]


@pytest.mark.parametrize("ownership", ["shared", "owned"])
async def test_calls_in_a_child_raise_closed_error_and_the_parent_continues(
    url: str, stream: str, events: Events, ownership: Any
) -> None:
    options: Any = {"group": "g", "ownership": ownership, "on_event": events}
    async with (
        Producer(url, on_event=events, retention=KEEP_ALL) as producer,
        Consumer(stream, url=url, **options) as consumer,
    ):
        await check_it_still_works(producer, consumer, stream, 0)

        async def child() -> None:
            for call in (
                lambda: producer.send(stream, b"child"),
                lambda: producer.enqueue(stream, b"child"),
                producer.flush,
                lambda: consumer.next(timeout=1),
                consumer.commit,
                consumer.lag,
            ):
                with pytest.raises(ClosedError, match="a separate one in a forked"):
                    await call()
            with pytest.raises(ClosedError):
                producer.enqueue_nowait(stream, b"child")

        assert await in_child(child) == 0
        await check_it_still_works(producer, consumer, stream, 100)
    usual = {"shard_found", "shard_taken", "shard_freed"}
    assert {event.name for event in events} <= usual


async def test_a_child_can_open_its_own_producer(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, b"parent")

        async def child() -> None:
            async with Producer(url) as own:
                await own.send(stream, b"child")

        assert await in_child(child) == 0
        await producer.send(stream, b"parent")
    assert await redis.xlen(stream) == 3


async def test_an_admin_of_the_parent_raises_usage_error_in_the_child(
    url: str, stream: str
) -> None:
    async with admin.Admin(url) as operator, Producer(url) as producer:
        await producer.send(stream, b"1")

        async def child() -> None:
            with pytest.raises(UsageError, match="open a separate one in the child"):
                await operator.trim(stream, "5-0")

        assert await in_child(child) == 0
        await operator.trim(stream, "5-0")
