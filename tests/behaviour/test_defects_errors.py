"""SeaStreamer's defects W1, W15 and W18: errors that it swallowed or crashed on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    Consumer,
    Message,
    Mode,
    Producer,
    SendFailed,
    ServerError,
)
from support.events import Events
from support.proxy import proxy
from support.server import server
from support.waiting import calls, eventually, numbers, pending, read, send

GROUP_MODES = [RESUMABLE, LOAD_BALANCED]
MODES = [REALTIME, *GROUP_MODES]


def grouped(mode: Mode) -> str | None:
    return None if mode is REALTIME else "g"


# -- W1: the server's errors are swallowed ---------------------------------------------


@pytest.mark.parametrize("mode", GROUP_MODES)
async def test_w1_after_flushall_reading_continues_without_a_busy_loop(
    stream: str, tmp_path: Path, events: Events, mode: Mode
) -> None:
    """W1: NOGROUP was taken for "no messages": a busy loop without a report."""
    async with server(tmp_path) as own:

        def consumer() -> Consumer[bytes]:
            return Consumer(stream, url=own.url, mode=mode, group="g", on_event=events)

        await send(own.url, stream, *range(3))
        async with consumer() as one:
            assert numbers(await read(one, 3)) == [0, 1, 2]
        async with consumer() as other:
            redis = own.client()
            async with redis.pipeline(transaction=True) as both:
                # Before the group can be recreated, there is an entry to miss, with an
                # id below all those that were read before.
                both.flushall()
                both.xadd(stream, {"msg": "3"}, id="1-1")
                await both.execute()
            assert numbers(await read(other, 1, within=4)) == [3]
            assert events.named("group_recreated")
            before = await calls(redis, "xreadgroup")
            assert await other.next(timeout=0.5) is None
            assert await calls(redis, "xreadgroup") - before <= 3
            await redis.aclose()
            await send(own.url, stream, 4, 5)
            assert numbers(await read(other, 2, within=2)) == [4, 5]


async def was_reported(events: Events, name: str) -> bool:
    return bool(events.named(name))


async def test_w1_realtime_continues_after_flushall(
    stream: str, tmp_path: Path
) -> None:
    """W1: later entries are delivered, also by a reader that was in a blocking read."""
    async with server(tmp_path) as own:
        async with Consumer(stream, url=own.url) as consumer:
            await send(own.url, stream, 1)
            assert numbers(await read(consumer, 1)) == [1]
            redis = own.client()
            await redis.flushall()
            await redis.aclose()
            await send(own.url, stream, 2)
            assert numbers(await read(consumer, 1, within=4)) == [2]


@pytest.mark.parametrize("mode", MODES)
async def test_w1_a_key_that_becomes_another_type_is_reported_without_a_busy_loop(
    url: str, stream: str, redis: Any, mode: Mode, events: Events
) -> None:
    """W1: WRONGTYPE was taken for "no messages" by readers that were already open."""
    async with Consumer(
        stream, url=url, mode=mode, group=grouped(mode), on_event=events
    ) as consumer:
        await send(url, stream, 1)
        assert numbers(await read(consumer, 1)) == [1]
        async with redis.pipeline(transaction=True) as both:
            both.delete(stream)
            both.set(stream, "a string")
            await both.execute()
        # REALTIME notices it when its read returns, after two seconds.
        await eventually(lambda: broken(events))
        before = await commands_processed(redis)
        assert await consumer.next(timeout=1) is None
        assert await commands_processed(redis) - before < 20
    assert "WRONGTYPE" in str(events.named("shard_broken")[0].facts["reply"])


async def broken(events: Events) -> bool:
    return bool(events.named("shard_broken"))


async def commands_processed(redis: Any) -> int:
    return int((await redis.info("stats"))["total_commands_processed"])


async def test_w1_a_server_that_becomes_read_only_is_waited_for_without_a_busy_loop(
    stream: str, tmp_path: Path, events: Events
) -> None:
    """W1: READONLY, as in a failover: sends fail with its code, the rest is retried."""
    async with server(tmp_path) as own, own.client() as redis:
        async with (
            Producer(own.url) as producer,
            Consumer(
                stream, url=own.url, group="g", auto_commit=ROLLING, on_event=events
            ) as consumer,
        ):
            await producer.send(stream, b"0")
            message = await consumer.next()
            await redis.replicaof("127.0.0.1", 1)
            with pytest.raises(SendFailed) as caught:
                await producer.send(stream, b"1")
            assert caught.value.code == "READONLY"
            message.ack()
            await eventually(lambda: was_reported(events, "read_refused"))
            before = await calls(redis, "xreadgroup")
            await asyncio.sleep(1)  # the second in which reads are counted
            assert await calls(redis, "xreadgroup") - before <= 5
            # Each attempt has a new connection, and all of them are one outage. There
            # may be an earlier one, since a server may close blocked connections.
            lost = events.named("connection_lost")
            assert len(lost) in {1, 2}
            assert len(events.named("reconnected")) == len(lost) - 1
            await redis.replicaof("no", "one")
            await producer.send(stream, b"2")
            [message] = await read(consumer, 1, within=5)
            assert message.payload == b"2"
            message.ack()
            await consumer.commit()
            assert await pending(redis, stream, "g") == 0
            assert await redis.xlen(stream) == 2
            assert len(events.named("connection_lost")) == len(lost)
            assert len(events.named("reconnected")) == len(lost)


# -- W15: I/O errors while a group is created ------------------------------------------


async def test_w15_a_group_whose_creation_was_cut_off_is_not_assumed_to_exist(
    url: str, stream: str, redis: Any
) -> None:
    """W15: opening went on without a group, and each later read failed."""
    async with proxy(url) as between:
        between.cut_on = b"XGROUP"
        between.cut_next_reply = True
        consumer = Consumer(stream, url=between.url, group="g")
        with pytest.raises(ServerError):
            async with consumer:
                pytest.fail("must not open")
        assert between.cuts == 1
        await send(url, stream, 1)
        async with consumer:
            assert numbers(await read(consumer, 1)) == [1]


async def test_w15_a_group_whose_repair_was_cut_off_is_repaired_nevertheless(
    url: str, stream: str, redis: Any
) -> None:
    """W15: the same, while it was consuming."""
    async with proxy(url) as between:
        async with Consumer(stream, url=between.url, group="g") as consumer:
            await send(url, stream, 1)
            assert numbers(await read(consumer, 1)) == [1]
            between.cut_on = b"XGROUP"
            between.cut_next_reply = True
            await redis.xgroup_destroy(stream, "g")
            await eventually(lambda: was_cut(between))
            await send(url, stream, 2)
            # A message in progress, pending again in the new group, is not redelivered.
            assert numbers(await read(consumer, 1, within=5)) == [2]
    assert await pending(redis, stream, "g") == 0


async def was_cut(between: object) -> bool:
    return bool(getattr(between, "cuts"))  # noqa: B009


# -- W18: panics -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_w18_names_and_values_that_are_not_text_stop_nothing(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    """W18: a field name that is not UTF-8 was a panic."""
    await redis.xadd(stream, {b"\xff\xfe": b"\x80", b"msg": b"1", b"key": b"\xc3"})
    await redis.xadd(stream, {b"msg": b"2", b"": b""})
    async with Consumer(
        stream, url=url, mode=mode, group=grouped(mode), start=EARLIEST
    ) as consumer:
        one, two = await read(consumer, 2)
        assert (one.payload, two.payload) == (b"1", b"2")
        [(name, value)] = one.headers.items()
        assert name.encode(errors="surrogateescape") == b"\xff\xfe"
        assert value.encode(errors="surrogateescape") == b"\x80"
        assert one.key is not None
        assert one.key.encode(errors="surrogateescape") == b"\xc3"
        assert two.headers == {"": ""}
        assert "\xff" not in repr(one)
        assert not any("\ud800" <= letter <= "\udfff" for letter in repr(one.headers))


@pytest.mark.parametrize("ordering", ["none", "key", "shard"])
async def test_w18_keys_that_are_not_text_have_lanes_like_any_other(
    url: str, stream: str, redis: Any, ordering: str
) -> None:
    """W18, for the keys that our own workers inspect."""
    for number in range(20):
        await redis.xadd(stream, {b"msg": b"%d" % number, b"key": b"\xff%d" % number})
    seen: list[int] = []

    async def handle(message: Message[bytes]) -> None:
        seen.append(int(message.payload))
        if len(seen) == 20:
            await consumer.aclose()

    async with Consumer(stream, url=url, group="g") as consumer:
        async with asyncio.timeout(5):
            await consumer.run(handle, concurrency=4, ordering=ordering)
    assert sorted(seen) == list(range(20))
    assert await pending(redis, stream, "g") == 0
