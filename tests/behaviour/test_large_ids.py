"""Large ids: an id is two unsigned 64-bit numbers, which are never narrowed."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LATEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    Claim,
    Consumer,
    EntryId,
    Mode,
    Producer,
)
from support.waiting import leave_pending, numbers, pending, read

GROUP_MODES = [RESUMABLE, LOAD_BALANCED]
MODES = [REALTIME, *GROUP_MODES]
MAX_PART = 2**64 - 1
IDS = [
    EntryId(5, 65535),
    EntryId(5, 65536),
    EntryId(5, 2**32),
    EntryId(5, 2**53 + 1),
    EntryId(5, MAX_PART),
    EntryId(2**53 + 1, 0),
    EntryId(MAX_PART, 0),
    EntryId(MAX_PART, 2**63),
    EntryId(MAX_PART, MAX_PART - 1),
]


def grouped(mode: Mode) -> str | None:
    return None if mode is REALTIME else "g"


async def write(redis: Any, stream: str) -> None:
    for number, id_ in enumerate(IDS):
        await redis.xadd(stream, {"msg": number}, id=str(id_))


@pytest.mark.parametrize("mode", MODES)
async def test_large_ids_are_read_in_order_and_acknowledged(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    """SeaStreamer's W19: the second half had 16 bits; above that, consumers crashed."""
    await write(redis, stream)
    async with Consumer(
        stream, url=url, mode=mode, group=grouped(mode), start=EARLIEST
    ) as consumer:
        messages = await read(consumer, len(IDS))
        assert [message.id for message in messages] == IDS
        assert numbers(messages) == list(range(len(IDS)))
        # The highest possible id.
        await redis.xadd(stream, {"msg": "99"}, id=f"{MAX_PART}-{MAX_PART}")
        [last] = await read(consumer, 1)
        assert last.id == EntryId.MAX
    if mode is not REALTIME:
        assert await pending(redis, stream, "g") == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_start_at_a_large_id_is_inclusive(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await write(redis, stream)
    for number, id_ in enumerate(IDS):
        # Each has its own group, since a group's start is fixed when it is created.
        group = None if mode is REALTIME else f"g{number}"
        async with Consumer(
            stream, url=url, mode=mode, group=group, start=id_
        ) as consumer:
            got = await read(consumer, len(IDS) - number)
            assert [message.id for message in got] == IDS[number:]


@pytest.mark.parametrize("mode", MODES)
async def test_latest_is_after_large_ids(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await write(redis, stream)
    async with Consumer(
        stream, url=url, mode=mode, group=grouped(mode), start=LATEST
    ) as consumer:
        async with Producer(url) as producer:
            receipt = await producer.send(stream, b"100")
        assert receipt.id == EntryId.MAX
        assert numbers(await read(consumer, 1)) == [100]


@pytest.mark.parametrize("mode", GROUP_MODES)
async def test_entries_with_large_ids_are_recovered_after_a_crash(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await write(redis, stream)
    await leave_pending(redis, stream, "me", 7)
    async with Consumer(stream, url=url, mode=mode, group="g", name="me") as consumer:
        messages = await read(consumer, len(IDS))
        assert [message.id for message in messages] == IDS
        assert [message.attempt for message in messages] == [1] * 9
    assert await pending(redis, stream, "g") == 0


async def test_entries_with_large_ids_are_claimed(
    url: str, stream: str, redis: Any
) -> None:
    await write(redis, stream)
    await leave_pending(redis, stream, "dead", len(IDS))
    claim = Claim(idle=0.5, interval=0.1)
    async with Consumer(stream, url=url, group="g", name="me", claim=claim) as consumer:
        messages = await read(consumer, len(IDS))
        assert sorted(message.id for message in messages) == IDS
        assert consumer.statistics().claimed == len(IDS)
    assert await pending(redis, stream, "g") == 0


async def test_leases_of_entries_with_large_ids_are_renewed(
    url: str, stream: str, redis: Any
) -> None:
    await write(redis, stream)
    claim = Claim(idle=0.3, interval=0.1)
    async with Consumer(stream, url=url, group="g", name="one", claim=claim) as one:
        messages = await one.take(len(IDS), timeout=5)
        async with Consumer(stream, url=url, group="g", name="two", claim=claim) as two:
            assert await two.next(timeout=1) is None  # for three leases
            assert two.statistics().claimed == 0
        assert one.statistics().lost == 0
        assert [message.id for message in messages] == IDS
    assert await pending(redis, stream, "g") == 0
