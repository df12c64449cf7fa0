"""`seek` sets the position anew, and nothing of before is delivered after it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock import (
    DISABLED,
    EARLIEST,
    LATEST,
    PROCESSED,
    REALTIME,
    RESUMABLE,
    AccessError,
    Commit,
    ConfigurationError,
    Consumer,
    EntryId,
    Message,
    Prefetch,
    Producer,
    UsageError,
    after,
)
from support.proxy import Proxy, proxy
from support.server import with_login
from support.waiting import eventually, numbers, pending, read, send

MODES = [REALTIME, RESUMABLE]
# Connections in the order of opening.
COMMANDS, READER = 1, 2


def consumer(
    mode: Any, *streams: str, url: str, batch: int = 1000, **options: Any
) -> Consumer[bytes]:
    prefetch = Prefetch(max_messages=batch)
    if mode is RESUMABLE:
        options["group"] = options.get("group", "g")
    return Consumer(*streams, url=url, mode=mode, prefetch=prefetch, **options)


def policy(mode: Any, auto_commit: Any = DISABLED) -> dict[str, Any]:
    return {"auto_commit": auto_commit} if mode is RESUMABLE else {}


@pytest.mark.parametrize("batch", [1, 5, 25])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("auto_commit", [DISABLED, PROCESSED])
async def test_seek_goes_to_the_start_to_an_id_to_a_time_and_to_the_end(
    url: str, stream: str, mode: Any, batch: int, auto_commit: Any
) -> None:
    """SeaStreamer's `seek-rewind`."""
    await send(url, stream, *range(29))
    async with Producer(url) as producer:
        marked = (await producer.send(stream, b"29")).id
        await asyncio.sleep(0.003)  # so that its millisecond is its own
        for number in range(30, 100):
            await producer.enqueue(stream, b"%d" % number)
    options = {"start": EARLIEST, **policy(mode, auto_commit)}
    async with consumer(mode, stream, url=url, batch=batch, **options) as reader:
        assert numbers(await read(reader, 10)) == list(range(10))
        await reader.seek(EARLIEST)
        assert numbers(await read(reader, 10)) == list(range(10))
        await reader.seek(after(marked))
        assert numbers(await read(reader, 10)) == list(range(30, 40))
        await reader.seek(EntryId(marked.ms + 1))
        assert numbers(await read(reader, 10)) == list(range(30, 40))
        await reader.seek(marked.timestamp + timedelta(milliseconds=1))
        assert numbers(await read(reader, 10)) == list(range(30, 40))
        await reader.seek(str(marked))
        assert numbers(await read(reader, 1)) == [29]
        await reader.seek(LATEST)
        await send(url, stream, *range(100, 110))
        assert numbers(await read(reader, 5)) == list(range(100, 105))
        assert numbers(await read(reader, 5)) == list(range(105, 110))


@pytest.mark.parametrize("mode", MODES)
async def test_ids_of_any_size_can_be_sought(
    url: str, stream: str, redis: Any, mode: Any
) -> None:
    """Nanoseconds as milliseconds, and as large as they come (W19)."""
    top = 2**64 - 1
    ids = ["1678280595282123456-0", f"1678280595282123456-{top}", f"{top}-{top - 1}"]
    for number, id_ in enumerate(ids):
        await redis.xadd(stream, {"msg": number}, id=id_)
    async with consumer(mode, stream, url=url, start=EARLIEST) as reader:
        assert numbers(await read(reader, 3)) == [0, 1, 2]
        for number, id_ in enumerate(ids):
            await reader.seek(id_)
            assert numbers(await read(reader, 1)) == [number]
        await reader.seek(after(ids[1]))
        assert numbers(await read(reader, 1)) == [2]


@pytest.mark.parametrize("mode", MODES)
async def test_after_seeking_the_end_a_quiet_stream_beside_a_busy_one_loses_nothing(
    url: str, stream: str, mode: Any
) -> None:
    """W11: the end is a place from then on, not one that moves with each read."""
    busy, quiet = f"{stream}-busy", f"{stream}-quiet"
    await send(url, busy, 1, 2, 3)
    await send(url, quiet, 4, 5, 6)
    async with consumer(mode, busy, quiet, url=url, start=EARLIEST) as reader:
        await reader.seek(LATEST)
        for number in range(10, 15):
            await send(url, busy, number)
            assert numbers(await read(reader, 1)) == [number]
        await send(url, quiet, 20)
        await send(url, busy, 15)
        assert sorted(numbers(await read(reader, 2))) == [15, 20]
        assert await reader.next(timeout=0.1) is None


@pytest.mark.parametrize("mode", MODES)
async def test_what_waited_before_a_seek_is_not_delivered_after_it(
    url: str, stream: str, mode: Any, redis: Any
) -> None:
    await send(url, stream, *range(20))
    async with consumer(mode, stream, url=url, start=EARLIEST) as reader:
        assert numbers(await read(reader, 2)) == [0, 1]
        await eventually(lambda: has_queued(reader))
        await reader.seek(LATEST)
        assert reader.statistics().queued == 0
        await send(url, stream, 100)
        assert numbers(await read(reader, 1)) == [100]
    if mode is RESUMABLE:
        assert await pending(redis, stream, "g") == 0


async def has_queued(reader: Consumer[bytes]) -> bool:
    return reader.statistics().queued > 0


async def test_what_waited_does_not_come_back_with_a_reconnect_or_a_restart(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(20))
    options: dict[str, Any] = {"start": EARLIEST, "group": "g"}
    async with proxy(url) as between:
        async with consumer(RESUMABLE, stream, url=between.url, **options) as reader:
            assert numbers(await read(reader, 2)) == [0, 1]
            await reader.seek(LATEST)
            between.cut()
            await send(url, stream, 100)
            assert numbers(await read(reader, 1)) == [100]
    async with consumer(RESUMABLE, stream, url=url, **options) as reader:
        await send(url, stream, 101)
        assert numbers(await read(reader, 1)) == [101]


@pytest.mark.parametrize("place", [EARLIEST, LATEST])
async def test_a_seek_that_the_server_refuses_loses_nothing(
    url: str, stream: str, redis: Any, place: Any
) -> None:
    await send(url, stream, *range(20))
    user = f"u-{stream}"
    rules = ("on", ">secret", "~*", "&*", "+@all", "-xgroup|setid")
    await redis.execute_command("ACL", "SETUSER", user, "resetkeys", *rules)
    login = with_login(url, user, "secret")
    async with consumer(RESUMABLE, stream, url=login, auto_commit="rolling") as reader:
        messages = await read(reader, 2)
        await eventually(lambda: has_queued(reader))
        with pytest.raises(AccessError, match="setid"):
            await reader.seek(place)
        messages += await read(reader, 18)
        assert numbers(messages) == list(range(20))
        assert all(message.ack() for message in messages)
        await reader.commit()
        assert await pending(redis, stream, "g") == 0
    await redis.acl_deluser(user)


async def test_what_was_handed_out_and_not_acked_stays_pending_over_a_seek(
    url: str, stream: str, redis: Any
) -> None:
    """Forwards, so that it does not come again by itself."""
    await send(url, stream, *range(20))
    async with consumer(RESUMABLE, stream, url=url, auto_commit="rolling") as reader:
        first, second, _ = await read(reader, 3)
        first.ack()
        await reader.seek(LATEST)
        await reader.commit()
        assert await pending(redis, stream, "g") == 2
        second.ack()
        await reader.commit()
        assert await pending(redis, stream, "g") == 1


async def test_an_acknowledgement_on_its_way_does_not_acknowledge_what_comes_again(
    url: str, stream: str, redis: Any
) -> None:
    """It is waited for: the server gets it before the position is set."""
    await send(url, stream, *range(20))
    # Without room the reader does not read, so that it need not be woken to seek.
    options: dict[str, Any] = {
        "batch": 1,
        "auto_commit": "rolling",
        "commit": Commit(interval=0.01),
    }
    async with (
        proxy(url) as between,
        consumer(RESUMABLE, stream, url=between.url, **options) as reader,
    ):
        messages = await read(reader, 10)
        for message in messages:
            message.ack()
        between.hold_requests = lambda connection: connection == COMMANDS
        await eventually(lambda: is_held(between))
        seeking = asyncio.create_task(reader.seek(EARLIEST))
        await asyncio.wait([seeking], timeout=0.5)
        between.hold_requests = lambda _: False
        await seeking
        assert numbers(await read(reader, 10)) == list(range(10))
        await reader.commit()
        assert await pending(redis, stream, "g") == 10


@pytest.mark.parametrize("how", ["ack", "nack", "reject"])
async def test_outcomes_from_before_a_seek_do_not_count_for_what_comes_again(
    url: str, stream: str, redis: Any, how: str
) -> None:
    """Nor if they are sent after it, and before what comes again is here."""
    await send(url, stream, *range(10))
    async with (
        proxy(url) as between,
        consumer(RESUMABLE, stream, url=between.url, auto_commit=DISABLED) as reader,
    ):
        messages = await read(reader, 10)
        for message in messages[:5]:
            getattr(message, how)()
        await reader.seek(EARLIEST)
        between.hold = lambda connection: connection == READER
        for message in messages[5:]:
            assert message.ack() is False
        await reader.commit()
        between.hold = lambda _: False
        again = await read(reader, 10)
        assert numbers(again) == list(range(10))
        assert await pending(redis, stream, "g") == 10


async def is_held(between: Proxy) -> bool:
    return between.held_requests > 0


async def test_own_pending_entries_of_an_earlier_life_are_forgotten(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(30))
    await redis.xgroup_create(stream, "g", id="0")
    await redis.xreadgroup("g", "g", {stream: ">"}, count=20)
    options: dict[str, Any] = {"batch": 2, "auto_commit": "rolling"}
    async with consumer(RESUMABLE, stream, url=url, **options) as reader:
        assert numbers(await read(reader, 1)) == [0]
        await reader.seek(LATEST)
        await send(url, stream, 100)
        assert numbers(await read(reader, 1)) == [100]
        await eventually(lambda: pending_is(redis, stream, 2))


async def pending_is(redis: Any, stream: str, count: int) -> bool:
    return await pending(redis, stream, "g") == count


@pytest.mark.parametrize("mode", MODES)
async def test_one_stream_of_several_can_be_sought(
    url: str, stream: str, mode: Any
) -> None:
    a, b = f"{stream}-a", f"{stream}-b"
    await send(url, a, 1)
    await send(url, b, 2)
    async with consumer(mode, a, b, url=url, start=EARLIEST) as reader:
        assert sorted(numbers(await read(reader, 2))) == [1, 2]
        await reader.seek(EARLIEST, stream=b)
        assert numbers(await read(reader, 1)) == [2]
        assert await reader.next(timeout=0.1) is None
        with pytest.raises(ConfigurationError, match=r"consumer\.shards"):
            await reader.seek(EARLIEST, stream="another")


@pytest.mark.parametrize("mode", MODES)
async def test_a_loop_may_seek_and_goes_on_there_in_order(
    url: str, stream: str, mode: Any, redis: Any
) -> None:
    """The message in the loop's hands comes again too, in its place."""
    await send(url, stream, *range(50))
    seen: list[int] = []
    async with consumer(mode, stream, url=url, start=EARLIEST) as reader:
        async for message in reader:
            seen.append(int(message.payload))
            if len(seen) == 10:
                await reader.seek(EARLIEST)
            if len(seen) == 60:
                break
    assert seen == [*range(10), *range(50)]
    if mode is RESUMABLE:
        assert await pending(redis, stream, "g") == 0


async def test_a_message_that_comes_again_waits_for_the_handler_that_has_it(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 0)
    release, started, handled = asyncio.Event(), asyncio.Event(), 0
    at_once = most = 0

    async def handle(_: Message[bytes]) -> None:
        nonlocal at_once, most, handled
        at_once += 1
        most = max(most, at_once)
        started.set()
        await release.wait()
        at_once -= 1
        handled += 1
        if handled == 2:
            await reader.aclose()

    async with consumer(RESUMABLE, stream, url=url) as reader:
        running = asyncio.create_task(reader.run(handle, concurrency=4))
        await started.wait()
        await reader.seek(EARLIEST)
        await eventually(lambda: received(reader, 2))
        release.set()
        async with asyncio.timeout(10):
            await running
    assert (most, handled) == (1, 2)
    assert await pending(redis, stream, "g") == 0


async def received(reader: Consumer[bytes], count: int) -> bool:
    return reader.statistics().received >= count


async def test_seeking_and_reading_go_on_over_a_cut_connection(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(10))
    async with proxy(url) as between:
        async with consumer(RESUMABLE, stream, url=between.url) as reader:
            assert numbers(await read(reader, 5)) == [0, 1, 2, 3, 4]
            between.cut_on, between.cut_next_reply = b"SETID", True
            async with asyncio.timeout(10):
                await reader.seek(EARLIEST)
            assert between.cuts == 1
            assert numbers(await read(reader, 10)) == list(range(10))


@pytest.mark.parametrize("mode", MODES)
async def test_a_blocked_read_does_not_hold_a_seek_up(
    url: str, stream: str, mode: Any
) -> None:
    await send(url, stream, 1)
    async with consumer(mode, stream, url=url, start=EARLIEST) as reader:
        await read(reader, 1)
        assert await reader.next(timeout=0.05) is None  # it is blocked now
        async with asyncio.timeout(1):  # a block is two seconds
            for _ in range(10):
                await reader.seek(EARLIEST)
        assert numbers(await read(reader, 1)) == [1]


async def test_a_seek_is_completed_while_the_consumer_closes(
    url: str, stream: str, redis: Any
) -> None:
    """Half of it would leave a message pending that is delivered again anyway."""
    await send(url, stream, *range(5))
    async with proxy(url) as between:
        async with consumer(RESUMABLE, stream, url=between.url, batch=2) as reader:
            await read(reader, 1)
            between.delay = 0.05
            seeking = asyncio.create_task(reader.seek(EARLIEST))
            await eventually(lambda: is_at_its_start(redis, stream))
    await seeking
    assert await pending(redis, stream, "g") == 0


async def is_at_its_start(redis: Any, stream: str) -> bool:
    [group] = await redis.xinfo_groups(stream)
    return bool(group["last-delivered-id"] == b"0-0")


async def test_a_cancelled_seek_leaves_the_consumer_in_order(
    url: str, stream: str
) -> None:
    await send(url, stream, *range(5))
    async with consumer(RESUMABLE, stream, url=url) as reader:
        for turns in range(30):
            task = asyncio.create_task(reader.seek(EARLIEST))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await reader.seek(EARLIEST)
        assert numbers(await read(reader, 5)) == [0, 1, 2, 3, 4]


async def test_load_balanced_refuses_and_names_what_to_use(
    url: str, stream: str
) -> None:
    async with Consumer(stream, url=url, group="g") as reader:
        with pytest.raises(UsageError, match=r"admin\.reset_group"):
            await reader.seek(EARLIEST)


@pytest.mark.parametrize("mode", MODES)
async def test_a_start_or_seek_before_1970_means_the_beginning(
    url: str, stream: str, mode: Any
) -> None:
    """`datetime.min` and 1900 are what other systems have for "always"."""
    await send(url, stream, 1, 2)
    long_ago = datetime(1900, 1, 1, tzinfo=UTC)
    async with consumer(mode, stream, url=url, start=long_ago) as reader:
        assert numbers(await read(reader, 2)) == [1, 2]
        await reader.seek(datetime.min.replace(tzinfo=UTC))
        assert numbers(await read(reader, 2)) == [1, 2]


@pytest.mark.parametrize(
    "place",
    [datetime(2026, 1, 1), "yesterday", 5, None, "1-2-3", ""],  # noqa: DTZ001 - naive
)
async def test_what_is_no_place_is_refused(url: str, stream: str, place: Any) -> None:
    async with Consumer(stream, url=url) as reader:
        with pytest.raises(ConfigurationError):
            await reader.seek(place)
    with pytest.raises(ConfigurationError):
        after(place)


def test_nothing_comes_after_the_last_id() -> None:
    assert after("1-5") == EntryId(1, 6)
    assert after(EntryId(1, 2**64 - 1)) == EntryId(2)
    with pytest.raises(ConfigurationError):
        after(EntryId.MAX)


async def test_a_time_before_the_stream_is_its_start(url: str, stream: str) -> None:
    await send(url, stream, 1, 2)
    async with consumer(RESUMABLE, stream, url=url) as reader:
        await read(reader, 2)
        await reader.seek(datetime.now(UTC) - timedelta(days=1))
        assert numbers(await read(reader, 2)) == [1, 2]
