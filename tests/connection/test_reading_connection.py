"""The reading connection: the server ends its reads, and no entry is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._connection.connection import Connection
from penstock._connection.reading_connection import ReadingConnection
from penstock._connection.reconnect import Connector
from penstock._core.protocol.commands import Command
from penstock.errors import ConnectionLost


class Blocked:
    """A connection whose read does not end by itself."""

    def __init__(self, client_id: int | None = 7) -> None:
        self.client_id = client_id
        self.lost = False
        self.received = 100
        self.replies: asyncio.Future[list[Any]] = (
            asyncio.get_running_loop().create_future()
        )

    def ask(self, *_: object) -> asyncio.Future[list[Any]]:
        return self.replies

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        return [0] * len(batch)

    def answer(self) -> None:
        self.received += 5
        self.replies.set_result([[]])

    async def aclose(self) -> None:
        self.lost = True


def reading(first: Blocked, *, notices: int = 1) -> tuple[ReadingConnection, list[int]]:
    """A connection whose server notices the n-th request to end a read."""
    requests: list[int] = []

    async def reconnect(_: str) -> object:
        return Blocked(8)

    async def unblock(client: int) -> None:
        requests.append(client)
        if len(requests) == notices:
            first.answer()

    connector = cast("Connector", SimpleNamespace(reconnect=reconnect))
    made = ReadingConnection(cast("Connection", first), connector, unblock)
    return made, requests


async def begin(made: ReadingConnection) -> asyncio.Event:
    """Begin a read; return an event that is set when it has ended."""
    end = asyncio.Event()
    task = asyncio.create_task(made.ask([(b"XREAD",)], 2.0))
    task.add_done_callback(lambda _: end.set())
    await asyncio.sleep(0)
    return end


async def test_the_server_is_asked_to_end_a_read_until_it_does() -> None:
    made, requests = reading(Blocked(), notices=3)
    end = await begin(made)
    assert made.can_unblock
    await made.unblock_until(end)
    assert requests == [7, 7, 7]
    assert not made.can_unblock
    assert made.reply_bytes == 5


async def test_nobody_is_asked_while_there_is_no_read() -> None:
    made, requests = reading(Blocked())
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, event.set)
    await made.unblock_until(event)
    assert not requests


@pytest.mark.parametrize("why", ["no permission to ask for the id", "lost"])
async def test_a_read_that_cannot_be_ended_is_waited_for(why: str) -> None:
    first = Blocked(client_id=7 if why == "lost" else None)
    made, requests = reading(first)
    end = await begin(made)
    first.lost = why == "lost"
    assert not made.can_unblock
    asyncio.get_running_loop().call_later(0.1, first.answer)
    await made.unblock_until(end)
    assert not requests


async def test_a_read_that_was_given_up_may_have_brought_entries() -> None:
    made, _ = reading(Blocked())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await made.ask([(b"XREAD",)], 2.0)
    assert made.unrecorded


async def test_the_next_connection_recovers_what_the_last_one_lost() -> None:
    first = Blocked()
    made, _ = reading(first)
    first.replies.set_exception(ConnectionLost("here", "it ended"))
    with pytest.raises(ConnectionLost):
        await made.ask([(b"XREAD",)], 2.0)
    assert made.unrecorded
    await made.reconnect("it ended")
    assert first.lost
    assert made.current.client_id == 8
    assert not made.unrecorded


class Replaced:
    """A connection that takes the place of a lost one."""

    def __init__(self, client_id: int, *, fails: bool = False) -> None:
        self.client_id = client_id
        self.lost = False
        self.received = 0
        self.commands: list[Command] = []
        self._fails = fails

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        self.commands += batch
        if self._fails:
            raise ConnectionLost("server", "it failed, too")
        return [1] * len(batch)

    async def ask(self, *_: object) -> list[Any]:
        raise ConnectionLost("server", "it failed, too")

    async def aclose(self) -> None:
        self.lost = True


async def test_a_read_that_the_server_may_hold_is_ended_after_a_reconnect() -> None:
    """Also if the first connection that could ask for it is lost before the reply."""
    later = [Replaced(8, fails=True), Replaced(9), Replaced(10)]
    made, _ = reading(Blocked(7))

    async def reconnect(_: str) -> object:
        return left.pop(0)

    left = list(later)
    made._connector = cast("Connector", SimpleNamespace(reconnect=reconnect))
    await begin(made)
    await made.reconnect("the network failed")
    assert later[0].commands == [(b"CLIENT", b"UNBLOCK", 7, b"TIMEOUT")]
    with pytest.raises(ConnectionLost):
        await made.ask([(b"XREAD",)], 2.0)
    await made.reconnect("it failed, too")
    ended = [command[2] for command in later[1].commands]
    assert ended == [7, 8]
    await made.reconnect("without a read under way")
    assert later[2].commands == []


async def test_no_client_of_a_restarted_server_is_unblocked_for_an_old_id() -> None:
    """The ids start again there, so the old one may belong to an unrelated client."""
    made, _ = reading(Blocked(7))
    restarted = Replaced(5)

    async def reconnect(_: str) -> object:
        return restarted

    made._connector = cast("Connector", SimpleNamespace(reconnect=reconnect))
    await begin(made)
    await made.reconnect("the server restarted")
    assert restarted.commands == []
