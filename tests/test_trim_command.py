"""`penstock trim` as an operator sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock import MaxLen
from penstock.admin import Admin
from penstock.cli.app import app
from support.waiting import record_shards


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


async def trim(*arguments: object, status: int = 0) -> Result:
    """Run `penstock trim` in a thread, since it runs its own event loop."""
    words = ["trim", *map(str, arguments)]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


@pytest.fixture
async def entries(stream: str, redis: Any) -> None:
    """Add ten entries, of which one group has acknowledged all and another one four."""
    for number in range(1, 11):
        await redis.xadd(stream, {"msg": b"SECRET"}, id=f"{number}-0")
    await redis.xgroup_create(stream, "live", "10-0")
    await redis.xgroup_create(stream, "dead\x1b[31m", "0")
    await redis.xreadgroup("dead\x1b[31m", "c", {stream: ">"}, count=6)
    acked = [f"{number}-0" for number in range(1, 5)]
    await redis.xack(stream, "dead\x1b[31m", *acked)


@pytest.mark.usefixtures("entries")
async def test_the_group_that_prevents_further_trimming_is_named(
    stream: str, redis: Any
) -> None:
    result = await trim(stream, "--acked", "--dry-run")
    assert result.stdout.splitlines()[0].split()[:2] == ["SHARD", "REMOVABLE"]
    assert await redis.xlen(stream) == 10
    result = await trim(stream, "--acked")
    head, row = result.stdout.splitlines()
    assert " ".join(head.split()) == "SHARD REMOVED HELD BY PENDING LAG IDLE"
    assert row.split()[:4] == [stream, "4", r"dead\x1b[31m", "2"]
    assert row.split()[4] in {"4", "?"}
    assert 0 <= float(row.split()[5]) < 60
    assert "\x1b" not in result.output
    assert await redis.xlen(stream) == 6


@pytest.mark.usefixtures("entries")
async def test_the_result_is_printed_as_json(stream: str) -> None:
    result = await trim(stream, "--acked", "--json", "--dry-run")
    printed = json.loads(result.stdout)
    assert printed["held_by"].pop("idle_seconds") < 60
    assert printed["held_by"].pop("lag") in {4, None}
    assert printed == {
        "shard": stream,
        "removed": 4,
        "dry_run": True,
        "floor": "5-0",
        "held_by": {
            "group": "dead\x1b[31m",
            "needs": "5-0",
            "last_delivered": "6-0",
            "pending": 2,
        },
        "ignored": [],
        "losses": [],
    }


@pytest.mark.usefixtures("entries")
async def test_groups_without_readers_can_be_ignored(stream: str, redis: Any) -> None:
    await redis.xgroup_delconsumer(stream, "dead\x1b[31m", "c")
    result = await trim(stream, "--acked", "--ignore-idle", "1000w")
    assert (
        r"these groups are idle and were excluded: dead\x1b[31m, live" in result.stderr
    )
    assert "there are no groups, or all were excluded" in result.stderr
    assert await redis.xlen(stream) == 10


async def test_the_output_says_if_the_stream_has_no_group(
    stream: str, redis: Any
) -> None:
    await redis.xadd(stream, {"msg": b"a"})
    result = await trim(stream, "--acked")
    assert "there are no groups, or all were excluded" in result.stderr
    assert result.stdout.splitlines()[1].split() == [stream, "0", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (["--max-len", "3", "--exact"], 3),
        (["--max-age", "7d", "--exact"], 0),
        (["--before", "9-0"], 2),
        (["--before", "1970-01-01T00:00:00.008+00:00"], 3),
        (["--max-len", "3", "--dry-run"], 10),
    ],
)
@pytest.mark.usefixtures("entries")
async def test_a_stream_can_be_trimmed_by_length_age_id_or_time(
    stream: str, redis: Any, choice: list[str], left: int
) -> None:
    result = await trim(stream, *choice, "--yes")
    # It is printed also if nobody is asked.
    assert "would lose" in result.stderr
    assert ("--dry-run" in result.stderr) is ("--dry-run" in choice)
    assert await redis.xlen(stream) == left


@pytest.mark.parametrize(
    "choice",
    [
        [],
        ["--acked", "--max-len", "3"],
        ["--acked", "--exact"],
        ["--max-len", "0"],
        ["--max-len", "3", "--ignore-idle", "1d"],
        ["--max-age", "7 days"],
        ["--max-age", "7", "--yes"],
        ["--before", "yesterday"],
        ["--before", "2026-03-01T00:00:00"],
        ["--acked", "--ignore-idle", "-1d"],
    ],
)
@pytest.mark.usefixtures("entries")
async def test_wrong_usage_of_trim_deletes_nothing(
    stream: str, redis: Any, choice: list[str]
) -> None:
    result = await trim(stream, *choice, status=2)
    assert result.stderr
    assert await redis.xlen(stream) == 10


async def test_trimming_a_missing_stream_is_an_error(stream: str) -> None:
    result = await trim(stream, "--acked", status=1)
    assert f"stream '{stream}' does not exist" in result.stderr
    result = await trim(stream, "--acked", "--url", "redis://127.0.0.1:1", status=1)
    assert "can't connect" in result.stderr


# -- what groups would lose -----------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "unread", "pending"),
    [
        (["--max-len", "3"], 1, 2),
        (["--max-len", "8"], 0, 0),
        (["--max-len", "1", "--exact"], 3, 2),
        (["--max-age", "7d"], 4, 2),
        (["--before", "6-0"], 0, 1),
        (["--before", "5-0"], 0, 0),
        (["--before", "8-0"], 1, 2),
        (["--before", "30d"], 4, 2),
    ],
)
@pytest.mark.usefixtures("entries")
async def test_nothing_is_deleted_that_a_group_has_not_acknowledged_without_yes(
    stream: str, redis: Any, choice: list[str], unread: int, pending: int
) -> None:
    lost = " and ".join(
        f"{count} {what}"
        for count, what in ((unread, "unread"), (pending, "pending"))
        if count
    )
    loses = bool(lost)
    result = await trim(stream, *choice, status=2 if loses else 0)
    sentence = rf"{stream}: group dead\x1b[31m would lose {lost} entr"
    assert (sentence in result.stderr) is loses
    assert "group live" not in result.stderr
    assert ("--yes" in result.stderr) is loses
    if loses:
        assert result.stdout == ""
        assert await redis.xlen(stream) == 10
        await trim(stream, *choice, "--yes")
        exact = "--before" in choice or "--exact" in choice
        assert (await redis.xlen(stream) < 10) or not exact


@pytest.mark.usefixtures("entries")
async def test_a_dry_run_says_what_groups_would_lose(stream: str, redis: Any) -> None:
    result = await trim(stream, "--before", "8-0", "--dry-run")
    assert "would lose 1 unread and 2 pending entries" in result.stderr
    result = await trim(stream, "--before", "8-0", "--dry-run", "--json")
    assert json.loads(result.stdout)["losses"] == [
        {"group": "dead\x1b[31m", "unread": 1, "pending": 2}
    ]
    assert await redis.xlen(stream) == 10


@pytest.mark.usefixtures("entries")
async def test_acked_loses_only_what_ignored_groups_have_not_acknowledged(
    stream: str, redis: Any
) -> None:
    await redis.xreadgroup("live", "c", {stream: ">"}, block=1)  # it is not idle
    await asyncio.sleep(1.1)
    await redis.xreadgroup("live", "c", {stream: ">"}, block=1)
    ignoring = [stream, "--acked", "--ignore-idle", "1s"]
    result = await trim(*ignoring, status=2)
    assert "would lose 4 unread and 2 pending entries" in result.stderr
    assert await redis.xlen(stream) == 10
    await trim(stream, "--acked")
    assert await redis.xlen(stream) == 6


async def test_what_is_gone_already_is_no_loss(stream: str, redis: Any) -> None:
    """Entries that were trimmed while they were pending stay in the pending list."""
    for number in range(1, 5):
        await redis.xadd(stream, {"msg": b"x"}, id=f"{number}-0")
    await redis.xgroup_create(stream, "g", "0")
    await redis.xreadgroup("g", "c", {stream: ">"}, count=2)
    await redis.xtrim(stream, minid="3-0", approximate=False)
    await redis.xgroup_setid(stream, "g", "4-0")
    result = await trim(stream, "--before", "4-0")
    assert result.stderr == ""


@pytest.mark.parametrize("kept", [1, 40, 2460, 2499])
async def test_losses_of_a_long_stream_are_counted_from_its_nearer_end(
    stream: str, redis: Any, kept: int
) -> None:
    pipe = redis.pipeline(transaction=False)
    for number in range(1, 2501):
        pipe.xadd(stream, {"msg": b"x"}, id=f"{number}-0")
    await pipe.execute()
    await redis.xgroup_create(stream, "half", "1250-0")
    await redis.xgroup_create(stream, "none", "0")
    async with Admin() as admin:
        losses = await admin.trim_losses(stream, MaxLen(kept, exact=True))
    deleted = 2500 - kept
    expected = {"half": max(0, deleted - 1250), "none": deleted}
    assert {loss.group: loss.unread for loss in losses} == {
        group: count for group, count in expected.items() if count
    }


async def test_losses_are_counted_for_each_shard(stream: str, redis: Any) -> None:
    await record_shards(redis, stream, 2)
    for number in range(2):
        for id_ in ("1-0", "2-0", "3-0"):
            await redis.xadd(f"{stream}:{number}", {"msg": b"x"}, id=id_)
        await redis.xgroup_create(f"{stream}:{number}", "g", f"{number}-0")
    async with Admin() as admin:
        losses = await admin.trim_losses(stream, "3-0")
    assert [(loss.shard.number, loss.unread) for loss in losses] == [(0, 2), (1, 1)]


@pytest.mark.usefixtures("entries")
async def test_on_a_terminal_you_are_asked(
    stream: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.cli._admin_call.on_terminal", lambda: True)
    for answer, left, status in (("n\n", 10, 1), ("\n", 10, 1), ("y\n", 3, 0)):
        result = await asyncio.to_thread(
            CliRunner().invoke, app, ["trim", stream, "--before", "8-0"], input=answer
        )
        assert "[y/N]" in result.stderr
        assert result.exit_code == status
        assert await redis.xlen(stream) == left
