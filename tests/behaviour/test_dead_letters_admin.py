"""Administration of dead letters: listing, reading, redriving and purging."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    EARLIEST,
    AccessError,
    ClosedError,
    CommandError,
    ConfigurationError,
    ConnectionLost,
    Consumer,
    EntryId,
    Fields,
    admin,
)
from penstock._core.messages import dead_letter
from penstock.admin import Admin
from support.dead_letters import bodies, origin, write_dead_letter
from support.events import Events
from support.proxy import proxy
from support.server import server, with_login

Watch = Callable[[Sequence[Any]], Any]


@asynccontextmanager
async def user(url: str, redis: Any, name: str, *rules: str) -> AsyncIterator[str]:
    """Provide the URL of a user who has these permissions."""
    await redis.execute_command("ACL", "SETUSER", name, "on", "nopass", "~*", *rules)
    try:
        yield with_login(url, name, "x")
    finally:
        await redis.acl_deluser(name)


@pytest.fixture(params=["with scripts", "without scripts"])
async def operator_url(
    request: pytest.FixtureRequest, url: str, stream: str, redis: Any
) -> AsyncIterator[str]:
    """Provide the URL of an operator who may or may not run scripts."""
    rules = ["+@all"] if request.param == "with scripts" else ["+@all", "-@scripting"]
    async with user(url, redis, f"u-{stream}", *rules) as login:
        yield login


def spy(dead: Any, on_reply: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `on_reply` after each write of `admin.dead`, before it sees the replies."""
    connection = dead._connection
    calls = connection.calls

    async def spied(batch: Sequence[Any]) -> Any:
        answers = await calls(batch)
        await on_reply(batch)
        return answers

    monkeypatch.setattr(connection, "calls", spied)


# -- listing and reading --------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_dead_letter_has_its_origin_its_reason_and_the_original_message(
    url: str, stream: str, redis: Any, protocol: int
) -> None:
    id_ = await write_dead_letter(redis, stream, b"\x00body", 3)
    url += f"{'&' if '?' in url else '?'}protocol={protocol}"
    [letter] = await admin.dead.list(stream, url=url)
    assert letter == await admin.dead.read(stream, id_, url=url)
    assert letter == await admin.dead.read(stream, str(id_), url=url)
    assert (letter.id, letter.stream, letter.shard) == (id_, stream, 3)
    assert letter.shard_key == f"{stream}:3".encode()
    assert letter.entry_id == EntryId(5, 1)
    assert (letter.group, letter.consumer) == ("billing", "host:1:ab")
    assert (letter.attempts, letter.error) == (5, "ValueError")
    assert letter.reason == "ValueError: 5 attempts failed"
    assert letter.traceback.endswith("ValueError: no")
    assert letter.time == datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    assert (letter.payload, letter.key) == (b"\x00body", "k")
    assert dict(letter.headers) == {"h": "1"}
    assert letter.fields == Fields(
        [(b"msg", b"\x00body"), (b"key", b"k"), (b"h", b"1")]
    )


async def test_the_repr_of_a_dead_letter_shows_ids_and_counts_and_no_secret(
    url: str, stream: str, redis: Any
) -> None:
    secret = {"reason": "SECRET", "error": "SECRET", "traceback": "SECRET"}
    id_ = await write_dead_letter(redis, stream, b"SECRET", 3, group="SECRET", **secret)
    [letter] = await admin.dead.list(stream, url=url)
    assert repr(letter) == (
        f"<DeadLetter {id_}: entry 5-1 of {stream!r} shard 3, attempts 5, 3 fields>"
    )


@pytest.mark.parametrize("time", ["", "yesterday", "2026-03-01T12:00:00", "\udcff"])
async def test_a_time_that_can_t_be_parsed_is_none(
    url: str, stream: str, redis: Any, time: str
) -> None:
    await write_dead_letter(redis, stream, time=time)
    [letter] = await admin.dead.list(stream, url=url)
    assert letter.time is None


async def test_dead_letters_are_listed_oldest_first_and_page_by_page(
    url: str, stream: str, redis: Any
) -> None:
    ids = [await write_dead_letter(redis, stream, b"%d" % n) for n in range(250)]
    async with Admin(url) as operator:
        dead = operator.dead
        first = await dead.list(stream)
        assert [letter.id for letter in first] == ids[:100]
        second = await dead.list(stream, limit=130, after=first[-1].id)
        assert [letter.id for letter in second] == ids[100:230]
        rest = await dead.list(stream, after=str(second[-1].id))
        assert [letter.id for letter in rest] == ids[230:]
        assert await dead.list(stream, after=rest[-1].id) == []
        assert [letter.id for letter in await dead.list(stream, limit=None)] == ids
        assert [letter.id async for letter in dead.each(stream)] == ids
        after = [letter.id async for letter in dead.each(stream, after=ids[200])]
        assert after == ids[201:]


async def test_a_filter_selects_dead_letters_and_the_limit_counts_the_selected_ones(
    url: str, stream: str, redis: Any
) -> None:
    for n in range(40):
        await write_dead_letter(redis, stream, b"%d" % n, group="ab"[n % 2])
    async with Admin(url) as operator:
        found = await operator.dead.list(
            stream, where=lambda letter: letter.group == "b", limit=15
        )
        assert [letter.payload for letter in found] == [
            b"%d" % n for n in range(1, 30, 2)
        ]
        each = operator.dead.each(stream, where=lambda letter: letter.payload == b"39")
        assert [letter.payload async for letter in each] == [b"39"]


async def test_pages_are_bounded_in_dead_letters_and_in_bytes(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def record(batch: Sequence[Any]) -> None:
        asked.extend(command[-1] for command in batch if command[0] == b"XRANGE")

    async with Admin(url) as operator:
        spy(operator.dead, record, monkeypatch)
        for n in range(1000):
            await write_dead_letter(redis, stream, b"%d" % n)
        assert len(await operator.dead.list(stream, limit=None)) == 1000
        assert max(asked) == 200
        await redis.delete(f"{stream}.dead")
        asked.clear()
        for _ in range(15):
            await write_dead_letter(redis, stream, bytes(3_000_000))
        assert len([letter async for letter in operator.dead.each(stream)]) == 15
        assert asked == [10, 2, 2, 2]


async def test_dead_letters_added_during_an_iteration_are_left_for_the_next_one(
    url: str, stream: str, redis: Any
) -> None:
    for _ in range(20):
        await write_dead_letter(redis, stream)
    seen = 0
    async with Admin(url) as operator:
        async for _ in operator.dead.each(stream):
            seen += 1
            await write_dead_letter(redis, stream)
    assert seen == 20


async def test_without_dead_letters_no_call_raises(
    url: str, stream: str, redis: Any
) -> None:
    async with Admin(url) as operator:
        for mkstream in (True, False):
            dead = operator.dead
            assert await dead.list(stream) == []
            assert [letter async for letter in dead.each(stream)] == []
            assert await dead.read(stream, "1-1") is None
            assert await dead.redrive(stream) == 0
            assert await dead.redrive(stream, ids=["1-1", "2-1"]) == 0
            assert await dead.purge(stream, all=True) == 0
            assert await dead.purge(stream, ids="1-1") == 0
            assert await redis.exists(stream) == 0
            # The second round has a stream that exists and is empty.
            if mkstream:
                await redis.xgroup_create(f"{stream}.dead", "g", mkstream=True)


async def test_a_dead_letter_with_the_highest_possible_id_is_the_last(
    url: str, stream: str, redis: Any
) -> None:
    letter = dead_letter.write([b"msg", b"x"], origin(stream))
    await redis.execute_command("XADD", f"{stream}.dead", str(EntryId.MAX), *letter)
    async with Admin(url) as operator:
        [found] = await operator.dead.list(stream)
        assert found.id == EntryId.MAX
        assert await operator.dead.list(stream, after=found.id) == []
        assert await operator.dead.redrive(stream) == 1


async def test_dead_letters_in_a_stream_of_another_name_are_found_there(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    custom = f"{stream}.yard"
    other = f"{stream}-other"
    id_ = await write_dead_letter(redis, stream, b"mine", into=custom)
    others_id = await write_dead_letter(redis, other, b"theirs", into=custom)
    async with Admin(url, on_event=events) as operator:
        dead = operator.dead
        assert await dead.list(stream) == []
        [letter] = await dead.list(stream, dead_letters=custom)
        assert letter == await dead.read(stream, id_, dead_letters=custom)
        assert await dead.read(stream, others_id, dead_letters=custom) is None
        assert await dead.redrive(stream, dead_letters=custom) == 1
        assert await dead.purge(stream, all=True, dead_letters=custom) == 0
        assert await dead.purge(other, all=True, dead_letters=custom) == 1
    assert await bodies(redis, stream) == [b"mine"]
    assert events == []  # dead letters of another stream are not reported


# -- redriving ------------------------------------------------------------------------


async def test_redriven_messages_return_unchanged_to_their_own_shards_in_order(
    operator_url: str, stream: str, redis: Any
) -> None:
    for n in range(60):
        shard = [None, 0, 7][n % 3]
        await write_dead_letter(redis, stream, b"%d" % n, shard)
    assert await admin.dead.redrive(stream, url=operator_url) == 60
    for place, key in enumerate([stream, f"{stream}:0", f"{stream}:7"]):
        assert await bodies(redis, key) == [b"%d" % n for n in range(place, 60, 3)]
        [(_, fields)] = await redis.xrange(key, count=1)
        assert list(fields.items()) == [
            (b"msg", b"%d" % place),
            (b"key", b"k"),
            (b"h", b"1"),
        ]
    assert await redis.xlen(f"{stream}.dead") == 0


HOSTILE = [
    b"",
    b"",
    b"msg",
    bytes(range(256)),
    b"msg",
    b"second",
    *[word for name in dead_letter.NAMES for word in (name, b"9")],
]


async def test_all_fields_are_redriven_unchanged_whatever_they_are(
    operator_url: str, stream: str, redis: Any
) -> None:
    await write_dead_letter(redis, stream, fields=HOSTILE)
    [letter] = await admin.dead.list(stream, url=operator_url)
    assert letter.words == HOSTILE
    assert await admin.dead.redrive(stream, url=operator_url) == 1
    [[_, fields]] = await raw(redis, stream)
    assert fields == HOSTILE


async def raw(redis: Any, key: str) -> Any:
    """Return entries with flat lists of fields, which keep duplicates and order."""
    client = redis.client()
    client.set_response_callback("XRANGE", lambda reply, **_: reply)
    try:
        return await client.execute_command("XRANGE", key, "-", "+")
    finally:
        await client.aclose()


async def test_a_consumer_receives_redriven_messages_as_new_ones(
    url: str, stream: str, redis: Any
) -> None:
    async with Consumer(stream, url=url, group="g") as consumer:
        await write_dead_letter(redis, stream, b"again")
        await admin.dead.redrive(stream, url=url)
        message = await consumer.next(timeout=5)
        assert message is not None
        assert (message.payload, message.key, message.attempt) == (b"again", "k", 1)
        assert dict(message.headers) == {"h": "1"}


async def test_dead_letters_are_redriven_by_id_and_the_others_stay(
    operator_url: str, stream: str, redis: Any
) -> None:
    ids = [await write_dead_letter(redis, stream, b"%d" % n) for n in range(30)]
    async with Admin(operator_url) as operator:
        redrive = operator.dead.redrive
        assert await redrive(stream, ids=ids[3]) == 1
        assert await redrive(stream, ids=str(ids[4])) == 1
        assert await redrive(stream, ids=ids[3]) == 0
        # In the order of the dead letters, each once, without those that are gone.
        chosen: list[EntryId | str] = [ids[20], str(ids[5]), ids[5], ids[3], "1"]
        assert await redrive(stream, ids=chosen) == 2
        assert await redrive(stream, ids=iter(ids[6:18])) == 12
        assert await redrive(stream, ids=[]) == 0
    back = [3, 4, 5, 20, *range(6, 18)]
    assert await bodies(redis, stream) == [b"%d" % n for n in back]
    assert await redis.xlen(f"{stream}.dead") == 30 - len(back)


async def test_dead_letters_are_redriven_by_a_filter_up_to_a_limit(
    operator_url: str, stream: str, redis: Any
) -> None:
    for n in range(50):
        await write_dead_letter(
            redis, stream, b"%d" % n, error=["Timeout", "KeyError"][n % 2]
        )
    async with Admin(operator_url) as operator:
        assert await operator.dead.redrive(stream, limit=1) == 1
        moved = await operator.dead.redrive(
            stream, where=lambda letter: letter.error == "KeyError", limit=20
        )
        assert moved == 20
    assert await bodies(redis, stream) == [b"0"] + [b"%d" % n for n in range(1, 40, 2)]


async def test_dead_letters_of_all_shards_are_redriven_to_one_key_of_another_stream(
    operator_url: str, stream: str, redis: Any
) -> None:
    for n in range(6):
        await write_dead_letter(redis, stream, b"%d" % n, n)
    to = f"{stream}-inspected"
    assert await admin.dead.redrive(stream, to=to, url=operator_url) == 6
    assert await bodies(redis, to) == [b"%d" % n for n in range(6)]
    assert await redis.exists(f"{stream}:0") == 0


async def test_a_dead_letter_of_a_dead_letter_is_redriven_to_the_dead_letters(
    operator_url: str, stream: str, redis: Any
) -> None:
    inner = dead_letter.write([b"msg", b"x"], origin(stream, 2))
    await write_dead_letter(redis, f"{stream}.dead", fields=inner)
    assert await admin.dead.redrive(f"{stream}.dead", url=operator_url) == 1
    assert await admin.dead.redrive(stream, url=operator_url) == 1
    assert await bodies(redis, f"{stream}:2") == [b"x"]


async def test_a_message_that_is_dead_lettered_again_is_not_redriven_for_ever(
    operator_url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(30):
        await write_dead_letter(redis, stream, b"%d" % n)

    async def dead_letter_again(batch: Sequence[Any]) -> None:
        if any(command[0] in {b"XADD", b"EVAL"} for command in batch):
            await write_dead_letter(redis, stream, b"again")

    async with Admin(operator_url) as operator:
        spy(operator.dead, dead_letter_again, monkeypatch)
        async with asyncio.timeout(20):
            assert await operator.dead.redrive(stream) == 30
    assert await bodies(redis, stream) == [b"%d" % n for n in range(30)]
    assert await redis.xlen(f"{stream}.dead") > 0


async def test_of_two_concurrent_redrives_only_one_moves_each_dead_letter(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    for n in range(500):
        await write_dead_letter(redis, stream, b"%d" % n)
    async with Admin(url, on_event=events) as one, Admin(url, on_event=events) as two:
        moved = await asyncio.gather(
            *[operator.dead.redrive(stream) for operator in (one, two, one, two)]
        )
    assert sum(moved) == 500
    assert sorted(map(int, await bodies(redis, stream))) == list(range(500))
    assert events == []


async def test_without_scripts_concurrent_redrives_lose_nothing_and_report_duplicates(
    url: str,
    stream: str,
    redis: Any,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [await write_dead_letter(redis, stream, b"%d" % n) for n in range(5)]

    async def delete_too(batch: Sequence[Any]) -> None:
        if batch[0][0] == b"XADD":
            await redis.xdel(f"{stream}.dead", str(ids[2]))

    async with user(url, redis, f"u-{stream}", "+@all", "-@scripting") as login:
        async with Admin(login, on_event=events) as operator:
            spy(operator.dead, delete_too, monkeypatch)
            # It is deleted after the first copy, so it is gone when its turn comes.
            assert await operator.dead.redrive(stream) == 4
            assert events == []
            ids[2] = await write_dead_letter(redis, stream, b"2")
            assert await operator.dead.redrive(stream) == 1
    assert sorted(await bodies(redis, stream)) == [b"%d" % n for n in range(5)]
    [event] = events
    assert (event.name, event.facts["count"]) == ("letters_redriven_twice", 1)


@pytest.mark.parametrize("words", [7000, 7002, 40_000])
async def test_a_message_of_any_number_of_fields_is_redriven(
    operator_url: str, stream: str, redis: Any, words: int
) -> None:
    # Lua's stack holds 8,000 words.
    fields = [b"%d" % n for n in range(words)]
    await write_dead_letter(redis, stream, b"before")
    await write_dead_letter(redis, stream, fields=fields)
    await write_dead_letter(redis, stream, b"behind")
    assert await admin.dead.redrive(stream, url=operator_url) == 3
    before, large, behind = await raw(redis, stream)
    assert (before[1][1], behind[1][1]) == (b"before", b"behind")
    assert large[1] == fields
    assert await redis.xlen(f"{stream}.dead") == 0


# -- faults ---------------------------------------------------------------------------


async def test_a_lost_reply_neither_loses_nor_duplicates_a_message(
    url: str, stream: str, redis: Any
) -> None:
    for n in range(30):
        await write_dead_letter(redis, stream, b"%d" % n)
    async with proxy(url) as between, Admin(between.url) as operator:
        between.cut_on = b"EVAL"
        between.cut_next_reply = True
        with pytest.raises(ConnectionLost):
            await operator.dead.redrive(stream)
        assert between.cuts == 1
        # The server has executed what was sent: the first page, ten dead letters.
        assert await redis.xlen(f"{stream}.dead") == 20
        assert await operator.dead.redrive(stream) == 20
    assert await bodies(redis, stream) == [b"%d" % n for n in range(30)]


async def test_without_scripts_a_lost_reply_duplicates_one_message_and_loses_none(
    url: str, stream: str, redis: Any
) -> None:
    for n in range(10):
        await write_dead_letter(redis, stream, b"%d" % n)
    async with user(url, redis, f"u-{stream}", "+@all", "-@scripting") as login:
        async with proxy(login) as between, Admin(between.url) as operator:
            between.cut_on = b"XADD\r\n"  # the command, not the script's text
            between.cut_next_reply = True
            with pytest.raises(ConnectionLost):
                await operator.dead.redrive(stream)
            assert await redis.xlen(f"{stream}.dead") == 10
            assert await operator.dead.redrive(stream) == 10
    assert await bodies(redis, stream) == [b"0", *[b"%d" % n for n in range(10)]]


@pytest.mark.parametrize("copied_by", [b"EVAL", b"XADD"])
async def test_cancelling_a_redrive_neither_loses_nor_duplicates_a_message(
    url: str,
    stream: str,
    redis: Any,
    monkeypatch: pytest.MonkeyPatch,
    copied_by: bytes,
) -> None:
    for n in range(30):
        await write_dead_letter(redis, stream, b"%d" % n)
    rules = ["+@all"] if copied_by == b"EVAL" else ["+@all", "-@scripting"]
    async with user(url, redis, f"u-{stream}", *rules) as login:
        async with Admin(login) as operator:
            redriving = asyncio.create_task(operator.dead.redrive(stream))
            copied: list[Any] = []

            async def cancel(batch: Sequence[Any]) -> None:
                # A second time while it deletes what it has copied.
                if batch[0][0] == copied_by or copied:
                    copied.append(batch)
                    redriving.cancel()

            with monkeypatch.context() as patched:
                spy(operator.dead, cancel, patched)
                with pytest.raises(asyncio.CancelledError):
                    await redriving
            left = await redis.xlen(f"{stream}.dead")
            assert 0 < left < 30
            assert await operator.dead.redrive(stream) == left
    assert await bodies(redis, stream) == [b"%d" % n for n in range(30)]


@pytest.mark.parametrize("rules", [["+@all"], ["+@all", "-@scripting"]], ids=str)
async def test_dead_letters_stay_while_the_server_is_out_of_memory(
    tmp_path: Path, stream: str, rules: list[str]
) -> None:
    async with server(tmp_path) as own:
        redis = own.client()
        for n in range(10):
            await write_dead_letter(redis, stream, b"%d" % n)
        async with user(own.url, redis, "operator", *rules) as login:
            async with Admin(login) as operator:
                await redis.config_set("maxmemory", 1)
                with pytest.raises(
                    CommandError, match="0 dead letters were redriven"
                ) as caught:
                    await operator.dead.redrive(stream)
                assert caught.value.code == "OOM"
                assert await redis.xlen(f"{stream}.dead") == 10
                assert await redis.exists(stream) == 0
                await redis.config_set("maxmemory", 0)
                assert await operator.dead.redrive(stream) == 10
        assert await bodies(redis, stream) == [b"%d" % n for n in range(10)]
        await redis.aclose()


async def test_a_redrive_stops_at_a_shard_that_is_no_longer_a_stream(
    operator_url: str, stream: str, redis: Any
) -> None:
    for n, shard in enumerate([0, 0, 1, 0, 1]):
        await write_dead_letter(redis, stream, b"%d" % n, shard)
    await redis.set(f"{stream}:1", "text")
    async with Admin(operator_url) as operator:
        with pytest.raises(
            CommandError, match="2 dead letters were redriven"
        ) as caught:
            await operator.dead.redrive(stream)
        assert caught.value.code == "WRONGTYPE"
        assert f"XADD to '{stream}:1'" in str(caught.value)
        assert await bodies(redis, f"{stream}:0") == [b"0", b"1"]
        assert await redis.get(f"{stream}:1") == b"text"
        # A filter can skip that shard.
        assert (
            await operator.dead.redrive(stream, where=lambda one: one.shard == 0) == 1
        )
        await redis.delete(f"{stream}:1")
        assert await operator.dead.redrive(stream) == 2
    assert await bodies(redis, f"{stream}:0") == [b"0", b"1", b"3"]
    assert await bodies(redis, f"{stream}:1") == [b"2", b"4"]


@pytest.mark.parametrize("scripts", [[], ["-@scripting"]], ids=str)
async def test_without_permission_to_delete_nothing_is_copied(
    url: str, stream: str, redis: Any, scripts: list[str]
) -> None:
    await write_dead_letter(redis, stream)
    rules = ["+@all", "-xdel", *scripts]
    async with user(url, redis, f"u-{stream}", *rules) as login:
        with pytest.raises(AccessError):
            await admin.dead.redrive(stream, url=login)
        with pytest.raises(AccessError):
            await admin.dead.purge(stream, all=True, url=login)
    assert await redis.exists(stream) == 0
    assert await redis.xlen(f"{stream}.dead") == 1


@pytest.mark.parametrize("scripts", [[], ["-@scripting"]], ids=str)
async def test_without_permission_to_send_nothing_is_deleted(
    url: str, stream: str, redis: Any, scripts: list[str]
) -> None:
    await write_dead_letter(redis, stream)
    rules = ["+@all", "-xadd", *scripts]
    async with user(url, redis, f"u-{stream}", *rules) as login:
        with pytest.raises(AccessError):
            await admin.dead.redrive(stream, url=login)
    assert await redis.exists(stream) == 0
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_the_permissions_in_the_docs_are_enough(
    url: str, stream: str, redis: Any
) -> None:
    """The permissions in docs/how-to/dead-letters.md."""
    await write_dead_letter(redis, stream, number=1)
    keys = ["resetkeys", f"~{stream}", f"~{stream}:*", f"~{stream}.dead"]
    look = ["-@all", "+@connection", "+xrange", "+xrevrange"]
    name = f"u-{stream}"
    async with user(url, redis, name, *keys, *look) as login:
        [letter] = await admin.dead.list(stream, url=login)
        with pytest.raises(AccessError):
            await admin.dead.redrive(stream, url=login)
        await redis.execute_command("ACL", "SETUSER", name, "+xdel", "+xadd")
        assert await admin.dead.redrive(stream, url=login) == 1
        await write_dead_letter(redis, stream, number=1)
        await redis.execute_command("ACL", "SETUSER", name, "+eval", "-xadd", "+xadd")
        assert await admin.dead.redrive(stream, url=login) == 1
        await write_dead_letter(redis, stream)
        await redis.execute_command("ACL", "SETUSER", name, "-xadd", "-eval")
        assert await admin.dead.purge(stream, all=True, url=login) == 1
    assert letter.shard == 1


async def test_a_key_of_another_type_raises_an_error_that_names_it(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(f"{stream}.dead", "text")
    async with Admin(url) as operator:
        dead = operator.dead
        for call in (
            dead.list(stream),
            dead.read(stream, "1-1"),
            dead.redrive(stream),
            dead.redrive(stream, ids="1-1"),
            dead.purge(stream, all=True),
            dead.purge(stream, ids="1-1"),
        ):
            with pytest.raises(CommandError, match=r"\.dead' was refused") as caught:
                await call
            assert caught.value.code == "WRONGTYPE"


# -- foreign and forged entries -------------------------------------------------------


async def test_foreign_entries_are_skipped_kept_and_counted(
    operator_url: str, stream: str, redis: Any, events: Events
) -> None:
    dead = f"{stream}.dead"
    first = await redis.xadd(dead, {"msg": "none of ours"})
    await write_dead_letter(redis, stream, b"ours")
    cut = dead_letter.write([b"msg", b"x"], origin(stream))[2:]
    await redis.execute_command("XADD", dead, "*", *cut)
    await write_dead_letter(redis, f"{stream}-other", into=dead)
    async with Admin(operator_url, on_event=events) as operator:
        [letter] = await operator.dead.list(stream)
        assert letter.payload == b"ours"
        [event] = events
        assert event.name == "foreign_letters"
        assert event.facts == {
            "dead_letters": dead,
            "foreign": 2,
            "of_other_streams": 1,
            "first": first.decode(),
        }
        assert await operator.dead.read(stream, first.decode()) is None
        assert await operator.dead.redrive(stream, ids=first.decode()) == 0
        assert await operator.dead.redrive(stream) == 1
        assert await operator.dead.purge(stream, where=lambda _: True) == 0
        assert await operator.dead.purge(stream, all=True) == 0
        assert len(events.named("foreign_letters")) == 6
        assert await redis.xlen(dead) == 3
        # By its id, an entry is deleted whatever it is.
        assert await operator.dead.purge(stream, ids=first.decode()) == 1
    assert await bodies(redis, stream) == [b"ours"]


@pytest.mark.parametrize(
    ("number", "key"),
    [
        (0, "{}-victim"),
        (0, "{}:lock"),
        (3, "{}:4"),
        (3, "{}:03"),
        (3, "{}:3:x"),
        (0, "{}.dead"),
        (0, ""),
        (10**19, "{}:1"),
    ],
)
async def test_a_forged_dead_letter_is_not_written_to_a_key_outside_its_stream(
    operator_url: str, stream: str, redis: Any, *, events: Events, number: int, key: str
) -> None:
    from penstock import Shard

    victim = key.format(stream)
    forged = await write_dead_letter(
        redis, stream, b"forged", shard=Shard(stream, number, victim.encode())
    )
    await write_dead_letter(redis, stream, b"honest")
    async with Admin(operator_url, on_event=events) as operator:
        assert len(await operator.dead.list(stream)) == 2
        assert await operator.dead.redrive(stream) == 1
        assert await bodies(redis, stream) == [b"honest"]
        [event] = events
        assert event.name == "letters_refused"
        assert (event.facts["count"], event.facts["first"]) == (1, str(forged))
        assert await operator.dead.redrive(stream, ids=forged) == 0
        assert await redis.xlen(f"{stream}.dead") == 1
        assert not victim or victim.endswith(".dead") or not await redis.exists(victim)
        # With `to`, the origin that it states is not used.
        assert await operator.dead.redrive(stream, to=f"{stream}-safe") == 1
    assert await bodies(redis, f"{stream}-safe") == [b"forged"]


async def test_a_dead_letter_is_not_redriven_to_the_stream_that_holds_it(
    operator_url: str, stream: str, redis: Any, events: Events
) -> None:
    kept = f"{stream}:3"
    await write_dead_letter(redis, stream, b"x", 3, into=kept)
    async with Admin(operator_url, on_event=events) as operator:
        assert await operator.dead.redrive(stream, dead_letters=kept) == 0
    assert [event.name for event in events] == ["letters_refused"]
    assert await redis.xlen(kept) == 1


# -- purging --------------------------------------------------------------------------


async def test_dead_letters_are_purged_by_id_by_filter_by_time_and_all_together(
    url: str, stream: str, redis: Any
) -> None:
    ids = [
        await write_dead_letter(redis, stream, b"%d" % n, error=f"E{n % 3}")
        for n in range(30)
    ]
    dead = f"{stream}.dead"
    async with Admin(url) as operator:
        purge = operator.dead.purge
        assert await purge(stream, ids=[]) == 0
        assert await purge(stream, ids=[ids[29], str(ids[28]), ids[29]]) == 2
        assert await purge(stream, ids=ids[29]) == 0
        assert await purge(stream, where=lambda letter: letter.error == "E1") == 9
        assert await purge(stream, before=ids[6]) == 4  # 0, 2, 3, 5
        assert await purge(stream, before=EntryId.MIN) == 0
        assert await purge(stream, before=datetime(2020, 1, 1, tzinfo=UTC)) == 0
        both = await purge(
            stream, before=str(ids[12]), where=lambda letter: letter.error == "E0"
        )
        assert both == 2  # 6, 9
        assert await purge(stream, all=True, limit=3) == 3
        assert len(await bodies(redis, dead)) == 10
        later = datetime(2100, 1, 1, tzinfo=UTC)
        assert await purge(stream, before=later, limit=4) == 4
        assert await purge(stream, all=True) == 6
    assert await redis.xlen(dead) == 0
    assert await redis.exists(stream) == 0


async def test_many_ids_are_purged_in_several_commands(
    url: str, stream: str, redis: Any
) -> None:
    id_ = await write_dead_letter(redis, stream)
    ids = [EntryId(n) for n in range(1, 2500)]
    assert await admin.dead.purge(stream, ids=[*ids, id_], url=url) == 1


# -- bad use --------------------------------------------------------------------------


async def async_filter(_: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("call", "given", "words"),
    [
        ("list", {"stream": ""}, "not a stream name"),
        ("redrive", {"stream": "\ud800"}, "lone surrogate"),
        ("list", {"limit": 0}, "whole number"),
        ("list", {"after": "yesterday"}, "not an entry id"),
        ("list", {"after": 5}, "not an id"),
        ("list", {"where": "all"}, "can't be called"),
        ("list", {"dead_letters": ""}, "not a stream name"),
        ("list", {"dead_letters": "orders"}, "is the stream itself"),
        ("each", {"after": "yesterday"}, "not an entry id"),
        ("each", {"where": 1}, "can't be called"),
        ("redrive", {"ids": "x"}, "not an entry id"),
        ("redrive", {"ids": b"1-1"}, "not an id"),
        ("redrive", {"ids": 5}, "not an id"),
        ("redrive", {"ids": [5]}, "not an id"),
        ("redrive", {"ids": [], "limit": 1}, "leave out"),
        ("redrive", {"ids": [], "where": async_filter}, "leave out"),
        ("redrive", {"limit": -1}, "whole number"),
        ("redrive", {"where": 1}, "can't be called"),
        ("redrive", {"to": ""}, "not a stream name"),
        ("redrive", {"to": "orders.dead"}, "pass another stream"),
        ("purge", {}, "deletes permanently"),
        ("purge", {"limit": 5}, "deletes permanently"),
        ("purge", {"ids": [], "all": True}, "deletes permanently"),
        ("purge", {"ids": [], "before": "1-1"}, "deletes permanently"),
        ("purge", {"where": async_filter, "all": True}, "deletes permanently"),
        ("purge", {"before": "latest"}, "not a time"),
        ("purge", {"before": datetime(2026, 1, 1)}, "naive"),  # noqa: DTZ001
    ],
)
async def test_invalid_arguments_are_refused_at_once(
    call: str, given: dict[str, Any], words: str
) -> None:
    # The admin is not even open: no server is contacted.
    operator = Admin("redis://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=words):
        await getattr(operator.dead, call)(**{"stream": "orders", **given})


@pytest.mark.parametrize(
    "call", [admin.dead.list, admin.dead.redrive, admin.dead.purge]
)
async def test_the_functions_refuse_invalid_arguments_before_they_connect(
    call: Any,
) -> None:
    with pytest.raises(ConfigurationError, match="whole number"):
        await call("orders", limit=0, url="redis://127.0.0.1:1")


def test_the_former_name_of_the_class_still_works() -> None:
    assert admin.DeadLetterOffice is admin.DeadLetterAdmin


async def test_an_async_filter_is_refused_before_it_selects_everything(
    url: str, stream: str, redis: Any
) -> None:
    await write_dead_letter(redis, stream)
    async with Admin(url) as operator:
        for call in (operator.dead.redrive, operator.dead.purge):
            with pytest.raises(ConfigurationError, match="async function"):
                await call(stream, where=async_filter)
    assert await redis.xlen(f"{stream}.dead") == 1


async def test_a_filter_that_raises_ends_the_redrive_without_a_loss(
    operator_url: str, stream: str, redis: Any
) -> None:
    for n in range(30):
        await write_dead_letter(redis, stream, b"%d" % n)
    with pytest.raises(ZeroDivisionError):
        await admin.dead.redrive(
            stream,
            where=lambda one: 1 // (int(one.payload or 0) - 15),
            url=operator_url,
        )
    # The pages before it have been moved.
    assert await bodies(redis, stream) == [b"%d" % n for n in range(10)]
    assert await redis.xlen(f"{stream}.dead") == 20


async def test_calls_of_a_closed_admin_raise_closed_error(stream: str) -> None:
    operator = Admin("redis://127.0.0.1:1")
    with pytest.raises(ClosedError):
        await operator.dead.list(stream)
    with pytest.raises(ClosedError):
        await operator.dead.redrive(stream)


async def test_the_functions_do_what_the_methods_do(
    url: str, stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    ids = [await write_dead_letter(redis, stream, b"%d" % n) for n in range(4)]
    assert [letter.id for letter in await admin.dead.list(stream)] == ids
    assert await admin.dead.read(stream, ids[0]) is not None
    assert await admin.dead.redrive(stream, ids=ids[0]) == 1
    assert await admin.dead.purge(stream, before=ids[2]) == 1
    assert await admin.dead.redrive(stream) == 2
    async with Consumer(stream, url=url, group="g", start=EARLIEST) as consumer:
        got = [await consumer.next(timeout=5) for _ in range(3)]
    assert [message and message.payload for message in got] == [b"0", b"2", b"3"]
