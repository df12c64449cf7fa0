"""Dead letters and transactions under an owner's token, on every server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock._core.protocol import dead_letter_scripts, ownership_scripts
from penstock._core.protocol import transaction_script as transactions
from penstock._core.protocol.commands import Command
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.replies import ErrorReply
from penstock._core.protocol.transactions import Applied, Effects
from simulation.server import VERSIONS
from support.ownership_rig import KEY, OWNER, Rig, open_rig

DEAD = b"orders.dead"
COUNTING: tuple[tuple[Any, ...], ...] = (("SET", "total", 1), ("INCR", "total"))


@pytest.fixture(params=list(VERSIONS))
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """Provide a shard of which `a` has two pending entries, under its first token."""
    async with open_rig(VERSIONS[request.param], tmp_path) as opened:
        await opened.add(2)
        await opened.take("a")
        await opened.read("a#1", 2)
        yield opened


async def ours(rig: Rig) -> Fence:
    return Fence(OWNER, await rig.token())


def dead_letter(owner: Fence | None, consumer: str = "a#1.1") -> Command:
    fields = (b"msg", b"x", b"dead.reason", b"why")
    return dead_letter_scripts.send_dead_letter(
        KEY, "g", consumer, b"1-0", dead=DEAD, fields=fields, owner=owner
    )


def transaction(
    owner: Fence | None, *calls: tuple[Any, ...], whole: bool = True
) -> Command:
    effects = Effects(KEY)
    for name, *args in calls or COUNTING:
        effects.command(name, args)
    return transactions.apply(
        KEY,
        "g",
        b"1-0",
        effects,
        dead=DEAD,
        behind=(b"dead.reason", b""),
        reason=2,
        trim=(),
        drop=False,
        whole=whole,
        owner=owner,
    )


async def contents(rig: Rig) -> list[Any]:
    """Return what an outcome could have changed."""
    return [
        await rig.pending(),
        await rig.redis.xrange(DEAD),
        await rig.redis.get("total"),
        await rig.redis.hgetall(OWNER),
    ]


# -- under the token -------------------------------------------------------------------


async def test_a_dead_letter_is_written_under_the_token(rig: Rig) -> None:
    command = dead_letter(await ours(rig))
    reply = await rig.call(command)
    [(copy, fields)] = await rig.redis.xrange(DEAD)
    assert reply == (1, copy)
    assert fields == {b"msg": b"x", b"dead.reason": b"why"}
    assert [id_ for id_, _, _ in await rig.pending()] == [b"2-0"]
    assert await rig.call(command) == 0
    assert await rig.redis.xlen(DEAD) == 1


async def test_a_dead_letter_of_an_entry_under_a_former_name_is_written(
    rig: Rig,
) -> None:
    """All that is pending in an owned shard is the owner's. In a shared one it isn't.

    The entries were read as `a#1`, and a read that was lost has renamed the owner.
    """
    assert await rig.call(dead_letter(None)) == 0
    acked, _ = await rig.call(dead_letter(await ours(rig)))
    assert acked == 1


async def test_a_transaction_is_applied_under_the_token(rig: Rig) -> None:
    owner = await ours(rig)
    assert await rig.call(transaction(owner)) == Applied(
        pending=True, results=[b"OK", 2]
    )
    assert await rig.redis.get("total") == b"2"
    assert [id_ for id_, _, _ in await rig.pending()] == [b"2-0"]
    assert await rig.call(transaction(owner)) == Applied(pending=False)
    assert await rig.redis.get("total") == b"2"


async def test_a_transaction_is_called_by_its_hash_once_the_server_has_it(
    rig: Rig,
) -> None:
    owner = await ours(rig)
    assert (await rig.call(transaction(None))).pending  # it is another script
    unknown = await rig.call(transaction(owner, whole=False))
    assert isinstance(unknown, ErrorReply)
    assert "No matching script" in unknown.text
    await rig.call(transaction(owner))
    found = await rig.call(transaction(owner, whole=False))
    assert found == Applied(pending=False)


async def test_a_transaction_that_fails_under_the_token_is_undone(rig: Rig) -> None:
    """The keys keep their numbers in the script, whose undoing goes by them."""
    await rig.redis.set("total", 7)
    await rig.redis.set("limit", 2**63 - 1)
    before = await contents(rig)
    calls = [("INCRBY", "total", 5), ("XADD", "sent", "*", "a", "1"), ("INCR", "limit")]
    found = await rig.call(transaction(await ours(rig), *calls))
    assert found.failure is not None
    assert found.done == 0
    assert await contents(rig) == before
    assert await rig.redis.xlen("sent") == 0


async def test_a_transaction_that_breaks_under_the_token_goes_to_the_dead_letters(
    rig: Rig,
) -> None:
    """Its dead letter is made of arguments that the token is not one of."""
    await rig.redis.set("limit", 2**63 - 1)
    await rig.redis.rpush("large", b"x" * 2_000_000)
    calls = [("RPUSH", "large", "y"), ("INCR", "limit")]
    found = await rig.call(transaction(await ours(rig), *calls))
    assert found.failure is not None
    assert found.failure.settled
    [(_, fields)] = await rig.redis.xrange(DEAD)
    assert list(fields) == [b"a", b"dead.reason"]
    assert fields[b"dead.reason"].startswith(b"its transaction broke: INCR")


# -- under another ---------------------------------------------------------------------


@pytest.mark.parametrize("build", [dead_letter, transaction])
async def test_nothing_is_written_under_another_token(rig: Rig, build: Any) -> None:
    stale = await ours(rig)
    await rig.take("b", force=True)
    await rig.redis.set("total", 7)
    before = await contents(rig)
    assert before[0] == [(b"1-0", b"b#2", 1), (b"2-0", b"b#2", 1)]
    assert await rig.call(build(stale)) == Fenced(b"2:b:run-b.1")
    assert await contents(rig) == before


@pytest.mark.parametrize("build", [dead_letter, transaction])
async def test_nothing_is_written_when_the_shard_is_free(rig: Rig, build: Any) -> None:
    owner = await ours(rig)
    await rig.call(ownership_scripts.free(OWNER, owner.token))
    before = await contents(rig)
    assert await rig.call(build(owner)) == Fenced(b"")
    assert await rig.call(build(owner._replace(token=b""))) == Fenced(b"")
    await rig.redis.delete(OWNER)
    assert await rig.call(build(owner)) == Fenced(b"")
    assert await contents(rig) == [*before[:3], {}]


@pytest.mark.parametrize("build", [dead_letter, transaction])
async def test_a_token_is_compared_before_anything_else_can_fail(
    rig: Rig, build: Any
) -> None:
    """So a former owner is not told to try again, for example by `NOGROUP`."""
    await rig.redis.xgroup_destroy(KEY, "g")
    assert isinstance(await rig.call(build(Fence(OWNER, b"1:a:x.1"))), Fenced)
    assert await rig.redis.exists(DEAD, "total") == 0
