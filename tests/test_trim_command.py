"""`penstock trim` as an operator sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock import ConfigurationError
from penstock.cli._values import duration
from penstock.cli.app import app


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
    assert row.endswith("s")
    assert "\x1b" not in result.output
    assert await redis.xlen(stream) == 6


@pytest.mark.usefixtures("entries")
async def test_the_result_is_printed_as_json(stream: str) -> None:
    result = await trim(stream, "--acked", "--json", "--dry-run")
    printed = json.loads(result.stdout)
    assert printed["held_by"].pop("idle") < 60
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
    result = await trim(stream, *choice)
    assert result.stderr == ""
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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5h", 5400), ("15m", 900), ("2w", 1_209_600), ("7d", 604_800)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert duration(text, "--max-age") == seconds


@pytest.mark.parametrize("text", ["", "d", "-1s", "1 d", "1y", "1d2h", "٣d", "1e5"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--max-age"):
        duration(text, "--max-age")
