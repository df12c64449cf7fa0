"""`lag()` and `group_state` against a count of the entries, on every server."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from penstock import Consumer, Prefetch, admin
from penstock.monitor import Collector
from support.server import server
from support.servers import binaries
from support.waiting import eventually, pending

PREFETCH_ONE = Prefetch(max_messages=1)
STEPS = ["add", "add", "add", "read", "read", "trim", "delete"]
# After these the server's counter is off until the group is at an end again.
SET = ["setid", "recreate"]


class Walk:
    """Takes random steps with a stream and its group."""

    def __init__(self, redis: Any, stream: str, seed: int) -> None:
        self._redis = redis
        self._stream = stream
        self._chance = random.Random(seed)
        self._last = 0
        self._steps = STEPS + SET if seed % 3 == 0 else STEPS

    async def step(self) -> None:
        redis, stream, chance = self._redis, self._stream, self._chance
        step = chance.choice(self._steps)
        some = chance.randint(0, self._last + 1)
        match step:
            case "add":
                for _ in range(chance.randint(1, 6)):
                    self._last += chance.randint(1, 2)
                    await redis.xadd(stream, {"a": "b"}, id=f"{self._last}-0")
            case "read":
                count = chance.randint(1, 5)
                await redis.xreadgroup("g", "m", {stream: ">"}, count=count, noack=True)
            case "trim":
                length = chance.randint(0, 8)
                await redis.xtrim(stream, maxlen=length, approximate=False)
            case "delete":
                await redis.xdel(stream, f"{some}-0")
            case "setid":
                await redis.xgroup_setid(stream, "g", f"{some}-0")
            case "recreate":
                await redis.xgroup_destroy(stream, "g")
                await redis.xgroup_create(stream, "g", f"{some}-0")

    async def count(self) -> int:
        """Count the entries that were not delivered to the group yet."""
        [group] = await self._redis.xinfo_groups(self._stream)
        last = group["last-delivered-id"].decode()
        return len(await self._redis.xrange(self._stream, f"({last}"))


async def is_pending(redis: Any, stream: str) -> bool:
    return bool(await pending(redis, stream, "g"))


@pytest.mark.parametrize("binary", binaries().values(), ids=binaries())
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_lag_is_the_number_of_entries_or_none(
    tmp_path: Path, stream: str, binary: str, protocol: int
) -> None:
    known = total = 0
    async with server(tmp_path, "--appendonly", "no", binary=binary) as own:
        url = f"{own.url}?protocol={protocol}"
        async with (
            own.client() as redis,
            Consumer(stream, url=url, group="g", prefetch=PREFETCH_ONE) as reader,
            admin.Admin(url) as operator,
        ):
            # Once it has prefetched one entry, it reads no more.
            reader.pause()
            await redis.xadd(stream, {"msg": "1"})
            await eventually(lambda: is_pending(redis, stream))
            for seed in range(30):
                walk = Walk(redis, f"{stream}{seed}", seed)
                await redis.xgroup_create(f"{stream}{seed}", "g", "0", mkstream=True)
                await reader.assign(f"{stream}{seed}")
                collector = Collector(url, [f"{stream}{seed}"])
                await collector.start()
                for _ in range(20):
                    await walk.step()
                    real = await walk.count()
                    lags = await reader.lag()
                    [lag] = [
                        lag
                        for shard, lag in lags.items()
                        if shard.stream == f"{stream}{seed}"
                    ]
                    state = await operator.group_state(f"{stream}{seed}", "g")
                    assert lag in {real, None}
                    assert state.lag == lag
                    # The collector has the same rule, and a bound where it has None.
                    [seen] = (await collector.poll()).streams
                    [group] = seen.groups
                    assert group.lag >= real
                    assert (group.lag if group.lag_exact else None) == lag
                    known += lag is not None
                    total += 1
                await collector.aclose()
                await reader.unassign(f"{stream}{seed}")
    assert known > total / 3, "the lag is known too rarely to be of use"
