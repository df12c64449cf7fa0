"""Streams with groups in many states, to look at by the command line."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from typer.testing import CliRunner, Result

from penstock._core.messages import shard_record
from penstock.cli.app import app
from support.dead_letters import write_dead_letter


async def fill(redis: Any, stream: str, hostile: str = "\x1b[31m") -> None:
    """Write a stream with an abandoned, an unread and an idle group, and dead letters.

    Args:
        redis: A client.
        stream: The stream.
        hostile: The end of the names of a group and of a consumer.
    """
    first = int(1000 * (time.time() - 420))
    for number in range(40):
        await redis.xadd(stream, {"msg": "x"}, id=f"{first + number}-0")
    for group in ("billing", f"fresh{hostile}", "audit"):
        await redis.xgroup_create(stream, group, "0")
    await redis.xreadgroup("billing", "host:7:ab", {stream: ">"}, count=5)
    await redis.xreadgroup("billing", f"red{hostile}", {stream: ">"}, count=3)
    await redis.xreadgroup("audit", "c", {stream: ">"}, count=40, noack=True)
    await redis.xgroup_delconsumer(stream, "audit", "c")
    await write_dead_letter(redis, stream)


async def divide(redis: Any, stream: str, shards: int) -> None:
    """Write a stream of several shards, with a group."""
    record = shard_record.dump(shards, "KeyHash", time.time())
    await redis.set(shard_record.key(stream), record)
    for number in range(shards):
        await redis.xadd(f"{stream}:{number}", {"msg": "x"})
        await redis.xgroup_create(f"{stream}:{number}", "g", "0")


async def run(*words: object, status: int = 0, **variables: str) -> Result:
    """Run `penstock` in a thread, since it runs its own event loop."""
    result = await asyncio.to_thread(
        CliRunner().invoke, app, [*map(str, words)], env=variables
    )
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.stderr
    for text in (result.stdout, result.stderr):
        assert all(char.isprintable() or char in "\n\t" for char in text), text
    return result


async def objects(*words: object, status: int = 0) -> list[dict[str, Any]]:
    """Run it with --json, and return the objects."""
    result = await run(*words, "--json", status=status)
    assert result.stdout.isascii()
    return [json.loads(line) for line in result.stdout.splitlines()]


def table(result: Result) -> list[dict[str, str]]:
    """Return the rows of a table in a pipe, by heading."""
    head, *lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert all(len(line) == len(head) for line in lines)
    return [dict(zip(head, line, strict=True)) for line in lines]
