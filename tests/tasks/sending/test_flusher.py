"""Flusher: a connection that ends while replies are unread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock._core.messages.shard_keys import single
from penstock._core.protocol.commands import Command
from penstock._core.sending.accumulator import Accumulator, Sending
from penstock._tasks.sending.flusher import Flusher, Ticket
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ConnectionLost
from support.events import Events


class RepliesAndEnds:
    """A connection that ends right after its first replies, before they are read."""

    def __init__(self) -> None:
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise ConnectionLost("here", "it ended")

    def ask(self, batch: Sequence[Command], _: float) -> asyncio.Future[list[bytes]]:
        self.lost = True
        replies = asyncio.get_running_loop().create_future()
        replies.set_result([b"1-%d" % number for number in range(len(batch))])
        return replies

    async def aclose(self) -> None:
        pass


class NeverReconnects:
    """A connector that never reconnects."""

    def progress(self) -> None:
        pass

    async def reconnect(self, _: str) -> Connection:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("resend", [False, True])
async def test_replies_that_arrive_before_a_connection_ends_are_processed(
    events: Events, *, resend: bool
) -> None:
    loop = asyncio.get_running_loop()
    accumulator: Accumulator[Ticket] = Accumulator(100, 10_000)
    shard, command = single("s"), (b"XADD", b"s", b"*", b"msg", b"1")
    tickets: list[Ticket] = [loop.create_future() for _ in range(3)]
    for ticket in tickets:
        accumulator.add(Sending(shard, command, 64, ticket))
    flusher = Flusher(
        cast("Connection", RepliesAndEnds()),
        cast("Connector", NeverReconnects()),
        accumulator=accumulator,
        max_batch=2,
        max_in_flight=4,
        linger=0,
        resend=resend,
        runs=None,
        queued=AutoResetEvent(),
        on_settled=lambda: None,
        on_ended=lambda: None,
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
