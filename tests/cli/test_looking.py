"""The commands that look at streams, groups and consumers, as an operator sees them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import Any

import pytest

from penstock.cli import _format
from support.looking import divide, fill, objects, run, table
from support.server import with_login


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PENSTOCK_URL", url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
async def filled(redis: Any, stream: str) -> str:
    await fill(redis, stream)
    return stream


# -- streams, info, groups -------------------------------------------------------------


async def test_streams_are_listed_with_the_group_that_is_worst_off(
    filled: str,
) -> None:
    [row] = table(await run("streams", filled))
    assert 420 <= float(row.pop("OLDEST")) < 500
    group, _, state = row.pop("WORST GROUP").partition(" ")
    assert group == "billing"
    assert state in {"stalled", "no consumers"}
    assert row == {
        "STREAM": filled,
        "SHARDS": "1",
        "LENGTH": "40",
        "GROUPS": "3",
        "LAG": "72",
        "PENDING": "8",
        "DEAD": "1",
    }
    [found] = await objects("streams", f"{filled}*")
    assert (found["stream"], found["length"], found["dead_letters"]) == (filled, 40, 1)
    assert [group["group"] for group in found["groups"]] == [
        *("audit", "billing", "fresh\x1b[31m"),
    ]


async def test_streams_of_dead_letters_are_listed_on_request(filled: str) -> None:
    names = [row["STREAM"] for row in table(await run("streams", f"{filled}*"))]
    assert names == [filled]
    rows = table(await run("streams", f"{filled}*", "--all"))
    assert [row["STREAM"] for row in rows] == [filled, f"{filled}.dead"]


async def test_each_shard_may_have_a_row(redis: Any, stream: str) -> None:
    await divide(redis, stream, 3)
    [row] = table(await run("streams", stream))
    assert (row["SHARDS"], row["LENGTH"], row["LAG"]) == ("3", "3", "3")
    rows = table(await run("streams", stream, "--shards"))
    assert [row["SHARD"] for row in rows] == [f"{stream}:{n}" for n in range(3)]
    assert [
        found["shard"] for found in await objects("streams", stream, "--shards")
    ] == [*range(3)]
    rows = table(await run("groups", stream, "--shards"))
    assert [row["SHARD"] for row in rows] == [f"{stream}:{n}" for n in range(3)]
    [group] = await objects("groups", stream)
    assert (group["state"], group["lag"], group["shard"]) == ("unread", 3, None)


async def test_a_name_that_no_stream_has_is_answered_with_those_that_there_are(
    filled: str,
) -> None:
    wrong = f"{filled[:-1]}"
    for words in (["streams", f"{wrong}?x*"], ["streams", wrong], ["groups", wrong]):
        result = await run(*words, status=1)
        assert result.stdout == ""
        assert repr(words[1]) in result.stderr
        assert f"there are: {filled}" in result.stderr
    for words in (["info", wrong], ["lag", wrong], ["top", wrong]):
        assert filled in (await run(*words, status=1)).stderr
    for words in (["consumers", wrong, "g"], ["pending", wrong, "g"]):
        result = await run(*words, status=1)
        assert f"no stream is named '{wrong}'; there are: {filled}" in result.stderr


async def test_an_empty_database_has_no_streams_and_that_is_no_error(url: str) -> None:
    if "unix" in url:
        url = f"{url}{'&' if '?' in url else '?'}db=9"
    else:
        url = f"{url.rpartition('/')[0] if url.count('/') > 2 else url}/9"
    result = await run("streams", "--url", url)
    assert (result.stdout, "there are no streams" in result.stderr) == ("", True)


async def test_groups_are_listed_worst_first_with_their_states(filled: str) -> None:
    rows = table(await run("groups", filled))
    assert [(row["GROUP"], row["LAG"], row["PENDING"]) for row in rows] == [
        ("billing", "32", "8"),
        (r"fresh\x1b[31m", "40", "0"),
        ("audit", "0", "0"),
    ]
    assert rows[1]["STATE"] == "unread"
    assert rows[2]["STATE"] == "idle"
    assert rows[0]["CONSUMERS"] in {"2/2", "1/2", "0/2"}


async def test_a_stream_without_groups_is_told(redis: Any, stream: str) -> None:
    await redis.xadd(stream, {"a": "b"})
    result = await run("groups", stream)
    assert (result.stdout, "has no groups" in result.stderr) == ("", True)


async def test_one_stream_is_shown_completely(redis: Any, stream: str) -> None:
    await divide(redis, stream, 2)
    await redis.xtrim(f"{stream}:0", maxlen=0, approximate=False)
    result = await run("info", stream)
    facts, shards, groups = result.stdout.split("\n\n")
    lines = dict(line.split("\t") for line in facts.splitlines())
    assert lines["shards by the record"] == "2"
    assert lines["sharder"] == "KeyHash"
    assert lines["length"] == "1"
    assert lines["dead letters"] == "0"
    assert int(lines["memory"]) > 0
    assert lines["trimming"] in {
        "1 of 2 entries were deleted",
        "not known, since this server does not count entries",
    }
    assert [line.split("\t")[0] for line in shards.splitlines()] == [
        *("SHARD", f"{stream}:0", f"{stream}:1"),
    ]
    assert groups.splitlines()[1].split("\t")[0] == "g"
    [details] = await objects("info", stream)
    assert [shard["key"] for shard in details["shards"]] == [
        *(f"{stream}:0", f"{stream}:1"),
    ]


# -- consumers, pending ----------------------------------------------------------------


async def test_consumers_are_listed_with_host_and_process(filled: str) -> None:
    named, hostile = table(await run("consumers", filled, "billing"))
    assert (named["CONSUMER"], named["HOST"], named["PID"]) == (
        "host:7:ab",
        "host",
        "7",
    )
    assert (named["PENDING"], hostile["PENDING"]) == ("5", "3")
    assert hostile["CONSUMER"] == r"red\x1b[31m"
    assert (hostile["HOST"], hostile["PID"]) == ("-", "-")
    assert named["STATE"] in {"live", "silent"}
    assert 420 <= float(named["OLDEST"]) < 500
    result = await run("consumers", filled, "audit")
    assert (result.stdout, "has no consumers" in result.stderr) == ("", True)


async def test_pending_messages_are_listed_filtered_and_counted(filled: str) -> None:
    rows = table(await run("pending", filled, "billing"))
    assert [row["CONSUMER"] for row in rows] == [
        *["host:7:ab"] * 5,
        *[r"red\x1b[31m"] * 3,
    ]
    assert [row["ATTEMPTS"] for row in rows] == ["1"] * 8
    limited = await run("pending", filled, "billing", "--limit", 2)
    assert len(table(limited)) == 2
    assert "there are more" in limited.stderr
    own = ("pending", filled, "billing", "--consumer", "host:7:ab")
    assert len(table(await run(*own))) == 5
    result = await run(*own, "--idle", "1h")
    assert (result.stdout, "no such pending messages" in result.stderr) == ("", True)
    result = await run("pending", filled, "audit")
    assert "has no pending messages" in result.stderr
    counts = table(await run("pending", filled, "billing", "--summary"))
    assert [(row["BY"], row["VALUE"], row["PENDING"]) for row in counts] == [
        ("consumer", "host:7:ab", "5"),
        ("consumer", r"red\x1b[31m", "3"),
        ("attempts", "1", "8"),
    ]


@pytest.mark.parametrize(
    "words", [["consumers"], ["pending"], ["pending", "--summary"]]
)
async def test_a_missing_group_is_answered_with_those_that_there_are(
    filled: str, words: list[str]
) -> None:
    command, *options = words
    result = await run(command, filled, "biling", *options, status=1)
    assert f"stream '{filled}' has no group 'biling'" in result.stderr
    assert "its groups are: 'audit', 'billing'" in result.stderr


# -- lag -------------------------------------------------------------------------------


async def test_a_lag_is_checked_against_limits(filled: str) -> None:
    rows = table(await run("lag", filled))
    assert [row["LAG"] for row in rows] == ["0", "32", "40"]
    [row] = table(await run("lag", filled, "billing", "--max", 32, "--max-age", "1h"))
    assert (row["STREAM"], row["GROUP"]) == (filled, "billing")
    result = await run("lag", filled, "billing", "--max", 31, status=3)
    assert "has a lag of 32, more than 31" in result.stderr
    assert len(table(result)) == 1
    result = await run("lag", filled, "billing", "--max-age", "5m", status=3)
    assert "old, more than 5m" in result.stderr
    await run("lag", filled, "audit", "--max", 0, "--max-age", "1ms")
    result = await run("lag", filled, "biling", status=1)
    assert "no group is named 'biling'; there are: billing" in result.stderr
    assert len(await objects("lag", f"{filled}*")) == 3


async def test_a_bound_fails_a_check_and_so_does_an_unknown_age(
    redis: Any, stream: str
) -> None:
    for number in range(1, 6):
        await redis.xadd(stream, {"a": "b"}, id=f"{number}-0")
    await redis.xgroup_create(stream, "g", "3-0")
    await redis.xdel(stream, "2-0")
    [row] = await objects("lag", stream)
    assert (row["lag"], row["lag_exact"], row["state"]) == (3, False, "no consumers")
    result = await run("lag", stream, "--max", 2, status=3)
    assert "has a lag of up to 3, more than 2" in result.stderr
    result = await run("lag", stream, "--max-age", "1h", status=3)
    assert "has messages whose age is not known" in result.stderr


async def test_a_lag_is_watched_until_ctrl_c(filled: str) -> None:
    def watch(*options: str) -> tuple[int, bytes]:
        with subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", "lag", filled, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            lines = b"".join(process.stdout.readline() for _ in range(8))
            process.send_signal(signal.SIGINT)
            return process.wait(30), lines

    status, lines = await asyncio.to_thread(watch, "--watch", "50ms")
    assert (status, lines.count(b"STREAM")) == (0, 2)
    status, _ = await asyncio.to_thread(watch, "--watch", "50ms", "--max", "3")
    assert status == 3


# -- top -------------------------------------------------------------------------------


async def test_top_prints_one_table_without_a_terminal(filled: str) -> None:
    rows = table(await run("top", filled, "--interval", "100ms"))
    assert [row["GROUP"] for row in rows] == ["billing", r"fresh\x1b[31m", "audit"]
    assert [row["DEAD"] for row in rows] == ["1"] * 3
    found = await objects("top", filled, "--once", "--interval", "100ms")
    assert [group["group"] for group in found] == ["billing", "fresh\x1b[31m", "audit"]
    assert found[0]["lag"] == 32


# -- exit codes ------------------------------------------------------------------------

LOOKING = [
    ["streams"],
    ["info", "orders"],
    ["groups", "orders"],
    ["consumers", "orders", "g"],
    ["pending", "orders", "g"],
    ["lag", "orders"],
    ["top", "--once"],
    ["owners", "orders", "g"],
    ["trim", "orders", "--acked"],
    ["dead", "list", "orders"],
    ["dead", "show", "orders", "1772366400250-0"],
    ["dead", "redrive", "orders", "--yes"],
    ["dead", "purge", "orders", "--yes"],
]
IDS = [" ".join(words) for words in LOOKING]


@pytest.mark.parametrize("words", LOOKING, ids=IDS)
async def test_without_a_server_the_status_is_1(words: list[str]) -> None:
    result = await run(*words, "--url", "redis://:secret@127.0.0.1:1", status=1)
    assert "can't connect to 127.0.0.1:1" in result.stderr
    assert result.stdout == ""
    assert "secret" not in result.output


@pytest.mark.parametrize("words", LOOKING, ids=IDS)
async def test_with_wrong_usage_the_status_is_2(words: list[str]) -> None:
    for wrong in (["--timeout", "5"], ["--url", "http://x"], ["--nonsense"]):
        result = await run(*words, *wrong, status=2)
        assert result.stdout == ""


@pytest.fixture
async def powerless(redis: Any, url: str, stream: str) -> Any:
    """Provide the URL of a user who may do nothing."""
    await redis.xadd(stream, {"a": "b"})
    await redis.xgroup_create(stream, "g", "0")
    await redis.execute_command(
        *("ACL", "SETUSER", "nobody", "on", ">secret", "~*", "resetchannels"),
        *("-@all", "+get", "+exists"),
    )
    yield with_login(url, "nobody", "secret")
    await redis.execute_command("ACL", "DELUSER", "nobody")


@pytest.mark.parametrize("words", LOOKING, ids=IDS)
async def test_without_permission_the_status_is_1(
    words: list[str], powerless: str, stream: str
) -> None:
    named = [stream if word == "orders" else word for word in words]
    result = await run(*named, "--url", powerless, status=1)
    assert "NOPERM" in result.stderr or "no permission" in result.stderr.lower()
    assert result.stdout == ""
    assert "secret" not in result.output


@pytest.mark.parametrize("words", LOOKING[:6], ids=IDS[:6])
async def test_ctrl_c_ends_a_command_with_130(words: list[str]) -> None:
    """While it waits for a server that does not answer."""

    def interrupt() -> tuple[int, bytes, bytes]:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            with subprocess.Popen(
                [
                    *(sys.executable, "-m", "penstock.cli", *words),
                    *("--url", f"redis://127.0.0.1:{port}"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                silent.settimeout(30)
                connection, _ = silent.accept()
                with connection:
                    connection.recv(100)
                    process.send_signal(signal.SIGINT)
                    out, errors = process.communicate(timeout=30)
        return process.returncode, out, errors

    status, out, errors = await asyncio.to_thread(interrupt)
    assert (status, out, errors) == (130, b"", b"")


# -- texts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0, "0s"),
        (-3, "0s"),
        (0.42, "0.4s"),
        (9.96, "10s"),
        (12.13, "12.1s"),
        (59.6, "59.6s"),
        (59.97, "1m"),
        (192, "3m 12s"),
        (3600, "1h"),
        (3661, "1h 1m"),
        (3 * 86_400 + 7300, "3d 2h"),
        (15 * 86_400, "2w 1d"),
    ],
)
def test_a_duration_has_two_units(seconds: float | None, shown: str) -> None:
    assert _format.duration(seconds) == shown


def test_numbers_rates_and_sizes_are_shown_for_people() -> None:
    assert _format.count(1_234_567) == "1,234,567"
    assert _format.count(5000, exact=False) == "≤ 5,000"
    assert _format.count(None) == "?"
    assert [_format.rate(rate) for rate in (None, 0, 1.25, 1204.4)] == [
        *("-", "0", "1.2", "1,204"),
    ]
    assert [_format.size(size) for size in (None, 900, 1536, 432_013_312, 2**41)] == [
        *("-", "900B", "1.5K", "412M", "2.0T"),
    ]
    assert _format.text("a" * 100, 10) == "aaaaaaa..."
    assert _format.text("\udcff\x1b") == r"\udcff\x1b"
    assert _format.text("") == "-"
