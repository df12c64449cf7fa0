"""`penstock send`, `read` and `tail`: messages in and out, and no group is touched."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock import RoundRobin
from penstock._core.messages import shard_record
from penstock.cli.app import app
from support.looking import objects, run, table
from support.server import with_login
from support.terminal import terminal
from support.waiting import calls, eventually, record_shards, spread

NASTY = b'{"a":1}\n\x00\xff\r\nsecond \x1b[31mline\n'


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PENSTOCK_URL", url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


async def send(*words: object, given: bytes = b"", status: int = 0) -> Result:
    """Run `penstock send` in a thread, with a standard input."""
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["send", *map(str, words)], input=given
    )
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


async def fields(redis: Any, stream: str) -> list[dict[bytes, bytes]]:
    return [found for _, found in await redis.xrange(stream)]


# -- send ------------------------------------------------------------------------------


async def test_one_id_is_printed_for_each_message(redis: Any, stream: str) -> None:
    result = await send(stream, "hello", "--count", 3)
    ids = [id_.decode() for id_, _ in await redis.xrange(stream)]
    assert result.stdout.splitlines() == ids
    assert result.stderr == ""
    assert await fields(redis, stream) == [{b"msg": b"hello"}] * 3


async def test_key_headers_and_id_are_those_of_the_options(
    redis: Any, stream: str
) -> None:
    result = await send(
        *(stream, "x", "--key", "k", "--header", "a=b=c", "--header", "d="),
        *("--id", "1772366400250-7", "--json"),
    )
    assert json.loads(result.stdout) == {
        "id": "1772366400250-7",
        "stream": stream,
        "shard": 0,
    }
    [(id_, found)] = await redis.xrange(stream)
    assert id_ == b"1772366400250-7"
    assert found == {b"msg": b"x", b"key": b"k", b"a": b"b=c", b"d": b""}


async def test_the_bytes_of_the_input_and_of_a_file_are_stored_unchanged(
    redis: Any, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "payload"
    file.write_bytes(NASTY)
    await send(stream, "-", given=NASTY)
    await send(stream, "--file", file)
    await send(stream, "-")
    await send(stream, "--lines", given=NASTY + b"\n\nlast")
    bodies = [found[b"msg"] for found in await fields(redis, stream)]
    assert bodies == [NASTY, NASTY, b"", *NASTY.split(b"\n")[:3], b"", b"", b"last"]


async def test_the_bytes_of_an_argument_may_be_no_text(redis: Any, stream: str) -> None:
    command: list[str | bytes] = [sys.executable, "-m", "penstock.cli", "send", stream]

    def call() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*command, b"\xff\xfe"], capture_output=True, check=False)

    done = await asyncio.to_thread(call)
    assert done.returncode == 0, done.stderr
    assert await fields(redis, stream) == [{b"msg": b"\xff\xfe"}]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "choose the message by exactly one of"),
        (["x", "--lines"], "choose the message by exactly one of"),
        (["--lines", "--json-lines"], "choose the message by exactly one of"),
        (["--lines", "--count", "2"], "--count repeats one message"),
        (["x", "--id", "1772366400250-0", "--count", "2"], "--id is the id of one"),
        (["--json-lines", "--key", "k"], "each object has its own key"),
        (["x", "--header", "a"], "'a' has no value; write NAME=VALUE"),
        (["x", "--header", "=a"], "--header has no name"),
        (["x", "--header", "a=1", "--header", "a=2"], "is there twice"),
        (["x", "--header", "msg=1"], "'msg' is reserved"),
        (["--file", "/nowhere"], "does not exist"),
        (["x", "--max-len", "0"], "--max-len"),
    ],
)
async def test_wrong_usage_of_send_stores_nothing(
    redis: Any, stream: str, words: list[str], sentence: str
) -> None:
    result = await send(stream, *words, status=2)
    assert sentence in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not await redis.exists(stream)


async def test_a_stream_can_be_spread_and_bounded(redis: Any, stream: str) -> None:
    await send(stream, "x", "--shards", 2, "--count", 4)
    assert [await redis.xlen(f"{stream}:{n}") for n in range(2)] == [2, 2]
    # The next one finds the record.
    result = await send(stream, "x", "--count", 2, "--json")
    shards = {json.loads(line)["shard"] for line in result.stdout.splitlines()}
    assert shards == {0, 1}
    assert not await redis.exists(stream)
    await send(stream, "x", "--count", 300, "--max-len", 2)
    assert await redis.xlen(f"{stream}:0") < 150
    result = await send(stream, "x", "--shards", 3, status=2)
    assert "0 stored, 1 not stored, 0 unknown" in result.stderr


async def test_a_stream_that_a_program_spreads_in_its_own_way_is_refused(
    redis: Any, stream: str
) -> None:
    key, record = shard_record.key(stream), shard_record.dump(4, "by_country", 1.0)
    await redis.set(key, record)
    result = await send(stream, "x", status=2)
    assert "is spread by 'by_country'" in result.stderr
    await redis.set(key, shard_record.dump(4, RoundRobin.__name__, 1.0))
    await send(stream, "x", "--count", 4)
    assert [await redis.xlen(f"{stream}:{n}") for n in range(4)] == [1] * 4


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"SECRET", "it is not an object like those of"),
        (b'["SECRET"]', "it is not an object like those of"),
        (b'{"payload": 17}', "`$.payload`"),
        (b'{"key": "SECRET"}', "it has no payload"),
        (b'{"payload": "SECRET", "key": 1}', "`$.key`"),
        (b'{"payload_base64": "SECRET!"}', "its payload_base64 is not Base64"),
        (b'{"fields": {"a": "SECRET"}}', "an entry of another program"),
        (b'{"payload": "x", "headers": {"key": "SECRET"}}', "'key' is reserved"),
        (b"[" * 100_000, "it is not an object like those of"),
    ],
)
async def test_a_line_that_is_no_message_ends_the_sending_and_all_are_counted(
    redis: Any, stream: str, line: bytes, sentence: str
) -> None:
    good = b'{"payload": "a"}\n\n'
    result = await send(
        stream, "--json-lines", given=good + line + b"\n" + good, status=1
    )
    assert f"message 2: {sentence}" in result.stderr or sentence in result.stderr
    assert "1 stored, 2 not stored, 0 unknown" in result.stderr
    assert "SECRET" not in result.stderr
    assert len(result.stdout.splitlines()) == await redis.xlen(stream) == 1


async def test_a_refusal_of_the_server_is_counted(redis: Any, stream: str) -> None:
    await redis.xadd(stream, {"msg": "x"}, id="9000000000000-0")
    result = await send(stream, "x", "--id", "1772366400250-0", status=1)
    assert "message 1: " in result.stderr
    assert "0 stored, 1 not stored, 0 unknown" in result.stderr
    await redis.set(f"{stream}-s", "a string")
    result = await send(f"{stream}-s", "x", "--count", 3, status=1)
    assert "0 stored, 3 not stored, 0 unknown" in result.stderr


async def test_a_server_that_stops_to_answer_leaves_messages_unknown(
    redis: Any, stream: str
) -> None:
    """What is written is unknown; the rest of the input is counted as well."""
    await redis.execute_command("CLIENT", "PAUSE", 2000, "WRITE")
    given = b"x\n" * 2000
    result = await send(stream, "--lines", "--timeout", "500ms", given=given, status=1)
    [counts] = [line for line in result.stderr.splitlines() if " stored, " in line]
    words = counts.replace(",", "").split()
    stored, failed, unknown = (int(words[n]) for n in (1, 3, 6))
    assert (stored, stored + failed + unknown) == (0, 2000)
    assert unknown > 0

    async def answers() -> bool:
        return bool(await redis.set(f"{stream}-s", "x"))

    await eventually(answers)


async def test_a_server_that_is_not_there_is_no_wrong_usage() -> None:
    result = await run("send", "s", "x", "--url", "redis://127.0.0.1:1", status=1)
    assert "can't connect to 127.0.0.1:1" in result.stderr


async def test_a_closed_pipe_does_not_end_the_sending(redis: Any, stream: str) -> None:
    command = f"{sys.executable} -m penstock.cli send {stream} x --count 5000 | head -1"
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-o", "pipefail", "-c", command], capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert await redis.xlen(stream) == 5000


async def test_ids_are_printed_while_the_input_goes_on_and_ctrl_c_ends_it(
    redis: Any, stream: str
) -> None:
    with process("send", stream, "--lines", given=True) as sending:
        for number in range(2):
            await asyncio.to_thread(sending.write, b"%d\n" % number)
            assert (await asyncio.to_thread(sending.line)).strip()
            assert await redis.xlen(stream) == number + 1
        assert await asyncio.to_thread(sending.interrupt) == 130
        assert b"2 stored" in sending.errors


# -- read ------------------------------------------------------------------------------


async def test_what_is_read_as_json_can_be_sent_to_another_stream(
    redis: Any, stream: str
) -> None:
    await redis.xadd(stream, {"msg": "täglich", "key": "k", "a": "b", "c": ""})
    await redis.xadd(stream, {"msg": NASTY})
    await redis.xadd(stream, {"msg": "", "key": ""})
    read = await run("read", stream, "--json")
    await send(f"{stream}-copy", "--json-lines", given=read.stdout.encode())
    assert await fields(redis, f"{stream}-copy") == await fields(redis, stream)


async def test_a_message_as_json(redis: Any, stream: str) -> None:
    await redis.xadd(stream, {"msg": "x", "key": "k", "a": "b"}, id="1772366400250-3")
    await redis.xadd(stream, {"msg": b"\xff"}, id="1772366400251-0")
    await redis.xadd(stream, {"temp": "21", b"\xfe": b"\xff"}, id="9000000000000000-0")
    common = {"stream": stream, "shard": 0, "key": None, "headers": {}}
    first, second, third = await objects("read", stream)
    assert first == {
        "id": "1772366400250-3",
        "stream": stream,
        "shard": 0,
        "time": "2026-03-01T12:00:00.250000Z",
        "key": "k",
        "headers": {"a": "b"},
        "payload": "x",
    }
    time = "2026-03-01T12:00:00.251000Z"
    assert second == {
        **common,
        "id": "1772366400251-0",
        "time": time,
        "payload_base64": "/w==",
    }
    assert third == {
        **common,
        "id": "9000000000000000-0",
        "time": None,
        "fields": {"temp": "21", "\udcfe": "\udcff"},
    }
    bare = await objects("read", stream, "--no-payload")
    assert not any({"payload", "payload_base64", "fields"} & set(each) for each in bare)


async def test_columns_in_a_pipe_are_escaped_and_payloads_cut(
    redis: Any, stream: str
) -> None:
    await redis.xadd(
        stream, {"msg": "a\tb\x1b\n" + "x" * 600, "key": "k\t", "h": "\x07"}
    )
    [row] = table(await run("read", stream))
    assert list(row) == ["ID", "SHARD", "KEY", "HEADERS", "PAYLOAD"]
    assert row["KEY"] == r"k\t"
    assert row["PAYLOAD"].startswith(r"a\tb\x1b\nxxx")
    assert row["PAYLOAD"].endswith("...")
    assert len(row["PAYLOAD"]) == 500
    [row] = table(await run("read", stream, "--full"))
    assert len(row["PAYLOAD"]) > 600
    [row] = table(await run("read", stream, "--no-payload"))
    assert "PAYLOAD" not in row


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ([], [0, 1, 2, 3, 4, 5, 6, 7]),
        (["--reverse"], [7, 6, 5, 4, 3, 2, 1, 0]),
        (["--limit", "2"], [0, 1]),
        (["--limit", "2", "--reverse"], [7, 6]),
        (["--from", "1772366400002-0"], [2, 3, 4, 5, 6, 7]),
        (["--from", "after:1772366400002-0", "--to", "1772366400004"], [3, 4]),
        (["--from", "2026-03-01T12:00:00.006Z"], [6, 7]),
        (["--to", "2026-03-01T13:00:00.001+01:00"], [0, 1]),
        (["--from", "earliest", "--to", "latest"], [0, 1, 2, 3, 4, 5, 6, 7]),
        (["--shard", "1"], [1, 4, 7]),
        (["--from", "1s"], []),
    ],
)
async def test_messages_of_all_shards_come_in_the_order_of_their_ids(
    redis: Any, stream: str, words: list[str], numbers: list[int]
) -> None:
    await record_shards(redis, stream, 3)
    first = 1772366400000
    for number in range(8):
        key, id_ = f"{stream}:{number % 3}", f"{first + number}-0"
        await redis.xadd(key, {"msg": str(number)}, id=id_)
    found = await objects("read", stream, *words)
    assert [int(each["payload"]) for each in found] == numbers
    assert all(each["shard"] == int(each["payload"]) % 3 for each in found)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--follow", "--reverse"], "--follow goes on after the newest message"),
        (["--follow", "--to", "1m"], "--follow goes on after the newest message"),
        (["--from", "latest"], "--from latest leaves nothing to read; pass --follow"),
        (["--to", "earliest"], "--to earliest leaves nothing to read"),
        (["--limit", "0"], "--limit"),
    ],
)
async def test_wrong_usage_of_read(words: list[str], sentence: str) -> None:
    assert sentence in (await run("read", "orders", *words, status=2)).stderr


async def test_what_is_not_there_is_said(redis: Any, stream: str) -> None:
    await redis.xadd(stream, {"msg": "x"})
    await redis.set(f"{stream}-s", "x")
    for command in ("read", "tail"):
        result = await run(command, f"{stream}-none", status=1)
        assert stream in result.stderr
        assert "there are: " in result.stderr
        result = await run(command, stream, "--shard", 3, status=1)
        assert "has no shard 3; there are: 0" in result.stderr
        assert "WRONGTYPE" in (await run(command, f"{stream}-s", status=1)).stderr
    await redis.xtrim(stream, maxlen=0, approximate=False)
    result = await run("read", stream)
    assert "has no such messages" in result.stderr
    assert await objects("read", stream) == []


async def test_reading_touches_no_group(redis: Any, stream: str) -> None:
    await redis.xadd(stream, {"msg": "x"})
    await redis.xgroup_create(stream, "g", "0")
    before = await redis.dump(stream)
    counted = [await calls(redis, name) for name in ("xreadgroup", "xgroup|create")]
    await run("read", stream)
    await run("read", stream, "--follow", "--limit", 1)
    assert await redis.dump(stream) == before
    after = [await calls(redis, name) for name in ("xreadgroup", "xgroup|create")]
    assert after == counted


async def test_a_user_without_permission_is_told(
    redis: Any, url: str, stream: str
) -> None:
    await redis.xadd(stream, {"msg": "x"})
    await redis.acl_setuser(
        f"{stream}-u",
        enabled=True,
        passwords=["+secret"],
        commands=["+exists", "+get", "+client|id"],
        keys=["*"],
    )
    login = with_login(url, f"{stream}-u", "secret")
    for words in (["read", stream], ["tail", stream], ["send", stream, "x"]):
        result = await run(*words, "--url", login, status=1)
        assert "secret" not in result.output.replace(stream, "")
        assert "permission" in result.stderr.lower()


def test_a_terminal_shows_payloads_laid_out_and_nothing_acts_on_it(url: str) -> None:
    stream = f"terminal-{os.getpid()}"
    environment = {"PENSTOCK_URL": url}
    payloads = [
        '{"a": [1, 2], "ü": "\\u001b[31m"}',
        "\x1b[2J\u202e übrig\nzwei",
        "x" * 700,
    ]
    for payload in payloads:
        words = ["send", stream, payload, "--key", "k\x1b", "--header", "h=\x07"]
        assert CliRunner().invoke(app, words).exit_code == 0
    with terminal("read", stream, columns=60, environment=environment) as opened:
        assert opened.end() == 0
    assert "\x1b[31m" not in opened.raw.replace("\x1b[31mk", "")
    assert "\x1b[2J" not in opened.raw
    assert "\u202e" not in opened.raw
    lines = opened.text.splitlines()
    assert r"key=k\x1b h=\x07" in lines[0]
    assert "s ago)" in lines[0]
    assert lines[1:6] == ["  {", '    "a": [', "      1,", "      2", "    ],"]
    assert r"  \x1b[2J\u202e übrig" in lines
    assert "  zwei" in lines
    assert "of 700 bytes; --full shows all" in opened.text
    with terminal("read", stream, "--full", environment=environment) as opened:
        assert opened.end() == 0
    assert "--full" not in opened.text


# -- tail and --follow -----------------------------------------------------------------


class Process:
    """A command whose output is read line by line."""

    def __init__(self, words: tuple[str, ...], *, given: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", *words],
            stdin=subprocess.PIPE if given else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.errors = b""

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def interrupt(self) -> int:
        self._process.send_signal(2)
        assert self._process.stderr is not None
        self.errors = self._process.stderr.read()
        return self._process.wait(10)

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.wait()


@contextmanager
def process(*words: str, given: bool = False) -> Iterator[Process]:
    made = Process(words, given=given)
    try:
        yield made
    finally:
        made.close()


async def payload_of(reading: Process) -> str:
    return str(json.loads(await asyncio.to_thread(reading.line))["payload"])


async def test_tail_prints_the_last_messages_and_those_that_are_added(
    redis: Any, url: str, stream: str
) -> None:
    await spread(url, stream, *range(8))
    with process("tail", stream, "-n", "3", "--json") as reading:
        assert [await payload_of(reading) for _ in range(3)] == ["5", "6", "7"]
        await spread(url, stream, 8, 9)
        assert [await payload_of(reading) for _ in range(2)] == ["8", "9"]
        # A shard that is added is found.
        await record_shards(redis, stream, 4)
        await redis.xadd(f"{stream}:3", {"msg": "new"})
        assert await payload_of(reading) == "new"
        assert await asyncio.to_thread(reading.interrupt) == 0
    assert reading.errors == b""


async def test_following_goes_on_after_the_connection_was_cut(
    redis: Any, stream: str
) -> None:
    await redis.xadd(stream, {"msg": "before"})
    with process("read", stream, "--follow", "--json") as reading:
        assert await payload_of(reading) == "before"
        for number in range(3):
            await redis.client_kill_filter(_type="normal", skipme=True)
            await redis.xadd(stream, {"msg": str(number)})
            assert await payload_of(reading) == str(number)
        assert await asyncio.to_thread(reading.interrupt) == 0
    assert b"reconnected" in reading.errors


async def test_following_from_now_on_prints_nothing_older(
    redis: Any, stream: str
) -> None:
    await redis.xadd(stream, {"msg": "old"})
    command = ("read", stream, "--from", "latest", "--follow", "--limit", "2")
    with process(*command, "--json") as reading:

        async def reads() -> bool:
            listed = await redis.client_list()
            return any(each["cmd"] == "xread" for each in listed)

        await eventually(reads)
        await redis.xadd(stream, {"msg": "1"})
        await redis.xadd(stream, {"msg": "2"})
        assert [await payload_of(reading) for _ in range(2)] == ["1", "2"]
        assert await asyncio.to_thread(reading.line) == b""
