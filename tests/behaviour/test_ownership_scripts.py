"""The scripts of owned shards on every server: who has a shard, and who may write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock._core.protocol import ownership_scripts as scripts
from penstock._core.protocol.ownership_replies import (
    Assigned,
    Beaten,
    Fenced,
    Guarded,
    Refused,
    Taken,
)
from penstock._core.protocol.replies import ErrorReply
from simulation.server import VERSIONS
from support.ownership_rig import KEY, LEASE, MEMBERS, OWNER, Rig, open_rig


@pytest.fixture(params=list(VERSIONS))
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(VERSIONS[request.param], tmp_path) as opened:
        yield opened


# -- taking ----------------------------------------------------------------------------


async def test_a_take_brings_a_new_token_and_the_same_one_when_sent_again(
    rig: Rig,
) -> None:
    assert await rig.take("a") == Taken(1, more=False)
    assert await rig.token() == b"1:a:run-a.1"
    assert await rig.take("a") == Taken(1, more=True)
    assert await rig.take("a", 2) == Taken(2, more=False)
    assert await rig.token() == b"2:a:run-a.2"


async def test_a_take_is_refused_while_the_lease_of_another_runs(rig: Rig) -> None:
    await rig.take("a")
    refused = await rig.take("b")
    assert refused.why == "held"
    assert 0 < refused.value <= LEASE
    assert await rig.token() == b"1:a:run-a.1"
    assert await rig.take("b", force=True) == Taken(2, more=False)


async def test_a_shard_whose_lease_is_over_is_taken(rig: Rig) -> None:
    await rig.take("a", lease=0)
    assert await rig.take("b") == Taken(2, more=False)


async def test_a_take_with_an_older_target_is_refused(rig: Rig) -> None:
    await rig.take("a", version=7, lease=0)
    assert await rig.take("b", version=6) == Refused("old", 7)
    assert await rig.take("b", version=7) == Taken(2, more=False)


async def test_a_take_that_arrives_late_takes_nothing(rig: Rig) -> None:
    await rig.take("a", 1)
    await rig.take("a", 2)
    assert await rig.take("a", 1) == Refused("stale", 0)
    assert await rig.call(scripts.free(OWNER, b"2:a:run-a.2")) is None
    assert await rig.take("a", 2) == Refused("stale", 0)
    assert await rig.token() == b""


async def test_a_namesake_takes_the_shard_at_once(rig: Rig) -> None:
    await rig.take("a")
    assert await rig.take("a", run="other") == Taken(2, more=False)


async def test_a_number_is_above_all_that_the_member_has_seen(rig: Rig) -> None:
    assert await rig.take("a", least=41) == Taken(42, more=False)


async def test_a_take_without_a_group_changes_nothing(rig: Rig) -> None:
    await rig.redis.xgroup_destroy(KEY, "g")
    reply = await rig.take("a")
    assert reply.code == "NOGROUP"
    assert not await rig.redis.exists(OWNER)


async def test_a_take_claims_what_is_pending_and_keeps_the_counts(rig: Rig) -> None:
    await rig.add(4)
    await rig.read("x#7", 2)
    await rig.redis.xclaim(KEY, "g", "x#7", 0, ["1-0"])
    await rig.read("shared", 2)
    await rig.take("a")
    name = b"a#1"
    assert await rig.pending() == [
        (b"1-0", name, 2),
        (b"2-0", name, 1),
        (b"3-0", name, 1),
        (b"4-0", name, 1),
    ]
    consumers = {one["name"] for one in await rig.redis.xinfo_consumers(KEY, "g")}
    assert consumers == {b"shared", name}


async def test_more_than_a_thousand_are_claimed_page_by_page(rig: Rig) -> None:
    await rig.add(2300)
    await rig.read("x#7", 1200)
    await rig.read("y#8.1", 1100)
    assert await rig.take("a") == Taken(1, more=True)
    pages = []
    while True:
        page = await rig.guard(await rig.token(), "a#1", claim=0)
        pages.append(len(page.claimed))
        if not page.more:
            break
    assert pages == [1000, 300]
    assert {consumer for _, consumer, _ in await rig.pending()} == {b"a#1"}


async def test_a_take_sent_again_claims_nothing(rig: Rig) -> None:
    await rig.add(2)
    await rig.take("a")
    await rig.read("late#9", 2)
    await rig.take("a")
    assert {consumer for _, consumer, _ in await rig.pending()} == {b"late#9"}


# -- writing under the token -----------------------------------------------------------


async def test_commands_run_only_under_the_token(rig: Rig) -> None:
    await rig.add(3)
    await rig.take("a")
    await rig.read("a#1", 3)
    token = await rig.token()
    ack = [(b"XACK", b"1-0")]
    fenced = await rig.guard(b"1:a:run-a.0", "a#1", commands=ack)
    assert fenced == Fenced(token)
    assert len(await rig.pending()) == 3
    count = (b"XCLAIM", b"a#1", 0, b"2-0", b"RETRYCOUNT", 5, b"JUSTID")
    done = await rig.guard(token, "a#1", commands=[*ack, count])
    assert done == Guarded([], more=False, replies=[1, [b"2-0"]])
    assert await rig.pending() == [(b"2-0", b"a#1", 5), (b"3-0", b"a#1", 1)]
    again = await rig.guard(token, "a#1", commands=[*ack, count])
    assert again.replies == [0, [b"2-0"]]


async def test_a_refused_command_keeps_no_other_back(rig: Rig) -> None:
    await rig.add(1)
    await rig.take("a")
    await rig.read("a#1", 1)
    commands = [(b"XACK", b"nonsense"), (b"XACK", b"1-0")]
    done = await rig.guard(await rig.token(), "a#1", commands=commands)
    assert isinstance(done.replies[0], ErrorReply)
    assert "Invalid stream ID" in done.replies[0].text
    assert done.replies[1] == 1


async def test_strays_are_claimed_and_others_only_when_they_are_idle(rig: Rig) -> None:
    await rig.add(4)
    await rig.take("a")
    for consumer in ("a#1", "late#9", "late#9.2", "shared"):
        await rig.read(consumer, 1)
    token = await rig.token()
    claimed = await rig.guard(token, "a#1", claim=LEASE)
    assert claimed == Guarded([b"2-0", b"3-0"], more=False, replies=[])
    await rig.redis.xclaim(KEY, "g", "shared", 0, ["4-0"], idle=LEASE, justid=True)
    claimed = await rig.guard(token, "a#1", claim=LEASE)
    assert claimed.claimed == [b"4-0"]


async def test_a_lease_is_kept_and_freed_only_under_the_token(rig: Rig) -> None:
    await rig.take("a", lease=0)
    token = await rig.token()
    assert await rig.call(scripts.keep(OWNER, token, lease=LEASE)) is None
    assert (await rig.take("b")).why == "held"
    stale = b"1:a:run-a.0"
    assert await rig.call(scripts.keep(OWNER, stale, lease=LEASE)) == Fenced(token)
    assert await rig.call(scripts.free(OWNER, stale)) == Fenced(token)
    assert await rig.call(scripts.free(OWNER, token)) is None
    assert await rig.call(scripts.free(OWNER, token)) == Fenced(b"")
    assert await rig.call(scripts.keep(OWNER, token, lease=LEASE)) == Fenced(b"")
    assert await rig.guard(token, "a#1") == Fenced(b"")
    assert await rig.take("b") == Taken(2, more=False)


# -- the group's hash ------------------------------------------------------------------


async def test_a_beat_tells_the_members_and_a_new_target_once(rig: Rig) -> None:
    assert await rig.beat("a", weight=3) == Beaten(0, None, {"a": 3})
    found = await rig.beat("ä b:c#1")
    assert found.members == {"a": 3, "ä b:c#1": 1}
    stored = scripts.assign(MEMBERS, seen=0, least=0, target=b"\x00target")
    assert await rig.call(stored) == Assigned(stored=True, version=1)
    assert (await rig.beat("a")).target == b"\x00target"
    assert (await rig.beat("a", known=1)).target is None


async def test_a_target_is_stored_only_over_the_one_that_was_seen(rig: Rig) -> None:
    first = scripts.assign(MEMBERS, seen=0, least=0, target=b"x")
    assert await rig.call(first) == Assigned(stored=True, version=1)
    assert await rig.call(first) == Assigned(stored=False, version=1)
    higher = scripts.assign(MEMBERS, seen=1, least=57, target=b"y")
    assert await rig.call(higher) == Assigned(stored=True, version=58)


async def test_a_beat_that_does_not_join_brings_nobody_back(rig: Rig) -> None:
    await rig.beat("a")
    assert await rig.call(scripts.leave(MEMBERS, "a")) == 1
    assert await rig.call(scripts.leave(MEMBERS, "a")) == 0
    assert await rig.beat("a", join=False) is None


async def test_a_member_that_is_silent_for_a_lease_is_removed(rig: Rig) -> None:
    await rig.beat("a")
    await rig.beat("b")
    for _ in range(3):
        await rig.age(LEASE // 2 - 1000)
        found = await rig.beat("b", join=False)
    assert found.members == {"b": 1}
    assert await rig.beat("a", join=False) is None


async def test_nobody_is_removed_for_a_time_in_which_no_one_could_beat(
    rig: Rig,
) -> None:
    await rig.beat("a")
    await rig.beat("b")
    await rig.age(10 * LEASE)
    assert (await rig.beat("b", join=False)).members == {"a": 1, "b": 1}
    assert (await rig.beat("b", join=False)).members == {"a": 1, "b": 1}


async def test_a_clock_that_was_set_back_keeps_no_one_for_ever(rig: Rig) -> None:
    await rig.beat("a")
    await rig.age(-60_000)
    await rig.beat("b")
    await rig.age(LEASE // 2 - 1000)
    await rig.beat("b")
    for _ in range(3):
        await rig.age(LEASE // 2 - 1000)
        found = await rig.beat("b")
    assert found.members == {"b": 1}


async def test_a_shard_is_forgotten_unless_the_lease_of_an_owner_runs(rig: Rig) -> None:
    assert await rig.call(scripts.forget(OWNER)) == 1
    await rig.take("a")
    assert await rig.call(scripts.forget(OWNER)) == 0
    assert await rig.token() == b"1:a:run-a.1"
    await rig.call(scripts.free(OWNER, await rig.token()))
    assert await rig.call(scripts.forget(OWNER)) == 1
    assert not await rig.redis.exists(OWNER)
    await rig.take("a", 2, lease=0)
    assert await rig.call(scripts.forget(OWNER)) == 1
    assert not await rig.redis.exists(OWNER)
