"""Sending: the programs of producers' processes, by the public API alone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final, TypeAlias

from faults.history import Attempt, Failed, Receipt, Unknown, digest
from faults.task import make
from penstock import Event, Outgoing, Producer, SendFailed, SendUnknown
from penstock import Receipt as PenstockReceipt
from simulation.consuming import STREAM, URL
from simulation.journal import Journal
from simulation.plan import ProducerPlan

__all__ = ["SENDS", "produce"]


class Sender:
    """Sends messages, and records the outcome of each.

    Args:
        who: The process, whose name those of the messages begin with.
        keys: The number of keys.
        seed: Decides the messages.
        journal: The journal.
    """

    def __init__(self, who: str, keys: int, seed: int, journal: Journal) -> None:
        self._who = who
        self._keys = keys
        self._journal = journal
        self._chance = Random(f"{seed} {who}")
        self._number = 0

    def event(self, event: Event) -> None:
        """Record an event of the producer."""
        self._journal.note(f"event {event}")

    async def send_all(self, producer: Producer, plan: ProducerPlan) -> None:
        """Send as many messages as a plan has, at its rate."""
        loop = asyncio.get_running_loop()
        began, send = loop.time(), SENDS[plan.how]
        while self._number < plan.count:
            count = min(plan.burst, plan.count - self._number)
            await send(self, producer, [self._outgoing() for _ in range(count)])
            due = began + self._number / plan.rate
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _outgoing(self) -> tuple[str, Outgoing[bytes]]:
        name = f"{self._who}-{self._number}"
        self._number += 1
        payload = make(name, self._chance)
        key = f"k{self._chance.randrange(self._keys)}"
        return name, Outgoing(payload, key=key)

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
        elif isinstance(outcome, SendFailed):
            self._journal.add(Failed, message=name, code=outcome.code)
        elif isinstance(outcome, BaseException):
            raise outcome

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
                    key=message.key,
                    **limit,
                )
            except SendFailed as error:
                self._outcome(name, error)
            else:
                future.add_done_callback(partial(self._done, name))

    async def enqueue_nowait(self, producer: Producer, messages: _Messages) -> None:
        """Send each with `enqueue_nowait`."""
        for name, message in messages:
            self._attempt(name, message)
            try:
                future = producer.enqueue_nowait(
                    STREAM, message.payload, key=message.key
                )
            except SendFailed as error:
                self._outcome(name, error)
            else:
                future.add_done_callback(partial(self._done, name))

    async def send(self, producer: Producer, messages: _Messages) -> None:
        """Send each with `send`, all at once."""

        async def one(name: str, message: Outgoing[bytes]) -> None:
            self._attempt(name, message)
            outcome: object
            try:
                outcome = await producer.send(STREAM, message.payload, key=message.key)
            except SendFailed as error:
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


_Messages: TypeAlias = Sequence[tuple[str, Outgoing[bytes]]]
_Send: TypeAlias = Callable[[Sender, Producer, _Messages], Awaitable[None]]

SENDS: Final[dict[str, _Send]] = {
    "enqueue": Sender.enqueue,
    "nowait": Sender.enqueue_nowait,
    "send": Sender.send,
    "send_many": Sender.send_many,
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
    sender = Sender(who, plan.keys, seed, journal)
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
