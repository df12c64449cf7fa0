"""Transactions: their effects, script and replies."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from penstock._core.protocol import transaction_script
from penstock._core.protocol.replies import ErrorReply
from penstock._core.protocol.transactions import (
    Applied,
    CommandFailure,
    Effect,
    Effects,
    read,
    refused,
)
from penstock.errors import ConfigurationError, TransactionBroken, TransactionFailed
from penstock.message import EntryId, Receipt, Shard

OUT = Shard("out", 2, b"out:2")


def effects_of(*commands: tuple[Any, ...]) -> list[Effect]:
    effects = Effects(b"own")
    for name, *args in commands:
        effects.command(name, args)
    return effects.all


# -- effects ---------------------------------------------------------------------------


def test_a_command_is_encoded_and_its_key_and_kind_are_known() -> None:
    [effect] = effects_of(("hincrby", "h", b"f", -3))
    assert effect == (
        (b"HINCRBY", b"h", b"f", b"-3"),
        (b"h",),
        "hash",
        "hash-int",
        "w",
        None,
    )
    [effect] = effects_of(("ZADD", "z", 0.1, "a\udc80"))
    assert effect.words == (b"ZADD", b"z", b"0.1", b"a\x80")
    assert effect.kind == "zset"


def test_a_message_is_an_xadd_to_its_shard() -> None:
    effects = Effects(b"own")
    effects.send(OUT, (b"msg", b"x"))
    words = (b"XADD", b"out:2", b"*", b"msg", b"x")
    assert effects.all == [Effect(words, (b"out:2",), "stream", "", "a", OUT)]
    effects.send(OUT, (b"msg", b"x"), (b"MAXLEN", b"~", b"5"))
    assert effects.all[1].words == (*words[:2], b"MAXLEN", b"~", b"5", *words[2:])
    assert effects.all[1].undo == "w"


def test_keys_are_listed_once_in_the_order_of_their_use() -> None:
    effects = Effects(b"own")
    effects.command("DEL", ["a", "b"])
    effects.command("LMOVE", ["b", "c", "LEFT", "RIGHT"])
    effects.command("INCR", ["d"])
    effects.command("JSON.SET", ["e", "$", "{}"], keys="e")
    effects.command("PUBLISH", ["channel", "x"], keys=())
    effects.command("SORT", ["f", "STORE", "g"], keys=["f", b"g"])
    assert effects.keys == [b"a", b"b", b"c", b"d", b"e", b"f", b"g"]


def test_a_command_is_known_by_how_it_is_undone() -> None:
    effects = Effects(b"own")
    effects.command("GET", ["k"])
    effects.command("SET", ["k", 1])
    effects.command("XADD", ["s", "*", "f", "v"])
    effects.command("XADD", ["s", "MAXLEN", 1, "*", "f", "v"])
    effects.command("XADD", ["s", "ACKED", "*", "f", "v"])
    effects.command("JSON.SET", ["j", "$", 1], keys="j")
    effects.command("PUBLISH", ["channel", "x"], keys=())
    assert "".join(effect.undo for effect in effects.all) == "rwawwwx"
    assert [effect.check for effect in effects.all][-3:] == ["?", "unknown", "unknown"]


def test_more_keys_of_a_known_command_can_be_named() -> None:
    effects = Effects(b"own")
    effects.command("SET", ["k", 1], keys=["k", "more"])
    assert effects.keys == [b"k", b"more"]


def test_set_needs_a_string_if_it_returns_it() -> None:
    kinds = [e.kind for e in effects_of(("SET", "a", 1), ("SET", "b", 1, "get"))]
    assert kinds == ["", "string"]


class Colour(str, enum.Enum):  # noqa: UP042 - written as most programs have it
    RED = "red"


class Size(enum.StrEnum):
    SMALL = "s"


class Level(enum.IntEnum):
    HIGH = 2


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Half(float, enum.Enum):
    HALF = 0.5


class Odd(int):
    """An integer whose representation is not its number, as some libraries have."""

    def __repr__(self) -> str:
        return "Odd()"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (EntryId(5, 1), b"5-1"),
        (Receipt("s", 0, b"5-1").id, b"5-1"),
        (Shard("orders", 1, b"orders:1").key, b"orders:1"),
        (Colour.RED, b"red"),
        (Size.SMALL, b"s"),
        (Level.HIGH, b"2"),
        (Flags.A | Flags.B, b"3"),
        (Half.HALF, b"0.5"),
        (Odd(7), b"7"),
        (-1.5, b"-1.5"),
        ("é", "é".encode()),
    ],
)
def test_ids_and_members_of_enums_are_arguments(value: Any, word: bytes) -> None:
    [effect] = effects_of(("RPUSH", "k", value))
    assert effect.words == (b"RPUSH", b"k", word)


class Bare(enum.Enum):
    ONE = 1


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("EVAL", ["return 1", 0], "can't be nested"),
        ("blpop", ["k", 0], "would block"),
        ("Hello", [3], "the connection"),
        ("XACK", ["own", "g", "1-1"], "Penstock manages the group"),
        ("SORT", ["k"], "keys="),
        ("", ["k"], "not the name of a command"),
        ("SET k", ["v"], "not the name of a command"),
        ("a.b c", ["v"], "not the name of a command"),
        ("S\u00c9T", ["v"], "not the name of a command"),
        (7, ["v"], "not the name of a command"),
        ("HSET", ["k", "f"], "can't have 2 arguments; call it as HSET key"),
        ("LMOVE", ["k"], "call it as LMOVE key key"),
        ("DEL", [], "can't have 0 arguments"),
        ("SET", ["k", True], "bool"),
        (
            "SET",
            ["k", Bare.ONE],
            "of type Bare; pass str, bytes, int, float or EntryId",
        ),
        ("SET", ["k", None], "NoneType"),
        ("SET", ["k", "\ud800"], "lone surrogate"),
        ("ZADD", ["k", float("nan"), "m"], "finite"),
        ("INCRBY", ["k", "x"], "2 of INCRBY must be a whole number"),
        ("INCRBY", ["k", 1.5], "a whole number"),
        ("HINCRBY", ["k", "f", 2**63], "a whole number"),
        ("INCRBYFLOAT", ["k", "x"], "a finite number"),
        ("DEL", ["own"], "delete its consumer group"),
        ("RENAME", ["a", "own"], "keys="),
    ],
)
def test_an_impossible_command_is_refused_at_once(
    name: Any, args: Any, words: str
) -> None:
    effects = Effects(b"own")
    with pytest.raises(ConfigurationError, match=words):
        effects.command(name, args)
    assert not effects.all


def test_the_stream_of_the_message_can_be_written_to() -> None:
    [effect] = effects_of(("XDEL", "own", "1-1"))
    assert effect.keys == (b"own",)
    [effect] = effects_of(("INCRBYFLOAT", "k", 1.5))
    assert effect.words[2] == b"1.5"


def test_a_transaction_is_bounded() -> None:
    effects = Effects(b"own")
    with pytest.raises(ConfigurationError, match="7001 words"):
        effects.command("SADD", ["k", *range(6999)])
    effects.command("SET", ["k", b"x" * (2**24 - 200)])
    with pytest.raises(ConfigurationError, match="transaction too large"):
        effects.send(OUT, (b"msg", b"x" * 200))
    effects = Effects(b"own")
    with pytest.raises(ConfigurationError, match="transaction too large"):
        for _ in range(100):  # words without bytes
            effects.command("SADD", ["k", *[b""] * 6000])
    assert sum(len(effect.words) for effect in effects.all) < 2**20
    effects = Effects(b"own")
    for _ in range(1000):
        effects.command("INCR", ["k"])
    with pytest.raises(ConfigurationError, match="transaction too large"):
        effects.command("INCR", ["k"])


# -- script ----------------------------------------------------------------------------


def words(**options: Any) -> list[Any]:
    effects = Effects(b"own")
    effects.command("INCR", ["n"])
    effects.command("SET", ["n", 1])
    facts: dict[str, Any] = {
        "dead": b"dead",
        "behind": [b"a", b"b"],
        "reason": 2,
        "trim": (b"MAXLEN", b"~", 5),
        "drop": False,
        "whole": False,
    }
    return list(
        transaction_script.apply(b"own", "g", b"1-1", effects, **{**facts, **options})
    )


def test_the_script_is_given_keys_facts_and_commands() -> None:
    name, sha, *rest = words()
    assert (name, len(sha)) == (b"EVALSHA", 40)
    assert rest == [
        *(3, b"own", b"dead", b"n"),
        *("g", b"1-1", b"dead-letter", 2, 2, 3, b"MAXLEN", b"~", 5, b"a", b"b"),
        *(2, "string", "int", "w3", b"INCR", b"n"),
        *(3, "", "", "w3", b"SET", b"n", b"1"),
    ]
    assert words(whole=True)[0] == b"EVAL"
    assert words(whole=True)[2:] == rest


def test_without_dead_letters_the_message_is_dropped_or_left() -> None:
    for drop, dead_letter_policy in ((True, b"drop"), (False, b"leave")):
        sent = words(dead=None, drop=drop)
        assert sent[2:6] == [3, b"own", b"own", b"n"]
        assert dead_letter_policy in sent


# -- replies ---------------------------------------------------------------------------


def test_the_reply_shows_what_was_done() -> None:
    assert read([b"already"]) == Applied(pending=False)
    assert read([b"applied", 1, None]) == Applied(pending=True, results=[1, None])
    assert read([b"applied", 1, None]).done == 2
    refusal = ErrorReply("NOPERM no")
    assert refused(refusal) == Applied(pending=True, failure=CommandFailure(0, refusal))


@pytest.mark.parametrize(
    ("reply", "done", "settled"),
    [
        ([b"refused", 2, b"WRONGTYPE no", 0], 0, False),
        ([b"broken", 1, b"WRONGTYPE no", 0], 0, False),
        ([b"broken", 3, b"WRONGTYPE no", 0], 2, False),
        ([b"broken", 3, b"WRONGTYPE no", 1], 2, True),
    ],
)
def test_a_refusal_shows_how_many_commands_were_applied_before(
    reply: list[Any], done: int, settled: object
) -> None:
    applied = read(reply)
    assert applied.pending
    assert applied.done == done
    assert applied.failure is not None
    assert applied.failure.settled is settled
    assert applied.failure.reply.code == "WRONGTYPE"


def test_the_errors_say_what_to_do() -> None:
    failed = TransactionFailed("s", "1-1", "OOM", "OOM full", "give it more")
    assert str(failed).endswith("nothing of it was applied: OOM full; give it more")
    broken = TransactionBroken(
        "s", "1-1", applied=2, total=3, code="ERR", reason="ERR no"
    )
    assert "broke after 2 of 3 commands: ERR no; check what" in str(broken)
