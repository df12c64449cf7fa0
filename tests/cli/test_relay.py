"""`penstock relay`: what it moves, and what it does while it can't.

test_relay_killed.py kills it, test_relay_command.py has its options and exit status.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import Producer
from penstock.cli.relay.router import RelayRouter
from penstock.cli.relay.settings import RelaySettings
from penstock.observe.metrics import Metrics
from support.events import Events
from support.relay_process import elements, fill
from support.server import Server, server, with_login
from support.waiting import calls, eventually, pending, spread


@asynccontextmanager
async def relaying(
    url: str, stream: str, *, events: Events | None = None, **options: Any
) -> AsyncIterator[RelayRouter]:
    """Run a relay; it has drained in the end."""
    given: dict[str, Any] = {
        "stream": stream,
        "group": "relay",
        "target": f"{stream}.q",
    }
    settings = RelaySettings(**{**given, **options})
    router = RelayRouter(settings, Events() if events is None else events)
    ready = asyncio.Event()
    running = asyncio.create_task(router.run(url, on_ready=ready.set))
    try:
        async with asyncio.timeout(20):
            await asyncio.wait(
                [running, asyncio.create_task(ready.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
        yield router
    finally:
        router.stop()
        async with asyncio.timeout(30):
            await running


async def has(redis: Any, name: str, count: int, within: float = 20) -> None:
    """Wait until a list has so many elements."""

    async def enough() -> bool:
        return int(await redis.llen(name)) >= count

    await eventually(enough, within)


async def is_done(redis: Any, stream: str, group: str = "relay") -> bool:
    return not await pending(redis, stream, group)


@pytest.mark.parametrize("exact", [True, False])
async def test_messages_go_to_a_list_in_their_order(
    url: str, stream: str, redis: Any, *, exact: bool
) -> None:
    before = await calls(redis, "rpush")
    await fill(url, stream, 1000)
    async with relaying(url, stream, exact=exact):
        await has(redis, f"{stream}.q", 1000)
        await eventually(lambda: is_done(redis, stream))
    assert await elements(redis, f"{stream}.q") == list(range(1000))
    assert await calls(redis, "rpush") - before < 100


async def test_the_newest_element_may_be_the_first(
    url: str, stream: str, redis: Any
) -> None:
    await fill(url, stream, 50)
    async with relaying(url, stream, side="left", batch=7):
        await has(redis, f"{stream}.q", 50)
    assert await elements(redis, f"{stream}.q") == list(range(50))[::-1]


async def test_an_entry_that_the_format_cannot_express_is_a_dead_letter(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        receipt = await producer.send(stream, b"1", key="k", headers={"h": "v"})
        await producer.send(stream, b"\xff")
        await producer.send(stream, b"3")
    async with relaying(url, stream, format="envelope"):
        await has(redis, f"{stream}.q", 2)
        await eventually(lambda: is_done(redis, stream))
    first, last = map(json.loads, await redis.lrange(f"{stream}.q", 0, -1))
    assert first == {
        "id": str(receipt.id),
        "stream": stream,
        "key": "k",
        "headers": {"h": "v"},
        "payload": "1",
    }
    assert last["payload"] == "3"
    [(_, letter)] = await redis.xrange(f"{stream}.dead")
    assert any(b"not text in UTF-8" in value for value in letter.values())


async def test_a_copy_in_another_stream_has_key_headers_and_a_bounded_length(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async with Producer(url) as producer:
        await producer.send(stream, b"\xff", key="k", headers={"h": "v"})
    copy = f"{stream}.copy"
    async with relaying(url, stream, target=copy, to_stream=True, events=events):
        await eventually(lambda: redis.xlen(copy))
    [(_, fields)] = await redis.xrange(copy)
    assert fields == {b"msg": b"\xff", b"key": b"k", b"h": b"v"}
    [event] = events.named("unbounded_stream")
    assert "--max-len" in event.facts["hint"]
    await redis.config_set("stream-node-max-entries", 10)
    await fill(url, stream, 500)
    async with relaying(url, stream, target=copy, to_stream=True, max_len=20):
        await eventually(lambda: is_at_end(redis, stream))
    assert await redis.xlen(copy) < 40
    await redis.config_set("stream-node-max-entries", 100)


async def is_at_end(redis: Any, stream: str) -> bool:
    [group] = await redis.xinfo_groups(stream)
    last = (await redis.xinfo_stream(stream))["last-generated-id"]
    return bool(group["last-delivered-id"] == last and not group["pending"])


async def test_shards_are_owned_and_each_arrives_in_its_order(
    url: str, stream: str, redis: Any
) -> None:
    """Several relays share them; each shard has one at a time."""
    await spread(url, stream, *range(600), shards=3)
    async with (
        relaying(url, stream, name="a", batch=5) as first,
        relaying(url, stream, name="b", batch=5) as second,
    ):
        await has(redis, f"{stream}.q", 300)
        assert all(r.consumers[0].ownership.value == "owned" for r in (first, second))
        await spread(url, stream, *range(600, 900), shards=3)
        await has(redis, f"{stream}.q", 900)
    found = await elements(redis, f"{stream}.q")
    assert sorted(found) == list(range(900))
    for shard in range(3):
        own = [n for n in found if n % 3 == shard]
        assert own == sorted(own)


async def test_two_relays_side_by_side_move_each_message_once(
    url: str, stream: str, redis: Any
) -> None:
    """Also if they have the same name, as after a copied configuration."""
    async with (
        relaying(url, stream, batch=3),
        relaying(url, stream, batch=3),
        relaying(url, stream, batch=3, name="other"),
    ):
        await fill(url, stream, 3000)
        await has(redis, f"{stream}.q", 3000)
        await eventually(lambda: is_done(redis, stream))
    assert sorted(await elements(redis, f"{stream}.q")) == list(range(3000))


@pytest.mark.parametrize("exact", [True, False])
async def test_a_full_list_is_waited_for_and_exceeded_by_a_batch_of_each_at_most(
    url: str, stream: str, redis: Any, events: Events, *, exact: bool
) -> None:
    queue, longest = f"{stream}.q", 0
    await fill(url, stream, 400)
    options: dict[str, Any] = {"max_queue": 50, "batch": 10, "exact": exact}
    async with (
        relaying(url, stream, name="a", events=events, **options) as first,
        relaying(url, stream, name="b", **options) as second,
    ):

        async def both_wait() -> bool:
            return first.paused and second.paused

        await eventually(both_wait)
        metrics = Metrics()
        metrics.add(first)
        [paused] = [f for f in metrics.families() if f.name == "penstock_relay_paused"]
        assert [(s.labels, s.value) for s in paused.samples] == [
            ((("stream", stream),), 1)
        ]
        taken: list[int] = []
        while len(taken) < 400:
            longest = max(longest, await redis.llen(queue))
            taken += map(int, await redis.lpop(queue, 100) or [])
            await asyncio.sleep(0.01)
        assert sorted(taken) == list(range(400))
        assert 50 <= longest < 50 + 2 * 10
        await eventually(lambda: is_done(redis, stream))
        assert not first.paused
        assert not second.paused
    [event] = events.named("relay_paused")
    assert event.facts["max_queue"] == 50


async def test_a_relay_that_waits_for_a_full_list_drains_at_once(
    url: str, stream: str, redis: Any
) -> None:
    """What it has not pushed goes to the next one, and is no attempt that failed."""
    await redis.rpush(f"{stream}.q", *range(5))
    await fill(url, stream, 30)
    async with relaying(url, stream, max_queue=5) as router:

        async def waits() -> bool:
            return router.paused

        await eventually(waits)
    assert await redis.llen(f"{stream}.q") == 5
    await redis.delete(f"{stream}.q")
    async with relaying(url, stream, name="next"):
        await has(redis, f"{stream}.q", 30)
    # One of another name takes over what was given back while it reads the rest.
    assert sorted(await elements(redis, f"{stream}.q")) == list(range(30))
    assert not await redis.exists(f"{stream}.dead")


@pytest.mark.parametrize("exact", [True, False])
async def test_a_target_of_another_type_is_reported_once_and_waited_for(
    url: str, stream: str, redis: Any, events: Events, *, exact: bool
) -> None:
    await fill(url, stream, 10)
    await redis.set(f"{stream}.q", "no list")
    async with relaying(url, stream, events=events, exact=exact):
        await eventually(lambda: reported(events, "relay_refused"))
        await redis.delete(f"{stream}.q")
        await has(redis, f"{stream}.q", 10)
    [event] = events.named("relay_refused")
    assert event.facts["reply"].startswith("WRONGTYPE")
    assert event.facts["target"] == f"{stream}.q"
    assert len(events.named("relay_resumed")) == 1
    assert await elements(redis, f"{stream}.q") == list(range(10))
    assert not await redis.exists(f"{stream}.dead")


async def reported(events: Events, name: str) -> bool:
    return bool(events.named(name))


@pytest.mark.parametrize("to_stream", [True, False])
async def test_a_server_without_memory_is_waited_for(
    tmp_path: Path, events: Events, *, to_stream: bool
) -> None:
    async with server(tmp_path, "--maxmemory-policy", "noeviction") as own:
        async with own.client() as redis:
            options = {"to_stream": to_stream, "target": "q"}
            async with relaying(own.url, "orders", events=events, **options):
                # A relay that starts without memory can't create its consumer.
                async with redis.pipeline(transaction=True) as together:
                    for number in range(10):
                        together.xadd("orders", {"msg": number})
                    together.config_set("maxmemory", 1)
                    await together.execute()
                await eventually(lambda: reported(events, "relay_refused"))
                assert not await redis.exists("q")
                await redis.config_set("maxmemory", 0)
                await eventually(lambda: is_at_end(redis, "orders"))
            assert await (redis.xlen if to_stream else redis.llen)("q") == 10
    assert events.named("relay_refused")[0].facts["reply"].startswith("OOM")


async def test_a_permission_that_is_taken_away_is_waited_for(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    user = f"{stream}-user"
    await redis.execute_command(
        "ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all"
    )
    try:
        async with relaying(with_login(url, user, "pw"), stream, events=events):
            await redis.execute_command("ACL", "SETUSER", user, "-rpush")
            await fill(url, stream, 10)
            await eventually(lambda: reported(events, "relay_refused"))
            assert await pending(redis, stream, "relay") > 0
            await redis.execute_command("ACL", "SETUSER", user, "+rpush")
            await has(redis, f"{stream}.q", 10)
    finally:
        await redis.execute_command("ACL", "DELUSER", user)
    assert "NOPERM" in events.named("relay_refused")[0].facts["reply"]
    assert await elements(redis, f"{stream}.q") == list(range(10))


async def test_the_list_may_be_in_another_database(
    tmp_path: Path,
) -> None:
    async with server(tmp_path) as own, own.client() as redis:
        await fill(own.url, "orders", 100)
        other = f"{own.url}/3"
        async with relaying(own.url, "orders", to_url=other, target="q", exact=False):
            await redis.select(3)
            await has(redis, "q", 100)
            await redis.select(0)
            await eventually(lambda: is_done(redis, "orders"))
            assert not await redis.exists("q")


async def test_a_stream_that_is_deleted_meanwhile_goes_on_with_what_comes_next(
    url: str, stream: str, redis: Any
) -> None:
    await redis.rpush(f"{stream}.q", "full")
    await fill(url, stream, 30)
    async with relaying(url, stream, max_queue=1) as router:

        async def waits() -> bool:
            return router.paused

        await eventually(waits)
        await redis.delete(stream)
        await redis.delete(f"{stream}.q")
        await fill(url, stream, 10, first=100)

        async def keep_it_short() -> None:
            while True:
                await redis.lmove(f"{stream}.q", f"{stream}.seen", "LEFT", "RIGHT")
                await asyncio.sleep(0.01)

        async def came_out() -> bool:
            found = await elements(redis, f"{stream}.seen")
            return set(range(100, 110)) <= set(found)

        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(keep_it_short())
            # Not only when leases are renewed, after thirty seconds.
            await eventually(came_out, within=20)
            taking.cancel()
    found = await elements(redis, f"{stream}.seen")
    assert len(found) == len(set(found))


async def test_another_server_that_goes_away_gets_everything_when_it_is_back(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    other = Server(tmp_path)
    await other.start()
    try:
        async with relaying(
            url, stream, to_url=other.url, exact=False, batch=10, target="q"
        ):
            await fill(url, stream, 100)
            async with other.client() as target:
                await has(target, "q", 100)
            other.kill()
            await fill(url, stream, 100, first=100)
            await other.start()
            async with other.client() as target:
                await has(target, "q", 200)
                assert set(await elements(target, "q")) == set(range(200))
            await eventually(lambda: is_done(redis, stream))
    finally:
        other.kill()
