"""Admin: the state of groups, errors for missing ones, reconnects and opening."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import (
    ROLLING,
    ClosedError,
    CommandError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    Consumer,
    Producer,
    StreamMissing,
    UsageError,
    admin,
)
from penstock.admin import Admin
from support.proxy import proxy
from support.waiting import read


async def send(url: str, stream: str, count: int) -> None:
    async with Producer(url) as producer:
        for number in range(count):
            await producer.enqueue(stream, b"%d" % number)


async def test_the_state_of_a_group_has_the_pending_count_of_each_consumer(
    url: str, stream: str
) -> None:
    await send(url, stream, 5)
    async with Consumer(
        stream, url=url, group="g", name="né", auto_commit=ROLLING
    ) as consumer:
        messages = await read(consumer, 5)
        messages[0].ack()
        await consumer.commit()
        state = await admin.group_state(stream, "g", url=url)
    assert (state.pending, state.consumers) == (4, 1)
    assert state.lag in {0, None}
    assert state.holders == {"né": 4}
    assert state.last_delivered == messages[-1].id


async def test_a_group_that_has_read_nothing_is_at_the_start(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 3)
    await redis.xgroup_create(stream, "g", "0")
    await redis.xgroup_create(stream, "other", "$")
    state = await admin.group_state(stream, "g", url=url)
    assert (state.pending, state.holders) == (0, {})
    assert str(state.last_delivered) == "0-0"
    assert state.lag in {3, None}


async def test_errors_name_the_missing_stream_or_group(
    url: str, stream: str, redis: Any
) -> None:
    async with Admin(url) as operator:
        with pytest.raises(StreamMissing, match=stream):
            await operator.group_state(stream, "g")
        await send(url, stream, 1)
        with pytest.raises(CommandError, match="has no group 'g'") as caught:
            await operator.group_state(stream, "g")
        assert caught.value.code == "NOGROUP"
        await redis.set(f"{stream}.text", "x")
        with pytest.raises(CommandError, match="WRONGTYPE"):
            await operator.group_state(f"{stream}.text", "g")
        with pytest.raises(ConfigurationError, match="not a stream name"):
            await operator.group_state("", "g")


async def test_a_stream_is_deleted_with_its_groups(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    await redis.xgroup_create(stream, "g", "0")
    async with Admin(url) as operator:
        assert await operator.delete_stream(stream)
        assert not await operator.delete_stream(stream)
    assert await redis.exists(stream) == 0


async def test_after_a_lost_connection_the_next_call_reconnects(
    url: str, stream: str, redis: Any
) -> None:
    await redis.xgroup_create(stream, "g", "0", mkstream=True)
    async with proxy(url) as between, Admin(between.url) as operator:
        between.cut_next_reply = True
        with pytest.raises(ConnectionLost):
            await operator.group_state(stream, "g")
        assert (await operator.group_state(stream, "g")).pending == 0
        await between.stop()
        with pytest.raises((ConnectionLost, ConnectError)):
            await operator.group_state(stream, "g")
        with pytest.raises(ConnectError):
            await operator.group_state(stream, "g")
        await between.start()
        assert (await operator.group_state(stream, "g")).pending == 0


async def test_an_open_admin_can_t_be_opened_again(url: str, stream: str) -> None:
    operator = Admin(url)
    assert repr(operator) == "<Admin closed>"
    with pytest.raises(ClosedError):
        await operator.group_state(stream, "g")
    async with operator:
        assert repr(operator) == "<Admin open>"
        with pytest.raises(UsageError, match="already open"):
            async with operator:
                pass
    with pytest.raises(ClosedError):
        await operator.delete_stream(stream)
