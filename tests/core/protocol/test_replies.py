"""Replies: values, lag, and the kinds of error replies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.protocol import replies
from penstock._core.protocol.replies import (
    ErrorKind,
    ErrorReply,
    GroupInfo,
    PendingSummary,
    StreamInfo,
)
from penstock.message import EntryId
from support.replies import raw, words


def test_the_error_inside_a_script_keeps_the_name_of_the_command() -> None:
    outer = ErrorReply("ERR Error running script: @user_script: 1: -NOPERM no")
    outer.command = "EVAL"
    inner = replies.of_script(outer)
    assert (inner.code, inner.command) == ("NOPERM", "EVAL")
    other = ErrorReply("ERR no")
    assert replies.of_script(other) is other


# -- claims ----------------------------------------------------------------------


def test_the_highest_pending_id_is_min_without_entries_and_max_if_it_was_refused() -> (
    None
):
    summary = PendingSummary(2, b"1-1", b"2-1", [(b"c", b"2")])
    assert replies.highest_pending(summary) == EntryId(2, 1)
    assert replies.highest_pending(PendingSummary(0, None, None, None)) == EntryId.MIN
    assert replies.highest_pending(ErrorReply("NOPERM no")) == EntryId.MAX


def test_bodies_are_matched_to_their_ids_and_a_deleted_entry_has_none() -> None:
    found = [[(b"1-1", (b"msg", b"a"))], []]
    assert replies.bodies([b"1-1", b"2-1"], found) == [
        (b"1-1", (b"msg", b"a")),
        (b"2-1", None),
    ]
    assert replies.bodies([], iter([])) == []


def test_an_id_without_a_reply_is_not_a_deleted_entry() -> None:
    with pytest.raises(ValueError, match="zip"):
        replies.bodies([b"1-1", b"2-1"], [[]])


# -- lag --------------------------------------------------------------------------


def info(
    *ids: int, last: int | None = None, deleted: int | None = 0, length: int = -1
) -> StreamInfo:
    """Describe a stream of whole milliseconds."""
    return StreamInfo(
        len(ids) if length < 0 else length,
        EntryId(max(ids, default=0) if last is None else last),
        EntryId(min(ids)) if ids else None,
        None if deleted is None else EntryId(deleted),
    )


FULL = info(3, 4, 5)
BEHIND = [
    # No entry is above.
    (FULL, 5, 0, 0),
    (FULL, 5, None, 0),
    (FULL, 6, 3, 0),
    (info(3, 4, last=5, deleted=5), 5, None, 0),
    (info(3, 4, deleted=None), 4, None, 0),
    # The stream is empty.
    (info(), 0, None, 0),
    (info(last=9), 5, 4, 0),
    (info(last=9, deleted=9), 5, None, 0),
    # All entries are above.
    (FULL, 0, None, 3),
    (FULL, 2, None, 3),
    (FULL, 2, 17, 3),
    (info(3, 5, deleted=4), 2, None, 2),
    (info(3, 5, deleted=None), 2, None, 2),
    # All entries but the first one are above.
    (FULL, 3, None, 2),
    (FULL, 3, 17, 2),
    (info(3, 5, deleted=None), 3, None, 1),
    # In the middle, the count of the server is trusted.
    (FULL, 4, 1, 1),
    (FULL, 4, 0, 0),
    (FULL, 4, 3, 3),
    # It is not trusted if an entry above was deleted from the middle.
    (info(2, 3, 5, deleted=4), 3, 1, None),
    (info(2, 3, 5, 6, deleted=4), 3, 3, None),
    # A deleted entry below makes no difference.
    (info(1, 3, 5, deleted=2), 3, 1, 1),
    (info(1, 3, 5, deleted=3), 3, 1, 1),
    # It is not trusted if the server reports no deleted id, or no count.
    (info(3, 4, 5, deleted=None), 4, 1, None),
    (FULL, 4, None, None),
    # It is not trusted if it is impossible.
    (FULL, 4, 4, None),
    (FULL, 4, -1, None),
]


@pytest.mark.parametrize(("stream", "delivered", "count", "unread"), BEHIND)
def test_the_lag_is_the_number_of_entries_above_an_id(
    stream: StreamInfo, delivered: int, count: int | None, unread: int | None
) -> None:
    assert stream.count_above(EntryId(delivered), count, trusted=True) == unread


def test_a_server_that_miscounts_is_trusted_only_if_no_entry_was_ever_removed() -> None:
    at, trimmed = EntryId(4), FULL._replace(added=9)
    assert FULL.count_above(at, 1) is None
    assert trimmed.count_above(at, 1) is None
    assert trimmed.count_above(at, 1, trusted=True) == 1
    assert trimmed.count_above(EntryId(3), 7) == 2
    assert FULL._replace(added=3).count_above(at, 1) == 1


def test_servers_that_count_the_lag_correctly_are_recognized_by_their_commands() -> (
    None
):
    assert replies.counts_lag([False, True])
    assert replies.counts_lag([True, False])
    assert not replies.counts_lag([False, False])
    assert not replies.counts_lag(ErrorReply("NOPERM not you"))


ids = st.integers(1, 12)


@given(st.sets(ids), st.sets(ids), ids | st.just(0), ids | st.just(0), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_server_that_counts_correctly_is_never_contradicted(
    sent: set[int],
    deleted: set[int],
    trimmed: int,
    delivered: int,
    counts: bool,  # noqa: FBT001
) -> None:
    left = {id_ for id_ in sent - deleted if id_ > trimmed}
    # The highest id that was deleted, but not from the beginning.
    holes = max((sent & deleted) | {0})
    stream = info(*left, last=max(sent, default=0), deleted=holes)
    above = len([id_ for id_ in left if id_ > delivered])
    unread = stream.count_above(
        EntryId(delivered), above if counts else None, trusted=True
    )
    assert unread in {above, None}
    if counts and holes <= delivered:
        assert unread == above


def group(name: str, last: str, lag: int | None) -> GroupInfo:
    return GroupInfo(name.encode(), 0, 0, last.encode(), lag)


STREAM = StreamInfo(3, EntryId(5), EntryId(3), EntryId.MIN)


@pytest.mark.parametrize(
    ("facts", "lag"),
    [
        ([STREAM, [group("f", "3-0", 2), group("g", "4-0", 1)]], 1),
        ([STREAM, [group("g", "0-0", None)]], 3),
        ([STREAM, [group("g", "4-0", None)]], None),
        # The group or the stream does not exist, or the user lacks permission.
        ([STREAM, [group("gg", "4-0", 1)]], None),
        ([STREAM, []], None),
        ([ErrorReply("ERR no such key"), ErrorReply("ERR no such key")], None),
        (ErrorReply("EXECABORT Transaction discarded"), None),
    ],
)
def test_the_lag_of_a_group_is_how_far_it_is_behind_the_end(
    facts: Any, lag: int | None
) -> None:
    assert replies.lag(facts, "g", trusted=True) == lag


# -- error replies -----------------------------------------------------------------

ERRORS = [
    # Wait and try again.
    ("LOADING Redis is loading the dataset in memory", ErrorKind.TRANSIENT),
    ("BUSY Redis is busy running a script", ErrorKind.TRANSIENT),
    ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind.TRANSIENT),
    ("READONLY You can't write against a read only replica.", ErrorKind.TRANSIENT),
    ("MASTERDOWN Link with MASTER is down", ErrorKind.TRANSIENT),
    ("CLUSTERDOWN The cluster is down", ErrorKind.TRANSIENT),
    ("TRYAGAIN Multiple keys request during rehashing of slot", ErrorKind.TRANSIENT),
    ("MISCONF Redis is configured to save RDB snapshots", ErrorKind.TRANSIENT),
    ("NOREPLICAS Not enough good replicas to write.", ErrorKind.TRANSIENT),
    ("ERR max number of clients reached", ErrorKind.TRANSIENT),
    (
        "UNBLOCKED force unblock from blocking operation, instance state changed",
        ErrorKind.TRANSIENT,
    ),
    ("SOMETHING that nobody has seen yet", ErrorKind.TRANSIENT),
    ("", ErrorKind.TRANSIENT),
    # Another node has the key.
    ("MOVED 3999 127.0.0.1:6381", ErrorKind.REROUTE),
    ("ASK 3999 127.0.0.1:6381", ErrorKind.REROUTE),
    # The stream or the group does not exist.
    (
        "NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option",
        ErrorKind.REPAIR,
    ),
    ("UNBLOCKED the stream key no longer exists", ErrorKind.REPAIR),
    (
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE",
        ErrorKind.REPAIR,
    ),
    ("ERR no such key", ErrorKind.REPAIR),
    # This key can't be used.
    (
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        ErrorKind.ISOLATE,
    ),
    # The configuration forbids it.
    ("NOAUTH Authentication required.", ErrorKind.FATAL),
    ("NOPERM this user has no permissions to run the 'xack' command", ErrorKind.FATAL),
    ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind.FATAL),
    ("CROSSSLOT Keys in request don't hash to the same slot", ErrorKind.FATAL),
    ("ERR unknown command 'XREADGROUP'", ErrorKind.FATAL),
    ("ERR unknown subcommand 'CREATE'. Try XGROUP HELP.", ErrorKind.FATAL),
    ("ERR Unknown subcommand or wrong number of arguments", ErrorKind.FATAL),
    ("ERR syntax error", ErrorKind.FATAL),
    ("ERR wrong number of arguments for 'xack' command", ErrorKind.FATAL),
]


@pytest.mark.parametrize(("text", "kind"), ERRORS)
def test_an_error_reply_is_classified_by_its_first_word_or_else_by_its_text(
    text: str, kind: ErrorKind
) -> None:
    error = raw(b"-" + text.encode() + b"\r\n")
    assert isinstance(error, ErrorReply)
    assert error.text == text
    assert error.code == text.partition(" ")[0]
    assert error.kind is kind


def test_every_kind_of_error_is_in_the_table() -> None:
    assert {kind for _, kind in ERRORS} == set(ErrorKind)


def test_the_first_word_takes_precedence_over_the_name_of_a_user_in_the_text() -> None:
    error = ErrorReply("NOPERM no permissions to access the 'no such key' key")
    assert error.kind is ErrorKind.FATAL


def test_a_node_of_a_cluster_is_reported_as_one() -> None:
    failure = replies.send_failed("s", ErrorReply("MOVED 3999 127.0.0.1:6381"))
    assert failure.code == "MOVED"
    assert "one of several nodes of a cluster" in str(failure)


def test_the_first_word_has_to_match_as_a_whole_word() -> None:
    assert ErrorReply("ASKING is not it").kind is ErrorKind.TRANSIENT
    assert ErrorReply("the MOVED is not first").kind is ErrorKind.TRANSIENT


def test_an_error_reply_is_a_value_also_inside_another_reply() -> None:
    reply = raw(words("*2 :1 -NOGROUP"))
    assert reply[0] == 1
    assert isinstance(reply[1], ErrorReply)
    assert reply[1].kind is ErrorKind.REPAIR


@pytest.mark.parametrize(
    "text",
    [
        "ERR unknown command 'AUTH', with args beginning with: 'bob' 'hunter2' ",
        "ERR unknown command `AUTH`, with args beginning with: `bob`, `hunter2`, ",
    ],
)
def test_the_arguments_of_an_unknown_command_are_not_repeated(text: str) -> None:
    error = raw(b"-" + text.encode() + b"\r\n")
    assert error.text == text.partition(",")[0]
    assert "hunter2" not in repr(error)
    assert error.kind is ErrorKind.FATAL


def test_the_text_of_an_error_reply_is_escaped_and_cut() -> None:
    error = raw(b"-ERR \x1b[31m\xff" + b"x" * 1000 + b"\r\n")
    assert error.text.isprintable()
    assert len(error.text) == 200
    assert error.code == "ERR"
    assert repr(error) == f"ErrorReply({error.text!r})"


@pytest.mark.parametrize(
    ("reply", "policy"),
    [
        (
            b"# Memory\r\nmaxmemory:5\r\nmaxmemory_policy:allkeys-lru\r\n",
            b"allkeys-lru",
        ),
        (b"maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", None),
        (b"maxmemory:5\r\nmaxmemory_policy:volatile-ttl\r\n", None),
        (b"maxmemory:5\r\nmaxmemory_policy:noeviction\r\n", None),
        (b"something else", None),
        (replies.ErrorReply("NOPERM no"), None),
    ],
)
def test_info_shows_whether_streams_may_be_evicted(
    reply: object, policy: bytes | None
) -> None:
    assert replies.may_evict(reply) == policy


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([b"OK", b"QUEUED", [b"a", 1]], [b"a", 1]),
        ([b"OK", ErrorReply("NOPERM xack"), ErrorReply("EXECABORT it")], "NOPERM xack"),
        ([b"OK", b"QUEUED", ErrorReply("EXECABORT it")], "EXECABORT it"),
    ],
)
def test_a_transaction_is_refused_if_one_of_its_commands_is(
    answers: list[Any], expected: Any
) -> None:
    found = replies.transaction_replies(answers)
    if isinstance(expected, str):
        [refused] = found
        assert refused.text == expected
    else:
        assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "ERR The user executing the script can't run this command or subcommand",
        "@user_script: 3: The user executing the script can't run this command",
        "ERR Error running script: @user_script: 1: The user executing the script ",
        "ERR ACL failure in script: User u has no permissions to run 'xadd'",
    ],
)
def test_a_missing_permission_inside_a_script_is_a_permission_error_too(
    text: str,
) -> None:
    error = ErrorReply(text)
    assert (error.code, error.kind) == ("NOPERM", ErrorKind.FATAL)
    failure = replies.send_failed("s", error)
    assert failure.code == "NOPERM"
    assert "EVAL, HMGET" in str(failure)


def test_a_refusal_that_ends_the_connection_names_the_limits() -> None:
    reply = ErrorReply("ERR Protocol error: invalid bulk length")
    error = replies.send_failed("orders", reply)
    assert error.code == "ERR"
    assert "proto-max-bulk-len" in str(error)
