"""The script that moves a batch, on every server: what it pushes and what it leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.relay_script import (
    Push,
    Relayed,
    relay,
    to_list,
    to_stream,
)
from simulation.server import VERSIONS
from support.ownership_rig import KEY, OWNER, Rig, open_rig
from support.waiting import pending

LIST, STREAM = to_list(b"q"), to_stream(b"t")
IDS = [b"%d-1" % number for number in range(1, 7)]


@pytest.fixture(params=list(VERSIONS))
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(VERSIONS[request.param], tmp_path) as opened:
        for id_ in IDS:
            await opened.redis.xadd(KEY, {"msg": id_}, id=id_)
        await opened.redis.xgroup_destroy(KEY, "g")
        await opened.redis.xgroup_create(KEY, "g", "0")
        yield opened


async def move(
    rig: Rig,
    push: Push = LIST,
    ids: list[bytes] = IDS,
    *,
    consumer: str = "c",
    owner: Fence | None = None,
) -> Any:
    bodies = [
        (id_, (b"msg", id_) if push.command == b"XADD" else (id_,)) for id_ in ids
    ]
    command = relay(KEY, "g", consumer, push, bodies, whole=True, owner=owner)
    return await rig.call(command)


async def test_a_batch_is_pushed_in_its_order_and_acknowledged_once(rig: Rig) -> None:
    await rig.read("c", 6)
    assert await move(rig) == Relayed(last=IDS[-1])
    assert await rig.redis.lrange("q", 0, -1) == IDS
    assert await pending(rig.redis, KEY.decode(), "g") == 0
    # Sent again, since its reply was lost.
    assert await move(rig) == Relayed(missing=tuple(IDS))
    assert await rig.redis.lrange("q", 0, -1) == IDS


async def test_only_what_is_pending_for_the_consumer_is_pushed(rig: Rig) -> None:
    for consumer in ("c", "other", "c", "other", "c"):
        await rig.read(consumer, 1)
    assert await move(rig) == Relayed(missing=(IDS[1], IDS[3], IDS[5]), last=IDS[4])
    assert await rig.redis.lrange("q", 0, -1) == [IDS[0], IDS[2], IDS[4]]
    assert await pending(rig.redis, KEY.decode(), "g") == 2


async def test_a_batch_need_not_be_in_the_order_of_the_ids(rig: Rig) -> None:
    await rig.read("c", 6)
    mixed = [IDS[4], IDS[0], IDS[2]]
    assert await move(rig, ids=mixed) == Relayed(last=IDS[2])
    assert await rig.redis.lrange("q", 0, -1) == mixed
    assert await pending(rig.redis, KEY.decode(), "g") == 3


async def test_a_list_can_be_filled_from_its_left(rig: Rig) -> None:
    await rig.read("c", 6)
    await move(rig, to_list(b"q", left=True))
    assert await rig.redis.lrange("q", 0, -1) == IDS[::-1]


async def test_a_long_list_gets_nothing(rig: Rig) -> None:
    await rig.read("c", 6)
    push = LIST._replace(most=2)
    assert await move(rig, push, IDS[:3]) == Relayed(last=IDS[2])
    assert await move(rig, push, IDS[3:]) == Relayed(full=True)
    assert await rig.redis.llen("q") == 3
    assert await pending(rig.redis, KEY.decode(), "g") == 3


async def test_messages_are_copied_to_a_stream(rig: Rig) -> None:
    await rig.read("c", 6)
    found = await move(rig, STREAM._replace(words=(b"MAXLEN", b"=", b"4", b"*")))
    assert found == Relayed(last=IDS[-1])
    copied = [fields for _, fields in await rig.redis.xrange("t")]
    assert copied == [{b"msg": id_} for id_ in IDS[2:]]


@pytest.mark.parametrize("push", [LIST, LIST._replace(most=5), STREAM])
async def test_a_target_of_another_type_is_refused_before_anything_happens(
    rig: Rig, push: Push
) -> None:
    await rig.read("c", 6)
    await rig.redis.hset(push.target, "a", "b")
    found = await move(rig, push)
    assert found.failure.code == "WRONGTYPE"
    assert (found.last, found.missing) == (b"", ())
    assert await pending(rig.redis, KEY.decode(), "g") == 6


async def test_a_refusal_in_the_middle_of_a_stream_leaves_the_rest(rig: Rig) -> None:
    """The last id of the target leaves space for two more."""
    await rig.read("c", 6)
    top = 2**64 - 1
    await rig.redis.xadd("t", {"a": "b"}, id=f"{top}-{top - 2}")
    found = await move(rig, STREAM)
    assert found.failure is not None
    assert found.last == IDS[1]
    assert await rig.redis.xlen("t") == 3
    assert await pending(rig.redis, KEY.decode(), "g") == 4


async def test_a_group_that_is_gone_is_a_refusal(rig: Rig) -> None:
    await rig.redis.xgroup_destroy(KEY, "g")
    assert (await move(rig)).failure.code == "NOGROUP"
    assert not await rig.redis.exists("q")


async def test_nothing_happens_under_the_token_of_a_former_owner(rig: Rig) -> None:
    await rig.take("a")
    token = await rig.token()
    await rig.read("a#1", 6)
    stale = Fence(OWNER, b"0:old:run.1")
    found = await move(rig, consumer="", owner=stale)
    assert found == Fenced(token)
    assert not await rig.redis.exists("q")
    found = await move(rig, consumer="", owner=Fence(OWNER, token))
    assert found == Relayed(last=IDS[-1])
    assert await rig.redis.lrange("q", 0, -1) == IDS


async def test_without_permission_to_acknowledge_nothing_is_pushed(rig: Rig) -> None:
    await rig.read("c", 6)
    await rig.redis.execute_command(
        *("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-xack")
    )
    await rig.redis.execute_command("AUTH", "u", "p")
    found = await move(rig)
    assert "NOPERM" in found.failure.text
    assert not await rig.redis.exists("q")
    assert await pending(rig.redis, KEY.decode(), "g") == 6


async def test_a_server_without_memory_is_not_filled_up_further(
    rig: Rig, request: pytest.FixtureRequest
) -> None:
    if "redis_6_2" in request.node.name:
        pytest.skip("it looks at its memory only before XACK is tried")
    await rig.read("c", 6)
    await rig.redis.config_set("maxmemory", 1)
    assert (await move(rig)).failure.code == "OOM"
    assert (await move(rig, STREAM)).failure.code == "OOM"
    await rig.redis.config_set("maxmemory", 0)
    assert not await rig.redis.exists("q", "t")
    assert await pending(rig.redis, KEY.decode(), "g") == 6
