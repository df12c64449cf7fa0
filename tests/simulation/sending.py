"""Sending: the programs of producers' processes, by the public API alone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any, Final, TypeAlias

from faults.history import Attempt, Failed, Receipt, Unknown, digest
from penstock import (
    AccessError,
    ConfigurationError,
    EntryId,
    Event,
    MaxAge,
    MaxLen,
    Outgoing,
    Producer,
    SendFailed,
    SendUnknown,
    ShardsDiffer,
)
from penstock import Receipt as PenstockReceipt
from simulation.consuming import STREAM, URL
from simulation.journal import Journal
from simulation.loop import Loop
from simulation.opening import cancel_openings
from simulation.plan import ProducerPlan
from simulation.tasks import make

__all__ = ["SENDS", "produce"]


# It is not stored: the server refused it, or the stream has more shards by now.
_REFUSED: Final = (SendFailed, ShardsDiffer)


class Sender:
    """Sends messages, and records the outcome of each.

    Args:
        plan: What it sends.
        who: The process, whose name those of the messages begin with.
        seed: Decides the messages.
        journal: The journal.

    Attributes:
        futures: The outcomes of messages that were queued.
    """

    def __init__(
        self, plan: ProducerPlan, who: str, seed: int, journal: Journal
    ) -> None:
        self._plan = plan
        self._who = who
        self._journal = journal
        self._chance = Random(f"{seed} {who}")
        self._number = 0
        self.futures: list[asyncio.Future[PenstockReceipt]] = []

    def event(self, event: Event) -> None:
        """Record an event of the producer."""
        self._journal.note(f"event {event}")

    async def send_all(self, producer: Producer) -> None:
        """Send as many messages as the plan has, at its rate."""
        loop, plan = asyncio.get_running_loop(), self._plan
        began, send = loop.time(), SENDS[plan.how]
        while self._number < plan.count:
            count = min(plan.burst, plan.count - self._number)
            messages = [self._outgoing() for _ in range(count)]
            if plan.cancels and self._chance.random() < 0.1:
                await self._cancelled(send(self, producer, messages))
            else:
                await send(self, producer, messages)
            if plan.flushes and self._chance.random() < 0.1:
                await self._flush(producer)
            due = began + self._number / plan.rate
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _cancelled(self, sending: Coroutine[Any, Any, None]) -> None:
        """Cancel a call at some moment; its messages may be stored or not."""
        call = asyncio.create_task(sending)
        await asyncio.sleep(self._chance.choice((0.0, 0.0003, 0.001, 0.05)))
        call.cancel()
        await asyncio.wait([call])
        if not call.cancelled():
            call.result()

    def _outgoing(self) -> tuple[str, Outgoing[bytes]]:
        name = f"{self._who}-{self._number}"
        self._number += 1
        payload = make(name, self._chance, self._plan.tasks)
        key = f"k{self._chance.randrange(self._plan.keys)}"
        type_ = self._chance.choice((None, None, {"type": "order.created"}))
        return name, Outgoing(payload, key=key, headers=type_, **self._place())

    def _place(self) -> dict[str, Any]:
        """Return an id or a time for a message, if the plan wants them chosen."""
        if not self._plan.chosen or self._chance.random() < 0.5:
            return {}
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        ms = int(loop.world.wall() * 1000) + self._chance.choice((-100, 0, 0, 50))
        if self._chance.random() < 0.5:
            return {"timestamp": ms}
        return {"id": EntryId(ms, self._chance.randrange(1, 5))}

    async def _flush(self, producer: Producer) -> None:
        """Flush, and check that all that was queued before has an outcome."""
        queued = [future for future in self.futures if not future.done()]
        await producer.flush()
        assert all(future.done() for future in queued), "flush returned too early"

    def _attempt(self, name: str, message: Outgoing[bytes]) -> None:
        facts = {"key": message.key or "", "digest": digest(message.payload)}
        self._journal.add(Attempt, message=name, **facts)

    def _outcome(self, name: str, outcome: object) -> None:
        """Record what became of a message."""
        if isinstance(outcome, PenstockReceipt):
            facts = {"shard": outcome.shard, "id": str(outcome.id)}
            self._journal.add(Receipt, message=name, **facts)
        elif isinstance(outcome, SendUnknown):
            self._journal.add(Unknown, message=name)
        elif isinstance(outcome, _REFUSED):
            self._journal.add(
                Failed, message=name, code=getattr(outcome, "code", "SHARDS")
            )
        elif isinstance(outcome, BaseException):
            raise outcome

    def _queued(self, name: str, future: asyncio.Future[PenstockReceipt]) -> None:
        self.futures.append(future)
        future.add_done_callback(partial(self._done, name))

    def _done(self, name: str, future: asyncio.Future[PenstockReceipt]) -> None:
        if not future.cancelled():
            self._outcome(name, future.exception() or future.result())

    async def enqueue(self, producer: Producer, messages: _Messages) -> None:
        """Send each with `enqueue`, some with a time limit."""
        for name, message in messages:
            limit: dict[str, Any] = self._chance.choice(({}, {}, {}, {"timeout": 0.5}))
            self._attempt(name, message)
            try:
                future = await producer.enqueue(
                    STREAM,
                    message.payload,
                    **_choices(message),
                    **limit,
                )
            except _REFUSED as error:
                self._outcome(name, error)
            else:
                self._queued(name, future)

    async def enqueue_nowait(self, producer: Producer, messages: _Messages) -> None:
        """Send each with `enqueue_nowait`."""
        for name, message in messages:
            self._attempt(name, message)
            try:
                future = producer.enqueue_nowait(
                    STREAM, message.payload, **_choices(message)
                )
            except _REFUSED as error:
                self._outcome(name, error)
            else:
                self._queued(name, future)

    async def send(self, producer: Producer, messages: _Messages) -> None:
        """Send each with `send`, all at once."""

        async def one(name: str, message: Outgoing[bytes]) -> None:
            self._attempt(name, message)
            outcome: object
            try:
                outcome = await producer.send(
                    STREAM, message.payload, **_choices(message)
                )
            except _REFUSED as error:
                outcome = error
            except SendUnknown as error:
                outcome = error
            self._outcome(name, outcome)

        async with asyncio.TaskGroup() as group:
            for name, message in messages:
                group.create_task(one(name, message))

    async def send_many(self, producer: Producer, messages: _Messages) -> None:
        """Send all with `send_many`."""
        for name, message in messages:
            self._attempt(name, message)
        outcomes = await producer.send_many(STREAM, [each for _, each in messages])
        for (name, _), outcome in zip(messages, outcomes, strict=True):
            self._outcome(name, outcome)

    async def outlet(self, producer: Producer, messages: _Messages) -> None:
        """Send each through an outlet, at once or queued."""
        outlet = producer.to(STREAM, payload=bytes)
        for name, message in messages:
            self._attempt(name, message)
            outcome: object
            try:
                if self._chance.random() < 0.5:
                    self._queued(
                        name, await outlet.enqueue(message.payload, **_choices(message))
                    )
                    continue
                outcome = await outlet.send(message.payload, **_choices(message))
            except (*_REFUSED, SendUnknown) as error:
                outcome = error
            self._outcome(name, outcome)


def _choices(message: Outgoing[bytes]) -> dict[str, Any]:
    """Return what a message says of itself, as options of the sending calls."""
    options = {
        "key": message.key,
        "headers": message.headers,
        "id": message.id,
        "timestamp": message.timestamp,
    }
    return {name: value for name, value in options.items() if value is not None}


_Messages: TypeAlias = Sequence[tuple[str, Outgoing[bytes]]]
_Send: TypeAlias = Callable[[Sender, Producer, _Messages], Coroutine[Any, Any, None]]

SENDS: Final[dict[str, _Send]] = {
    "enqueue": Sender.enqueue,
    "nowait": Sender.enqueue_nowait,
    "send": Sender.send,
    "send_many": Sender.send_many,
    "outlet": Sender.outlet,
}


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
    sender = Sender(plan, who, seed, journal)
    if plan.cancels:
        options = {"open_timeout": 600, "on_event": sender.event, **_options(plan)}
        await cancel_openings(Producer(URL, **options), Random(f"{seed} {who} opening"))
    opened = False
    while not opened and not over.is_set():
        try:
            async with Producer(
                URL, open_timeout=600, on_event=sender.event, **_options(plan)
            ) as producer:
                opened = True
                journal.note("ready")
                await _send(sender, producer, over)
        except (AccessError, ConfigurationError) as error:
            # Only a fault takes permissions away, also that to use scripts.
            denied = isinstance(error, AccessError) or "NOPERM" in str(error)
            if opened or not denied:
                raise
            await asyncio.sleep(0.3)
    assert all(future.done() for future in sender.futures), "no outcome"
    journal.note("closed")


def _options(plan: ProducerPlan) -> dict[str, Any]:
    options = dict(plan.options)
    if length := options.pop("max_len", None):
        options["retention"] = MaxLen(length, exact=True)
    if age := options.pop("max_age", None):
        options["retention"] = MaxAge(age)
    return options


async def _send(sender: Sender, producer: Producer, over: asyncio.Event) -> None:
    """Send all messages, or those before SIGTERM."""
    sending = asyncio.create_task(sender.send_all(producer))
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
