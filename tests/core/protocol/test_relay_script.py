"""The command that moves a batch, and its reply; test_relay_scripts.py runs it."""

from __future__ import annotations

import pytest

from penstock._core.protocol import relay_script
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.relay_script import (
    Relayed,
    length,
    push_alone,
    relay,
    to_list,
    to_stream,
)
from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock._core.protocol.reply_parsing import parse

LIST = to_list(b"q", most=9)
STREAM = to_stream(b"t", (b"MAXLEN", b"~", b"5"))
ITEMS = [(b"1-1", (b"a",)), (b"2-1", (b"b",))]
OURS = Fence(b"{s}.owner:g", b"1:c:r.1")


def test_a_batch_for_a_list_names_stream_and_list_and_each_value_behind_its_id() -> (
    None
):
    command = relay(b"s", "g", "c", LIST, ITEMS, whole=True)
    assert command == (
        *(b"EVAL", relay_script.SCRIPT, 2, b"s", b"q"),
        *("g", "c", 9, b"RPUSH", 0),
        *(b"1-1", 1, b"a", b"2-1", 1, b"b"),
    )


def test_a_batch_of_an_owned_shard_is_compared_with_the_token() -> None:
    command = relay(b"s", "g", "", STREAM, ITEMS, whole=False, owner=OURS)
    assert command == (
        *(b"EVALSHA", relay_script.OWNED_SCRIPT_SHA, 3, b"s", b"t", OURS.key),
        *("g", "", b"", b"XADD", 4, *STREAM.words),
        *(b"1-1", 1, b"a", b"2-1", 1, b"b", OURS.token),
    )


def test_alone_a_list_takes_one_command_and_a_stream_one_for_each_message() -> None:
    left = to_list(b"q", left=True)
    assert push_alone(left, [(b"a",)]) == [(b"LPUSH", b"q", b"a")]
    assert length(left) == (b"LLEN", b"q")
    assert push_alone(LIST, [(b"a",), (b"b",)]) == [(b"RPUSH", b"q", b"a", b"b")]
    assert push_alone(STREAM, [(b"msg", b"a"), (b"msg", b"b")]) == [
        (b"XADD", b"t", *STREAM.words, b"msg", b"a"),
        (b"XADD", b"t", *STREAM.words, b"msg", b"b"),
    ]


def read(reply: object, owner: Fence | None = None) -> object:
    command = relay(b"s", "g", "c", LIST, ITEMS, whole=True, owner=owner)
    return parse([command], [reply])[0]


def test_a_reply_says_what_was_missing_and_how_far_it_went() -> None:
    assert read([b"full"]) == Relayed(full=True)
    assert read([b"relayed", b"2-1", b""]) == Relayed(last=b"2-1")
    assert read([b"relayed", b"", b"", b"1-1"]) == Relayed(missing=(b"1-1",))
    found = read([b"relayed", b"1-1", b"OOM no memory"])
    assert isinstance(found, Relayed)
    assert found.last == b"1-1"
    assert found.failure is not None
    assert found.failure.code == "OOM"


def test_a_refusal_is_read_as_an_error() -> None:
    found = read([b"refused", b"WRONGTYPE \xff"])
    assert isinstance(found, Relayed)
    assert isinstance(found.failure, ErrorReply)
    assert found.failure.code == "WRONGTYPE"


def test_the_reply_of_an_owned_shard_may_be_that_it_has_another_owner() -> None:
    assert read([b"fenced", b"2:d:s.1"], OURS) == Fenced(b"2:d:s.1")
    assert read([b"full"], OURS) == Relayed(full=True)


@pytest.mark.parametrize(
    "reply",
    [None, 1, [], [b"full", 1], [b"refused"], [b"relayed", b"", b"", 7], [b"other"]],
)
def test_what_the_script_does_not_return_is_malformed(reply: object) -> None:
    with pytest.raises(ProtocolError):
        read(reply)
