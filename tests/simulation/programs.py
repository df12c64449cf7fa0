"""Programs: what the simulated processes run, by the public API alone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final, TypeAlias

from faults.history import (
    Attempt,
    Excuse,
    Failed,
    Receipt,
    Unknown,
    digest,
)
from faults.sender import Sender
from faults.task import make, parse
from faults.worker import Handler, by_next, by_run, by_take
from penstock import (
    EARLIEST,
    Claim,
    CommandError,
    Commit,
    Consumer,
    Message,
    Outgoing,
    Prefetch,
    Producer,
    Retry,
    SendFailed,
    SendUnknown,
)
from simulation.journal import Journal
from simulation.plan import ConsumerPlan, ProducerPlan

__all__ = ["OUTPUT", "STEPS", "STREAM", "STYLES", "consume", "produce"]

STREAM: Final = "orders"
OUTPUT: Final = "outputs"
URL: Final = "redis://server:6379?socket_timeout=2&socket_connect_timeout=1"
_KINDS: Final = {"claim": Claim, "commit": Commit, "prefetch": Prefetch, "retry": Retry}


class _Handler(Handler):
    """Does what messages say; in REALTIME there is nothing to acknowledge."""

    async def try_(self, message: Message[bytes], *, ack: bool = False) -> None:
        if self._group != "realtime":
            await super().try_(message, ack=ack)
            return
        with suppress(RuntimeError):
            await self.handle(message)


# -- consumers -------------------------------------------------------------------------

Style: TypeAlias = Callable[
    [Consumer[bytes], Handler, dict[str, Any], asyncio.Event], Awaitable[None]
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
        await handler.try_(message)
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
            await handler.try_(message)
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
            await handler.try_(message, **how)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(some())


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
    "transactions": _by_transactions,
}


async def consume(
    plan: ConsumerPlan, who: str, name: str | None, journal: Journal
) -> None:
    """Run a consumer until SIGTERM.

    Args:
        plan: What to do.
        who: The process.
        name: The consumer's name in the group; None for one that Penstock chooses.
        journal: Where to record it.
    """
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    handler = _Handler(journal, plan.group or "realtime")
    options = dict(plan.options)
    for option in _KINDS.keys() & options.keys():
        options[option] = _KINDS[option](**options[option])
    if plan.group:
        options |= {"group": plan.group, "name": name}
    how = dict(plan.run)
    if options.get("auto_commit") in {"rolling", "disabled"}:
        how["ack"] = True
    while not over.is_set():
        consumer = Consumer(
            STREAM, url=URL, open_timeout=600, on_event=handler.event, **options
        )
        try:
            await _use(consumer, plan, handler, how, over, journal)
        except CommandError as error:
            # What is no stream at the moment can't be opened. Once it was open, such an
            # error would be a finding.
            if "XGROUP CREATE" not in str(error) or "WRONGTYPE" not in str(error):
                raise
            journal.note("not opened")
            await asyncio.sleep(0.3)
        else:
            break
    journal.note("closed")


async def _use(
    consumer: Consumer[bytes],
    plan: ConsumerPlan,
    handler: Handler,
    how: dict[str, Any],
    over: asyncio.Event,
    journal: Journal,
) -> None:
    async with consumer:
        journal.note("ready")
        steps = asyncio.create_task(_take_steps(consumer, plan, journal))
        try:
            await STYLES[plan.style](consumer, handler, how, over)
        finally:
            steps.cancel()
            await asyncio.wait([steps])
    if not steps.cancelled():
        steps.result()


# -- steps -----------------------------------------------------------------------------

Step: TypeAlias = Callable[[Consumer[bytes], int, Journal], Awaitable[None]]


async def _pause(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    """Pause for a while."""
    consumer.pause()
    try:
        await asyncio.sleep((argument % 50) / 10)
    finally:
        consumer.resume()


async def _commit(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    await consumer.commit()


async def _commit_cancelled(
    consumer: Consumer[bytes], argument: int, journal: Journal
) -> None:
    """Cancel a call of `commit` at some moment."""
    call = asyncio.create_task(consumer.commit())
    await asyncio.sleep((argument % 100) / 1000)
    call.cancel()
    await asyncio.wait([call])


async def _lag(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    await consumer.lag()


async def _seek(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    """Seek to the beginning."""
    since = asyncio.get_running_loop().time()
    try:
        await consumer.seek(EARLIEST)
    finally:
        journal.tell(Excuse, since=since, what=["again"])


async def _assign(consumer: Consumer[bytes], argument: int, journal: Journal) -> None:
    """Read another stream for a while."""
    await consumer.assign("other")
    await asyncio.sleep((argument % 30) / 10)
    await consumer.unassign("other")


STEPS: Final[dict[str, Step]] = {
    "pause": _pause,
    "commit": _commit,
    "commit_cancelled": _commit_cancelled,
    "lag": _lag,
    "seek": _seek,
    "assign": _assign,
}


async def _take_steps(
    consumer: Consumer[bytes], plan: ConsumerPlan, journal: Journal
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for step in sorted(plan.steps, key=lambda step: step.at):
        if step.what == "seek" and plan.options.get("mode") != "resumable":
            continue
        await asyncio.sleep(max(0.0, began + step.at - loop.time()))
        journal.note(f"step {step.what}")
        try:
            await STEPS[step.what](consumer, step.argument, journal)
        except Exception as error:  # noqa: BLE001 - outages end calls, too
            journal.note(f"step {step.what} failed: {error!r}")


# -- producers -------------------------------------------------------------------------


class _Sender(Sender):
    """Sends a number of messages in one of the ways that there are."""

    async def send_all(self, producer: Producer, plan: ProducerPlan) -> None:
        loop, began, number = (
            asyncio.get_running_loop(),
            asyncio.get_running_loop().time(),
            0,
        )
        send = getattr(self, f"by_{plan.how}")
        while number < plan.count:
            count = min(plan.burst, plan.count - number)
            names = [f"{self._asked['who']}-{number + n}" for n in range(count)]
            await send(producer, names)
            number += count
            await asyncio.sleep(max(0.0, began + number / plan.rate - loop.time()))

    def _make(self, message: str) -> tuple[bytes, str]:
        payload = make(message, self._chance)
        key = f"k{self._chance.randrange(self._asked['keys'])}"
        self._journal.tell(Attempt, message=message, key=key, digest=digest(payload))
        return payload, key

    async def by_enqueue(self, producer: Producer, names: list[str]) -> None:
        for name in names:
            await self._send(producer, name)

    async def by_nowait(self, producer: Producer, names: list[str]) -> None:
        for name in names:
            payload, key = self._make(name)
            try:
                outcome = producer.enqueue_nowait(STREAM, payload, key=key)
            except SendFailed as error:
                self._journal.tell(Failed, message=name, code=error.code)
            else:
                outcome.add_done_callback(partial(self._told, name))

    async def by_send(self, producer: Producer, names: list[str]) -> None:
        async def one(name: str) -> None:
            payload, key = self._make(name)
            try:
                receipt = await producer.send(STREAM, payload, key=key)
            except SendUnknown:
                self._journal.tell(Unknown, message=name)
            except SendFailed as error:
                self._journal.tell(Failed, message=name, code=error.code)
            else:
                facts = {"shard": receipt.shard, "id": str(receipt.id)}
                self._journal.tell(Receipt, message=name, **facts)

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(one(name))

    async def by_send_many(self, producer: Producer, names: list[str]) -> None:
        messages = []
        for name in names:
            payload, key = self._make(name)
            messages.append(Outgoing(payload, key=key))
        outcomes = await producer.send_many(STREAM, messages)
        for name, outcome in zip(names, outcomes, strict=True):
            if isinstance(outcome, SendUnknown):
                self._journal.tell(Unknown, message=name)
            elif isinstance(outcome, SendFailed):
                self._journal.tell(Failed, message=name, code=outcome.code)
            else:
                facts = {"shard": outcome.shard, "id": str(outcome.id)}
                self._journal.tell(Receipt, message=name, **facts)


async def produce(plan: ProducerPlan, who: str, seed: int, journal: Journal) -> None:
    """Send messages until all are sent, or SIGTERM.

    Args:
        plan: What to send, and how.
        who: The process.
        seed: Decides the messages.
        journal: Where to record it.
    """
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    sender = _Sender(
        {"seed": seed, "who": who, "keys": plan.keys, "stream": STREAM}, journal
    )
    async with Producer(
        URL, open_timeout=600, on_event=sender.event, **plan.options
    ) as producer:
        journal.note("ready")
        sending = asyncio.create_task(sender.send_all(producer, plan))
        ending = asyncio.create_task(over.wait())
        await asyncio.wait([sending, ending], return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            # It may wait for space in the buffer.
            await asyncio.wait([sending], timeout=5)
            sending.cancel()
        ending.cancel()
        await asyncio.wait([sending, ending])
    if not sending.cancelled():
        sending.result()
    journal.note("closed")
