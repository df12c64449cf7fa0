"""`penstock reset`, `claim` and `delete`: what they announce, ask, need, and do."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from penstock import Consumer, Message, Producer
from penstock.admin import _group_facts
from support.looking import divide, objects, run
from support.members import Members
from support.server import with_login
from support.terminal import terminal
from support.waiting import deliveries, eventually, owners, pending, record_shards

FIRST = 1772366400000


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PENSTOCK_URL", url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take each consumer for one that has not asked for long."""
    monkeypatch.setattr(_group_facts, "LIVE", 0.0)


@pytest.fixture
async def filled(redis: Any, stream: str) -> str:
    r"""Write ten entries; consumer c\x1b of group g has six of them."""
    for number in range(10):
        await redis.xadd(stream, {"msg": str(number)}, id=f"{FIRST + number}-0")
    await redis.xgroup_create(stream, "g", "0")
    await redis.xreadgroup("g", "c\x1b", {stream: ">"}, count=6)
    return stream


async def position(redis: Any, stream: str) -> str:
    [group] = await redis.xinfo_groups(stream)
    return str(group["last-delivered-id"].decode())


# -- what all of them have in common ---------------------------------------------------

DESTRUCTIVE = [
    ["reset", "S", "g", "--to", "latest"],
    ["reset", "S", "g", "--to", "earliest"],
    ["reset", "S", "h", "--to", "earliest"],
    ["claim", "S", "g", "--from", "c\x1b"],
    ["claim", "S", "g", "--idle", "0"],
    ["claim", "S", "g", "--id", f"{FIRST}-0", "--ack"],
    ["delete", "stream", "S"],
    ["delete", "group", "S", "g"],
    ["delete", "consumer", "S", "g", "idle"],
    ["delete", "entry", "S", f"{FIRST + 9}-0"],
    ["delete", "entry", "S", f"{FIRST}-0"],
]


def words_for(stream: str, words: list[str]) -> list[str]:
    return [stream if word == "S" else word for word in words]


@pytest.mark.parametrize("words", DESTRUCTIVE, ids=" ".join)
@pytest.mark.usefixtures("silent")
async def test_nothing_is_changed_without_yes_where_nobody_can_be_asked(
    redis: Any, filled: str, words: list[str]
) -> None:
    await redis.xgroup_createconsumer(filled, "g", "idle")
    # Descriptions say for how long a consumer has been idle, and a dump does not.
    before = await redis.dump(filled)
    missing = "h" in words
    result = await run(*words_for(filled, words), status=1 if missing else 2)
    assert "pass --create" if missing else "pass --yes" in result.stderr
    assert result.stdout == ""
    assert await redis.dump(filled) == before
    if not missing:
        result = await run(*words_for(filled, words), "--dry-run")
        assert "because of --dry-run" in result.stderr
        assert result.stdout == ""
        assert await redis.dump(filled) == before


@pytest.mark.parametrize("words", DESTRUCTIVE, ids=" ".join)
async def test_errors_have_their_status(
    redis: Any, url: str, filled: str, words: list[str]
) -> None:
    given = words_for(filled, words)
    result = await run(*given, "--yes", "--url", "redis://127.0.0.1:1", status=1)
    assert "can't connect" in result.stderr
    missing = words_for(f"{filled}-none", words)
    result = await run(*missing, "--yes", status=1)
    assert f"there are: {filled}" in result.stderr
    await redis.acl_setuser(
        f"{filled}-u", enabled=True, passwords=["+secret"], keys=["*"]
    )
    login = with_login(url, f"{filled}-u", "secret")
    result = await run(*given, "--yes", "--url", login, status=1)
    assert "permission" in result.stderr.lower()
    await redis.set(f"{filled}-s", "x")
    force = [] if words[1] in {"consumer", "entry"} else ["--force"]
    await run(*words_for(f"{filled}-s", words), "--yes", *force, status=1)


def test_a_person_is_asked_and_no_changes_nothing(url: str) -> None:
    """Also with nothing but the end of the input."""
    environment = {"PENSTOCK_URL": url}
    stream = f"asked-{time.monotonic_ns()}"

    def call(*words: str, press: str = "") -> tuple[int, str]:
        with terminal(*words, columns=200, environment=environment) as opened:
            if press:
                opened.wait_for(lambda text: "[y/N]" in text)
                opened.press(press)
            return opened.end(), opened.text

    assert call("send", stream, "x")[0] == 0
    reset = ("reset", stream, "g", "--to", "earliest", "--create")
    assert call(*reset)[0] == 0, "what does not exist yet loses nothing"
    delete = ("delete", "group", stream, "g")
    status, text = call(*delete, press="n\n")
    assert status == 1
    assert "delete group g? [y/N]" in text
    assert call(*delete, press="y\n")[0] == 0
    assert call(*delete)[0] == 1


# -- reset -----------------------------------------------------------------------------


class To(NamedTuple):
    """A position for the group of `filled`, and what it means."""

    to: str
    lag: int
    again: int
    skipped: int
    position: str


@pytest.mark.parametrize(
    "case",
    [
        To("earliest", 10, 6, 0, "0-0"),
        To("latest", 0, 0, 4, f"{FIRST + 9}-0"),
        To(f"{FIRST + 2}-0", 8, 4, 0, f"{FIRST + 1}-{2**64 - 1}"),
        To(f"after:{FIRST + 7}-0", 2, 0, 2, f"{FIRST + 7}-0"),
        To("2026-03-01T12:00:00.005Z", 5, 1, 0, f"{FIRST + 4}-{2**64 - 1}"),
    ],
    ids=lambda case: case.to,
)
@pytest.mark.usefixtures("silent")
async def test_a_reset_says_what_is_skipped_and_what_comes_again(
    redis: Any, filled: str, case: To
) -> None:
    to, lag, again, skipped, left = case
    words = ("reset", filled, "g", "--to", to)
    expected = {
        "stream": filled,
        "group": "g",
        "created": False,
        "lag_before": 4,
        "lag_after": lag,
        "acknowledged": 6,
        "again": again,
        "lost": skipped + 6 - again,
    }
    [shown] = await objects(*words, "--dry-run")
    assert shown == {**expected, "dry_run": True}
    assert await pending(redis, filled, "g") == 6
    result = await run(*words, "--yes")
    assert result.stdout == "group g was reset\n"
    assert f"will be {lag}, and is 4" in result.stderr
    assert f"6 pending messages will be acknowledged, of which {again}" in result.stderr
    lost = skipped + 6 - again
    assert (f"group g will lose {lost} message" in result.stderr) is (lost > 0)
    assert await pending(redis, filled, "g") == 0
    assert await position(redis, filled) == left


async def test_a_group_in_use_is_reset_by_force(redis: Any, filled: str) -> None:
    words = ("reset", filled, "g", "--to", "earliest", "--yes")
    result = await run(*words, status=2)
    assert r"live consumers: c\x1b" in result.stderr
    assert "handled twice" in result.stderr
    assert "pass --force" in result.stderr
    assert await pending(redis, filled, "g") == 6
    await run(*words, "--force")
    assert await position(redis, filled) == "0-0"
    # Nothing is handled twice if everything before is given up.
    await redis.xreadgroup("g", "c", {filled: ">"}, count=6)
    await run("reset", filled, "g", "--to", "latest", "--yes")


async def test_a_reset_of_owned_shards_names_the_owner(redis: Any, stream: str) -> None:
    members = Members(redis, stream, 2)
    await members.open({0: "anna", 1: "bert"})
    words = ("reset", stream, "g", "--to", "latest", "--yes")
    result = await run(*words, status=2)
    assert "shards are owned by anna, bert" in result.stderr
    await run(*words, "--force")
    await run("delete", "group", stream, "g", "--yes", status=2)
    assert len(await redis.xinfo_groups(f"{stream}:0")) == 1
    # The living owners keep their tokens, and so their numbers.
    await run("delete", "group", stream, "g", "--yes", "--force")
    assert await redis.exists(members.owner(0), members.owner(1)) == 2
    assert await redis.xinfo_groups(f"{stream}:0") == []


async def test_a_group_can_be_created_on_all_shards(redis: Any, stream: str) -> None:
    await divide(redis, stream, 3)
    words = ("reset", stream, "new", "--to", "earliest")
    result = await run(*words, status=1)
    assert "pass --create to make it" in result.stderr
    result = await run(*words, "--create")
    assert result.stdout == "group new was created\n"
    for number in range(3):
        names = {one["name"] for one in await redis.xinfo_groups(f"{stream}:{number}")}
        assert names == {b"g", b"new"}


# -- claim -----------------------------------------------------------------------------


@pytest.mark.usefixtures("silent")
async def test_claimed_entries_stay_with_nobody_and_keep_their_attempts(
    redis: Any, filled: str
) -> None:
    result = await run("claim", filled, "g", "--from", "c\x1b", "--yes")
    assert result.stdout == "6 messages given back\n"
    assert r"6 messages of c\x1b go back to the group" in result.stderr
    assert set((await owners(redis, filled)).values()) == {"c\x1b"}
    assert set((await deliveries(redis, filled, "g")).values()) == {1}
    # A year, which is longer than any lease.
    ids = await redis.xautoclaim(filled, "g", "other", 300 * 86_400_000, justid=True)
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--from", "nobody", "--yes"], 1, "no consumer nobody; there are: c"),
        (["--idle", "1h", "--yes"], 1, "has no such pending messages"),
        (["--id", f"{FIRST + 9}-0"], 1, "is not pending in group g"),
        (["--id", f"{FIRST}-0", "--id", f"{FIRST + 9}-0"], 1, "is not pending"),
        (["--from", "c", "--idle", "1h"], 2, "exactly one of --from, --idle and --id"),
        ([], 2, "exactly one of --from, --idle and --id"),
    ],
)
@pytest.mark.usefixtures("silent")
async def test_what_can_not_be_claimed(
    filled: str, words: list[str], status: int, says: str
) -> None:
    assert says in (await run("claim", filled, "g", *words, status=status)).stderr


@pytest.mark.usefixtures("silent")
async def test_entries_named_by_id_are_claimed_without_a_question(
    redis: Any, filled: str
) -> None:
    ids = [f"{FIRST}-0", f"{FIRST + 3}-0"]
    [done] = await objects("claim", filled, "g", "--id", ids[0], "--id", ids[1])
    assert done == {
        "stream": filled,
        "group": "g",
        "claimed": 2,
        "acknowledged": False,
        "dry_run": False,
        "consumers": {"c\x1b": 2},
        "not_pending": [],
    }
    await run("claim", filled, "g", "--id", ids[0], "--ack", status=2)
    assert await pending(redis, filled, "g") == 6
    result = await run("claim", filled, "g", "--id", ids[0], "--ack", "--yes")
    assert result.stdout == "1 message acknowledged\n"
    assert "group g will lose 1 message" in result.stderr
    assert await pending(redis, filled, "g") == 5


async def test_entries_of_a_live_consumer_need_force(redis: Any, filled: str) -> None:
    for more in ([], ["--ack"]):
        words = ("claim", filled, "g", "--idle", "0", "--yes", *more)
        result = await run(*words, status=2)
        assert r"c\x1b is live: its handler may be running" in result.stderr
        assert "pass --force" in result.stderr
    lines = await redis.xpending_range(filled, "g", "-", "+", 10)
    assert all(line["time_since_delivered"] < 60_000 for line in lines)
    result = await run("claim", filled, "g", "--from", "c\x1b", "--yes", "--force")
    assert "handled twice" in result.stderr


@pytest.mark.usefixtures("silent")
async def test_entries_of_an_owned_shard_are_refused(redis: Any, stream: str) -> None:
    members = Members(redis, stream, 2)
    await members.open({0: "anna", 1: "bert"})
    await redis.xadd(f"{stream}:1", {"msg": "x"})
    await redis.xreadgroup("g", "c", {f"{stream}:1": ">"})
    words = ("claim", stream, "g", "--from", "c", "--yes", "--force")
    for more in ([], ["--ack"]):
        result = await run(*words, *more, status=1)
        assert "owned by bert" in result.stderr
        assert "penstock owners --move" in result.stderr
    assert await pending(redis, f"{stream}:1", "g") == 1
    await members.free(1)
    await run(*words, "--ack")
    assert await pending(redis, f"{stream}:1", "g") == 0


@asynccontextmanager
async def handling(
    url: str, stream: str, handled: Counter[str], number: int = 2
) -> AsyncIterator[None]:
    """Have consumers of group g handle messages."""

    async def handle(message: Message[bytes]) -> None:
        handled[message.payload.decode()] += 1
        await asyncio.sleep(0.002)

    consumers = [Consumer(stream, url=url, group="g") for _ in range(number)]
    running: list[asyncio.Task[None]] = []
    try:
        for consumer in consumers:
            await consumer.start()
            running.append(asyncio.ensure_future(consumer.run(handle, concurrency=4)))
        yield
    finally:
        for consumer in consumers:
            await consumer.aclose()
        await asyncio.gather(*running, return_exceptions=True)


async def test_live_consumers_take_claimed_messages_within_a_second(
    redis: Any, url: str, stream: str
) -> None:
    await record_shards(redis, stream, 2)
    for number in range(20):
        await redis.xadd(f"{stream}:{number % 2}", {"msg": str(number)})
    for number in range(2):
        key = f"{stream}:{number}"
        await redis.xgroup_create(key, "g", "0")
        await redis.xreadgroup("g", "crashed", {key: ">"}, count=10)
    handled: Counter[str] = Counter()
    async with handling(url, stream, handled):
        await run("claim", stream, "g", "--from", "crashed", "--yes", "--force")

        async def all_are() -> bool:
            return handled.total() == 20

        assert await eventually(all_are) < 1
    assert set(handled.values()) == {1}


async def test_under_load_every_message_is_handled(
    redis: Any, url: str, stream: str
) -> None:
    """While entries are claimed, consumers deleted and the group is set back."""
    handled: Counter[str] = Counter()
    sent = 0
    async with Producer(url) as producer, handling(url, stream, handled):

        async def load() -> None:
            nonlocal sent
            while True:
                await producer.send(stream, b"%d" % sent)
                sent += 1

        loading = asyncio.ensure_future(load())
        for number in range(3):
            name = f"crashed-{number}"
            await redis.xreadgroup("g", name, {stream: ">"}, count=3, block=1000)
            words = ("claim", stream, "g", "--from", name, "--yes", "--force")
            claimed = (await objects(*words))[0]["claimed"]
            assert claimed > 0

            async def has_nothing(name: str = name) -> bool:
                lines = await redis.xpending_range(stream, "g", "-", "+", 9, name)
                return not lines

            assert await eventually(has_nothing) < 1
            await run("delete", "consumer", stream, "g", name, "--yes")
        words = ("reset", stream, "g", "--to", "earliest", "--yes", "--force")
        [done] = await objects(*words)
        assert done["lost"] == 0
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)

        async def all_are_handled() -> bool:
            return len(handled) >= sent and not await pending(redis, stream, "g")

        await eventually(all_are_handled)
    assert {str(number) for number in range(sent)} <= set(handled)


# -- delete ----------------------------------------------------------------------------


@pytest.mark.usefixtures("silent")
async def test_a_group_is_deleted_with_what_it_has(redis: Any, filled: str) -> None:
    await redis.xgroup_create(filled, "h", "0")
    result = await run("delete", "group", filled, "g", "--yes")
    assert result.stdout == "1 group deleted\n"
    assert "deleted, with 4 unread and 6 pending messages" in result.stderr
    assert [one["name"] for one in await redis.xinfo_groups(filled)] == [b"h"]
    result = await run("delete", "group", filled, "g", "--yes", status=1)
    assert "has no group g; there are: h" in result.stderr


@pytest.mark.parametrize("kind", ["group", "stream"])
async def test_what_is_in_use_is_deleted_by_force(
    redis: Any, filled: str, kind: str
) -> None:
    words = ("delete", kind, filled, *(["g"] if kind == "group" else []), "--yes")
    result = await run(*words, status=2)
    assert r"group g is in use by c\x1b" in result.stderr
    assert await pending(redis, filled, "g") == 6
    [done] = await objects(*words, "--force")
    assert (done["kind"], done["deleted"], done["dry_run"]) == (kind, 1, False)
    assert bool(await redis.exists(filled)) is (kind == "group")


@pytest.mark.usefixtures("silent")
async def test_a_stream_is_deleted_with_all_its_shards(redis: Any, stream: str) -> None:
    await divide(redis, stream, 3)
    result = await run("delete", "stream", stream, "--yes")
    assert "3 shards of" in result.stderr
    assert "group g will be deleted, with 3 unread and 0 pending" in result.stderr
    assert [key async for key in redis.scan_iter(f"*{stream}*")] == []


async def test_a_consumer_is_deleted_if_it_has_nothing(redis: Any, filled: str) -> None:
    await redis.xgroup_createconsumer(filled, "g", "idle")
    result = await run("delete", "consumer", filled, "g", "idle", "--yes")
    assert result.stdout == "1 consumer deleted\n"
    assert "idle is live, and its next read creates it again" in result.stderr
    result = await run("delete", "consumer", filled, "g", "c\x1b", "--yes", status=1)
    assert "has 6 pending messages, which would be lost" in result.stderr
    assert "penstock claim --from" in result.stderr
    result = await run("delete", "consumer", filled, "g", "idle", "--yes", status=1)
    assert "has no consumer idle" in result.stderr
    [consumer] = await redis.xinfo_consumers(filled, "g")
    assert consumer["name"] == b"c\x1b"


async def test_entries_are_deleted_by_their_ids(redis: Any, filled: str) -> None:
    unread, handled = f"{FIRST + 9}-0", f"{FIRST + 1}-0"
    await redis.xack(filled, "g", handled)
    result = await run("delete", "entry", filled, handled)
    assert (result.stdout, result.stderr) == ("1 entry deleted\n", "")
    result = await run("delete", "entry", filled, handled, unread, "--yes", status=1)
    assert f"has no entry {handled}" in result.stderr
    assert "group g will lose 1 message that it has not acknowledged" in result.stderr
    assert await redis.xlen(filled) == 8
    result = await run("delete", "entry", filled, handled, "--yes", status=1)
    assert result.stdout == ""


async def test_an_id_that_several_shards_have_needs_the_shard(
    redis: Any, stream: str
) -> None:
    await record_shards(redis, stream, 2)
    for number in range(2):
        await redis.xadd(f"{stream}:{number}", {"msg": "x"}, id="1772366400250-0")
    words = ("delete", "entry", stream, "1772366400250-0")
    result = await run(*words, status=1)
    assert "shards 0, 1 of" in result.stderr
    await run(*words, "--shard", 1)
    assert await redis.xlen(f"{stream}:0") == 1
    assert await redis.xlen(f"{stream}:1") == 0
