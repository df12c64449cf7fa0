"""After a crash or a lost reply: own pending entries first, and nothing lost."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    ROLLING,
    AccessError,
    Commit,
    ConnectError,
    Consumer,
    Message,
    Prefetch,
    Producer,
)
from support.events import Events
from support.proxy import proxy
from support.server import free_port, server, with_login
from support.waiting import eventually, leave_pending, numbers, pending, read, send

# -- own pending entries ---------------------------------------------------------------


async def test_what_was_pending_comes_first_and_in_order(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(100))
    await leave_pending(redis, stream, "me", 60)
    async with Consumer(stream, url=url, group="g", name="me") as consumer:
        messages = await read(consumer, 100)
    assert numbers(messages) == list(range(100))
    assert [message.attempt for message in messages] == [1] * 100
    assert await pending(redis, stream, "g") == 0


async def test_more_is_pending_than_one_page_holds(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(1000))
    await leave_pending(redis, stream, "me", 900)
    async with Consumer(
        stream, url=url, group="g", name="me", prefetch=Prefetch(max_messages=7)
    ) as consumer:
        assert numbers(await read(consumer, 1000)) == list(range(1000))
    assert await pending(redis, stream, "g") == 0


async def test_deleted_entries_are_acknowledged_and_never_delivered(
    url: str, stream: str, redis: Any
) -> None:
    """SeaStreamer's W14: a page of deleted entries ended recovery, for ever pending."""
    await send(url, stream, *range(200))
    await leave_pending(redis, stream, "me", 200)
    ids = [id_ for id_, _ in await redis.xrange(stream)]
    await redis.xdel(stream, *ids[:150])
    async with Consumer(
        stream, url=url, group="g", name="me", prefetch=Prefetch(max_messages=20)
    ) as consumer:
        assert numbers(await read(consumer, 50)) == list(range(150, 200))
        assert consumer.statistics().ghosts == 150
    assert await pending(redis, stream, "g") == 0


async def test_other_consumers_pending_entries_are_left_alone(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(10))
    await leave_pending(redis, stream, "other", 4)
    async with Consumer(stream, url=url, group="g", name="me") as consumer:
        assert numbers(await read(consumer, 6)) == list(range(4, 10))
        assert await consumer.next(timeout=0.05) is None
    assert await pending(redis, stream, "g") == 4


WORKER = """
    import asyncio, os, sys
    from penstock import Consumer

    async def main():
        url, stream, journal = sys.argv[1:]
        file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        async with Consumer(stream, url=url, group="g", name="me") as consumer:
            async for message in consumer:
                os.write(file, message.payload + b"\\n")
                await asyncio.sleep(0.001)

    asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    """SIGKILL in the middle, four times; the next one goes on under its name."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    journal = tmp_path / "journal"
    journal.touch()
    total = 600
    await send(url, stream, *range(total))
    for kill_at in (50, 150, 300, 450, total):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), url, stream, str(journal)
        )
        try:
            await eventually(lambda: handled(journal, kill_at), within=30)
            if kill_at == total:
                await eventually(lambda: none_pending(redis, stream))
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    lines = [int(line) for line in journal.read_text().split()]
    assert set(lines) == set(range(total))
    # What was handled and not committed yet may come twice: at most an interval's.
    assert len(lines) < total + 4 * 200


async def handled(journal: Path, count: int) -> bool:
    return journal.read_bytes().count(b"\n") >= count


async def none_pending(redis: Any, stream: str) -> bool:
    return await pending(redis, stream, "g") == 0


# -- connections that are lost ---------------------------------------------------------


async def test_a_lost_reply_is_delivered_after_the_reconnect_before_new_ones(
    url: str, stream: str, redis: Any
) -> None:
    """The server believes that we have them: only our own pending list knows."""
    async with proxy(url) as between:
        async with Consumer(stream, url=between.url, group="g") as consumer:
            between.cut_on = b"XREADGROUP"
            between.cut_next_reply = True
            await send(url, stream, 1, 2, 3)
            await eventually(lambda: was_cut(between))
            await send(url, stream, 4, 5)
            assert numbers(await read(consumer, 5)) == [1, 2, 3, 4, 5]
    assert await pending(redis, stream, "g") == 0


async def was_cut(between: object) -> bool:
    return bool(getattr(between, "cuts"))  # noqa: B009


async def test_what_is_in_flight_is_not_delivered_again_after_a_reconnect(
    url: str, stream: str, redis: Any
) -> None:
    """Queued, running, and finished but not committed entries, all pending there."""
    await send(url, stream, *range(300))
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) in {20, 100, 200}:
            between.cut()
        await asyncio.sleep(0.001)
        if len(seen) == 300:
            await consumer.aclose()

    async with proxy(url) as between:
        async with Consumer(
            stream, url=between.url, group="g", commit=Commit(interval=0.3)
        ) as consumer:
            async with asyncio.timeout(20):
                await consumer.run(handle, concurrency=4)
    assert sorted(seen) == list(range(300))
    assert await pending(redis, stream, "g") == 0


async def test_a_lost_reply_to_an_ack_is_acknowledged_again_without_a_word(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(10))
    async with proxy(url) as between:
        async with Consumer(
            stream, url=between.url, group="g", auto_commit=ROLLING, on_event=events
        ) as consumer:
            for message in await read(consumer, 10):
                message.ack()
            between.cut_on = b"XACK"
            between.cut_next_reply = True
            async with asyncio.timeout(10):
                await consumer.commit()
            assert between.cuts == 1
            assert await pending(redis, stream, "g") == 0
    assert not events.named("commit_mismatch")


async def test_killed_connections_are_made_anew_and_nothing_is_lost(
    url: str, stream: str, redis: Any
) -> None:
    """CLIENT KILL every 50 ms under load."""
    async with (
        Producer(url) as producer,
        Consumer(stream, url=url, group="g") as consumer,
    ):
        seen: set[int] = set()

        async def consume() -> None:
            async for message in consumer:
                seen.add(int(message.payload))

        consuming = asyncio.create_task(consume())
        confirmed = set()
        for number in range(500):
            future = await producer.enqueue(stream, b"%d" % number)
            if number % 50 == 49:
                await redis.execute_command(
                    "CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"
                )
            outcome = (await asyncio.gather(future, return_exceptions=True))[0]
            if not isinstance(outcome, BaseException):
                confirmed.add(number)
        await eventually(lambda: contains(seen, confirmed), within=10)
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    assert len(confirmed) > 400


async def contains(seen: set[int], wanted: set[int]) -> bool:
    return wanted <= seen


async def test_a_server_that_is_killed_and_restarted_costs_nothing(
    stream: str, tmp_path: Path
) -> None:
    async with server(tmp_path) as own:
        seen: list[int] = []
        async with Consumer(stream, url=own.url, group="g") as consumer:

            async def consume() -> None:
                async for message in consumer:
                    seen.append(int(message.payload))

            consuming = asyncio.create_task(consume())
            for start in (0, 100, 200):
                await send(own.url, stream, *range(start, start + 100))
                await eventually(lambda: enough(seen, start + 100))
                own.kill()
                await own.start()
            await send(own.url, stream, 300)
            await eventually(lambda: enough(seen, 301), within=3)
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
        assert set(seen) == set(range(301))


async def enough(seen: list[int], count: int) -> bool:
    return len(set(seen)) >= count


async def test_a_frozen_server_is_survived(stream: str, tmp_path: Path) -> None:
    """SIGSTOP for longer than any deadline of ours."""
    async with server(tmp_path) as own:
        url = f"{own.url}?socket_timeout=0.2&socket_connect_timeout=0.2"
        async with Consumer(stream, url=url, group="g") as consumer:
            await send(own.url, stream, 1)
            assert numbers(await read(consumer, 1)) == [1]
            own.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3)  # the time for which it is frozen
            own.send_signal(signal.SIGCONT)
            await send(own.url, stream, 2)
            assert numbers(await read(consumer, 1, within=3)) == [2]


async def test_an_outage_knocks_at_most_five_times_in_its_first_second(
    url: str, stream: str, events: Events
) -> None:
    async with proxy(url) as between:
        async with Consumer(
            stream, url=between.url, group="g", on_event=events, close_timeout=0.1
        ):
            port = between.port
            await between.stop()
            knocks = 0

            def knock(_: object, writer: asyncio.StreamWriter) -> None:
                nonlocal knocks
                knocks += 1
                writer.transport.abort()

            door = await asyncio.start_server(knock, "127.0.0.1", port)
            await asyncio.sleep(1)  # the second in which knocks are counted
            assert 2 <= knocks <= 5
            door.close()
    assert len(events.named("connection_lost")) == 1


# -- opening ---------------------------------------------------------------------------


async def test_opening_tries_once_and_says_where(stream: str) -> None:
    port = free_port()
    for opened in (
        Consumer(stream, url=f"redis://:canary@127.0.0.1:{port}", group="g"),
        Consumer(stream, url=f"redis://:canary@127.0.0.1:{port}"),
        Producer(f"redis://:canary@127.0.0.1:{port}"),
    ):
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port}") as caught:
            async with opened:
                pytest.fail("must not open")
        assert "canary" not in str(caught.value)


async def test_opening_can_wait_for_a_server_that_starts_late(
    stream: str, tmp_path: Path
) -> None:
    async with server(tmp_path) as own:
        own.kill()

        async def late() -> None:
            await asyncio.sleep(0.3)
            await own.start()

        starting = asyncio.create_task(late())
        async with Consumer(stream, url=own.url, group="g", open_timeout=10):
            await starting


async def test_a_user_who_may_not_read_is_told_and_not_looped(
    url: str, stream: str, redis: Any
) -> None:
    user = f"u-{stream}"
    await redis.acl_setuser(
        user,
        enabled=True,
        nopass=True,
        keys=["*"],
        categories=["+@all"],
        commands=["-xreadgroup"],
    )
    limited = with_login(url, user, "x")
    try:
        with pytest.raises(AccessError, match="xreadgroup"):
            async with (
                asyncio.timeout(5),
                Consumer(stream, url=limited, group="g") as consumer,
            ):
                await consumer.next()
    finally:
        await redis.acl_deluser(user)


# -- groups that vanish ----------------------------------------------------------------


async def test_a_destroyed_group_is_made_anew_where_it_was_and_says_so(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(10))
    async with Consumer(stream, url=url, group="g") as consumer:
        await read(consumer, 10)
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        assert await consumer.next(timeout=0.05) is None
        await redis.xgroup_destroy(stream, "g")
        await send(url, stream, *range(10, 15))
        assert numbers(await read(consumer, 5, within=3)) == list(range(10, 15))
        assert await consumer.next(timeout=0.05) is None
    [event] = events.named("group_recreated")
    assert event.facts["group"] == "'g'"


async def test_a_deleted_stream_is_read_from_its_new_beginning(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        await send(url, stream, 1)
        assert numbers(await read(consumer, 1)) == [1]
        await redis.delete(stream)
        # Lower ids than before, which a position kept from then would skip.
        await redis.xadd(stream, {"msg": "2"}, id="1-1")
        await redis.xadd(stream, {"msg": "3"}, id="1-2")
        assert numbers(await read(consumer, 2, within=3)) == [2, 3]
    assert events.named("group_recreated")


async def test_acknowledging_in_a_group_that_vanished_is_reported_and_ends(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(
        stream, url=url, group="g", auto_commit=ROLLING, on_event=events
    ) as consumer:
        messages = await read(consumer, 2)
        await redis.delete(stream)
        for message in messages:
            message.ack()
        async with asyncio.timeout(5):
            await consumer.commit()
    # What was not sent by the time the consumer noticed is not sent at all.
    names = {"commit_dropped", "commit_mismatch", "stream_recreated"}
    assert names & {event.name for event in events}


async def test_acks_that_are_refused_wait_and_their_messages_do_not_run_again(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    user = f"u-{stream}"
    rights: Any = {"enabled": True, "nopass": True, "keys": ["*"]}
    await redis.acl_setuser(user, **rights, categories=["+@all"], commands=["-xack"])
    limited = with_login(url, user, "x")
    await send(url, stream, *range(20))
    try:
        async with Consumer(
            stream, url=limited, group="g", on_event=events
        ) as consumer:
            assert numbers(await read(consumer, 20)) == list(range(20))
            assert await consumer.next(timeout=0.3) is None
            assert events.named("commit_refused")
            await redis.acl_setuser(user, **rights, commands=["+xack"])
            await eventually(lambda: none_pending(redis, stream))
    finally:
        await redis.acl_deluser(user)
    assert len(events.named("commit_refused")) < 10
