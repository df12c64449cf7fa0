"""What a transaction's commands have changed, and what is still to be checked."""

from __future__ import annotations

import pytest

from penstock._core.protocol.transactions import Effects


def checks(*calls: str) -> list[tuple[str, str]]:
    """Return the type and the check of each command."""
    effects = Effects(b"own")
    for call in calls:
        name, *words = call.split(" ")
        keys = words[:1] if name == "NEW" else None
        effects.command(name, words, keys)
    return [(effect.kind, effect.check) for effect in effects.all]


@pytest.mark.parametrize(
    ("call", "check"),
    [
        ("HINCRBY h f 1", "hash-int"),
        ("HINCRBY h f 100000000000001", "?"),
        ("HINCRBYFLOAT h f 1.5", "hash-float"),
        ("HINCRBYFLOAT h f 1e301", "?"),
        ("INCR n", "int"),
        ("DECRBY n -9223372036854775808", "?"),
        ("INCRBYFLOAT n 1", "float"),
        ("LSET l 0 x", "index"),
        ("PFADD p x", "hll"),
        ("APPEND k abc", "grow 3"),
        ("LMOVE a b LEFT LEFT", "both"),
        ("SMOVE a b m", "both"),
        ("SETRANGE k 1048575 x", ""),
        ("SETRANGE k 1048576 x", "?"),
        ("SETBIT k 8388607 1", ""),
        ("SETBIT k 8388608 1", "?"),
        ("XADD s * f v", ""),
        ("XADD s 05-01 f v", "id 5 1"),
        ("XADD s 5 f v", "id 5 0"),
        ("XADD s 5-* f v", "id 5 *"),
        ("ZADD z INCR inf m", "?"),
        ("ZADD z INCR 1 m", ""),
        ("ZADD z INCR 1 m 2 n", "?"),
        ("ZADD z NX GT 1 m", "?"),
        ("ZADD z NX inf m", ""),
        ("ZINCRBY z -inf m", "?"),
        ("ZINCRBY z 1 m", ""),
        ("ZRANGE z 0 -1", ""),
        ("ZRANGE z a b", "?"),
        ("SET k v NX GET", "?"),
        ("SET k v NX", ""),
        ("EXPIRE k 5", ""),
        ("EXPIRE k 5 NX", "seven"),
        ("EXPIRE k 5 NX XX", "?"),
        ("NEW k x", "unknown"),
    ],
)
def test_what_is_to_be_checked_depends_on_the_command(call: str, check: str) -> None:
    assert checks(call)[0][1] == check


@pytest.mark.parametrize(
    ("earlier", "call", "wanted"),
    [
        # What the start says still holds.
        (["GET k"], "INCR k", ("string", "int")),
        (["INCR k"], "INCR k", ("", "int")),
        (["HSET k f v"], "HINCRBY k g 1", ("", "hash-int")),
        (["HINCRBY k f 1"], "HINCRBY k f 1", ("", "hash-int")),
        (["LSET k 0 x"], "LSET k 1 x", ("", "index")),
        (["EXPIRE k 5"], "INCR k", ("string", "int")),
        (["LPUSH k a"], "LPUSH k b", ("", "")),
        (["INCR other"], "INCR k", ("string", "int")),
        (["LPUSH k a"], "TYPE k", ("", "")),
        # What an earlier command has left is certain.
        (["DEL k"], "INCR k", ("", "")),
        (["DEL k", "INCR k"], "INCR k", ("", "")),
        (["DEL k", "INCR k"], "INCRBYFLOAT k 1", ("", "?")),
        (["GETDEL k"], "HSET k f v", ("", "")),
        (["DEL k", "HSET k f v"], "HINCRBY k g 1", ("", "")),
        (["SET k v"], "GET k", ("", "")),
        (["SET k v EX 5"], "APPEND k x", ("", "?")),
        (["XADD k 5-1 f v"], "XADD k * f v", ("", "")),
        # Only the server can tell.
        (["SET k v"], "INCR k", ("", "?")),
        (["SET k v NX"], "INCR k", ("", "?")),
        (["SET k v"], "HSET k f v", ("", "?")),
        (["SETNX k 5"], "INCR k", ("", "?")),
        (["NEW k"], "INCR k", ("", "?")),
        (["HSET k f v"], "HINCRBY k f 1", ("", "?")),
        (["HDEL k f"], "HINCRBY k f 1", ("", "?")),
        (["HINCRBY k f 1"], "HINCRBYFLOAT k f 1", ("", "?")),
        (["HSET k f v", "HINCRBY k f 1"], "HINCRBY k f 1", ("", "?")),
        (["APPEND k a"], "APPEND k a", ("", "?")),
        (["DEL k"], "LSET k 0 x", ("", "?")),
        (["LPUSH k a"], "LSET k 0 x", ("", "?")),
        (["EXPIRE k -1"], "LSET k 0 x", ("list", "?")),
        (["XADD k * f v"], "XADD k 5-1 f v", ("", "?")),
        (["LPUSH k a"], "LMOVE k other LEFT LEFT", ("", "?")),
        (["HDEL k f"], "LPUSH k a", ("", "?")),
        (["SETNX k 5", "LPUSH k a"], "LSET k 0 x", ("", "?")),
        (["SETNX k 5", "LPUSH k a"], "LPUSH k b", ("", "")),
    ],
)
def test_a_check_after_earlier_commands_is_of_what_they_have_left(
    earlier: list[str], call: str, wanted: tuple[str, str]
) -> None:
    assert checks(*earlier, call)[-1] == wanted
