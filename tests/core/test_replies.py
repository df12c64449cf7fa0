"""Parsers are fed with what hiredis makes of bytes as servers send them.

The bytes are Valkey's and Redis', with a space for each end of line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core import replies
from penstock._core.replies import (
    Claimed,
    ConsumerInfo,
    ErrorReply,
    GroupInfo,
    Pending,
    StreamInfo,
    Trouble,
)
from penstock.message import EntryId

error_reply = cast("Callable[[str], Exception]", ErrorReply)

NOTHING = [b"*-1\r\n", b"_\r\n"]


def raw(data: bytes) -> Any:
    """Give what hiredis makes of one reply, as the link has it."""
    reader = hiredis.Reader(protocolError=ValueError, replyError=error_reply)
    reader.feed(data)
    reply = reader.gets(False)  # noqa: FBT003 - hiredis' way
    assert not reader.has_data()
    return reply


def words(text: str) -> bytes:
    return text.encode().replace(b" ", b"\r\n") + b"\r\n"


def both(resp2: str, resp3: str) -> pytest.MarkDecorator:
    """Parametrise a test over the two protocols."""
    return pytest.mark.parametrize(
        "reply", [raw(words(resp2)), raw(words(resp3))], ids=["RESP2", "RESP3"]
    )


# -- reads -------------------------------------------------------------------------

ENTRIES = "*2 *2 $3 1-1 *2 $3 msg $1 a *2 $3 2-1 *6 $3 msg $1 b $3 key $1 k $1 h $1 v"
FIELDS = [b"msg", b"b", b"key", b"k", b"h", b"v"]
ENTRY = "*1 *2 $3 7-7 *2 $3 msg $0 "


@both(
    f"*2 *2 $1 s {ENTRIES} *2 $1 t {ENTRY}",
    f"%2 $1 s {ENTRIES} $1 t {ENTRY}",
)
def test_a_read_is_pairs_of_key_and_entries(reply: Any) -> None:
    assert [(key, entries) for key, entries in replies.streams(reply)] == [
        (b"s", [[b"1-1", [b"msg", b"a"]], [b"2-1", FIELDS]]),
        (b"t", [[b"7-7", [b"msg", b""]]]),
    ]


@pytest.mark.parametrize("data", NOTHING, ids=["RESP2", "RESP3"])
def test_a_read_that_found_nothing_is_no_streams(data: bytes) -> None:
    assert list(replies.streams(raw(data))) == []


@both("*1 *2 $1 s *0", "%1 $1 s *0")
def test_nothing_pending_is_a_stream_without_entries(reply: Any) -> None:
    [(key, entries)] = replies.streams(reply)
    assert key == b"s"
    assert entries == []


@both(
    "*1 *2 $1 s *2 *2 $3 1-1 *-1 *2 $3 2-1 *2 $3 msg $1 b",
    "%1 $1 s *2 *2 $3 1-1 _ *2 $3 2-1 *2 $3 msg $1 b",
)
def test_a_pending_entry_that_was_deleted_has_none_for_fields(reply: Any) -> None:
    [(_, entries)] = replies.streams(reply)
    assert entries == [[b"1-1", None], [b"2-1", [b"msg", b"b"]]]


def test_fields_come_as_bytes_whatever_is_in_them() -> None:
    body = bytes(range(256))
    data = b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$3\r\nmsg\r\n"
    [(_, entries)] = replies.streams(raw(data + b"$256\r\n" + body + b"\r\n"))
    assert entries == [[b"1-1", [b"msg", body]]]


# -- pending -----------------------------------------------------------------------


def test_a_page_of_pending_entries_is_the_same_in_both_protocols() -> None:
    page = raw(words("*2 *4 $3 1-1 $1 c :202 :1 *4 $3 2-1 $1 d :101 :2"))
    assert replies.pending_page(page) == [
        Pending(b"1-1", b"c", idle=202, deliveries=1),
        Pending(b"2-1", b"d", idle=101, deliveries=2),
    ]
    assert replies.pending_page(raw(b"*0\r\n")) == []


def test_the_summary_tells_the_lowest_and_the_highest_pending_id() -> None:
    summary = raw(words("*4 :2 $3 1-1 $3 2-1 *1 *2 $1 c $1 2"))
    assert replies.lowest_pending(summary) == b"1-1"
    assert replies.highest_pending(summary) == EntryId(2, 1)


@both("*4 :0 $-1 $-1 *-1", "*4 :0 _ _ _")
def test_without_pending_entries_there_is_no_lowest(reply: Any) -> None:
    assert replies.lowest_pending(reply) is None
    assert replies.highest_pending(reply) == EntryId.MIN


def test_where_the_summary_is_refused_any_id_may_be_pending() -> None:
    assert replies.highest_pending(ErrorReply("NOPERM no")) == EntryId.MAX


# -- claims ------------------------------------------------------------------------


def test_a_claim_tells_where_to_go_on_what_came_and_what_is_deleted() -> None:
    reply = raw(words("*3 $3 5-0 *2 $3 1-1 $3 4-1 *2 $3 2-1 $3 3-1"))
    assert replies.claimed(reply) == Claimed(
        b"5-0", [b"1-1", b"4-1"], deleted=[b"2-1", b"3-1"]
    )
    assert replies.claimed(raw(words("*3 $3 0-0 *0 *0"))) == Claimed(b"0-0", [], [])


def test_redis_6_names_no_deleted_entries() -> None:
    reply = raw(words("*2 $3 0-0 *1 $3 1-1"))
    assert replies.claimed(reply) == Claimed(b"0-0", [b"1-1"], deleted=())


def test_bodies_are_put_to_their_ids_and_a_deleted_entry_has_none() -> None:
    found = raw(words("*2 *1 *2 $3 1-1 *2 $3 msg $1 a *0"))
    assert replies.bodies([b"1-1", b"2-1"], found) == [
        [b"1-1", [b"msg", b"a"]],
        [b"2-1", None],
    ]
    assert replies.bodies([], iter([])) == []


def test_an_id_without_a_reply_is_no_deleted_entry() -> None:
    with pytest.raises(ValueError, match="zip"):
        replies.bodies([b"1-1", b"2-1"], [[]])


# -- maps --------------------------------------------------------------------------


@both(
    "*4 $6 length :1 $17 last-generated-id $3 7-7",
    "%2 $6 length :1 $17 last-generated-id $3 7-7",
)
def test_a_map_is_a_dict(reply: Any) -> None:
    facts = replies.mapping(reply)
    assert facts == {b"length": 1, b"last-generated-id": b"7-7"}


@both("*0", "%0")
def test_an_empty_map_is_an_empty_dict(reply: Any) -> None:
    assert replies.mapping(reply) == {}


def test_a_flat_list_with_a_loose_end_is_no_map() -> None:
    with pytest.raises(ValueError, match="zip"):
        replies.mapping([b"name"])


NEW = "$7 pending :2 $17 last-delivered-id $3 2-1 $12 entries-read :2 $3 lag"


@both(
    f"*2 *12 $4 name $1 g $9 consumers :1 {NEW} :1 *12 $4 name $1 h $9 consumers :0 "
    f"{NEW} $-1",
    f"*2 %6 $4 name $1 g $9 consumers :1 {NEW} :1 %6 $4 name $1 h $9 consumers :0 "
    f"{NEW} _",
)
def test_groups_are_read_and_a_lag_that_the_server_can_not_tell_is_none(
    reply: Any,
) -> None:
    assert list(replies.groups(reply)) == [
        GroupInfo(b"g", consumers=1, pending=2, last_delivered=b"2-1", lag=1),
        GroupInfo(b"h", consumers=0, pending=2, last_delivered=b"2-1", lag=None),
    ]


def test_a_server_that_knows_no_lag_is_understood() -> None:
    old = (
        "*1 *8 $4 name $1 g $9 consumers :1 $7 pending :0 $17 last-delivered-id $3 0-0"
    )
    [group] = replies.groups(raw(words(old)))
    assert group == GroupInfo(b"g", 1, 0, b"0-0", None)


@both(
    "*1 *8 $4 name $1 c $7 pending :2 $4 idle :9104628 $8 inactive :18104698",
    "*1 %4 $4 name $1 c $7 pending :2 $4 idle :9104628 $8 inactive :18104698",
)
def test_consumers_are_read(reply: Any) -> None:
    assert list(replies.consumers(reply)) == [ConsumerInfo(b"c", 2, 9104628)]
    assert list(replies.consumers([])) == []


@both("*0", "*0")
def test_a_stream_without_groups_has_none(reply: Any) -> None:
    assert list(replies.groups(reply)) == []


# -- streams, and how far behind somebody is ---------------------------------------

TELL = "$6 length :2 $17 last-generated-id $3 9-1 $20 max-deleted-entry-id $3 5-1"
FIRST = "$11 first-entry *2 $3 2-1 *2 $3 msg $1 a"


@both(f"*8 {TELL} {FIRST}", f"%4 {TELL} {FIRST}")
def test_a_stream_is_read(reply: Any) -> None:
    assert replies.stream(reply) == StreamInfo(
        2, last=EntryId(9, 1), first=EntryId(2, 1), deleted=EntryId(5, 1)
    )


@both(f"*8 {TELL} $11 first-entry $-1", f"%4 {TELL} $11 first-entry _")
def test_an_empty_stream_has_no_first_entry(reply: Any) -> None:
    assert replies.stream(reply).first is None


def test_redis_6_does_not_tell_what_was_deleted() -> None:
    old = f"*6 $6 length :2 $17 last-generated-id $3 9-1 {FIRST}"
    assert replies.stream(raw(words(old))).deleted is None


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
    # There is nothing above.
    (FULL, 5, 0, 0),
    (FULL, 5, None, 0),
    (FULL, 6, 3, 0),
    (info(3, 4, last=5, deleted=5), 5, None, 0),
    (info(3, 4, deleted=None), 4, None, 0),
    # There is nothing at all.
    (info(), 0, None, 0),
    (info(last=9), 5, 4, 0),
    (info(last=9, deleted=9), 5, None, 0),
    # All that there is lies above.
    (FULL, 0, None, 3),
    (FULL, 2, None, 3),
    (FULL, 2, 17, 3),
    (info(3, 5, deleted=4), 2, None, 2),
    (info(3, 5, deleted=None), 2, None, 2),
    # In the middle, the server is believed.
    (FULL, 3, 2, 2),
    (FULL, 4, 1, 1),
    (FULL, 3, 0, 0),
    (FULL, 3, 3, 3),
    # But not if an entry above was deleted from the middle.
    (info(3, 5, deleted=4), 3, 1, None),
    (info(3, 5, 6, deleted=4), 3, 3, None),
    # One below makes no difference.
    (info(1, 3, 5, deleted=2), 3, 1, 1),
    (info(1, 3, 5, deleted=3), 3, 1, 1),
    # Nor if it does not tell what was deleted, or how many there are.
    (info(3, 4, 5, deleted=None), 3, 2, None),
    (FULL, 3, None, None),
    # Nor if it can't be.
    (FULL, 3, 4, None),
    (FULL, 3, -1, None),
]


@pytest.mark.parametrize(("stream", "delivered", "told", "behind"), BEHIND)
def test_how_many_entries_lie_above_an_id(
    stream: StreamInfo, delivered: int, told: int | None, behind: int | None
) -> None:
    assert stream.behind(EntryId(delivered), told) == behind


ids = st.integers(1, 12)


@given(st.sets(ids), st.sets(ids), ids | st.just(0), ids | st.just(0), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_server_that_tells_the_truth_is_never_contradicted(
    sent: set[int],
    deleted: set[int],
    trimmed: int,
    delivered: int,
    tells: bool,  # noqa: FBT001
) -> None:
    left = {id_ for id_ in sent - deleted if id_ > trimmed}
    # The highest deleted one that was not at the beginning.
    holes = max((sent & deleted) | {0})
    stream = info(*left, last=max(sent, default=0), deleted=holes)
    above = len([id_ for id_ in left if id_ > delivered])
    behind = stream.behind(EntryId(delivered), above if tells else None)
    assert behind in {above, None}
    if tells and holes <= delivered:
        assert behind == above


def group(name: str, last: str, lag: int | None) -> list[Any]:
    facts: list[Any] = [b"name", name.encode(), b"consumers", 0, b"pending", 0]
    return [*facts, b"last-delivered-id", last.encode(), b"lag", lag]


STREAM = {
    b"length": 3,
    b"last-generated-id": b"5-0",
    b"max-deleted-entry-id": b"0-0",
    b"first-entry": [b"3-0", [b"msg", b""]],
}


@pytest.mark.parametrize(
    ("facts", "lag"),
    [
        ([STREAM, [group("f", "3-0", 2), group("g", "4-0", 1)]], 1),
        ([STREAM, [group("g", "0-0", None)]], 3),
        ([STREAM, [group("g", "4-0", None)]], None),
        # The group is gone, the stream is, or nobody may ask.
        ([STREAM, [group("gg", "4-0", 1)]], None),
        ([STREAM, []], None),
        ([ErrorReply("ERR no such key"), ErrorReply("ERR no such key")], None),
        (ErrorReply("EXECABORT Transaction discarded"), None),
    ],
)
def test_a_groups_lag_is_how_far_behind_the_end_it_is(
    facts: Any, lag: int | None
) -> None:
    assert replies.lag(facts, "g") == lag


# -- error replies -----------------------------------------------------------------

ERRORS = [
    # Wait and try again.
    ("LOADING Redis is loading the dataset in memory", Trouble.TRANSIENT),
    ("BUSY Redis is busy running a script", Trouble.TRANSIENT),
    ("OOM command not allowed when used memory > 'maxmemory'.", Trouble.TRANSIENT),
    ("READONLY You can't write against a read only replica.", Trouble.TRANSIENT),
    ("MASTERDOWN Link with MASTER is down", Trouble.TRANSIENT),
    ("CLUSTERDOWN The cluster is down", Trouble.TRANSIENT),
    ("TRYAGAIN Multiple keys request during rehashing of slot", Trouble.TRANSIENT),
    ("MISCONF Redis is configured to save RDB snapshots", Trouble.TRANSIENT),
    ("NOREPLICAS Not enough good replicas to write.", Trouble.TRANSIENT),
    ("ERR max number of clients reached", Trouble.TRANSIENT),
    (
        "UNBLOCKED force unblock from blocking operation, instance state changed",
        Trouble.TRANSIENT,
    ),
    ("SOMETHING that nobody has seen yet", Trouble.TRANSIENT),
    ("", Trouble.TRANSIENT),
    # Another node has it.
    ("MOVED 3999 127.0.0.1:6381", Trouble.REROUTE),
    ("ASK 3999 127.0.0.1:6381", Trouble.REROUTE),
    # The stream or the group is gone.
    (
        "NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option",
        Trouble.REPAIR,
    ),
    ("UNBLOCKED the stream key no longer exists", Trouble.REPAIR),
    (
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE",
        Trouble.REPAIR,
    ),
    ("ERR no such key", Trouble.REPAIR),
    # This key can't be used.
    (
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        Trouble.ISOLATE,
    ),
    # The configuration forbids it.
    ("NOAUTH Authentication required.", Trouble.FATAL),
    ("NOPERM this user has no permissions to run the 'xack' command", Trouble.FATAL),
    ("WRONGPASS invalid username-password pair or user is disabled.", Trouble.FATAL),
    ("CROSSSLOT Keys in request don't hash to the same slot", Trouble.FATAL),
    ("ERR unknown command 'XREADGROUP'", Trouble.FATAL),
    ("ERR unknown subcommand 'CREATE'. Try XGROUP HELP.", Trouble.FATAL),
    ("ERR Unknown subcommand or wrong number of arguments", Trouble.FATAL),
    ("ERR syntax error", Trouble.FATAL),
    ("ERR wrong number of arguments for 'xack' command", Trouble.FATAL),
]


@pytest.mark.parametrize(("text", "trouble"), ERRORS)
def test_an_error_reply_is_classed_by_its_first_word_or_else_by_its_text(
    text: str, trouble: Trouble
) -> None:
    error = raw(b"-" + text.encode() + b"\r\n")
    assert isinstance(error, ErrorReply)
    assert error.text == text
    assert error.code == text.partition(" ")[0]
    assert error.trouble is trouble


def test_every_class_of_trouble_is_in_the_table() -> None:
    assert {trouble for _, trouble in ERRORS} == set(Trouble)


def test_the_first_word_decides_before_a_users_name_in_the_text_can() -> None:
    error = ErrorReply("NOPERM no permissions to access the 'no such key' key")
    assert error.trouble is Trouble.FATAL


def test_the_first_word_is_a_word_and_no_beginning() -> None:
    assert ErrorReply("ASKING is not it").trouble is Trouble.TRANSIENT
    assert ErrorReply("the MOVED is not first").trouble is Trouble.TRANSIENT


def test_an_error_reply_is_a_value_also_inside_another_reply() -> None:
    reply = raw(words("*2 :1 -NOGROUP"))
    assert reply[0] == 1
    assert isinstance(reply[1], ErrorReply)
    assert reply[1].trouble is Trouble.REPAIR


@pytest.mark.parametrize(
    "text",
    [
        "ERR unknown command 'AUTH', with args beginning with: 'bob' 'hunter2' ",
        "ERR unknown command `AUTH`, with args beginning with: `bob`, `hunter2`, ",
    ],
)
def test_what_an_unknown_command_was_called_with_is_not_repeated(text: str) -> None:
    error = raw(b"-" + text.encode() + b"\r\n")
    assert error.text == text.partition(",")[0]
    assert "hunter2" not in repr(error)
    assert error.trouble is Trouble.FATAL


def test_an_error_replys_text_is_escaped_and_cut() -> None:
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
def test_info_tells_whether_streams_may_be_evicted(
    reply: object, policy: bytes | None
) -> None:
    assert replies.may_evict(reply) == policy


def test_the_servers_time_is_read_as_milliseconds() -> None:
    assert replies.time([b"1700000000", b"123999"]) == 1_700_000_000_123


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([b"OK", b"QUEUED", [b"a", 1]], [b"a", 1]),
        ([b"OK", ErrorReply("NOPERM xack"), ErrorReply("EXECABORT it")], "NOPERM xack"),
        ([b"OK", b"QUEUED", ErrorReply("EXECABORT it")], "EXECABORT it"),
    ],
)
def test_a_transaction_is_refused_for_one_of_its_commands(
    answers: list[Any], told: Any
) -> None:
    found = replies.together(answers)
    if isinstance(told, str):
        [refused] = found
        assert refused.text == told
    else:
        assert found == told


@pytest.mark.parametrize(
    "text",
    [
        "ERR The user executing the script can't run this command or subcommand",
        "@user_script: 3: The user executing the script can't run this command",
        "ERR Error running script: @user_script: 1: The user executing the script ",
        "ERR ACL failure in script: User u has no permissions to run 'xadd'",
    ],
)
def test_what_a_user_may_not_do_in_a_script_is_a_permission_too(text: str) -> None:
    error = ErrorReply(text)
    assert (error.code, error.trouble) == ("NOPERM", Trouble.FATAL)
    failure = replies.send_failed("s", error)
    assert failure.code == "NOPERM"
    assert "EVAL, HMGET" in str(failure)
