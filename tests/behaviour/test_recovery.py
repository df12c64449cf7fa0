"""Recovery after a crash or a lost reply: own pending entries first, nothing lost."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    DISABLED,
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


async def test_pending_entries_are_delivered_first_and_in_order(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(100))
    await leave_pending(redis, stream, "me", 60)
    async with Consumer(stream, url=url, group="g", name="me") as consumer:
        messages = await read(consumer, 100)
    assert numbers(messages) == list(range(100))
    assert [message.attempt for message in messages] == [1] * 100
    assert await pending(redis, stream, "g") == 0


async def test_more_pending_entries_are_recovered_than_one_page_holds(
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
    """SeaStreamer's W14: a page of deleted entries, forever pending, ended recovery."""
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


async def test_pending_entries_of_other_consumers_are_not_taken(
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
    """SIGKILL during the work, four times; the next process continues with its name."""
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
    # Messages that were handled and not yet committed may come twice: those of one
    # interval at most.
    assert len(lines) < total + 4 * 200


async def handled(journal: Path, count: int) -> bool:
    return journal.read_bytes().count(b"\n") >= count


async def none_pending(redis: Any, stream: str) -> bool:
    return await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("how", ["commit", "closing"])
async def test_deleted_entries_alone_are_acknowledged_on_demand(
    url: str, stream: str, redis: Any, events: Events, how: str
) -> None:
    """No message waits with them to be acknowledged."""
    await send(url, stream, 1, 2)
    await leave_pending(redis, stream, "me")
    await redis.xtrim(stream, maxlen=0, approximate=False)
    options: dict[str, Any] = {"auto_commit": DISABLED, "on_event": events}
    async with Consumer(stream, url=url, group="g", name="me", **options) as consumer:
        await eventually(lambda: was_deleted(consumer, 2))
        if how == "commit":
            await consumer.commit()
            assert await pending(redis, stream, "g") == 0
    assert await pending(redis, stream, "g") == 0
    assert not events.named("close_incomplete")


async def was_deleted(consumer: Consumer[Any], count: int) -> bool:
    return consumer.statistics().ghosts == count


# -- connections that are lost ---------------------------------------------------------


async def test_a_lost_reply_is_delivered_after_the_reconnect_before_new_ones(
    url: str, stream: str, redis: Any
) -> None:
    """For the server they are delivered: only the consumer's pending list has them."""
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


async def test_entries_in_flight_are_not_delivered_again_after_a_reconnect(
    url: str, stream: str, redis: Any
) -> None:
    """Queued, running, and finished but uncommitted entries; all are still pending."""
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


async def test_an_ack_whose_reply_was_lost_is_repeated_without_an_event(
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


async def test_killed_connections_are_replaced_and_nothing_is_lost(
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


async def test_no_message_is_lost_when_the_server_is_killed_and_restarted(
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


async def test_a_consumer_survives_a_frozen_server(stream: str, tmp_path: Path) -> None:
    """SIGSTOP for longer than any timeout of Penstock."""
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


async def test_during_an_outage_at_most_five_connections_are_tried_in_the_first_second(
    url: str, stream: str, events: Events
) -> None:
    async with proxy(url) as between:
        async with Consumer(
            stream, url=between.url, group="g", on_event=events, close_timeout=0.1
        ):
            port = between.port
            await between.stop()
            attempts = 0

            def refuse(_: object, writer: asyncio.StreamWriter) -> None:
                nonlocal attempts
                attempts += 1
                writer.transport.abort()

            listener = await asyncio.start_server(refuse, "127.0.0.1", port)
            await asyncio.sleep(1)  # the second in which attempts are counted
            assert 2 <= attempts <= 5
            listener.close()
    assert len(events.named("connection_lost")) == 1


# -- opening ---------------------------------------------------------------------------


async def test_opening_tries_once_and_the_error_names_the_address(stream: str) -> None:
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

        async def start_late() -> None:
            await asyncio.sleep(0.3)
            await own.start()

        starting = asyncio.create_task(start_late())
        async with Consumer(stream, url=own.url, group="g", open_timeout=10):
            await starting


async def test_a_user_without_the_permission_to_read_gets_an_error_and_no_endless_loop(
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


# -- groups that are deleted -----------------------------------------------------------


async def test_a_destroyed_group_is_recreated_at_its_position_and_reported(
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
    assert event.facts["group"] == "g"


async def test_a_deleted_stream_is_read_from_its_new_beginning(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        await send(url, stream, 1)
        assert numbers(await read(consumer, 1)) == [1]
        await redis.delete(stream)
        # Lower ids than before, which the old position would skip.
        await redis.xadd(stream, {"msg": "2"}, id="1-1")
        await redis.xadd(stream, {"msg": "3"}, id="1-2")
        assert numbers(await read(consumer, 2, within=3)) == [2, 3]
    assert events.named("group_recreated")


async def test_acknowledging_in_a_deleted_group_is_reported_and_ends(
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
    # Acks that were not sent before the consumer noticed are not sent at all.
    names = {"commit_dropped", "commit_mismatch", "stream_recreated"}
    assert names & {event.name for event in events}


async def test_refused_acks_are_kept_and_their_messages_are_not_handled_again(
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
