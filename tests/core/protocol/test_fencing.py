"""Fencing: what an owner's outcomes have beside those of a shared shard."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock._core.protocol import dead_letter_scripts, fencing, transaction_script
from penstock._core.protocol.commands import Command
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.transactions import Effects

OWNER = Fence(b"{s}.owner:g", b"1:a:r.1")


def dead_letter(owner: Fence | None) -> Command:
    return dead_letter_scripts.send_dead_letter(
        b"s", "g", "c", b"1-1", dead=b"d", fields=[b"msg", b"x"], owner=owner
    )


def applied(owner: Fence | None, *, whole: bool) -> Command:
    effects = Effects(b"s")
    effects.command("INCR", ["n"])
    return transaction_script.apply(
        b"s",
        "g",
        b"1-1",
        effects,
        dead=b"d",
        behind=(),
        reason=1,
        trim=(),
        drop=False,
        whole=whole,
        owner=owner,
    )


def whole(owner: Fence | None) -> Command:
    return applied(owner, whole=True)


def by_hash(owner: Fence | None) -> Command:
    return applied(owner, whole=False)


@pytest.mark.parametrize("build", [dead_letter, whole, by_hash])
def test_an_owner_adds_one_key_and_one_argument_at_the_end_of_each(
    build: Callable[[Fence | None], Command],
) -> None:
    name, script, count, *rest = build(None)
    keys, arguments = rest[: int(count)], rest[int(count) :]
    owned_name, owned, *words = build(OWNER)
    assert owned_name == name
    assert owned != script
    assert words == [int(count) + 1, *keys, OWNER.key, *arguments, OWNER.token]


def test_a_fenced_script_compares_before_everything_else() -> None:
    for script in (
        dead_letter_scripts.SEND_OWNED_DEAD_LETTER,
        transaction_script.OWNED_SCRIPT,
    ):
        head, _, rest = script.partition(b"return {'fenced', is or ''} end\nend\n")
        assert head.count(b"redis.") == head.count(b"'HGET'") == 1
        assert b"XACK" in rest
    assert fencing.fenced(transaction_script.SCRIPT) == transaction_script.OWNED_SCRIPT


def test_only_the_owner_takes_what_is_pending_under_any_name() -> None:
    ours, owned = (build[1] for build in (dead_letter(None), dead_letter(OWNER)))
    assert isinstance(ours, bytes)
    assert isinstance(owned, bytes)
    assert b"group, id, id, 1, consumer)" in ours
    assert b"group, id, id, 1)" in owned
