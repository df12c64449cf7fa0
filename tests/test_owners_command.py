"""`penstock owners` as an operator sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock.cli.app import app
from support.members import Members

HALVES = {0: "a", 1: "a", 2: "b\x1b[31m", 3: "b\x1b[31m"}
B = "b\x1b[31m"


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


async def owners(*arguments: object, status: int = 0, answer: str = "") -> Result:
    """Run `penstock owners` in a thread, since it runs its own event loop."""
    words = ["owners", *map(str, arguments)]
    result = await asyncio.to_thread(CliRunner().invoke, app, words, input=answer)
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    return result


def table(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


@pytest.fixture
async def members(redis: Any, stream: str) -> Members:
    """Members a and b that own two shards each; b's name acts on a terminal."""
    members = Members(redis, stream, 4)
    await members.open(HALVES)
    await members.read(3, 2)
    await members.free(2)
    await members.take(1, "a", serial=2, lease=0)
    return members


@pytest.mark.usefixtures("members")
async def test_the_shards_and_the_members_are_listed(stream: str) -> None:
    result = await owners(stream, "--group", "g")
    head, *shards, space, members_head, a, b = table(result)
    assert head == ["SHARD", "EPOCH", "OWNER", "SHOULD", "BE", "LEASE", "PENDING"]
    lease = shards[0].pop(4)
    assert 5 < float(lease) <= 10
    shards[3].pop(4)
    escaped = r"b\x1b[31m"
    assert shards == [
        ["0", "1", "a", "a", "0"],
        ["1", "2", "a", "a", "lapsed", "0"],
        ["2", "1", "-", escaped, "-", "0"],
        ["3", "1", escaped, escaped, "2"],
    ]
    assert space == []
    assert members_head == ["MEMBER", "BEAT", "WEIGHT", "OWNS", "SHOULD", "OWN"]
    assert 0 <= float(a.pop(1)) < 60
    assert 0 <= float(b.pop(1)) < 60
    assert (a, b) == (["a", "1", "2", "2"], [escaped, "1", "1", "2"])
    assert result.stderr == ""


@pytest.mark.usefixtures("members")
async def test_they_are_printed_as_json(stream: str) -> None:
    result = await owners(stream, "--group", "g", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert 5 < lines[0].pop("lease_left_seconds") <= 10
    assert lines[0] == {
        "shard": 0,
        "key": f"{stream}:0",
        "epoch": 1,
        "owner": "a",
        "target": "a",
        "lapsed": False,
        "pending": 0,
    }
    assert lines[1]["lapsed"] is True
    free = lines[2]
    assert (free["owner"], free["lease_left_seconds"], free["lapsed"]) == (
        *(None, None, False),
    )
    assert 0 <= lines[5].pop("beat_age_seconds") < 5
    assert lines[5] == {"member": B, "weight": 1, "owned": 1, "assigned": 2}
    assert len(lines) == 6


async def test_a_group_whose_members_share_the_shards_is_told(
    stream: str, redis: Any
) -> None:
    await redis.xgroup_create(stream, "g", "0", mkstream=True)
    result = await owners(stream, "--group", "g")
    assert table(result)[1:] == [["0", "-", "-", "-", "-", "0"]]
    assert "group 'g' has no members, so nobody owns its shards" in result.stderr


async def test_a_missing_stream_or_group_is_an_error(stream: str, redis: Any) -> None:
    result = await owners(stream, "--group", "g", status=1)
    assert f"stream '{stream}' does not exist" in result.stderr
    await redis.xadd(stream, {"msg": b"x"})
    result = await owners(stream, "--group", "g", status=1)
    assert "has no group 'g'" in result.stderr
    gone = ("--url", "redis://127.0.0.1:1")
    result = await owners(stream, "--group", "g", *gone, status=1)
    assert "can't connect" in result.stderr


# -- moving ----------------------------------------------------------------------------


async def test_a_shard_is_moved_and_what_changes_is_printed(
    stream: str, members: Members
) -> None:
    move = (stream, "--group", "g", "--move", 0)
    result = await owners(*move, "--to", B)
    assert result.stdout.splitlines() == [
        r"shard 0 goes to b\x1b[31m",
        "shard 2 goes to a",
    ]
    assert await members.target() == {0: B, 1: "a", 2: "a", 3: B}
    assert await members.token(0) == b"1:a:run-a.1"
    result = await owners(*move, "--to", B)
    assert result.stdout == "shard 0 was to be owned by b\\x1b[31m already\n"
    result = await owners(*move, "--json")
    assert json.loads(result.stdout) == {
        "shard": 0,
        "to": B,
        "changes": [],
        "freed": None,
    }


async def test_a_shard_is_taken_away_only_with_force_and_yes(
    stream: str, members: Members
) -> None:
    move = (stream, "--group", "g", "--move", 3, "--to", "a", "--force")
    token = await members.token(3)
    result = await owners(*move, status=2)
    assert r"b\x1b[31m owns shard 3, with 2 pending entries" in result.stderr
    assert "pass --yes" in result.stderr
    assert result.stdout == ""
    assert await members.target() == HALVES
    assert await members.token(3) == token
    result = await owners(*move, "--yes", "--json")
    assert json.loads(result.stdout)["freed"] == B
    assert await members.token(3) == b""
    assert (await members.target())[3] == "a"


async def test_the_owner_that_loses_the_shard_is_named(
    stream: str, members: Members
) -> None:
    move = (stream, "--group", "g", "--move", 0, "--force", "--yes")
    result = await owners(*move)
    assert result.stdout.splitlines()[-1] == "shard 0 was taken away from a"
    assert await members.token(0) == b""


async def test_a_force_that_takes_nothing_away_needs_no_yes(
    stream: str, members: Members
) -> None:
    free = (stream, "--group", "g", "--move", 2, "--to", "a", "--force")
    assert (await owners(*free)).stderr == ""
    own = (stream, "--group", "g", "--move", 1, "--to", "a", "--force")
    assert (await owners(*own)).stderr == ""
    assert await members.token(1) == b"2:a:run-a.2"


async def test_on_a_terminal_you_are_asked(
    stream: str, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.cli._admin_call.on_terminal", lambda: True)
    move = (stream, "--group", "g", "--move", 3, "--force")
    token = await members.token(3)
    for answer in ("n\n", "\n"):
        result = await owners(*move, answer=answer, status=1)
        assert "[y/N]" in result.stderr
        assert await members.token(3) == token
        assert await members.target() == HALVES
    await owners(*move, answer="y\n")
    assert await members.token(3) == b""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "a"], "name it by --move"),
        (["--force"], "name it by --move"),
        (["--yes"], "name it by --move"),
        (["--move", "4"], "4 is not a shard"),
        (["--move", "4", "--force"], "4 is not a shard"),
        (["--move", "0", "--to", "c"], "'c' is not a member"),
        (["--move", "first"], "--move"),
    ],
)
async def test_wrong_usage_moves_nothing(
    stream: str, members: Members, options: list[str], words: str
) -> None:
    result = await owners(stream, "--group", "g", *options, status=2)
    assert words in result.stderr
    assert result.stdout == ""
    assert await members.target() == HALVES


async def test_a_group_has_to_be_named_once(stream: str) -> None:
    result = await owners(stream, status=2)
    assert "name one group" in result.stderr
    result = await owners(stream, "g", "--group", "g", status=2)
    assert "name one group" in result.stderr


@pytest.mark.usefixtures("members")
async def test_the_group_may_be_an_argument(stream: str) -> None:
    rows = table(await owners(stream, "g"))
    assert rows[0][0] == "SHARD"
    assert len(rows) == len(table(await owners(stream, "--group", "g")))
