"""Poison messages: one that kills its process is dead-lettered, and no other one.

The tests run real processes, which are really killed.
"""

from __future__ import annotations

import asyncio
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from penstock import Claim, Consumer, Message, Retry
from support.dead_letters import origins
from support.fleet import Fleet, Handling, open_fleet
from support.proxy import proxy
from support.server import server
from support.waiting import deliveries, eventually, numbers, pending, read, send

MAX_ATTEMPTS = 3
RETRY = {"max_attempts": MAX_ATTEMPTS, "backoff": [0.05]}


async def all_is_done(redis: Any, stream: str, fleet: Fleet, count: int) -> bool:
    """Return whether so many were handled or dead-lettered, and none is pending."""
    dead = await redis.xlen(f"{stream}.dead")
    done = set(fleet.ended())
    return len(done) + dead >= count and not await pending(redis, stream, "g")


# -- messages that kill their process --------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "concurrency", "ordering"),
    [(1, 1, "none"), (1, 8, "key"), (2, 8, "none"), (2, 8, "key")],
    ids=["1x1-none", "1x8-key", "2x8-none", "2x8-key"],
)
async def test_a_message_that_kills_its_process_is_dead_lettered_after_max_attempts(
    *,
    url: str,
    stream: str,
    redis: Any,
    tmp_path: Path,
    workers: int,
    concurrency: int,
    ordering: str,
) -> None:
    """No other message is, however near it was and however often it was redelivered."""
    payloads = ["sleep 0.03"] * 60
    payloads[5] = "kill"
    run = {"concurrency": concurrency, "ordering": ordering}
    async with open_fleet(url, stream, tmp_path, retry=RETRY, run=run) as fleet:
        await fleet.send(*payloads, keys=6)
        async with asyncio.TaskGroup() as supervisors:
            supervising = [
                supervisors.create_task(fleet.supervise(f"w{number}"))
                for number in range(workers)
            ]
            await eventually(lambda: all_is_done(redis, stream, fleet, 60), within=50)
            dead = await origins(redis, stream)
            for task in supervising:
                task.cancel()
        assert fleet.attempts()[5] == [1, 2, 3]
        assert set(fleet.ended()) == set(range(60)) - {5}
    assert set(dead) == {5}
    assert dead[5].attempts == MAX_ATTEMPTS
    assert "process ended" in dead[5].reason


async def test_no_start_is_forgotten_if_each_write_is_synced_to_disk(
    stream: str, tmp_path: Path
) -> None:
    """The server is slow then, and would not have read commands sent before the end."""
    async with server(
        tmp_path, "--appendonly", "yes", "--appendfsync", "always"
    ) as own:
        async with (
            own.client() as redis,
            open_fleet(own.url, stream, tmp_path, run={"concurrency": 40}) as fleet,
        ):
            await fleet.send(*["hang 1"] * 40)
            process = await fleet.start("me")
            await eventually(lambda: have_started(fleet, 40))
            await process.end(signal.SIGKILL)
            assert await counted(redis, stream, [2] * 40)


# -- what counts as an attempt ---------------------------------------------------------


@pytest.mark.parametrize("successor", ["same", "other"])
async def test_entries_that_waited_behind_a_killed_handler_were_not_attempted(
    url: str, stream: str, redis: Any, tmp_path: Path, successor: str
) -> None:
    """Whether a restart with the same name gets them, or another after the lease."""
    async with open_fleet(url, stream, tmp_path, run={"concurrency": 2}) as fleet:
        await fleet.send("hang 1", "hang 1", *["ok"] * 6)
        process = await fleet.start("same")
        await eventually(lambda: counted(redis, stream, [2, 2, 1, 1, 1, 1, 1, 1]))
        # They are counted first and started then.
        await eventually(lambda: have_started(fleet, 2))
        await process.end(signal.SIGKILL)
        await fleet.start(successor)
        await eventually(lambda: all_is_done(redis, stream, fleet, 8))
        tried = fleet.attempts()
    assert tried == {0: [1, 2], 1: [1, 2], **{number: [1] for number in range(2, 8)}}


async def counted(redis: Any, stream: str, counts: list[int]) -> bool:
    """Return whether the server has these delivery counts, in the stream's order."""
    return list((await deliveries(redis, stream, "g")).values()) == counts


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_ends_between_two_attempts_neither_forgets_nor_adds_one(
    url: str, stream: str, redis: Any, tmp_path: Path, how: signal.Signals
) -> None:
    retry = {"max_attempts": 4, "backoff": [0.02, 60]}
    async with open_fleet(url, stream, tmp_path, retry=retry) as fleet:
        await fleet.send("fail 2")
        process = await fleet.start("me")
        await eventually(lambda: has_failed(fleet, 2))
        await process.end(how)
        await fleet.start("me" if how is signal.SIGKILL else "other")
        await eventually(lambda: all_is_done(redis, stream, fleet, 1))
        assert fleet.attempts() == {0: [1, 2, 3]}


async def has_failed(fleet: Fleet, times: int) -> bool:
    return len(fleet.lines("fail")) >= times


async def test_attempts_continue_where_a_killed_process_left_off_up_to_the_last(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    """It is killed before each next attempt; the dead letter names the exception."""
    retry = {"max_attempts": 3, "backoff": [60]}
    async with open_fleet(url, stream, tmp_path, retry=retry) as fleet:
        await fleet.send("fail")
        for attempt in (1, 2):
            process = await fleet.start("me")
            await eventually(lambda: has_failed(fleet, attempt))
            await process.end(signal.SIGKILL)
        await fleet.start("me")
        await eventually(lambda: all_is_done(redis, stream, fleet, 1))
        assert fleet.attempts() == {0: [1, 2, 3]}
    dead = await origins(redis, stream)
    assert (dead[0].attempts, dead[0].error) == (3, "RuntimeError")


async def test_reconnects_during_a_slow_handler_count_no_attempts(
    url: str, stream: str, redis: Any
) -> None:
    # Few entries, so that the reader has a read budget and notices lost connections.
    await send(url, stream, *range(3))
    seen: list[Message[bytes]] = []
    go = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        seen.append(message)
        await go.wait()

    async with Consumer(stream, url=url, group="g", claim=Claim(idle=0.6)) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await eventually(lambda: counted(redis, stream, [2, 1, 1]))
        for _ in range(20):
            session = consumer._session
            assert session is not None
            before = [session._connection._connection, *session.readers.connections]
            for connection in before:
                await redis.client_kill_filter(_id=connection.client_id)
            await eventually(lambda: are_new(consumer, before))
        assert await counted(redis, stream, [2, 1, 1])
        go.set()
        await eventually(lambda: are_pending(redis, stream, 0))
        await consumer.aclose()
        await run
    assert numbers(seen) == [0, 1, 2]
    assert {message.attempt for message in seen} == {1}


async def are_new(consumer: Consumer[bytes], before: list[Any]) -> bool:
    session = consumer._session
    assert session is not None
    connections = [session._connection._connection, *session.readers.connections]
    return not any(
        connection in before or connection.lost for connection in connections
    )


async def are_pending(redis: Any, stream: str, count: int) -> bool:
    return await pending(redis, stream, "g") == count


async def test_an_attempt_during_an_outage_is_counted_when_the_outage_is_over(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 0)
    attempts = []

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            await between.stop()
        raise RuntimeError

    retry = Retry(backoff=[0, 60])
    async with (
        proxy(url) as between,
        Consumer(stream, url=between.url, group="g", retry=retry) as consumer,
    ):
        run = asyncio.create_task(consumer.run(handle))
        await eventually(lambda: attempts_are(attempts, [1, 2]))
        assert await counted(redis, stream, [2])
        await between.start()
        await eventually(lambda: counted(redis, stream, [3]))
        await consumer.aclose()
        await run


async def attempts_are(attempts: list[int], expected: list[int]) -> bool:
    return attempts == expected


@pytest.mark.parametrize("reads", [0, 1])
async def test_entries_of_a_lost_reply_were_not_attempted(
    url: str, stream: str, reads: int
) -> None:
    """The lost reply is the first one or a later one."""
    async with proxy(url) as between:
        between.cut_on = b"XREADGROUP"
        async with Consumer(stream, url=between.url, group="g") as consumer:
            for number in range(reads):
                await send(url, stream, number)
                await read(consumer, 1)
            between.cut_next_reply = True
            await send(url, stream, 10, 11)
            messages = await read(consumer, 2)
            assert between.cuts == 1
    assert sorted(numbers(messages)) == [10, 11]
    assert [message.attempt for message in messages] == [1, 1]


async def test_cancelling_a_call_while_its_attempt_is_counted_takes_no_message(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(40))
    async with Consumer(stream, url=url, group="g", name="me") as consumer:
        await consumer.next(timeout=5)
    # Released entries are counted before they are handed out.
    async with Consumer(stream, url=url, group="g", name="me") as consumer:
        got = numbers(await read(consumer, 1))
        for turns in range(39):
            call = asyncio.create_task(consumer.next())
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            if not call.cancelled():
                got += numbers([call.result()])
        while (message := await consumer.next(timeout=0.5)) is not None:
            got.append(int(message.payload))
    assert got == list(range(1, 40))


@pytest.mark.timeout(240)  # dozens of processes start one after the other
@pytest.mark.parametrize(
    ("max_attempts", "how"),
    [(3, "kill"), (4, "exit")],
)
async def test_of_a_hundred_messages_only_the_five_poison_messages_are_dead_lettered(
    *,
    url: str,
    stream: str,
    redis: Any,
    tmp_path: Path,
    max_attempts: int,
    how: str,
) -> None:
    # So slowly that starts are counted on a busy machine too.
    payloads = ["sleep 0.05"] * 100
    poison = set(range(0, 100, 20))
    for number in poison:
        payloads[number] = how
    retry = {"max_attempts": max_attempts, "backoff": [0.05]}
    run = {"concurrency": 8}
    async with open_fleet(url, stream, tmp_path, retry=retry, run=run) as fleet:
        await fleet.send(*payloads)
        for name in ("one", "two"):
            await fleet.start(name, restart=True)
        await eventually(lambda: all_is_done(redis, stream, fleet, 100), within=200)
        dead = await origins(redis, stream)
        tried = fleet.attempts()
        assert set(fleet.ended()) == set(range(100)) - poison
    assert set(dead) == poison
    assert {decoded.attempts for decoded in dead.values()} == {max_attempts}
    for number in poison if how == "kill" else ():
        # A start may be interrupted because another message ends the process; starts
        # that an exit has interrupted are not counted.
        assert len(tried.get(number, [])) <= max_attempts


async def test_messages_of_killed_handlers_are_redone_by_two_idle_consumers_all_at_once(
    url: str, stream: str, tmp_path: Path
) -> None:
    lease = 1.5
    claim, run = {"idle": lease}, {"concurrency": 20}
    async with open_fleet(url, stream, tmp_path, claim=claim, run=run) as fleet:
        await fleet.send(*["hang 1 1"] * 20)
        process = await fleet.start("first")
        await eventually(lambda: have_started(fleet, 20))
        fleet.run["concurrency"] = 10
        for name in ("one", "two"):
            await fleet.start(name)
        await process.end(signal.SIGKILL)
        killed = time.monotonic()
        await eventually(lambda: fleet.handled(*range(20)), within=20)
        assert time.monotonic() - killed < lease + 3
        assert fleet.attempts() == {number: [1, 2] for number in range(20)}


async def test_messages_of_killed_handlers_are_redone_in_order_by_key(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    run = {"concurrency": 8, "ordering": "key"}
    async with open_fleet(url, stream, tmp_path, run=run) as fleet:
        await fleet.send(*["hang 1 0.1"] * 8, *["ok"] * 16, keys=8)
        process = await fleet.start("me")
        await eventually(lambda: have_started(fleet, 8))
        await eventually(lambda: are_counted(redis, stream, 8))
        await process.end(signal.SIGKILL)
        await fleet.start("me")
        await eventually(lambda: all_is_done(redis, stream, fleet, 24))
        again = [
            each for each in fleet.handlings() if each.process is fleet.processes[1]
        ]
    first = [each for each in again if each.start.attempt == 2]
    assert sorted(each.start.number for each in first) == list(range(8))
    assert all(overlap(one, other) for one, other in pairwise(first))
    for key in range(8):
        of_key = [e.start.number for e in again if e.start.facts[2] == f"k{key}"]
        assert of_key == [key, key + 8, key + 16]


async def test_an_attempt_that_closing_has_interrupted_does_not_count(
    url: str, stream: str, tmp_path: Path, redis: Any
) -> None:
    """Deployments must not use up the attempts of slow messages."""
    async with open_fleet(
        url, stream, tmp_path, retry={"max_attempts": 2}, close_timeout=0.2
    ) as fleet:
        await fleet.send("hang 1")
        for _ in range(4):
            starts = len(fleet.lines("start"))
            process = await fleet.start("me")
            await eventually(lambda: have_started(fleet, starts + 1))
            assert await process.end(signal.SIGTERM) == 0
        assert fleet.attempts() == {0: [1] * 4}
    assert not await redis.exists(f"{stream}.dead")
    assert await counted(redis, stream, [0])


async def test_an_exit_that_a_handler_raises_counts_as_an_attempt_of_its_message_only(
    url: str, stream: str, tmp_path: Path, redis: Any
) -> None:
    async with open_fleet(url, stream, tmp_path, run={"concurrency": 4}) as fleet:
        await fleet.send("exit 1 0", "hang 1", "hang 1", "hang 1", "ok")
        process = await fleet.start("me")
        await process.end()
        await fleet.start("me")
        await eventually(lambda: have_started(fleet, 9))
        tried = fleet.attempts()
    assert tried == {0: [1, 2], 1: [1, 1], 2: [1, 1], 3: [1, 1], 4: [1]}


async def are_counted(redis: Any, stream: str, number: int) -> bool:
    """Return whether the server counts one start each of so many pending messages."""
    counts = list((await deliveries(redis, stream, "g")).values())
    return counts.count(2) == number


async def have_started(fleet: Fleet, count: int) -> bool:
    return len(fleet.lines("start")) >= count


def overlap(one: Handling, other: Handling) -> bool:
    return one.start.at < other.until and other.start.at < one.until
