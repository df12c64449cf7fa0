"""`admin.reset_group` has a group go on at another place, stopped or running."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LATEST,
    AccessError,
    CommandError,
    ConfigurationError,
    Consumer,
    EntryId,
    Producer,
    RoundRobin,
    StreamMissing,
    admin,
    after,
)
from support.server import with_login
from support.waiting import eventually, numbers, pending, read, send


async def sent(url: str, stream: str, count: int) -> list[EntryId]:
    async with Producer(url) as producer:
        return [(await producer.send(stream, b"%d" % n)).id for n in range(count)]


async def rest(url: str, stream: str) -> list[int]:
    """What the group still gives."""
    got = []
    async with Consumer(stream, url=url, group="g") as consumer:
        while (message := await consumer.next(timeout=0.3)) is not None:
            got.append(int(message.payload))
    return got


async def test_a_stopped_group_goes_on_at_an_id_a_time_or_an_end(
    url: str, stream: str, redis: Any
) -> None:
    ids = await sent(url, stream, 10)
    async with Consumer(stream, url=url, group="g") as consumer:
        await read(consumer, 4)  # and some wait, which are given back
    await admin.reset_group(stream, "g", LATEST, url=url)
    assert await pending(redis, stream, "g") == 0
    assert await rest(url, stream) == []
    await admin.reset_group(stream, "g", EARLIEST, url=url)
    assert await rest(url, stream) == list(range(10))
    await admin.reset_group(stream, "g", ids[7], url=url)
    assert await rest(url, stream) == [7, 8, 9]
    await admin.reset_group(stream, "g", after(ids[7]), url=url)
    assert await rest(url, stream) == [8, 9]
    await admin.reset_group(stream, "g", str(ids[9]), url=url)
    assert await rest(url, stream) == [9]
    before = ids[0].timestamp - timedelta(seconds=1)
    await admin.reset_group(stream, "g", before, url=url)
    assert await rest(url, stream) == list(range(10))


async def test_a_running_group_goes_on_at_the_start(
    url: str, stream: str, redis: Any
) -> None:
    await sent(url, stream, 10)
    async with Consumer(stream, url=url, group="g") as consumer:
        assert numbers(await read(consumer, 10)) == list(range(10))
        await admin.reset_group(stream, "g", EARLIEST, url=url)
        assert numbers(await read(consumer, 10)) == list(range(10))
        assert await consumer.next(timeout=0.3) is None
        await consumer.commit()
        assert await pending(redis, stream, "g") == 0


async def test_a_running_group_of_several_gets_everything_again(
    url: str, stream: str
) -> None:
    await sent(url, stream, 200)
    async with (
        Consumer(stream, url=url, group="g") as one,
        Consumer(stream, url=url, group="g") as two,
    ):
        seen: list[int] = []

        async def drained() -> bool:
            for consumer in (one, two):
                while (message := await consumer.next(timeout=0)) is not None:
                    seen.append(int(message.payload))
            return set(seen) >= set(range(200))

        await eventually(drained)
        seen.clear()
        await admin.reset_group(stream, "g", EARLIEST, url=url)
        await eventually(drained)


async def test_all_shards_are_reset(url: str, stream: str) -> None:
    async with Producer(url, sharder=RoundRobin(3)) as producer:
        for number in range(9):
            await producer.enqueue(stream, b"%d" % number)
    async with Consumer(stream, url=url, group="g", shards=[0, 1]) as consumer:
        await read(consumer, 6)
    # Shard 2 has no group yet; it would begin at the start.
    await admin.reset_group(stream, "g", LATEST, url=url)
    assert await rest(url, stream) == []
    await admin.reset_group(stream, "g", EARLIEST, url=url)
    assert sorted(await rest(url, stream)) == list(range(9))


async def test_the_state_of_a_group_is_that_of_all_shards(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, sharder=RoundRobin(3)) as producer:
        for number in range(9):
            await producer.enqueue(stream, b"%d" % number)
    for number in range(3):
        key = f"{stream}:{number}"
        await redis.xgroup_create(key, "g", id="0")
        await redis.xreadgroup("g", "c", {key: ">"}, count=number + 1)
    state = await admin.group_state(stream, "g", url=url)
    assert (state.pending, state.holders) == (6, {"c": 6})
    assert state.lag in {3, None}  # Redis 6.2 does not tell


async def test_what_can_not_be_reset_is_refused(
    url: str, stream: str, redis: Any
) -> None:
    with pytest.raises(StreamMissing):
        await admin.reset_group(stream, "g", EARLIEST, url=url)
    await send(url, stream, 1)
    with pytest.raises(CommandError, match="no group 'g'"):
        await admin.reset_group(stream, "g", EARLIEST, url=url)
    with pytest.raises(ConfigurationError):
        await admin.reset_group(stream, "g", "yesterday", url=url)
    assert await redis.xinfo_groups(stream) == []


@pytest.mark.parametrize("refused", ["xgroup|setid", "xack"])
async def test_a_reset_that_the_server_refuses_loses_nothing(
    url: str, stream: str, redis: Any, refused: str
) -> None:
    """Acknowledging the entries and setting the position are one transaction."""
    await sent(url, stream, 2500)
    await redis.xgroup_create(stream, "g", "0")
    await redis.xreadgroup("g", "gone", {stream: ">"}, count=2400)
    user = f"u-{stream}"
    rules = ("on", ">secret", "~*", "&*", "+@all", f"-{refused}")
    await redis.execute_command("ACL", "SETUSER", user, "resetkeys", *rules)
    login = with_login(url, user, "secret")
    with pytest.raises(AccessError):
        await admin.reset_group(stream, "g", LATEST, url=login)
    await redis.acl_deluser(user)
    assert await pending(redis, stream, "g") == 2400
    await admin.reset_group(stream, "g", LATEST, url=url)
    assert await pending(redis, stream, "g") == 0
    assert await rest(url, stream) == []
