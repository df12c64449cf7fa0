"""Replies of the scripts of owned shards: values, and what is malformed."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.protocol import ownership_replies as replies
from penstock._core.protocol import ownership_scripts as scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.ownership_check import check
from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock._core.protocol.reply_parsing import parse

BEAT = scripts.beat(b"m", "a", lease=10, known=0, join=True, weight=1)
ASSIGN = scripts.assign(b"m", seen=1, least=0, target=b"x")
TAKE = scripts.take(
    b"s", b"o", "g", "a", version=1, run="r", serial=1, least=0, lease=10
)
KEEP = scripts.keep(b"o", b"t", lease=10)
FREE = scripts.free(b"o", b"t")
GUARD = scripts.guard(b"s", b"o", "g", b"t", consumer="a#1")
CHECK = check(b"s", b"o", "g")


def read(command: Command, reply: Any) -> Any:
    return parse([command], [reply])[0]


@pytest.mark.parametrize(
    ("command", "reply", "value"),
    [
        (BEAT, [0], None),
        (BEAT, [1, 3, b"x", [b"a", 2]], replies.Beaten(3, b"x", {"a": 2})),
        (BEAT, [1, 0, None, [b"a", 0]], replies.Beaten(0, None, {"a": 1})),
        (ASSIGN, [1, 4], replies.Assigned(stored=True, version=4)),
        (scripts.leave(b"m", "a"), 1, 1),
        (TAKE, [b"yours", 4, 1, b""], replies.Taken(4, more=True)),
        (TAKE, [b"held", 400], replies.Refused("held", 400)),
        (TAKE, [b"old", 4], replies.Refused("old", 4)),
        (TAKE, [b"stale", 0], replies.Refused("stale", 0)),
        (KEEP, [1, b"t"], None),
        (FREE, [0, b"u"], replies.Fenced(b"u")),
        (GUARD, [0, b"u"], replies.Fenced(b"u")),
        (
            GUARD,
            [1, b"t", [b"1-0"], 1, [3, b"x"]],
            replies.Guarded([b"1-0"], more=True, replies=[3, b"x"]),
        ),
    ],
)
def test_a_reply_is_a_value(command: Command, reply: Any, value: object) -> None:
    assert read(command, reply) == value


def test_a_check_tells_the_commands_that_are_not_allowed() -> None:
    denied = b"ACL failure in script: User u has no permissions to run the 'hget' ..."
    errors = [b"HGET", denied, b"XCLAIM", b"ERR Unrecognized XCLAIM option '!'"]
    found = read(CHECK, [*errors, b"XPENDING", b"NOGROUP No such key"])
    assert [(name, error.code) for name, error in found.items()] == [("HGET", "NOPERM")]


def test_a_shard_is_taken_even_if_former_consumers_are_not_removed() -> None:
    taken = read(TAKE, [b"yours", 4, 0, b"ERR refused"])
    assert (taken.number, taken.more, taken.kept.text) == (4, False, "ERR refused")


def test_a_refused_command_of_a_guard_is_an_error() -> None:
    found = read(GUARD, [1, b"t", [], 0, [b"!NOGROUP no \xff"]])
    [error] = found.replies
    assert isinstance(error, ErrorReply)
    assert error.code == "NOGROUP"


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (BEAT, [1]),
        (BEAT, [1, 3, None, [b"a"]]),
        (BEAT, [1, 3, None, [3, 1]]),
        (BEAT, [1, 3, None, [b"\xff", 1]]),
        (BEAT, [1, 3, None, [b"a", b"x"]]),
        (ASSIGN, 1),
        (TAKE, [b"yours", 4, 1]),
        (CHECK, [b"HGET"]),
        (CHECK, [b"HGET", 1]),
        (CHECK, b"HGET"),
        (TAKE, [b"others", 4]),
        (TAKE, 3),
        (KEEP, [1]),
        (FREE, b"x"),
        (GUARD, [0]),
        (GUARD, [1, b"t", [], 0]),
        (GUARD, 3),
    ],
)
def test_a_malformed_reply_is_not_taken(command: Command, reply: Any) -> None:
    with pytest.raises(ProtocolError):
        read(command, reply)


def test_a_guard_has_its_commands_with_their_lengths() -> None:
    command = scripts.guard(
        b"s",
        b"o",
        "g",
        b"t",
        consumer="a#1",
        claim=0,
        commands=[(b"XACK", b"1-0", b"2-0"), (b"XACK", b"3-0")],
    )
    words = (3, b"XACK", b"1-0", b"2-0", 2, b"XACK", b"3-0")
    assert command[2:] == (2, b"s", b"o", b"t", "g", "a#1", 0, *words)


def test_the_token_of_a_guarded_command_is_found() -> None:
    assert scripts.guard_token(GUARD) == b"t"
