"""Consuming: the programs of consumers' processes, by the public API alone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, Final, TypeAlias

from faults.task import parse
from faults.worker import Handler, by_next, by_run, by_take
from penstock import (
    AccessError,
    Claim,
    ClosedError,
    CommandError,
    Commit,
    Consumer,
    Message,
    Prefetch,
    Retry,
)
from simulation.journal import Journal
from simulation.plan import ConsumerPlan
from simulation.steps import take_steps

__all__ = ["OUTPUT", "STREAM", "STYLES", "URL", "consume"]

STREAM: Final = "orders"
OUTPUT: Final = "outputs"
URL: Final = "redis://server:6379?socket_timeout=2&socket_connect_timeout=1"
# Seconds for which a call may wait for a message that there is.
_IDLE: Final = 1.0
_KINDS: Final = {"claim": Claim, "commit": Commit, "prefetch": Prefetch, "retry": Retry}


class _Handler(Handler):
    """Does what messages say; in REALTIME there is nothing to acknowledge."""

    async def handle(self, message: Message[bytes]) -> None:
        """Handle a message, and record whether that was interrupted."""
        try:
            await super().handle(message)
        except asyncio.CancelledError:
            self._journal.note(f"interrupted {message.shard} {message.id}")
            raise

    def note_idle(self) -> None:
        """Record that a call waits for a message though there are some."""
        self._journal.note("idle")

    async def handle_in_loop(
        self, message: Message[bytes], *, ack: bool = False
    ) -> None:
        if self._group != "realtime":
            await super().handle_in_loop(message, ack=ack)
            return
        with suppress(RuntimeError):
            await self.handle(message)


Style: TypeAlias = Callable[
    [Consumer[bytes], _Handler, dict[str, Any], asyncio.Event], Awaitable[None]
]


async def _close_when(over: asyncio.Event, consumer: Consumer[bytes]) -> None:
    await over.wait()
    await consumer.aclose()


async def _by_loop(
    consumer: Consumer[bytes],
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
) -> None:
    """Iterate over the consumer, which another task closes."""
    closing = asyncio.create_task(_close_when(over, consumer))
    async for message in consumer:
        await handler.handle_in_loop(message)
    await closing


async def _by_batches(
    consumer: Consumer[bytes],
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
) -> None:
    """Iterate over batches."""
    closing = asyncio.create_task(_close_when(over, consumer))
    async for batch in consumer.batches(4, linger=0.1):
        for message in batch:
            await handler.handle_in_loop(message)
    await closing


async def _by_storm(
    consumer: Consumer[bytes],
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
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


async def _by_race(
    consumer: Consumer[bytes],
    handler: _Handler,
    how: dict[str, Any],
    over: asyncio.Event,
) -> None:
    """Receive in several tasks, of which one that gets a message cancels others."""
    chance = Random(consumer.group)
    calls: dict[int, asyncio.Task[Message[bytes] | None]] = {}

    async def call(number: int) -> Message[bytes] | None:
        message = await consumer.next()
        # The first one is never cancelled, so somebody waits whenever nobody handles.
        for other, each in calls.items():
            if other not in {0, number} and chance.random() < 0.5:
                each.cancel()
        return message

    async def some(number: int) -> None:
        while not over.is_set():
            calls[number] = made = asyncio.create_task(call(number))
            while not (await asyncio.wait([made], timeout=_IDLE))[0]:
                if consumer.statistics().queued and not over.is_set():
                    handler.note_idle()
            try:
                message = made.result()
            except asyncio.CancelledError:
                await asyncio.sleep(chance.choice((0.0, 0.5, 3.0)))
                continue
            except ClosedError:
                break
            if message is not None:
                await handler.handle_in_loop(message, ack=True)

    closing = asyncio.create_task(_close_when(over, consumer))
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(some(number))
    await closing


async def _by_transactions(
    consumer: Consumer[bytes],
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
) -> None:
    """Have `run` call a handler that sends one message on for each, exactly once."""

    async def apply(message: Message[bytes]) -> None:
        task = parse(message.payload)
        async with message.transaction() as tx:
            await handler.handle(message)
            tx.command("HINCRBY", "applied", task.message, 1)
            tx.send(OUTPUT, f"{task.message} {message.id}".encode(), key=message.key)

    run = asyncio.create_task(consumer.run(apply, **how))
    await over.wait()
    await consumer.aclose()
    await run


STYLES: Final[dict[str, Style]] = {
    "run": by_run,
    "loop": _by_loop,
    "next": by_next,
    "take": by_take,
    "batches": _by_batches,
    "storm": _by_storm,
    "race": _by_race,
    "transactions": _by_transactions,
}


class _Program:
    """What one consumer's process does.

    Args:
        plan: The plan.
        name: The consumer's name in the group; None for one that Penstock chooses.
        journal: Where it records what it does.
    """

    def __init__(self, plan: ConsumerPlan, name: str | None, journal: Journal) -> None:
        self._plan = plan
        self._journal = journal
        self._handler = _Handler(journal, plan.group or "realtime")
        self._options = dict(plan.options)
        for option in _KINDS.keys() & self._options.keys():
            self._options[option] = _KINDS[option](**self._options[option])
        if plan.group:
            self._options |= {"group": plan.group, "name": name}
        self._how = dict(plan.run)
        if self._options.get("auto_commit") in {"rolling", "disabled"}:
            self._how["ack"] = True
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Consume until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        while not self._over.is_set():
            consumer = Consumer(
                STREAM,
                url=URL,
                open_timeout=600,
                on_event=self._handler.event,
                **self._options,
            )
            try:
                await self._consume(consumer)
            except AccessError:
                # Only a fault takes permissions away.
                self._journal.note("no access")
                await asyncio.sleep(0.3)
            except CommandError as error:
                # A key that is no stream at the moment can't be opened. From a consumer
                # that was open, such an error would be a finding.
                if "XGROUP CREATE" not in str(error) or "WRONGTYPE" not in str(error):
                    raise
                self._journal.note("not opened")
                await asyncio.sleep(0.3)
            else:
                break
        self._journal.note("closed")

    def _end(self) -> None:
        self._journal.note("SIGTERM")
        self._over.set()

    async def _consume(self, consumer: Consumer[bytes]) -> None:
        style = STYLES[self._plan.style]
        async with consumer:
            self._journal.note("ready")
            taking = take_steps(consumer, self._plan, self._journal, self._over)
            steps = asyncio.create_task(taking)
            try:
                await style(consumer, self._handler, self._how, self._over)
            except BaseException:
                steps.cancel()
                await asyncio.wait([steps])
                raise
        # A call that was under way has to end when the consumer closes.
        await steps


async def consume(plan: ConsumerPlan, name: str | None, journal: Journal) -> None:
    """Run a consumer until SIGTERM.

    Args:
        plan: What to do.
        name: The consumer's name in the group; None for one that Penstock chooses.
        journal: Where to record it.
    """
    await _Program(plan, name, journal).run()
