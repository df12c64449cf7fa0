"""Flusher: a connection that ends while replies are unread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from penstock._core.messages.shard_keys import single
from penstock._core.protocol.commands import Command
from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.requests import SendRequest
from penstock._tasks.sending.flusher import Flusher, WriteOptions
from penstock._tasks.sending.outcomes import Ticket
from penstock._tasks.sending.send_meter import SendMeter
from penstock._tasks.shard_checks import ShardChecks
from penstock._tasks.wakeups import AutoResetEvent
from penstock.events import log_event
from support.events import Events
from support.scripted import NoServer, ScriptedConnection


class Queue:
    """A queue of messages that no caller waits for."""

    def __init__(self, accumulator: Accumulator[Ticket]) -> None:
        self.accumulator = accumulator
        self.queued = AutoResetEvent()
        self.shard_checks = ShardChecks(log_event)
        self.meter = SendMeter()

    def refused(self, stream: str) -> None: ...
    def on_settled(self) -> None: ...
    def close(self) -> None: ...


def stored(batch: Sequence[Command]) -> list[bytes]:
    """Reply with an id for each message."""
    return [b"1-%d" % number for number in range(len(batch))]


@pytest.mark.parametrize("resend", [False, True])
async def test_replies_that_arrive_before_a_connection_ends_are_processed(
    events: Events, *, resend: bool
) -> None:
    loop = asyncio.get_running_loop()
    accumulator: Accumulator[Ticket] = Accumulator(100, 10_000)
    shard, command = single("s"), (b"XADD", b"s", b"*", b"msg", b"1")
    tickets: list[Ticket] = [loop.create_future() for _ in range(3)]
    for ticket in tickets:
        accumulator.add(SendRequest(shard, command, 64, ticket))
    flusher = Flusher(
        ScriptedConnection(stored, requests=1).plain,
        NoServer().plain,
        Queue(accumulator),
        WriteOptions(max_batch=2, max_in_flight=4, linger=0, resend=resend),
        runs=None,
        on_event=events,
    )
    running = asyncio.create_task(flusher.run())
    receipts: list[Any] = await asyncio.gather(*tickets[:2])
    assert [bytes(receipt.id) for receipt in receipts] == [b"1-0", b"1-1"]
    assert not tickets[2].done()
    assert accumulator.queued == 1
    assert events == []
    flusher.stop()
    await running
    await asyncio.gather(*tickets, return_exceptions=True)
