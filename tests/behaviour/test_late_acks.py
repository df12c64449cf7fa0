"""Messages whose user acknowledges them after their lease has ended."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import DISABLED, ROLLING, AutoCommit, Claim, Consumer
from support.waiting import eventually, pending, read, send


@pytest.mark.parametrize("policy", [DISABLED, ROLLING])
async def test_an_ack_after_the_message_was_handed_out_again_says_that_it_is_late(
    url: str, stream: str, redis: Any, policy: AutoCommit
) -> None:
    await send(url, stream, 1, 2)
    short = Claim(idle=0.3, interval=0.1)
    consumer = Consumer(stream, url=url, group="g", auto_commit=policy, claim=short)
    async with consumer:
        first, _ = await read(consumer, 2)
        assert not first.lost
        again = await read(consumer, 2)
        [second] = [each for each in again if each.id == first.id]
        assert second.attempt == 2
        assert first.lost
        assert not first.ack()
        assert not first.nack()
        assert consumer.statistics().late == 2
        assert second.ack()
        await consumer.commit()
        await eventually(lambda: _is_acked(redis, stream, str(first.id)))


async def test_an_ack_after_the_lease_counts_until_the_message_is_handed_out_again(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    never = Claim(idle=0.2, interval=None)
    consumer = Consumer(stream, url=url, group="g", auto_commit=DISABLED, claim=never)
    async with consumer:
        first, second = await read(consumer, 2)
        await eventually(lambda: _is_idle(redis, stream, str(first.id)))
        assert await consumer.next(timeout=0.1) is None
        assert not first.lost
        assert first.ack()
        await consumer.commit()
        assert consumer.statistics().late == 0
        assert await pending(redis, stream, "g") == 1
        assert second.ack()


async def _is_acked(redis: Any, stream: str, id_: str) -> bool:
    return not await redis.xpending_range(stream, "g", id_, id_, 1)


async def _is_idle(redis: Any, stream: str, id_: str) -> bool:
    """Return whether two leases are over since a message was delivered."""
    [line] = await redis.xpending_range(stream, "g", id_, id_, 1)
    return bool(line["time_since_delivered"] >= 400)


async def test_a_consumer_that_takes_nothing_over_leaves_it_to_others(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2, 3)
    await redis.xgroup_create(stream, "g", "0")
    await redis.xreadgroup("g", "dead", {stream: ">"}, count=2)
    alone = Claim(idle=0.1, interval=None)
    async with Consumer(stream, url=url, group="g", claim=alone) as consumer:
        message = await consumer.next(timeout=10)
        assert message is not None
        assert message.payload == b"3"
        assert await consumer.next(timeout=0.5) is None
        waiting = await redis.xpending_range(stream, "g", "-", "+", 9, "dead")
        assert len(waiting) == 2
        soon = Claim(idle=0.1, interval=0.1)
        async with Consumer(stream, url=url, group="g", claim=soon) as other:
            taken = await read(other, 2)
            assert [each.payload for each in taken] == [b"1", b"2"]
