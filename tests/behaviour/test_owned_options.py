"""Owned shards: what is refused, namesakes, and closing."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from penstock import (
    Claim,
    ConfigurationError,
    Consumer,
    Mode,
    NameInUse,
    Owned,
    Shard,
    UsageError,
)
from support.owned_group import do_nothing, open_group
from support.server import with_login
from support.waiting import eventually, numbers, pending, read, send


async def nothing(_: tuple[Shard, ...]) -> None: ...


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": Mode.REALTIME, "group": None}, "which REALTIME does not"),
        ({"mode": Mode.RESUMABLE}, "use LOAD_BALANCED"),
        ({"auto_commit": "immediate"}, "choose PROCESSED, ROLLING or DISABLED"),
        ({"auto_commit": "delayed"}, "choose PROCESSED, ROLLING or DISABLED"),
        ({"claim": Claim(idle=5)}, "pass ownership=Owned(lease=...)"),
        ({"shards": [1, 2]}, "leave shards= out"),
        ({"name": "x#1"}, "does not end in '#'"),
        ({"name": "x#1.2"}, "does not end in '#'"),
        ({"ownership": "shared", "on_lost": nothing}, "on_lost= is called with owned"),
        ({"ownership": "leased"}, "ownership='leased'"),
        ({"on_assigned": "nothing"}, "pass an async function"),
    ],
)
def test_options_that_do_not_go_with_owned_shards_are_refused(
    options: dict[str, Any], text: str
) -> None:
    given: dict[str, Any] = {"url": "redis://localhost", "group": "g"}
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        Consumer("orders", **{**given, "ownership": "owned", **options})


@pytest.mark.parametrize(
    "options",
    [{"lease": 0}, {"lease": -1}, {"drain": -1}, {"settle": -1}, {"weight": 0}],
)
def test_invalid_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Owned(**options)


async def test_calls_that_change_what_is_read_are_refused(
    url: str, stream: str
) -> None:
    consumer = Consumer(stream, url=url, group="g", ownership="owned")
    async with consumer:
        with pytest.raises(UsageError, match=r"use admin\.reset_group"):
            await consumer.seek("earliest")
        with pytest.raises(UsageError, match=r"use admin\.reset_group"):
            await consumer.seek("earliest", stream=stream)
        with pytest.raises(UsageError, match=r"name all streams when you create"):
            await consumer.assign(f"{stream}2")
        with pytest.raises(UsageError, match=r"unassign\(\) .* admin\.move"):
            await consumer.unassign(stream)
        await send(url, stream, 1)
        message = await consumer.next()
        assert message.payload == b"1"


async def test_a_user_who_may_not_use_scripts_is_refused_on_opening(
    url: str, stream: str, redis: Any
) -> None:
    user = f"{stream}-user"
    rules = ["on", ">secret", "~*", "&*", "+@all", "-eval", "-evalsha"]
    await redis.execute_command("ACL", "SETUSER", user, *rules)
    login = with_login(url, user, "secret")
    try:
        with pytest.raises(ConfigurationError, match="owned shards need scripts"):
            async with Consumer(stream, url=login, group="g", ownership="owned"):
                pass
    finally:
        await redis.acl_deluser(user)


@pytest.mark.parametrize("way", ["run", "next", "loop"])
async def test_a_second_process_of_a_name_takes_the_shards_and_ends_the_first(
    url: str, stream: str, redis: Any, way: str
) -> None:
    """The second one goes on, and they don't take the shards from each other."""
    options: dict[str, Any] = {"name": "same", "ownership": Owned(lease=1)}
    async with open_group(url, stream, redis, 4) as group:
        first = Consumer(stream, url=url, group="g", **options)

        async def receive() -> None:
            if way == "run":
                await first.run(do_nothing)
            elif way == "next":
                while True:
                    await first.next()
            else:
                async for _ in first:
                    pass

        async with first:
            receiving = asyncio.create_task(receive())

            async def owns_all() -> bool:
                return first.statistics().owned == 4

            await eventually(owns_all)
            second = await group.join("second", **options)
            with pytest.raises(NameInUse, match="'same'"):
                async with asyncio.timeout(20):
                    await receiving
            await group.settle()
            await group.send(20)

            async def has_handled() -> bool:
                return set(group.ended) >= set(range(1, group.sent))

            await eventually(has_handled)
            assert set((await group.epochs()).values()) == {2}
            assert second.events.named("shard_lost") == []
            with pytest.raises(NameInUse):
                await first.next(timeout=5)


async def test_an_idle_consumer_of_many_shards_closes_at_once(
    url: str, stream: str, redis: Any
) -> None:
    took = []
    async with open_group(url, stream, redis, 64) as group:
        for label in "abc":
            member = await group.join(label)
            await group.finish()
            await group.settle()
            began = time.monotonic()
            await group.leave(member)
            took.append(time.monotonic() - began)
            assert await group.owners() == {}
            # Not the two seconds for which reads wait; half a second on a quiet
            # machine, which this one may not be each time.
            if took[-1] < 1.5:
                return
    pytest.fail(f"it took {took} seconds")


async def test_a_consumer_that_has_closed_leaves_nothing_of_it_in_the_group(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 4) as group:
        for label in "ab":
            member = await group.join(label)
            await group.finish()
            await group.settle()
            await group.leave(member)
        members = await redis.hgetall(f"{{{stream}}}.members:g")
        assert not [name for name in members if name.startswith(b"m:")]


async def test_opening_and_closing_at_once_leaves_no_shard_owned(
    url: str, stream: str, redis: Any
) -> None:
    """The shards are being taken meanwhile."""
    async with open_group(url, stream, redis, 16) as group:
        for turn in range(5):
            member = await group.join(f"m{turn}")
            await asyncio.sleep(0.005 * turn)
            await group.leave(member)
            assert await group.owners() == {}
        await group.join("last")
        await group.finish()
        await group.settle()


async def test_cancelling_all_tasks_before_closing_loses_no_outcome(
    url: str, stream: str, redis: Any
) -> None:
    """As the end of `asyncio.run` does; the shards are free after a lease."""
    consumer = Consumer(stream, url=url, group="g", ownership=Owned(lease=1))
    await consumer.start()
    await send(url, stream, *range(5))
    for message in await read(consumer, 2):
        message.ack()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    began = time.monotonic()
    await consumer.aclose()
    assert time.monotonic() - began < 5  # far less than `close_timeout`
    assert await pending(redis, stream, "g") <= 3
    async with Consumer(stream, url=url, group="g", ownership="owned") as second:
        assert numbers(await read(second, 3)) == [2, 3, 4]


async def test_members_without_channels_find_changes_by_their_beats(
    url: str, stream: str, redis: Any
) -> None:
    user = f"{stream}-user"
    rules = ["on", ">secret", "~*", "resetchannels", "+@all"]
    await redis.execute_command("ACL", "SETUSER", user, *rules)
    options: dict[str, Any] = {"url": with_login(url, user, "secret")}
    options["ownership"] = Owned(lease=1)
    try:
        async with open_group(url, stream, redis, 8) as group:
            first = await group.join("first", **options)
            await group.settle()
            await group.join("second", **options)
            await group.settle()
            await group.leave(first)
            await group.settle()
            await group.send(20)
            await group.finish()
            assert group.numbers() == list(range(group.sent))
    finally:
        await redis.acl_deluser(user)


async def test_closed_members_leave_no_connection_task_or_consumer_behind(
    url: str, stream: str, redis: Any
) -> None:
    async with open_group(url, stream, redis, 4) as group:
        clients = len(await redis.client_list())
        tasks = len(asyncio.all_tasks())
        for turn in range(4):
            pair = [await group.join(f"{turn}{label}") for label in "ab"]
            await group.settle()
            await group.send(10)
            await group.finish()
            for member in pair:
                await group.leave(member)

        async def clients_are_gone() -> bool:
            return len(await redis.client_list()) <= clients

        await eventually(clients_are_gone)
        assert len(asyncio.all_tasks()) == tasks
        for number in range(4):
            consumers = await redis.xinfo_consumers(f"{stream}:{number}", "g")
            assert len(consumers) <= 1


async def test_a_message_whose_task_has_ended_is_delivered_again_after_a_lease(
    url: str, stream: str
) -> None:
    options: dict[str, Any] = {"group": "g", "ownership": Owned(lease=0.5)}
    async with Consumer(stream, url=url, **options) as consumer:
        await send(url, stream, 1, 2, 3)

        async def receive() -> Any:
            return await consumer.next()

        first = await asyncio.create_task(receive())
        later = [await consumer.next() for _ in range(2)]
        again = await consumer.next(timeout=20)
        assert again is not None
        assert again.id == first.id
        assert again.id not in {message.id for message in later}
        assert first.lost
        assert not again.lost


async def test_closing_waits_for_on_revoked_without_using_the_processor(
    url: str, stream: str
) -> None:
    used = []

    async def slowly(_: tuple[Shard, ...]) -> None:
        before = time.process_time()
        await asyncio.sleep(1.0)
        used.append(time.process_time() - before)

    options: dict[str, Any] = {"group": "g", "on_revoked": slowly}
    async with Consumer(stream, url=url, ownership="owned", **options) as consumer:

        async def owns() -> bool:
            return consumer.statistics().owned == 1

        await eventually(owns)
    [seconds] = used
    assert seconds < 0.1
