"""Failover: entries of dead consumers are claimed, those of live ones are not."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    DISABLED,
    ROLLING,
    Claim,
    Commit,
    Consumer,
    Message,
    Prefetch,
)
from support.events import Events
from support.failing import running
from support.server import with_login
from support.waiting import (
    deliveries,
    eventually,
    holds,
    leave_pending,
    numbers,
    owners,
    pending,
    read,
    send,
)

SHORT = Claim(idle=0.3, interval=0.1)
PREFETCH_ONE = Prefetch(max_messages=1)


# -- claims ----------------------------------------------------------------------------


async def test_entries_of_a_dead_consumer_are_claimed_in_the_name_of_the_claimer(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """SeaStreamer's W6: it claimed to the dead consumer's name."""
    await send(url, stream, *range(300))
    await leave_pending(redis, stream, "dead", 250)
    # A message that stays open for a whole lease would be redelivered. So the lease is
    # long, and the entries of the dead consumer have been idle for longer.
    ids = list(await owners(redis, stream))
    await redis.xclaim(stream, "g", "dead", 0, ids, idle=60_000, retrycount=1)
    async with Consumer(
        stream,
        url=url,
        group="g",
        name="alive",
        claim=Claim(idle=30, interval=0.1),
        auto_commit=ROLLING,
        on_event=events,
    ) as consumer:
        messages = await read(consumer, 300)
        assert sorted(numbers(messages)) == list(range(300))
        assert set((await owners(redis, stream)).values()) == {"alive"}
        by_number = {int(m.payload): m.attempt for m in messages}
        # Delivered, but not started as far as is known.
        assert by_number == dict.fromkeys(range(300), 1)
        for message in messages:
            message.ack()
        await consumer.commit()
        assert consumer.statistics().claimed == 250
    assert await pending(redis, stream, "g") == 0
    assert sum(int(str(e.facts["messages"])) for e in events.named("claimed")) == 250


async def test_leases_are_renewed_while_outcomes_wait_for_a_long_interval(
    url: str, stream: str, redis: Any
) -> None:
    """The interval of commits may be longer than a lease."""
    given: dict[str, Any] = {"url": url, "group": "g", "commit": Commit(interval=60)}
    # Its own claims would hide that a lease has ended.
    mine, others = Claim(idle=1, interval=None), Claim(idle=1, interval=0.1)
    started: list[int] = []
    go_on = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        started.append(int(message.payload))
        if message.payload == b"1":
            await go_on.wait()

    await send(url, stream, 0, 1)
    consumer = Consumer(stream, claim=mine, **given)
    async with running(consumer, handle, concurrency=2):

        async def both_started() -> bool:
            return sorted(started) == [0, 1]

        await eventually(both_started)
        async with Consumer(stream, claim=others, **given) as other:
            # Three leases.
            assert await other.next(timeout=3) is None
            assert set((await owners(redis, stream)).values()) != {other.name}
        # The outcome of the first one still waits for its interval.
        assert await pending(redis, stream, "g") == 2
        go_on.set()
    assert sorted(started) == [0, 1]
    assert await pending(redis, stream, "g") == 0


async def test_no_entry_is_claimed_before_its_lease_has_ended(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    await redis.xgroup_create(stream, "g", "0")
    start = time.monotonic()
    await redis.xreadgroup("g", "dead", {stream: ">"})
    claim = Claim(idle=0.5, interval=0.05)
    async with Consumer(stream, url=url, group="g", claim=claim) as consumer:
        assert numbers(await read(consumer, 1)) == [1]
        assert 0.45 < time.monotonic() - start < 1.5


async def test_the_search_continues_over_pages_and_deleted_entries(
    url: str, stream: str, redis: Any
) -> None:
    """SeaStreamer's W7: the search ended at the first empty page."""
    await send(url, stream, *range(3000))
    await leave_pending(redis, stream, "dead", 3000)
    ids = [id_ for id_, _ in await redis.xrange(stream)]
    await redis.xdel(stream, *ids[:2500])
    async with Consumer(stream, url=url, group="g", claim=SHORT) as consumer:
        got = numbers(await read(consumer, 500, within=10))
        assert sorted(got) == list(range(2500, 3000))
        # Redis 6.2 drops only those whose lease has ended.
        await eventually(lambda: has_deleted(consumer, 2500))
    assert await pending(redis, stream, "g") == 0


async def has_deleted(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().ghosts == count


async def test_only_as_many_entries_are_claimed_as_prefetch_allows(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(50))
    await leave_pending(redis, stream, "dead", 50)
    await asyncio.sleep(0.35)  # their lease
    async with Consumer(
        stream, url=url, group="g", name="me", claim=SHORT, prefetch=PREFETCH_ONE
    ) as consumer:
        seen = numbers(await read(consumer, 1))
        await asyncio.sleep(0.3)  # three searches
        mine = [o for o in (await owners(redis, stream)).values() if o == "me"]
        assert len(mine) == 1
        seen += numbers(await read(consumer, 49, within=20))
    assert sorted(seen) == list(range(50))


async def test_failover_works_as_in_seastreamer(
    url: str, stream: str, redis: Any
) -> None:
    """SeaStreamer's T3, step by step; alpha's entries need not wait for a lease."""

    def consumer(name: str) -> Consumer[bytes]:
        return Consumer(
            stream,
            url=url,
            group=stream,
            name=name,
            auto_commit=DISABLED,
            commit=Commit(interval=0),
            claim=Claim(idle=1, interval=1),
            prefetch=PREFETCH_ONE,
        )

    async def read_and_ack(reader: Consumer[bytes], count: int) -> list[int]:
        messages = await read(reader, count)
        for message in messages:
            message.ack()
        await reader.commit()
        return numbers(messages)

    await send(url, stream, *range(5))
    async with consumer("beta") as beta:
        async with consumer("alpha") as alpha:
            # beta prefetches one message and may have received it before alpha.
            got = numbers(await read(alpha, 4))
            first = await read_and_ack(beta, 1)
            assert sorted(got + first) == [0, 1, 2, 3, 4]
            await send(url, stream, *range(5, 10))
            second = await read_and_ack(beta, 1)
        rest = sorted(await read_and_ack(beta, 8))
        assert sorted(second + rest) == sorted([*got, *range(5, 10)])
        await send(url, stream, *range(10, 15))
        assert await read_and_ack(beta, 5) == [10, 11, 12, 13, 14]
    assert await pending(redis, stream, stream) == 0


async def test_entries_released_on_closing_are_found_within_a_second(
    url: str, stream: str, redis: Any
) -> None:
    """Neither the lease, a minute here, nor the next search is waited for."""
    await send(url, stream, *range(100))
    async with Consumer(stream, url=url, group="g", name="one") as one:
        taken = numbers(await read(one, 5))
        async with Consumer(stream, url=url, group="g", name="two") as two:
            more = []
            while (message := await two.next(timeout=0.1)) is not None:
                more.append(int(message.payload))
            assert len(more) < 95
            await one.aclose()
            start = time.monotonic()
            more += numbers(await read(two, 95 - len(more)))
            assert time.monotonic() - start < 1.0
    assert sorted(taken + more) == list(range(100))
    assert await pending(redis, stream, "g") == 0


async def has_queued(consumer: Consumer[bytes], count: int) -> bool:
    return consumer.statistics().queued == count


async def test_released_entries_are_found_without_permission_to_publish(
    url: str, stream: str, redis: Any
) -> None:
    user = f"u-{stream}"
    await redis.acl_setuser(
        user,
        enabled=True,
        nopass=True,
        keys=["*"],
        categories=["+@all", "-@pubsub"],
        reset_channels=True,
    )
    limited = with_login(url, user, "x")
    try:
        await send(url, stream, *range(8))
        async with Consumer(stream, url=limited, group="g", name="one") as one:
            taken = numbers(await read(one, 1))
            await eventually(lambda: has_queued(one, 7))
            async with Consumer(stream, url=limited, group="g", name="two") as two:
                assert await two.next(timeout=0.1) is None
                await one.aclose()
                taken += numbers(await read(two, 7, within=3))
        assert sorted(taken) == list(range(8))
    finally:
        await redis.acl_deluser(user)


async def test_a_message_that_is_never_acked_is_redelivered_in_a_live_group(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    async with Consumer(
        stream, url=url, group="g", claim=SHORT, auto_commit=ROLLING
    ) as consumer:
        first, second = await read(consumer, 2, within=5)
        assert first.id == second.id
        assert (first.attempt, second.attempt) == (1, 2)


# -- leases ----------------------------------------------------------------------------


async def test_a_handler_slower_than_the_lease_is_not_run_twice(
    url: str, stream: str, redis: Any
) -> None:
    """It takes five leases, with messages queued behind it, beside an idle consumer."""
    await send(url, stream, *range(6))
    starts: list[int] = []

    async def slow(message: Message[bytes]) -> None:
        starts.append(int(message.payload))
        await asyncio.sleep(1.5)
        await one.aclose()

    async with Consumer(stream, url=url, group="g", name="one", claim=SHORT) as one:
        run = asyncio.create_task(one.run(slow))
        await eventually(lambda: holds(one, 6))
        async with Consumer(stream, url=url, group="g", name="two", claim=SHORT) as two:
            assert await two.next(timeout=1.0) is None
            assert two.statistics().claimed == 0
            await run
            await one.aclose()
            # The rest, released on closing, is delivered to it.
            starts += numbers(await read(two, 5))
    assert sorted(starts) == list(range(6))
    assert await pending(redis, stream, "g") == 0


async def test_entries_that_are_handled_quickly_are_not_renewed(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10_000))
    before = await claims(redis)
    done = 0

    async def handle(_: Message[bytes]) -> None:
        nonlocal done
        done += 1
        if done == 10_000:
            await consumer.aclose()

    begun = time.monotonic()
    async with Consumer(stream, url=url, group="g") as consumer:
        await consumer.run(handle)
    # Starts are counted until the rate is known, and while it is below 2,000 a second.
    most = 2_000 * (1 + time.monotonic() - begun)
    assert await claims(redis) - before < most


async def claims(redis: Any) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_xclaim", {"calls": 0})["calls"])


WORKER = """
    import asyncio, os, sys
    from penstock import Claim, Consumer, Event

    async def main():
        url, stream, journal = sys.argv[1:]
        file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        def note(event):
            os.write(file, b"event %s %s\\n" % (
                event.name.encode(), str(event.facts.get("messages")).encode()))
        async def handle(message):
            os.write(file, b"start %s\\n" % message.payload)
            await asyncio.sleep(0.2)
            os.write(file, b"end %s\\n" % message.payload)
        async with Consumer(
            stream, url=url, group="g", name="frozen", on_event=note,
            claim=Claim(idle=1, interval=0.2),
        ) as consumer:
            await consumer.run(handle)

    asyncio.run(main())
"""


async def test_a_consumer_that_was_frozen_takes_no_entry_back(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    """SIGSTOP past its lease: it neither runs nor reclaims what others have claimed."""
    script, journal = tmp_path / "worker.py", tmp_path / "journal"
    script.write_text(textwrap.dedent(WORKER))
    journal.touch()
    await send(url, stream, *range(8))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), url, stream, str(journal)
    )
    try:
        await eventually(lambda: has(journal, "start 1"), within=20)
        await eventually(lambda: are_pending(redis, stream, 7))
        process.send_signal(signal.SIGSTOP)
        taken: list[int] = []
        go = asyncio.Event()

        async def handle(message: Message[bytes]) -> None:
            taken.append(int(message.payload))
            await go.wait()

        async with Consumer(
            stream, url=url, group="g", name="other", claim=Claim(idle=1, interval=0.2)
        ) as other:
            run = asyncio.create_task(other.run(handle, concurrency=10))
            await eventually(lambda: has_at_least(taken, 7), within=10)
            process.send_signal(signal.SIGCONT)
            await eventually(lambda: has(journal, "event lease_lost 7"))
            # Longer than the lease, which the other consumer renews.
            await asyncio.sleep(1.5)
            assert set((await owners(redis, stream)).values()) == {"other"}
            go.set()
            await eventually(lambda: are_pending(redis, stream, 0))
            await other.aclose()
            await run
    finally:
        process.kill()
        await process.wait()
    lines = journal.read_text().splitlines()
    started = [line for line in lines if line.startswith("start")]
    assert started == ["start 0", "start 1"]
    assert sorted(taken) == list(range(1, 8))
    assert await pending(redis, stream, "g") == 0


async def has_at_least(taken: list[int], count: int) -> bool:
    return len(taken) >= count


async def are_pending(redis: Any, stream: str, count: int) -> bool:
    return await pending(redis, stream, "g") == count


async def has(journal: Path, line: str) -> bool:
    return line in journal.read_text().splitlines()


async def test_entries_that_another_client_acknowledged_are_not_handled_again(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(3))
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) == 1:
            await redis.xack(stream, "g", str(message.id))
            await asyncio.sleep(0.5)
        if len(seen) == 3:
            await consumer.aclose()

    async with Consumer(stream, url=url, group="g", claim=SHORT) as consumer:
        await consumer.run(handle)
    assert seen == [0, 1, 2]
    assert await pending(redis, stream, "g") == 0


# -- dead consumers --------------------------------------------------------------------


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_dead_consumer_is_removed_unless_it_has_pending_entries(
    url: str,
    stream: str,
    redis: Any,
    scripts: bool,  # noqa: FBT001 - pytest's parameter
) -> None:
    """redis/redis#9745: its pending entries would be removed with it."""
    from penstock._connection.command_connection import CommandConnection
    from penstock._connection.reconnect import open_connector
    from penstock._core.protocol import commands
    from penstock._tasks.group import Membership
    from penstock._tasks.leases.dead_consumers import remove
    from penstock.events import log_event
    from penstock.message import Shard

    await send(url, stream, *range(3))
    await redis.xgroup_create(stream, "g", "0")
    await redis.xgroup_createconsumer(stream, "g", "empty")
    await redis.xreadgroup("g", "busy", {stream: ">"}, count=3)
    before = set(await deliveries(redis, stream, "g"))
    user = f"u-{stream}"
    await redis.acl_setuser(
        user,
        enabled=True,
        nopass=True,
        keys=["*"],
        categories=["+@all"] if scripts else ["+@all", "-@scripting"],
    )
    limited = with_login(url, user, "x")
    member = Membership("g", "me", mkstream=True, noack=False)
    shard = Shard(stream, 0, stream.encode())
    async with open_connector(limited, log_event) as connector:
        connection = CommandConnection(connector, await connector.first(0))
        assert await remove(connection, member, shard, b"empty") is None
        assert await remove(connection, member, shard, b"busy") is None
        await connection.calls([commands.client_id()])
        await connection.aclose()
    await redis.acl_deluser(user)
    names = {c["name"] for c in await redis.xinfo_consumers(stream, "g")}
    assert b"empty" not in names
    # With a script the busy one stays; without, its entries stay pending all the same.
    assert (b"busy" in names) is scripts
    assert set(await deliveries(redis, stream, "g")) == before
