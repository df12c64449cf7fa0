"""Owned shards: what consumers report when something endangers or delays a shard."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import Message, Owned
from support.owned_group import open_group
from support.proxy import proxy
from support.waiting import eventually


@pytest.mark.parametrize("shards", [1, 0], ids=["owner", "stand-by"])
async def test_an_event_loop_that_is_blocked_is_reported_by_the_lease_of_shards(
    url: str, stream: str, redis: Any, shards: int
) -> None:
    async with open_group(url, stream, redis, 1) as group:
        lease = Owned(lease=0.9)
        if not shards:
            await group.join("owner")
            await group.settle([1])
        member = await group.join("blocked", ownership=lease)
        await group.settle([1, 0][: len(group.members)])
        assert member.owned == shards
        time.sleep(1.2)  # noqa: ASYNC251 - as a bad handler does

        async def is_reported() -> bool:
            return bool(member.events.named("loop_blocked"))

        await eventually(is_reported)
        event, *_ = member.events.named("loop_blocked")
        assert event.facts["group"] == "g"
        assert event.facts["lease"] == lease.lease
        assert 0.9 < float(str(event.facts["seconds"])) < 5


async def test_an_owner_whose_event_loop_is_not_blocked_reports_nothing(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 2) as group:
        member = await group.join("m", ownership=Owned(lease=6))
        await group.send(20)
        await group.finish()

        async def has_beaten() -> bool:
            return bool(await redis.hget(group.owner_keys()[0], "until") != first)

        await group.settle()
        first = await redis.hget(group.owner_keys()[0], "until")
        await eventually(has_beaten)
        assert {event.name for event in member.events} == {"shard_taken"}


async def test_a_shard_that_is_not_freed_in_time_is_reported_with_the_end_of_its_lease(
    url: str, stream: str, redis: Any
) -> None:
    """Nobody has it before that, and then the next owner takes it."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def stubborn(_: Message[bytes]) -> None:
        started.set()
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    async with open_group(url, stream, redis, 2, ordering="key") as group:
        options: dict[str, Any] = {"ownership": Owned(lease=2), "close_timeout": 0.5}
        first = await group.join("first", stubborn, **options)
        await started.wait()
        await group.settle([2])
        [shard] = {start.shard for start in group.starts}
        await first.consumer.aclose()
        closed = time.monotonic()
        [event] = first.events.named("shards_not_freed")
        assert event.facts["stream"] == stream
        assert event.facts["group"] == "g"
        assert event.facts["shards"] == (shard,)
        left = float(str(event.facts["seconds"]))
        assert 0 < left <= 2
        assert list(await group.owners()) == [shard]
        group.members.remove(first)
        await group.join("next", **options)
        await group.settle([2])
        assert time.monotonic() - closed > left - 0.5
        go_on.set()
        assert first.running is not None
        await first.running


async def test_outcomes_that_the_server_has_not_answered_are_counted_at_the_end(
    url: str, stream: str, redis: Any
) -> None:
    """The handlers are done, and their acknowledgements are on their way."""
    async with (
        proxy(url) as link,
        open_group(url, stream, redis, 1) as group,
    ):
        member = await group.join(
            "m", url=link.url, ownership=Owned(drain=0.2), close_timeout=1
        )
        await group.settle([1])
        await group.finish()
        await member.consumer.commit()

        async def hold_replies(_: Message[bytes]) -> None:
            link.hold = lambda _: True

        member._handle = hold_replies
        await group.send(1)
        await group.finish()
        await group.leave(member)
        link.hold = lambda _: False
        [drained] = member.events.named("drain_incomplete")
        assert drained.facts["messages"] == drained.facts["running"] == 0
        assert drained.facts["unanswered"] == 1
        [event] = member.events.named("shards_not_freed")
        assert event.facts["shards"] == (0,)


async def test_shards_of_a_consumer_whose_tasks_were_cancelled_are_reported(
    url: str, stream: str, redis: Any
) -> None:
    """As the end of `asyncio.run` does."""
    async with open_group(url, stream, redis, 12) as group:
        member = await group.join("m")
        await group.settle([12])
        await group.finish()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await member.consumer.aclose()
        [event] = member.events.named("shards_not_freed")
        # Those that were being freed may be free.
        assert event.facts["shards"]
        assert set(event.facts["shards"]) <= set(range(12))
        group.members.remove(member)
