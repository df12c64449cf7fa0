"""Read pauses: functions run between two reads, once each, whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from penstock._connection.connection import Connection
from penstock._connection.reading_connection import ReadingConnection
from penstock._tasks.reading.read_pauses import ReadPause, ReadPauses
from penstock.errors import ClosedError, CommandError, ConnectionLost


class NeverBlocked:
    """A reading connection on which no read has to be ended."""

    def __init__(self) -> None:
        self.current: object = "first"

    async def unblock_until(self, until: asyncio.Event) -> None:
        await until.wait()


class Pauses(ReadPauses):
    """Pauses of a reader that has not begun to read."""

    def __init__(self) -> None:
        self.connection = NeverBlocked()
        self.wakes = 0
        super().__init__(cast("ReadingConnection", self.connection), self._count)

    def _count(self) -> None:
        self.wakes += 1

    async def ask(self, *works: ReadPause) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(self.between_reads(work)) for work in works]
        await asyncio.sleep(0)
        return tasks


async def test_functions_run_in_their_order_once_the_reader_lets_them() -> None:
    pauses, ran = Pauses(), list[str]()

    async def one(_: Connection) -> None:
        ran.append("one")

    async def two(_: Connection) -> None:
        ran.append("two")

    tasks = await pauses.ask(one, two)
    assert pauses.wakes == 2
    assert not ran
    await pauses.run()
    await asyncio.gather(*tasks)
    assert ran == ["one", "two"]
    await pauses.run()
    assert ran == ["one", "two"]


async def test_a_function_whose_connection_ends_runs_again_on_the_next() -> None:
    pauses, seen = Pauses(), list[object]()

    async def work(connection: Connection) -> None:
        seen.append(connection)
        if len(seen) == 1:
            raise ConnectionLost("here", "it ended")

    [task] = await pauses.ask(work)
    with pytest.raises(ConnectionLost):
        await pauses.run()
    await asyncio.sleep(0)
    assert not task.done()
    pauses.connection.current = "second"
    await pauses.run()
    await task
    assert seen == ["first", "second"]


async def test_who_asked_gets_the_error_and_the_others_run() -> None:
    pauses, ran = Pauses(), list[int]()

    async def refused(_: Connection) -> None:
        raise CommandError("XGROUP SETID", "NOPERM", "no")

    async def other(_: Connection) -> None:
        ran.append(1)

    first, second = await pauses.ask(refused, other)
    await pauses.run()
    with pytest.raises(CommandError):
        await first
    await second
    assert ran


@pytest.mark.parametrize("when", ["before it runs", "while it runs"])
async def test_a_function_runs_although_its_caller_was_cancelled(when: str) -> None:
    pauses, ran, goes_on = Pauses(), list[int](), asyncio.Event()

    async def work(_: Connection) -> None:
        await goes_on.wait()
        ran.append(1)

    [task] = await pauses.ask(work)
    run = asyncio.create_task(pauses.run())
    if when == "while it runs":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    task.cancel()
    goes_on.set()
    await run
    assert ran
    assert task.cancelled()


async def test_when_reading_stops_the_function_that_runs_is_the_last_one() -> None:
    pauses, ran, goes_on = Pauses(), list[int](), asyncio.Event()

    async def work(_: Connection) -> None:
        await goes_on.wait()
        ran.append(1)

    first, second = await pauses.ask(work, work)
    assert not pauses.running
    run = asyncio.create_task(pauses.run())
    await asyncio.sleep(0)
    assert pauses.running
    pauses.stop()
    goes_on.set()
    await run
    assert not pauses.running
    pauses.close()
    await first
    with pytest.raises(ClosedError):
        await second
    assert ran == [1]


async def test_after_the_last_read_nothing_runs_and_nobody_waits() -> None:
    pauses = Pauses()

    async def work(_: Connection) -> None:
        raise AssertionError

    [task] = await pauses.ask(work)
    pauses.close()
    with pytest.raises(ClosedError):
        await task
    with pytest.raises(ClosedError):
        await pauses.between_reads(work)
    await pauses.run()
