"""`admin.move` with real consumers: the shard is drained, or taken away by force."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from penstock import Consumer, Message, Owned, Shard, StreamMissing, admin
from support.waiting import eventually, record_shards

LEASE = 5
OWNED = Owned(lease=LEASE, drain=60)


@asynccontextmanager
async def running(
    stream: str, url: str, name: str, handle: Callable[..., Awaitable[None]], **on: Any
) -> AsyncIterator[None]:
    consumer = Consumer(stream, url=url, group="g", name=name, ownership=OWNED, **on)
    async with consumer:
        run = asyncio.create_task(consumer.run(handle))
        try:
            yield
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


async def owners(url: str, stream: str) -> list[str | None]:
    return [one.owner for one in (await admin.owners(stream, "g", url=url)).shards]


async def settle(url: str, stream: str) -> None:
    """Wait until each of two members has what it should have."""

    async def settled() -> bool:
        try:
            found = await admin.owners(stream, "g", url=url)
        except StreamMissing:
            return False
        as_planned = all(one.owner == one.target for one in found.shards)
        return len(found.members) == 2 and as_planned

    await eventually(settled)


async def test_consumers_hand_a_moved_shard_over_and_leave_it_there(
    url: str, stream: str, redis: Any
) -> None:
    await record_shards(redis, stream, 4)

    async def handle(_: Message[bytes]) -> None: ...

    async with running(stream, url, "a", handle), running(stream, url, "b", handle):
        await settle(url, stream)
        number = (await owners(url, stream)).index("a")
        moved = await admin.move(stream, "g", number, "b", url=url)
        assert len(moved.changes) == 2
        await settle(url, stream)
        after = await owners(url, stream)
        assert after[number] == "b"
        assert sorted(map(str, after)) == ["a", "a", "b", "b"]
        await asyncio.sleep(2.5 * LEASE / 5)  # two beats of each member
        assert await owners(url, stream) == after


async def test_force_takes_a_shard_from_a_consumer_whose_handler_hangs(
    url: str, stream: str, redis: Any
) -> None:
    await record_shards(redis, stream, 2)
    hang, started, lost = asyncio.Event(), list[str](), list[int]()

    async def handle_for_ever(message: Message[bytes]) -> None:
        started.append("a")
        await hang.wait()
        assert message.lost

    async def handle(_: Message[bytes]) -> None:
        started.append("b")

    async def on_lost(shards: tuple[Shard, ...]) -> None:
        lost.extend(shard.number for shard in shards)

    async def is_handled(times: int) -> bool:
        return len(started) == times

    async def is_lost() -> bool:
        return lost == [number]

    async def is_acknowledged() -> bool:
        found = await admin.owners(stream, "g", url=url)
        return not any(one.pending for one in found.shards)

    async with (
        running(stream, url, "a", handle_for_ever, on_lost=on_lost),
        running(stream, url, "b", handle),
    ):
        await settle(url, stream)
        number = (await owners(url, stream)).index("a")
        await redis.xadd(f"{stream}:{number}", {"msg": b"x"})
        await eventually(lambda: is_handled(1))
        await admin.move(stream, "g", number, "b", url=url)
        await asyncio.sleep(LEASE / 5)
        assert (await owners(url, stream))[number] == "a"
        moved = await admin.move(stream, "g", number, "b", url=url, force=True)
        assert moved.freed == "a"
        await settle(url, stream)
        await eventually(lambda: is_handled(2))
        await eventually(is_lost)
        await eventually(is_acknowledged)
        hang.set()
    assert started == ["a", "b"]
