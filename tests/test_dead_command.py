"""`penstock dead` as an operator sees it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock import Shard
from penstock.cli.app import app
from support.dead_letters import bodies, write_dead_letter


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    # Rich, which formats typer's own errors, reads these.
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


async def dead(*arguments: object, status: int = 0) -> Result:
    """Run `penstock dead` in a thread, since it runs its own event loop."""
    words = ["dead", *map(str, arguments)]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output or status == 0
    return result


async def objects(*arguments: object) -> list[dict[str, Any]]:
    """Run it with --json; return the objects."""
    result = await dead(*arguments, "--json")
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
async def secrets(stream: str, redis: Any) -> None:
    """Write a dead letter with a secret message and text that controls terminals."""
    hostile = "\x1b[31mred\r\n\u202e\udcff"
    await write_dead_letter(
        redis,
        stream,
        b"SECRET\x1b[0m\nsecond \xff line",
        2,
        fields=[
            b"msg",
            b"SECRET\x1b[0m\nsecond \xff",
            b"key",
            b"\x1b",
            b"h\x07",
            b"HIDDEN",
        ],
        group=hostile,
        consumer=hostile,
        reason=hostile,
        error=hostile,
        traceback=f"first {hostile}\n second",
        time="yesterday",
    )


# -- list -----------------------------------------------------------------------------


async def test_dead_letters_are_listed_in_a_table(stream: str, redis: Any) -> None:
    first = await write_dead_letter(redis, stream, b"SECRET", 3)
    await write_dead_letter(
        redis, stream, error="", reason="rejected: too old", attempts=1
    )
    result = await dead("list", stream)
    head, one, two = result.stdout.splitlines()
    assert " ".join(head.split()) == "ID SHARD ENTRY GROUP ATTEMPTS ERROR REASON"
    assert " ".join(one.split()) == (
        f"{first} 3 5-1 billing 5 ValueError ValueError: 5 attempts failed"
    )
    assert two.split()[4:] == ["1", "-", "rejected:", "too", "old"]
    assert "SECRET" not in result.output
    assert result.stderr == ""


async def test_a_stream_without_dead_letters_is_told_from_a_missing_one(
    stream: str, redis: Any
) -> None:
    """Otherwise a misspelt name would look like good news."""
    calls = [("list",), ("redrive", "--yes"), ("purge", "--yes")]
    result = await dead("show", stream, "5-1", status=1)
    assert f"there is no stream '{stream}'" in result.stderr
    for name, *rest in calls:
        result = await dead(name, stream, *rest, status=1)
        assert f"there is no stream '{stream}'" in result.stderr
    await redis.xadd(f"{stream}:3", {"msg": b"x"})
    for name, *rest in calls:
        result = await dead(name, stream, *rest)
        assert f"'{stream}.dead' has no letters" in result.stderr


async def test_dead_letters_are_listed_as_json(stream: str, redis: Any) -> None:
    id_ = await write_dead_letter(redis, stream, b"SECRET", 3)
    assert await objects("list", stream) == [
        {
            "id": str(id_),
            "stream": stream,
            "shard": 3,
            "entry_id": "5-1",
            "group": "billing",
            "consumer": "host:1:ab",
            "attempts": 5,
            "time": "2026-03-01T12:00:00.250000Z",
            "error": "ValueError",
            "reason": "ValueError: 5 attempts failed",
        }
    ]


async def test_a_list_can_be_filtered_limited_and_continued(
    stream: str, redis: Any
) -> None:
    ids = [
        await write_dead_letter(
            redis, stream, group="ab"[n % 2], error=f"E{n}", reason=f"no. {n};"
        )
        for n in range(6)
    ]
    expected = [str(id_) for id_ in ids]
    found = await objects("list", stream, "--group", "b")
    assert [dead_letter["id"] for dead_letter in found] == expected[1::2]
    [one] = await objects("list", stream, "--error", "E4")
    assert one["id"] == expected[4]
    [one] = await objects("list", stream, "--reason", "3;", "--group", "b")
    assert one["id"] == expected[3]
    assert await objects("list", stream, "--error", "E") == []
    result = await dead("list", stream, "--limit", 4, "--json")
    assert result.stdout.count("\n") == 4
    assert (
        result.stderr
        == f"penstock: there are more; continue with --after {expected[3]}\n"
    )
    result = await dead("list", stream, "--limit", 2, "--after", expected[3], "--json")
    assert (result.stdout.count("\n"), result.stderr) == (2, "")


@pytest.mark.usefixtures("secrets")
async def test_no_text_from_the_server_controls_the_terminal(stream: str) -> None:
    [listed] = await objects("list", stream)
    id_ = listed["id"]
    outputs = [
        await dead("list", stream),
        await dead("list", stream, "--json"),
        await dead("show", stream, id_),
        await dead("show", stream, id_, "--json"),
        await dead("show", stream, id_, "--payload"),
        await dead("show", stream, id_, "--payload", "--json"),
    ]
    for result in outputs:
        assert result.stdout.isascii()
        assert all(char.isprintable() or char in "\n\t" for char in result.stdout)
    for result in outputs[:4]:
        assert "SECRET" not in result.output
        assert "HIDDEN" not in result.output


# -- show -----------------------------------------------------------------------------


async def test_a_dead_letter_is_shown_without_its_message(
    stream: str, redis: Any
) -> None:
    id_ = await write_dead_letter(redis, stream, b"SECRET", 3)
    result = await dead("show", stream, id_)
    assert result.stdout.splitlines() == [
        f"id: {id_}",
        f"stream: {stream}",
        "shard: 3",
        "entry_id: 5-1",
        "group: billing",
        "consumer: host:1:ab",
        "attempts: 5",
        "time: 2026-03-01T12:00:00.250000+00:00",
        "error: ValueError",
        "reason: ValueError: 5 attempts failed",
        "    Traceback (most recent call last):",
        '      File "a.py"',
        "    ValueError: no",
        "key: k",
        "header h",
        "payload: 6 bytes",
    ]
    [shown] = await objects("show", stream, id_)
    assert shown["traceback"].startswith("Traceback")
    assert (shown["key"], shown["header_names"]) == ("k", ["h"])
    assert shown["payload_size"] == 6
    assert "payload" not in shown


async def test_the_message_of_a_dead_letter_is_shown_on_request(
    stream: str, redis: Any
) -> None:
    id_ = await write_dead_letter(redis, stream, b'{"id": 1}')
    lines = (await dead("show", stream, id_, "--payload")).stdout.splitlines()
    assert lines[-3:] == ["header h: 1", "payload:", '    {"id": 1}']
    [shown] = await objects("show", stream, id_, "--payload")
    assert shown["payload"] == '{"id": 1}'
    assert shown["headers"] == [["h", "1"]]


async def test_binary_and_missing_payloads_are_shown(stream: str, redis: Any) -> None:
    binary = await write_dead_letter(redis, stream, b"\xff\x00")
    [shown] = await objects("show", stream, binary, "--payload")
    assert base64.b64decode(shown["payload_base64"]) == b"\xff\x00"
    bare = await write_dead_letter(redis, stream, fields=[b"temp", b"21"])
    [shown] = await objects("show", stream, bare, "--payload")
    assert (shown["payload"], shown["key"]) == (None, None)
    lines = (await dead("show", stream, bare, "--payload")).stdout.splitlines()
    assert lines[-3:] == ["key: none", "header temp: 21", "payload: none"]


async def test_the_field_of_the_payload_can_be_named(stream: str, redis: Any) -> None:
    own = [b"data", b"17", b"h", b"1"]
    id_ = await write_dead_letter(redis, stream, fields=own)
    [shown] = await objects("show", stream, id_, "--payload")
    assert shown["payload"] is None
    [shown] = await objects("show", stream, id_, "--payload", "--field", "data")
    assert (shown["payload"], shown["headers"]) == ("17", [["h", "1"]])
    wrong = await dead("show", stream, id_, "--field", "key", status=2)
    assert "field='key'" in wrong.output


async def test_showing_a_missing_dead_letter_is_an_error(
    stream: str, redis: Any
) -> None:
    await redis.xadd(stream, {"msg": b"x"})
    result = await dead("show", stream, "1-1", status=1)
    assert result.stdout == ""
    assert "no dead letter '1-1'" in result.stderr


# -- redrive --------------------------------------------------------------------------


async def test_dead_letters_are_redriven_by_id(stream: str, redis: Any) -> None:
    ids = [await write_dead_letter(redis, stream, b"%d" % n, 1) for n in range(4)]
    chosen = ["--id", ids[2], "--id", ids[0], "--id", ids[0]]
    result = await dead("redrive", stream, *chosen)
    assert (result.stdout, result.stderr) == ("2 redriven\n", "")
    assert await bodies(redis, f"{stream}:1") == [b"0", b"2"]
    result = await dead("redrive", stream, "--id", ids[0], "--id", ids[1], status=1)
    assert result.stdout == "1 redriven\n"
    assert "1 of these ids were not found" in result.stderr


async def test_dead_letters_are_redriven_by_group_reason_or_error(
    stream: str, redis: Any
) -> None:
    for n in range(8):
        await write_dead_letter(
            redis, stream, b"%d" % n, group="ab"[n % 2], reason=f"no. {n}"
        )
    await dead("redrive", stream, "--group", "b", "--limit", 2, "--yes")
    by_reason = ("redrive", stream, "--reason", "no. 6", "--to", f"{stream}-other")
    await dead(*by_reason, status=2)
    assert await bodies(redis, f"{stream}-other") == []
    await dead(*by_reason, "--yes")
    assert await bodies(redis, stream) == [b"1", b"3"]
    assert await bodies(redis, f"{stream}-other") == [b"6"]
    by_error = ("redrive", stream, "--error", "ValueError")
    [result] = await objects(*by_error, "--dry-run")
    assert result == {"redriven": 5, "dry_run": True}
    [result] = await objects(*by_error, "--yes")
    assert result == {"redriven": 5, "dry_run": False}


async def test_all_dead_letters_are_redriven_only_with_yes(
    stream: str, redis: Any
) -> None:
    for n in range(3):
        await write_dead_letter(redis, stream, b"%d" % n)
    for more in ([], ["--limit", 2]):
        result = await dead("redrive", stream, *more, status=2)
        number = 2 if more else 3
        words = f"{number} letters of group billing with ValueError will be sent back"
        assert words in result.stderr
        assert "pass --yes" in result.stderr
    assert await redis.xlen(f"{stream}.dead") == 3
    await dead("redrive", stream, "--yes", "--limit", 2)
    await dead("redrive", stream, "--yes")
    assert await bodies(redis, stream) == [b"0", b"1", b"2"]


async def test_a_forged_dead_letter_is_reported(stream: str, redis: Any) -> None:
    await write_dead_letter(redis, stream, shard=Shard(stream, 0, b"victim"))
    result = await dead("redrive", stream, "--yes", status=1)
    assert result.stdout == "0 redriven\n"
    assert "letters_refused" in result.stderr


async def test_foreign_entries_are_reported(stream: str, redis: Any) -> None:
    await redis.xadd(f"{stream}.dead", {"a": "b"})
    result = await dead("list", stream)
    assert result.stdout == ""
    assert "foreign_letters" in result.stderr
    assert "foreign=1" in result.stderr


# -- purge ----------------------------------------------------------------------------


async def test_dead_letters_are_purged_only_if_they_are_chosen(
    stream: str, redis: Any
) -> None:
    ids = [await write_dead_letter(redis, stream, error=f"E{n}") for n in range(7)]
    result = await dead("purge", stream, status=2)
    assert "1 letter of group billing with E3 will be deleted" in result.stderr
    assert "pass --yes" in result.stderr
    assert (await dead("purge", stream, "--id", ids[6])).stdout == "1 purged\n"
    await dead("purge", stream, "--id", ids[6], status=1)
    before = await redis.dump(f"{stream}.dead")
    await dead("purge", stream, "--error", "E5", status=2)
    await dead("purge", stream, "--error", "E5", "--dry-run")
    assert await redis.dump(f"{stream}.dead") == before
    some = ["--before", "2100-01-01T00:00:00+00:00", "--limit", 1]
    for words, number in (
        (["--error", "E5"], 1),
        (["--before", ids[2]], 2),
        (some, 1),
        ([], 2),
        ([], 0),
    ):
        [done] = await objects("purge", stream, *words, "--yes")
        assert done == {"purged": number, "dry_run": False}
    assert await redis.xlen(f"{stream}.dead") == 0
    assert await redis.exists(stream) == 0


# -- summary --------------------------------------------------------------------------


async def test_dead_letters_are_counted_by_error_and_group(
    stream: str, redis: Any
) -> None:
    kinds = [("E1", "a"), ("E1", "b\x1b"), ("", "a"), ("E1", "a")]
    ids = [
        str(await write_dead_letter(redis, stream, error=error, group=group))
        for error, group in kinds
    ]
    first, *others = await objects("summary", stream)
    assert first.pop("first_time") <= first.pop("last_time")
    assert first == {
        "stream": stream,
        "error": "E1",
        "group": "a",
        "letters": 2,
        "first_id": ids[0],
        "last_id": ids[3],
    }
    assert [one["letters"] for one in others] == [1, 1]
    result = await dead("summary", stream, "--error", "E1", "--before", ids[3])
    head, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert head == ["ERROR", "GROUP", "LETTERS", "FIRST", "LAST"]
    assert rows == [
        ["E1", "a", "1", ids[0], ids[0]],
        ["E1", r"b\x1b", "1", ids[1], ids[1]],
    ]
    result = await dead("summary", stream, "--group", "c")
    assert "has no such letters" in result.stderr
    await dead("summary", f"{stream}-none", status=1)


# -- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["redrive", "s", "--id", "1-1", "--group", "g"],
            "--id selects dead letters by id",
        ),
        (
            ["purge", "s", "--id", "1-1", "--limit", "1"],
            "--id selects dead letters by id",
        ),
        (["purge", "s", "--before", "latest"], "selects all or nothing"),
        (["purge", "s", "--before", "2026-03-01"], "2026-03-01T00:00Z"),
        (["purge", "s", "--before", "2026-03"], "could be a date or an id"),
        (["purge", "s", "--before", "20260301"], "could be a date or an id"),
        (["redrive", "s", "--id", "x"], "is not an id"),
        (["redrive", "s", "--yes", "--to", "s.dead"], "pass another stream"),
        (["list", "s", "--after", "x"], "is not an id"),
        (["list", "s", "--limit", "0"], "--limit"),
        (["list", ""], "STREAM is empty"),
        (["list", "s", "--dead-letters", "s"], "is the stream itself"),
        (["list", "s", "--url", "http://localhost"], "scheme 'http'"),
    ],
)
async def test_wrong_usage_of_dead_ends_with_status_2(
    arguments: list[str], words: str
) -> None:
    result = await dead(*arguments, status=2)
    assert result.stdout == ""
    assert words in result.stderr


async def test_commands_that_the_server_refuses_end_with_status_1(
    stream: str, redis: Any
) -> None:
    await redis.set(f"{stream}.dead", "text")
    for command in (["list"], ["redrive", "--yes"], ["purge", "--yes"]):
        result = await dead(*command, stream, status=1)
        assert "WRONGTYPE" in result.stderr
    unreachable = "redis://:secret@127.0.0.1:1"
    result = await dead("list", stream, "--url", unreachable, status=1)
    assert "can't connect to 127.0.0.1:1" in result.stderr
    assert "secret" not in result.output


async def test_dead_letters_may_be_in_another_stream(stream: str, redis: Any) -> None:
    other = f"{stream}.yard"
    for n in range(3):
        await write_dead_letter(redis, stream, b"%d" % n, into=other)
    options = ["--dead-letters", other]
    ids = [dead_letter["id"] for dead_letter in await objects("list", stream, *options)]
    assert len(await objects("show", stream, ids[0], *options)) == 1
    await dead("redrive", stream, "--id", ids[0], *options)
    await dead("purge", stream, "--id", ids[1], *options)
    assert await bodies(redis, stream) == [b"0"]
    assert await bodies(redis, other) == [b"2"]


async def test_the_command_ends_silently_when_its_output_is_no_longer_read(
    url: str, stream: str, redis: Any
) -> None:
    for _ in range(200):
        await write_dead_letter(redis, stream, reason="x" * 1000)
    command = [sys.executable, "-W", "error", "-m", "penstock.cli", "dead", "list"]

    def first_line() -> tuple[int, bytes]:
        with subprocess.Popen(
            [*command, stream, "--limit", "1000", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "REDIS_URL": url},
        ) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.readline()
            process.stdout.close()
            return process.wait(20), process.stderr.read()

    status, errors = await asyncio.to_thread(first_line)
    assert (status, errors) == (0, b"")
