"""Styles: the ways in which a consumer's program takes messages, until it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final, TypeAlias

from faults.task import parse
from faults.worker import by_next, by_run, by_take
from penstock import (
    EARLIEST,
    AccessError,
    Batch,
    ClosedError,
    Consumer,
    Message,
    ServerError,
    UsageError,
)
from simulation.handling import Handler

__all__ = ["OUTPUT", "STYLES"]

OUTPUT: Final = "outputs"
"""The stream that transactions send to."""

# Seconds for which a call may wait for a message that there is.
_IDLE: Final = 1.0
# Tasks that race.
_RACERS: Final = 8
_Consumer: TypeAlias = Consumer[bytes]
_How: TypeAlias = dict[str, Any]
Style: TypeAlias = Callable[[_Consumer, Handler, _How, asyncio.Event], Awaitable[None]]


@asynccontextmanager
async def _closed_when(over: asyncio.Event, consumer: _Consumer) -> AsyncIterator[None]:
    """Close a consumer from another task as soon as the program is over."""

    async def close() -> None:
        await over.wait()
        await consumer.aclose()

    closing = asyncio.create_task(close())
    try:
        yield
        await closing
    finally:
        closing.cancel()
        await asyncio.wait([closing])


async def _by_loop(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Iterate over the consumer, which another task closes."""
    async with _closed_when(over, consumer):
        async for message in consumer:
            await handler.handle_in_loop(message)


async def _by_batches(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Iterate over batches."""
    async with _closed_when(over, consumer):
        async for batch in consumer.batches(4, linger=0.1):
            for message in batch:
                await handler.handle_in_loop(message)


async def _by_lists(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Have `run` call a handler with lists."""
    async with _closed_when(over, consumer):
        await consumer.run(handler.handle_list, batch=Batch(5, linger=0.1), **how)


async def _by_jobs(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Catch up, again and again, by a loop and by `run` in turn."""
    async with _closed_when(over, consumer):
        while not over.is_set():
            handler.note("job begins")
            try:
                async for message in consumer.until_caught_up():
                    await handler.handle_in_loop(message)
                if not over.is_set():
                    handler.note("job ends")
                    await asyncio.sleep(0.3)
                    handler.note("job begins")
                    await consumer.run(handler.handle, until_caught_up=True, **how)
            except ClosedError:
                break
            if not over.is_set():
                handler.note("job ends")
                await asyncio.sleep(0.3)


async def _by_storm(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Receive in several tasks, whose calls are cancelled at any moment."""
    chance = Random(consumer.group)

    async def some() -> None:
        while not over.is_set():
            message = None
            try:
                async with asyncio.timeout(chance.choice((0.0, 0.001, 0.01, 0.2))):
                    message = await consumer.next()
            except TimeoutError:
                continue
            await handler.handle_in_loop(message, **how)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(some())


class _Race:
    """Tasks that receive, of which one that gets a message cancels others.

    Args:
        consumer: The consumer.
        handler: Handles the messages.
        over: Set by SIGTERM.
    """

    def __init__(
        self, consumer: _Consumer, handler: Handler, over: asyncio.Event
    ) -> None:
        self._consumer = consumer
        self._handler = handler
        self._over = over
        self._chance = Random(consumer.group)
        # The tasks that wait, and since when; the number of messages that came.
        self._waiting: dict[int, tuple[asyncio.Task[Any] | None, float]] = {}
        self._received = 0

    async def run(self) -> None:
        """Receive in several tasks until it is over."""
        async with _closed_when(self._over, self._consumer):
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch())
                async with asyncio.TaskGroup() as receiving:
                    for number in range(_RACERS):
                        receiving.create_task(self._receive(number))
                watching.cancel()

    async def _receive(self, number: int) -> None:
        while not self._over.is_set():
            try:
                message = await self._call(number)
            except ClosedError:
                break
            if message is None:
                await asyncio.sleep(self._chance.choice((0.0, 1.5, 2.5)))
                continue
            handled = await self._handler.handle_in_loop(message, ack=True)
            # Who takes its time does not take what another one was woken for.
            pause = self._chance.choice((0.0, 2.5, 2.5))
            # Until its task comes back, a message that was nacked is not decided. On
            # its last attempt it keeps all others from starting.
            await asyncio.sleep(pause if handled else 0.0)

    async def _call(self, number: int) -> Message[bytes] | None:
        """Wait for a message; return None if another task has cancelled that."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting[number] = task, asyncio.get_running_loop().time()
        try:
            message = await self._consumer.next()
        except asyncio.CancelledError:
            if number in self._waiting:
                raise
            task.uncancel()
            return None
        finally:
            self._waiting.pop(number, None)
        self._received += 1
        # The first ones are never cancelled, so that somebody waits.
        for other in [each for each in self._waiting if each > 1]:
            if self._chance.random() < 0.5:
                cancelled, _ = self._waiting.pop(other)
                assert cancelled is not None
                cancelled.cancel()
        return message

    async def _watch(self) -> None:
        """Note when a call waits for a while in which nobody takes what is there."""
        loop = asyncio.get_running_loop()
        while not self._over.is_set():
            queued, received = self._consumer.statistics().queued, self._received
            began = loop.time()
            await asyncio.sleep(_IDLE)
            taken = not queued or received != self._received
            waited = any(since < began for _, since in self._waiting.values())
            if waited and not taken and not self._over.is_set():
                self._handler.note("idle")


async def _by_race(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Receive in several tasks, of which one that gets a message cancels others."""
    await _Race(consumer, handler, over).run()


async def _by_cancelling(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Handle messages, and cancel all kinds of calls at any await meanwhile."""
    chance = Random(f"{consumer.group} {consumer.name}")
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: consumer.run(handler.handle, **how),
        lambda: _one(consumer, handler),
        lambda: _some(consumer, handler),
        consumer.commit,
        consumer.lag,
        lambda: consumer.assign("other"),
        lambda: consumer.unassign("other"),
        lambda: consumer.seek(EARLIEST, stream="other"),
    )
    loop = asyncio.get_running_loop()
    # Later on, it must come to an end.
    end = loop.time() + 15
    while not over.is_set() and loop.time() < end:
        call = asyncio.ensure_future(_quietly(chance.choice(calls)))
        if chance.random() < 0.5:
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(chance.choice((0.001, 0.01, 0.3, 2.0)))
        for _ in range(chance.choice((1, 1, 2))):
            call.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([call])
        if not call.cancelled():
            call.result()
    if not over.is_set():
        await by_run(consumer, handler, how, over)


async def _quietly(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call, which may fail in an outage, or because of what it asks for."""
    try:
        await call()
    except AccessError:
        raise
    except (ServerError, UsageError):
        await asyncio.sleep(0.05)


async def _one(consumer: _Consumer, handler: Handler) -> None:
    message = await consumer.next(timeout=0.2)
    if message is not None:
        # The end of this task would be no sign that it was handled.
        await handler.handle_in_loop(message, ack=True)


async def _some(consumer: _Consumer, handler: Handler) -> None:
    await handler.handle_list(await consumer.take(5, timeout=0.2), ack=True)


async def _by_reopening(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Close the consumer from a handler or another task, and open it again.

    It is open for ever longer, so that a handler that takes its time comes to an end.
    """
    chance = Random(f"{consumer.group} {consumer.name}")
    turn = 0

    async def handle(message: Message[bytes]) -> None:
        await handler.handle(message)
        if chance.random() < 0.02 / turn:
            await consumer.aclose()  # returns at once: it is called by a handler

    while not over.is_set():
        turn += 1
        run = asyncio.create_task(consumer.run(handle, **how))
        waits = asyncio.create_task(over.wait())
        await asyncio.wait(
            [run, waits],
            timeout=chance.choice((0.05, 1.0, 4.0)) * (1 + turn / 4),
            return_when=asyncio.FIRST_COMPLETED,
        )
        waits.cancel()
        await consumer.aclose()
        await run
        while not await _started(consumer, chance):
            pass


async def _started(consumer: _Consumer, chance: Random) -> bool:
    """Open a consumer, at times with a cancellation; return whether it is open."""
    starting = asyncio.create_task(consumer.start())
    if chance.random() < 0.3:
        await asyncio.sleep(chance.choice((0.0, 0.001, 0.01)))
        starting.cancel()
    await asyncio.wait([starting])
    if starting.cancelled():
        return False
    starting.result()
    return True


async def _by_transactions(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Have `run` call a handler that sends one message on for each, exactly once."""

    async def apply(message: Message[bytes]) -> None:
        task = parse(message.payload)
        async with message.transaction() as tx:
            await handler.handle(message)
            tx.command("HINCRBY", "applied", task.message, 1)
            tx.send(OUTPUT, f"{task.message} {message.id}".encode(), key=message.key)

    async with _closed_when(over, consumer):
        await consumer.run(apply, **how)


async def _by_direct(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Call `run` in the program's own task, which gets what ends it."""
    async with _closed_when(over, consumer):
        await consumer.run(handler.handle, **how)


async def _by_threads(
    consumer: _Consumer, handler: Handler, how: _How, over: asyncio.Event
) -> None:
    """Have `run` call a function in threads."""
    async with _closed_when(over, consumer):
        await consumer.run(handler.handle_in_thread, **how)


STYLES: Final[dict[str, Style]] = {
    "run": by_run,
    "loop": _by_loop,
    "next": by_next,
    "take": by_take,
    "batches": _by_batches,
    "lists": _by_lists,
    "jobs": _by_jobs,
    "storm": _by_storm,
    "race": _by_race,
    "cancelling": _by_cancelling,
    "reopening": _by_reopening,
    "transactions": _by_transactions,
    "direct": _by_direct,
    "threads": _by_threads,
}
