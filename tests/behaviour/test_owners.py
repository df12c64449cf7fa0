"""`admin.owners` and `admin.move`: who owns which shard, and an operator's change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock import CommandError, ConfigurationError, StreamMissing, admin
from penstock._core.ownership.keys import OWN_KEY, news_channel
from penstock._core.ownership.target import decode, plan
from penstock._core.protocol import ownership_scripts as scripts
from penstock._core.protocol.ownership_replies import Fenced, Taken
from penstock.admin import GroupMember, OwnedShard, Owners, ShardMove
from penstock.message import Shard
from simulation.real_servers import binary
from simulation.server import VERSIONS
from support.members import LEASE, Members
from support.server import server, with_login
from support.waiting import record_shards

HALVES = {0: "a", 1: "a", 2: "b", 3: "b"}


@pytest.fixture
async def members(redis: Any, stream: str) -> Members:
    """Members a and b that own two shards each."""
    members = Members(redis, stream, 4)
    await members.open(HALVES)
    return members


def changed(move: ShardMove) -> dict[int, str]:
    """Return the changes of a move, by the numbers of shards."""
    return {shard.number: member for shard, member in move.changes.items()}


# -- who owns what ---------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_owners_of_all_shards_and_the_members_are_listed(
    version: str, protocol: int, tmp_path: Path
) -> None:
    program = binary(VERSIONS[version])
    if program is None:
        pytest.skip(f"{version} is not installed")
    async with server(tmp_path, "--appendonly", "no", binary=program) as own:
        async with own.client() as redis:
            members = Members(redis, "orders", 3)
            await members.open({0: "a", 1: "ä b", 2: "a"})
            await members.beat("ä b", weight=3)
            await members.read(2, 5)
            await members.take(1, "ä b", serial=2)
            url = f"{own.url}?protocol={protocol}"
            owners = await admin.owners("orders", "g", url=url)
            move = await admin.move("orders", "g", 0, url=url, force=True)
    assert [
        (owned.shard.key, owned.target, owned.owner, owned.epoch, owned.pending)
        for owned in owners.shards
    ] == [
        (b"orders:0", "a", "a", 1, 0),
        (b"orders:1", "ä b", "ä b", 2, 0),
        (b"orders:2", "a", "a", 1, 5),
    ]
    for owned in owners.shards:
        assert owned.lease_left is not None
        assert LEASE / 1000 - 5 < owned.lease_left <= LEASE / 1000
        assert not owned.lapsed
    assert [
        (one.name, one.weight, one.assigned, one.owned) for one in owners.members
    ] == [("a", 1, 2, 2), ("ä b", 3, 1, 1)]
    assert all(0 <= one.beat_age < 5 for one in owners.members)
    assert (move.to, move.freed) == ("ä b", "a")


async def test_a_lease_that_is_over_is_told_and_the_shard_stays_its_owner_s(
    url: str, stream: str, members: Members
) -> None:
    await members.take(0, "a", serial=2, lease=0)
    owned, other, *_ = (await admin.owners(stream, "g", url=url)).shards
    assert (owned.owner, owned.lapsed) == ("a", True)
    assert owned.lease_left is not None
    assert -5 < owned.lease_left <= 0
    assert not other.lapsed


async def test_a_free_shard_has_no_owner_and_keeps_its_epoch(
    url: str, stream: str, members: Members
) -> None:
    await members.free(3)
    owners = await admin.owners(stream, "g", url=url)
    shard = Shard(stream, 3, members.shard(3))
    assert owners.shards[3] == OwnedShard(shard, "b", None, 1, None, 0)
    assert not owners.shards[3].lapsed
    assert [(one.name, one.owned) for one in owners.members] == [("a", 2), ("b", 1)]


async def test_an_owner_that_has_left_still_owns_its_shards(
    url: str, stream: str, members: Members
) -> None:
    await members.leave("a")
    await members.assign(dict.fromkeys(range(4), "b"))
    owners = await admin.owners(stream, "g", url=url)
    assert [(o.target, o.owner) for o in owners.shards] == [
        *(("b", "a"), ("b", "a"), ("b", "b"), ("b", "b"))
    ]
    [member] = owners.members
    assert (member.name, member.assigned, member.owned) == ("b", 4, 2)


async def test_the_age_of_a_beat_is_that_by_the_server_s_clock(
    url: str, stream: str, members: Members
) -> None:
    seconds, _ = await members.redis.time()
    await members.redis.hset(members.key, "m:a", f"{(seconds - 60) * 1000} 2")
    await members.redis.hset(members.key, "m:b", f"{(seconds + 60) * 1000} 1")
    owners = await admin.owners(stream, "g", url=url)
    old, future = owners.members
    assert 60 <= old.beat_age < 65
    assert future == GroupMember("b", 0, 1, 2, 2)


async def test_a_group_that_shares_its_shards_has_no_members(
    url: str, stream: str, redis: Any
) -> None:
    await redis.xadd(stream, {"msg": b"x"})
    await redis.xgroup_create(stream, "g", "0")
    await redis.xreadgroup("g", "c", {stream: ">"})
    shard = Shard(stream, 0, stream.encode())
    owners = await admin.owners(stream, "g", url=url)
    assert owners == Owners((OwnedShard(shard, None, None, 0, None, 1),), ())


async def test_a_stream_without_a_record_has_one_shard_with_an_owner(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream)
    await members.open({0: "a"})
    await members.beat("b")
    [owned] = (await admin.owners(stream, "g", url=url)).shards
    assert (owned.shard.key, owned.owner) == (stream.encode(), "a")
    move = await admin.move(stream, "g", 0, url=url)
    assert (move.to, changed(move)) == ("b", {0: "b"})


async def test_the_key_of_the_stream_s_own_name_is_owned_beside_shards(
    url: str, stream: str, members: Members
) -> None:
    await members.redis.xgroup_create(stream, "g", "0", mkstream=True)
    await members.assign({**HALVES, OWN_KEY: "b"})
    shards = (await admin.owners(stream, "g", url=url)).shards
    assert [one.shard.key for one in shards] == [
        stream.encode(),
        *(members.shard(n) for n in range(4)),
    ]
    assert [one.target for one in shards] == ["b", *HALVES.values()]
    move = await admin.move(stream, "g", 0, "b", url=url)
    assert members.shard(0) in [shard.key for shard in move.changes]


async def test_the_owners_of_a_stream_that_was_deleted_are_listed(
    url: str, stream: str, members: Members
) -> None:
    await members.redis.delete(*(members.shard(number) for number in range(4)))
    owners = await admin.owners(stream, "g", url=url)
    assert [(o.shard.key, o.owner, o.pending) for o in owners.shards] == [
        (members.shard(number), name, 0) for number, name in HALVES.items()
    ]
    assert [one.owned for one in owners.members] == [2, 2]


async def test_a_shard_of_the_target_is_listed_before_it_exists(
    url: str, stream: str, members: Members
) -> None:
    await members.assign({**HALVES, 4: "a"})
    owned = (await admin.owners(stream, "g", url=url)).shards[4]
    shard = Shard(stream, 4, members.shard(4))
    assert owned == OwnedShard(shard, "a", None, 0, None, 0)


async def test_more_shards_than_one_write_asks_for_are_all_listed(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream, 1)
    await members.open({0: "a"})
    await members.assign(dict.fromkeys(range(1201), "a"))
    shards = (await admin.owners(stream, "g", url=url)).shards
    assert [one.shard.number for one in shards] == [*range(1201)]
    assert {one.target for one in shards} == {"a"}


async def test_errors_name_the_stream_the_group_or_the_key(
    url: str, stream: str, redis: Any
) -> None:
    async with admin.Admin(url) as operator:
        with pytest.raises(StreamMissing, match=stream):
            await operator.owners(stream, "g")
        await record_shards(redis, stream, 2)
        with pytest.raises(StreamMissing, match=stream):
            await operator.owners(stream, "g")
        await redis.xadd(f"{stream}:1", {"msg": b"x"})
        with pytest.raises(CommandError, match="has no group 'g'") as caught:
            await operator.owners(stream, "g")
        assert caught.value.code == "NOGROUP"
        await redis.xgroup_create(f"{stream}:1", "g", "0")
        await redis.set(f"{{{stream}:1}}.owner:g", "x")
        with pytest.raises(CommandError, match=rf"{stream}.*WRONGTYPE"):
            await operator.owners(stream, "g")
        await redis.set(f"{{{stream}}}.members:g", "x")
        with pytest.raises(CommandError, match=r"members:g.*WRONGTYPE"):
            await operator.owners(stream, "g")
        with pytest.raises(ConfigurationError, match="not a stream name"):
            await operator.owners("", "g")


# -- moving ----------------------------------------------------------------------------


async def test_a_move_gives_a_shard_back_where_members_would_rebalance_otherwise(
    url: str, stream: str, members: Members
) -> None:
    await members.read(2, 3)
    await members.read(3, 2)
    before = await members.version()
    move = await admin.move(stream, "g", 0, "b", url=url)
    assert (move.shard.number, move.to) == (0, "b")
    assert (changed(move), move.freed) == ({0: "b", 3: "a"}, None)
    assert await members.target() == {0: "b", 1: "a", 2: "b", 3: "a"}
    assert await members.version() == before + 1
    assert await members.token(0) == b"1:a:run-a.1"


async def test_members_leave_a_move_as_it_is(
    url: str, stream: str, members: Members
) -> None:
    await admin.move(stream, "g", 1, "b", url=url)
    for name in ("a", "b"):
        told = await members.beat(name)
        target = decode(told.target)
        assert target is not None
        assert target[1] == "b"
        assert plan(target, told.members, range(4)) == target


async def test_a_move_that_leaves_the_members_balanced_moves_nothing_else(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream, 3)
    await members.open({0: "a", 1: "a", 2: "b"})
    move = await admin.move(stream, "g", 0, "b", url=url)
    assert changed(move) == {0: "b"}
    assert await members.target() == {0: "b", 1: "a", 2: "b"}


async def test_the_weights_of_members_are_kept(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream, 4)
    await members.open({0: "a", 1: "a", 2: "a", 3: "b"})
    await members.beat("a", weight=3)
    move = await admin.move(stream, "g", 0, "b", url=url)
    assert changed(move) == {0: "b", 3: "a"}


async def test_without_a_name_the_member_with_the_fewest_shards_gets_it(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream, 5)
    await members.open({0: "a", 1: "a", 2: "b", 3: "b", 4: "c"})
    assert (await admin.move(stream, "g", 0, url=url)).to == "c"
    # It is on its way now, so that a repeated call changes nothing.
    again = await admin.move(stream, "g", 0, url=url)
    assert (again.to, again.changes) == ("c", {})
    # Once it has arrived, the call means another member.
    await members.free(0)
    await members.take(0, "c")
    assert (await admin.move(stream, "g", 0, url=url)).to == "a"


async def test_a_shard_whose_next_owner_has_left_goes_to_a_third_member(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream, 3)
    await members.open({0: "a", 1: "b", 2: "b"})
    await members.beat("c")
    await members.assign({0: "c", 1: "b", 2: "b"})
    await members.leave("c")
    assert (await admin.move(stream, "g", 0, url=url)).to == "b"


async def test_a_move_that_is_repeated_changes_nothing_and_tells_the_members_again(
    url: str, stream: str, members: Members
) -> None:
    async with members.redis.pubsub() as channel:
        await channel.subscribe(news_channel(stream.encode(), "g"))
        assert await channel.get_message(timeout=5)
        for changes in ({0: "b", 3: "a"}, {}):
            move = await admin.move(stream, "g", 0, "b", url=url)
            assert changed(move) == changes
            news = await channel.get_message(timeout=5)
            assert news["type"] == "message"
    assert await members.version() == 2


async def test_moves_at_the_same_time_are_all_done(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream, 16)
    await members.open({number: "ab"[number // 8] for number in range(16)})
    for number in range(8):  # so that none of these is given back
        await members.read(number, 1)
    await asyncio.gather(
        *(admin.move(stream, "g", number, "b", url=url) for number in range(8))
    )
    target = await members.target()
    assert {target[number] for number in range(8)} == {"b"}
    assert {target[number] for number in range(8, 16)} == {"a"}
    assert await members.version() == 9


async def test_the_target_is_newer_than_all_that_a_shard_has_seen(
    url: str, stream: str, members: Members
) -> None:
    await members.redis.hset(members.owner(2), "v", 41)
    await admin.move(stream, "g", 0, "b", url=url)
    assert await members.version() == 42


async def test_force_takes_a_shard_away_from_its_owner(
    url: str, stream: str, members: Members
) -> None:
    token = await members.token(0)
    refused = await members.take(0, "b")
    assert refused.why == "held"
    move = await admin.move(stream, "g", 0, "b", url=url, force=True)
    assert move.freed == "a"
    guard = scripts.guard(
        members.shard(0), members.owner(0), "g", token, consumer="a#1"
    )
    assert await members.call(guard) == Fenced(b"")
    assert await members.take(0, "b", serial=2) == Taken(2, more=False)
    assert await members.token(3) == b"1:b:run-b.1"  # its owner was not forced


async def test_force_frees_a_shard_that_was_to_be_moved_already(
    url: str, stream: str, members: Members
) -> None:
    await admin.move(stream, "g", 0, "b", url=url)
    move = await admin.move(stream, "g", 0, url=url, force=True)
    assert (move.to, move.changes, move.freed) == ("b", {}, "a")
    assert await members.token(0) == b""


async def test_force_takes_nothing_from_the_member_that_should_have_the_shard(
    url: str, stream: str, members: Members
) -> None:
    move = await admin.move(stream, "g", 0, "a", url=url, force=True)
    assert (move.changes, move.freed) == ({}, None)
    assert await members.token(0) == b"1:a:run-a.1"
    await members.free(0)
    move = await admin.move(stream, "g", 0, "b", url=url, force=True)
    assert move.freed is None


@pytest.mark.parametrize(
    ("shard", "to", "words"),
    [
        (4, "b", "4 is not a shard .* the shards are 0, 1, 2, 3"),
        (-1, None, "-1 is not a shard"),
        (True, "b", "True is not a shard"),
        ("0", "b", "'0' is not a shard"),
        (0, "c", "'c' is not a member of group 'g'; the members are 'a', 'b'"),
        (0, "", "'' is not a member"),
        (0, b"b", "b'b' is not a member"),
    ],
)
async def test_a_move_of_what_is_not_there_changes_nothing(
    url: str, members: Members, shard: Any, to: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await admin.move(members.stream, "g", shard, to, url=url, force=True)
    assert await members.target() == HALVES
    assert await members.version() == 1
    assert await members.token(0) == b"1:a:run-a.1"


async def test_a_move_without_another_member_is_refused(
    url: str, stream: str, redis: Any
) -> None:
    members = Members(redis, stream, 2)
    await members.open({0: "a", 1: "a"})
    with pytest.raises(ConfigurationError, match="no other member"):
        await admin.move(stream, "g", 0, url=url)
    await members.leave("a")
    with pytest.raises(ConfigurationError, match=r"'a' is not a member.*all gone"):
        await admin.move(stream, "g", 0, "a", url=url)
    await redis.delete(members.key)
    with pytest.raises(ConfigurationError, match="no members that own shards"):
        await admin.move(stream, "g", 0, "a", url=url)


async def test_a_user_that_may_not_publish_moves_nevertheless(
    url: str, stream: str, members: Members
) -> None:
    user = f"u-{stream}"
    await members.redis.execute_command(
        *("ACL", "SETUSER", user, "on", ">secret", "~*", "resetchannels", "+@all")
    )
    try:
        login = with_login(url, user, "secret")
        move = await admin.move(stream, "g", 0, "b", url=login)
    finally:
        await members.redis.acl_deluser(user)
    assert changed(move)[0] == "b"
    assert (await members.target())[0] == "b"
