"""Reply parsing: replies as hiredis parses them from the bytes of a server.

The bytes are those of Valkey and Redis, with a space for each end of line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.protocol import (
    commands,
    dead_letter_scripts,
    ownership_replies,
    probe_commands,
    relay_script,
    reply_parsing,
    scripts,
    sending_scripts,
    transaction_script,
)
from penstock._core.protocol import ownership_scripts as owned
from penstock._core.protocol.commands import Command
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_check import check
from penstock._core.protocol.relay_script import Relayed
from penstock._core.protocol.replies import (
    Claimed,
    ConsumerInfo,
    ErrorReply,
    GroupInfo,
    PendingEntry,
    PendingSummary,
    ProtocolError,
    StreamInfo,
)
from penstock._core.protocol.transactions import Applied, Effects
from penstock.message import EntryId
from support.replies import raw, words


def read(command: Command, reply: str | bytes) -> Any:
    data = words(reply) if isinstance(reply, str) else reply
    [value] = reply_parsing.parse([command], [raw(data)])
    return value


# -- commands, and replies in RESP2 and RESP3 --------------------------------------

XREAD = commands.xread([b"s", b"t"], [b"0", b"0"], 10, None)
GROUP_READ = commands.xreadgroup("g", "c", [b"s", b"t"], 10, 2000)
RANGE = commands.xrange_between(b"s", b"-", b"+", 10)
ONE = commands.xrange_one(b"s", b"1-1")
PAGE = commands.xpending_page(b"s", "g", "c", b"0-0", 10)
SUMMARY = commands.xpending_summary(b"s", "g")
CLAIM = commands.xclaim(b"s", "g", "c", [b"1-1", b"2-1"], idle=0)
AUTOCLAIM = commands.xautoclaim(b"s", "g", "c", idle=1, cursor=b"0-0", count=10)
STREAM = commands.xinfo_stream(b"s")
GROUPS = commands.xinfo_groups(b"s")
CONSUMERS = commands.xinfo_consumers(b"s", "g")
XADD = commands.xadd(b"s", (b"msg", b"x"))
OWNER = Fence(b"o", b"t")
ADD_ONCE = sending_scripts.add_once(
    b"s",
    b"m",
    1,
    [(b"*", b"msg", b"x"), (b"*", b"msg", b"y", b"key", b"k")],
    life=1,
    low=1,
)
SEND_DEAD_LETTER = dead_letter_scripts.send_dead_letter(
    b"s", "g", "c", b"1-1", dead=b"d", fields=[b"msg", b"x"]
)
OWNED_DEAD_LETTER = dead_letter_scripts.send_dead_letter(
    b"s", "g", "c", b"1-1", dead=b"d", fields=[b"msg", b"x"], owner=OWNER
)
MOVE = dead_letter_scripts.move_entries(b"s", [(b"1-1", b"t")], 2)
TRIM_ACKED = scripts.xtrim_acked(b"s", b"5-0", [], (b"MINID", b"5-0"))
FACTS = scripts.stream_facts(b"s")
REMOVE = scripts.remove_empty_consumer(b"s", "g", "c")
APPLY, APPLY_SHA, OWNED_APPLY, OWNED_APPLY_SHA = (
    transaction_script.apply(
        b"s",
        "g",
        b"1-1",
        Effects(b"s"),
        dead=None,
        behind=(),
        reason=1,
        trim=(),
        drop=False,
        whole=whole,
        owner=owner,
    )
    for owner in (None, OWNER)
    for whole in (True, False)
)

ENTRIES = "*2 *2 $3 1-1 *2 $3 msg $1 a *2 $3 2-1 *6 $3 msg $1 b $3 key $1 k $1 h $1 v"
FIELDS = [b"msg", b"b", b"key", b"k", b"h", b"v"]
READ_2 = f"*2 *2 $1 s {ENTRIES} *2 $1 t *1 *2 $3 7-7 *2 $3 msg $0 "
READ_3 = f"%2 $1 s {ENTRIES} $1 t *1 *2 $3 7-7 *2 $3 msg $0 "
READ = [
    (b"s", [[b"1-1", [b"msg", b"a"]], [b"2-1", FIELDS]]),
    (b"t", [[b"7-7", [b"msg", b""]]]),
]
DELETED = "*2 *2 $3 1-1 {} *2 $3 2-1 *2 $3 msg $1 b"

NEW = "$7 pending :2 $17 last-delivered-id $3 2-1 $12 entries-read :2 $3 lag"
G = "$4 name $1 g $9 consumers :1"
H = "$4 name $1 h $9 consumers :0"
STREAM_FACTS = (
    "$6 length :2 $17 last-generated-id $3 9-1 $20 max-deleted-entry-id $3 5-1"
)
FIRST = "$11 first-entry *2 $3 2-1 *2 $3 msg $1 a"
OLD_GROUP = (
    "*1 *8 $4 name $1 g $9 consumers :1 $7 pending :0 $17 last-delivered-id $3 0-0"
)
NEWEST = "$10 last-entry *2 $3 8-1 *2 $3 msg $1 a $13 entries-added :4"
OLD_STREAM = f"*6 $6 length :2 $17 last-generated-id $3 9-1 {FIRST}"

BEAT = owned.beat(b"m", "a", lease=10, known=0, join=True, weight=1)
TAKE = owned.take(b"s", b"o", "g", "a", version=1, run="r", serial=1, least=0, lease=10)
GUARD = owned.guard(b"s", b"o", "g", b"t", consumer="a#1")

TO_LIST = relay_script.to_list(b"q")
RELAY, RELAY_SHA = (
    relay_script.relay(b"s", "g", "c", TO_LIST, [(b"1-1", (b"a",))], whole=whole)
    for whole in (True, False)
)
OWNED_RELAY, OWNED_RELAY_SHA = (
    relay_script.relay(
        *(b"s", "g", "", TO_LIST, [(b"1-1", (b"a",))]),
        whole=whole,
        owner=Fence(b"o", b"t"),
    )
    for whole in (True, False)
)

GOOD: dict[str, tuple[Command, str | bytes, Any]] = {
    "a read": (GROUP_READ, READ_2, READ),
    "a read, RESP3": (GROUP_READ, READ_3, READ),
    "a read without a group": (XREAD, READ_2, READ),
    "a read without a group, RESP3": (XREAD, READ_3, READ),
    "a read that found nothing": (XREAD, "*-1", []),
    "a read that found nothing, RESP3": (XREAD, "_", []),
    "a stream without entries": (GROUP_READ, "*1 *2 $1 s *0", []),
    "a stream without entries, RESP3": (GROUP_READ, "%1 $1 s *0", []),
    "a deleted entry": (
        GROUP_READ,
        f"*1 *2 $1 s {DELETED.format('*-1')}",
        [(b"s", [[b"1-1", None], [b"2-1", [b"msg", b"b"]]])],
    ),
    "a deleted entry, RESP3": (
        GROUP_READ,
        f"%1 $1 s {DELETED.format('_')}",
        [(b"s", [[b"1-1", None], [b"2-1", [b"msg", b"b"]]])],
    ),
    "a range": (RANGE, ENTRIES, [[b"1-1", [b"msg", b"a"]], [b"2-1", FIELDS]]),
    "a stream with RESP2's null array": (GROUP_READ, "*1 *2 $1 s *-1", []),
    "a null array beside entries": (
        GROUP_READ,
        f"*2 *2 $1 s {ENTRIES} *2 $1 t *-1",
        READ[:1],
    ),
    "an empty range": (RANGE, "*0", []),
    "a null array as a range": (RANGE, "*-1", []),
    "one entry": (ONE, "*1 *2 $3 1-1 *2 $3 msg $1 a", [[b"1-1", [b"msg", b"a"]]]),
    "one entry that is not there": (ONE, "*0", []),
    "pending entries": (
        PAGE,
        "*2 *4 $3 1-1 $1 c :202 :1 *4 $3 2-1 $1 d :101 :2",
        [
            PendingEntry(b"1-1", b"c", idle=202, deliveries=1),
            PendingEntry(b"2-1", b"d", idle=101, deliveries=2),
        ],
    ),
    "no pending entries": (PAGE, "*0", []),
    "a summary": (
        SUMMARY,
        "*4 :2 $3 1-1 $3 2-1 *1 *2 $1 c $1 2",
        PendingSummary(2, b"1-1", b"2-1", [(b"c", b"2")]),
    ),
    "an empty summary": (
        SUMMARY,
        "*4 :0 $-1 $-1 *-1",
        PendingSummary(0, None, None, None),
    ),
    "an empty summary, RESP3": (
        SUMMARY,
        "*4 :0 _ _ _",
        PendingSummary(0, None, None, None),
    ),
    "a claim": (CLAIM, "*2 $3 1-1 $3 2-1", [b"1-1", b"2-1"]),
    "a claim of nothing": (CLAIM, "*0", []),
    "a search": (
        AUTOCLAIM,
        "*3 $3 5-0 *2 $3 1-1 $3 4-1 *2 $3 2-1 $3 3-1",
        Claimed(b"5-0", [b"1-1", b"4-1"], [b"2-1", b"3-1"]),
    ),
    "a search, Redis 6.2": (
        AUTOCLAIM,
        "*2 $3 0-0 *1 $3 1-1",
        Claimed(b"0-0", [b"1-1"], ()),
    ),
    "a stream": (
        STREAM,
        f"*12 {STREAM_FACTS} {FIRST} {NEWEST}",
        StreamInfo(
            *(2, EntryId(9, 1), EntryId(2, 1), EntryId(5, 1), EntryId(8, 1), 4), 8
        ),
    ),
    "a stream, RESP3": (
        STREAM,
        f"%6 {STREAM_FACTS} {FIRST} {NEWEST}",
        StreamInfo(
            *(2, EntryId(9, 1), EntryId(2, 1), EntryId(5, 1), EntryId(8, 1), 4), 8
        ),
    ),
    "an empty stream": (
        STREAM,
        f"*8 {STREAM_FACTS} $11 first-entry *-1",
        StreamInfo(2, EntryId(9, 1), None, EntryId(5, 1)),
    ),
    "an empty stream, RESP3": (
        STREAM,
        f"%4 {STREAM_FACTS} $11 first-entry _",
        StreamInfo(2, EntryId(9, 1), None, EntryId(5, 1)),
    ),
    "a stream, Redis 6.2": (
        STREAM,
        OLD_STREAM,
        StreamInfo(2, EntryId(9, 1), EntryId(2, 1), None, size=4),
    ),
    "a stream by script": (
        FACTS,
        "*6 :2 $3 9-1 $3 2-1 $3 8-1 $3 5-1 :4",
        StreamInfo(2, EntryId(9, 1), EntryId(2, 1), EntryId(5, 1), EntryId(8, 1), 4),
    ),
    "an empty stream by script": (
        FACTS,
        "*6 :0 $3 9-1 $-1 $-1 $3 5-1 :4",
        StreamInfo(0, EntryId(9, 1), None, EntryId(5, 1), None, 4),
    ),
    "a stream by script, Redis 6.2": (
        FACTS,
        "*6 :2 $3 9-1 $3 2-1 $3 8-1 $-1 $-1",
        StreamInfo(2, EntryId(9, 1), EntryId(2, 1), None, EntryId(8, 1)),
    ),
    "groups": (
        GROUPS,
        f"*2 *12 {G} {NEW} :1 *12 {H} {NEW} $-1",
        [GroupInfo(b"g", 1, 2, b"2-1", 1, 2), GroupInfo(b"h", 0, 2, b"2-1", None, 2)],
    ),
    "groups, RESP3": (
        GROUPS,
        f"*2 %6 {G} {NEW} :1 %6 {H} {NEW} _",
        [GroupInfo(b"g", 1, 2, b"2-1", 1, 2), GroupInfo(b"h", 0, 2, b"2-1", None, 2)],
    ),
    "groups, Redis 6.2": (GROUPS, OLD_GROUP, [GroupInfo(b"g", 1, 0, b"0-0", None)]),
    "no groups": (GROUPS, "*0", []),
    "consumers": (
        CONSUMERS,
        "*1 *8 $4 name $1 c $7 pending :2 $4 idle :910 $8 inactive :181",
        [ConsumerInfo(b"c", 2, 910, 181)],
    ),
    "consumers, RESP3": (
        CONSUMERS,
        "*1 %4 $4 name $1 c $7 pending :2 $4 idle :910 $8 inactive :181",
        [ConsumerInfo(b"c", 2, 910, 181)],
    ),
    "a consumer that was never given anything": (
        CONSUMERS,
        "*1 *8 $4 name $1 c $7 pending :0 $4 idle :910 $8 inactive :-1",
        [ConsumerInfo(b"c", 0, 910)],
    ),
    "consumers, Redis 6.2": (
        CONSUMERS,
        "*1 *6 $4 name $1 c $7 pending :2 $4 idle :910",
        [ConsumerInfo(b"c", 2, 910)],
    ),
    "a length": (commands.xlen(b"s"), ":2", 2),
    "a memory": (commands.memory_usage(b"s", 5), ":712", 712),
    "the memory of nothing": (commands.memory_usage(b"s", 5), "_", None),
    "an append": (XADD, "$15 1700000000000-0", b"1700000000000-0"),
    "an acknowledgement": (commands.xack(b"s", "g", [b"1-1"]), ":1", 1),
    "a deletion": (commands.xdel(b"s", [b"1-1"]), ":0", 0),
    "a trim": (commands.xtrim(b"s", (b"MAXLEN", b"5")), ":3", 3),
    "a group": (commands.xgroup_create(b"s", "g", b"0", mkstream=True), "+OK", b"OK"),
    "a group's place": (commands.xgroup_setid(b"s", "g", b"0-0"), "+OK", b"OK"),
    "a group deleted": (commands.xgroup_destroy(b"s", "g"), ":1", 1),
    "a consumer removed": (commands.xgroup_delconsumer(b"s", "g", "c"), ":0", 0),
    "a restoration": (
        commands.xclaim_restore(b"s", "g", "c", [b"1-1"]),
        "*1 $3 1-1",
        [b"1-1"],
    ),
    "a release": (
        scripts.claim_own(b"s", "g", "c", [b"1-1"], (b"IDLE", 1, b"RETRYCOUNT", 2)),
        "*1 $3 1-1",
        [b"1-1"],
    ),
    "a consumer's pending": (
        commands.xpending_between(b"s", "g", "c", low=b"-", high=b"+", count=1),
        "*1 *4 $3 1-1 $1 c :202 :1",
        [PendingEntry(b"1-1", b"c", 202, 1)],
    ),
    "a range in reverse": (commands.xrevrange_between(b"s", b"+", b"-", 5), "*0", []),
    "the last entry": (
        commands.xrevrange_last(b"s"),
        "*1 *2 $3 7-7 *2 $1 a $1 b",
        [[b"7-7", [b"a", b"b"]]],
    ),
    "keys": (commands.exists([b"s", b"t"]), ":1", 1),
    "a type": (commands.key_type(b"s"), "+stream", b"stream"),
    "a key deleted": (commands.unlink(b"s"), ":1", 1),
    "a setting": (
        commands.config_get(b"appendfsync"),
        "%1 $11 appendfsync $6 always",
        {b"appendfsync": b"always"},
    ),
    "a setting in RESP2": (
        commands.config_get(b"appendfsync"),
        "*2 $11 appendfsync $6 always",
        {b"appendfsync": b"always"},
    ),
    "a hash": (commands.hgetall(b"h"), "%1 $1 a $1 b", {b"a": b"b"}),
    "a hash in RESP2": (commands.hgetall(b"h"), "*2 $1 a $1 b", {b"a": b"b"}),
    "no hash": (commands.hgetall(b"h"), "%0", {}),
    "a field": (commands.hget(b"h", b"a"), "$1 x", b"x"),
    "no field": (commands.hget(b"h", b"a"), "$-1", None),
    "fields": (commands.hmget(b"h", (b"a", b"b")), "*2 $-1 $1 x", [None, b"x"]),
    "a key that expires": (commands.pexpire(b"s", 5), ":1", 1),
    "replicas": (commands.wait(1, 100), ":1", 1),
    "files": (commands.wait_aof(1, 100), "*2 :1 :0", (1, 0)),
    "receivers of a message": (commands.publish(b"ch", b""), ":4", 4),
    "subscribers": (
        commands.pubsub_numsub([b"a", b"b"]),
        "*4 $1 a :0 $1 b :2",
        [0, 2],
    ),
    "existing and missing commands": (
        commands.counts_lag(),
        "*2 $-1 *2 $7 delifeq :3",
        [False, True],
    ),
    "the connection's id": (commands.client_id(), ":17", 17),
    "an unblocked connection": (commands.client_unblock(17), ":1", 1),
    "the time": (commands.time(), "*2 $10 1700000000 $6 123999", 1_700_000_000_123),
    "a greeting": (
        commands.hello("al", "secret"),
        "%2 $7 version $6 7.0.15 $5 proto :3",
        "7.0.15",
    ),
    "a greeting without a version": (
        commands.hello(None, None),
        "%1 $5 proto :3",
        "",
    ),
    "a greeting with a long version": (
        commands.hello(None, None),
        f"%2 $7 version $50 {'7' * 50} $5 proto :3",
        "7" * 37 + "...",
    ),
    "a login": (commands.auth("al", "secret"), "+OK", b"OK"),
    "a user": (probe_commands.acl_whoami(), "$2 al", b"al"),
    "a sign of life": (probe_commands.ping(), "+PONG", b"PONG"),
    "a permission": (
        probe_commands.acl_dryrun("al", probe_commands.ping()),
        "+OK",
        b"OK",
    ),
    "a database": (commands.select(7), "+OK", b"OK"),
    "a client's name": (commands.client_setname("me"), "+OK", b"OK"),
    "a role": (commands.role(), "*3 $6 master :17 *0", b"master"),
    "a primary": (
        commands.sentinel_primary("x"),
        "*2 $9 127.0.0.1 $4 6379",
        (b"127.0.0.1", 6379),
    ),
    "no primary": (commands.sentinel_primary("x"), "*-1", None),
    "facts": (commands.info(b"memory"), "$3 a:b", b"a:b"),
    "facts, RESP3": (commands.info(b"memory"), "=7 txt:a:b", b"a:b"),
    "a run": (ADD_ONCE, b"$9\r\n1-1\n!ERR!\r\n", b"1-1\n!ERR!"),
    "a cancelled run": (ADD_ONCE[:8], b"$0\r\n\r\n", b""),
    "a run that is too late to cancel": (
        ADD_ONCE[:8],
        b"$9\r\n1-1\n!ERR!\r\n",
        b"1-1\n!ERR!",
    ),
    "a dead letter": (SEND_DEAD_LETTER, "*2 :1 $3 8-1", (1, b"8-1")),
    "no dead letter": (SEND_DEAD_LETTER, ":0", 0),
    "a dead letter that was only copied": (SEND_DEAD_LETTER, "$3 8-1", b"8-1"),
    "an owner's dead letter": (OWNED_DEAD_LETTER, ":0", 0),
    "an owner's dead letter that was only copied": (
        OWNED_DEAD_LETTER,
        "$3 8-1",
        b"8-1",
    ),
    "a fenced dead letter": (
        OWNED_DEAD_LETTER,
        "*2 $6 fenced $1 u",
        ownership_replies.Fenced(b"u"),
    ),
    "a move": (MOVE, "*2 :1 :1", (1, 1)),
    "a trim that was refused": (TRIM_ACKED, ":-1", -1),
    "an empty consumer": (REMOVE, ":0", 0),
    "a forgotten owner": (owned.forget(b"o"), ":1", 1),
    "a check for scripting": (scripts.may_script(), ":1", 1),
    "a script's last id": (scripts.last_id(b"s"), "$3 5-1", b"5-1"),
    "a script's count": (scripts.count_between(b"s", b"1-1", b"2-0", 1), ":1", 1),
    "a record that was replaced": (scripts.replace(b"k", b"", b"new"), ":1", 1),
    "a string": (commands.get(b"k"), "$3 old", b"old"),
    "no string": (commands.get(b"k"), "$-1", None),
    "several strings": (commands.mget([b"k", b"l"]), "*2 $-1 $3 old", [None, b"old"]),
    "a page of keys": (
        commands.scan_streams(b"0", 9),
        "*2 $1 7 *1 $1 k",
        (b"7", [b"k"]),
    ),
    "a string that was set": (commands.set_if_missing(b"k", b"v"), "+OK", b"OK"),
    "a string that was there": (commands.set_if_missing(b"k", b"v"), "$-1", None),
    "a transaction": (
        APPLY,
        "*3 $7 applied :1 $-1",
        Applied(pending=True, results=[1, None]),
    ),
    "a beat": (
        BEAT,
        "*4 :1 :3 $1 x *2 $1 a :2",
        ownership_replies.Beaten(3, b"x", {"a": 2}),
    ),
    "a check of permissions": (check(b"s", b"o", "g"), "*2 $4 HGET $3 ERR", {}),
    "a target": (
        owned.assign(b"m", seen=1, least=0, target=b"x"),
        "*2 :1 :2",
        ownership_replies.Assigned(stored=True, version=2),
    ),
    "a member that leaves": (owned.leave(b"m", "a"), ":1", 1),
    "a shard taken": (
        TAKE,
        b"*4\r\n$5\r\nyours\r\n:4\r\n:0\r\n$0\r\n\r\n",
        ownership_replies.Taken(4, more=False),
    ),
    "a shard not taken": (
        TAKE,
        "*2 $4 held :400",
        ownership_replies.Refused("held", 400),
    ),
    "a shard kept": (owned.keep(b"o", b"t", lease=10), "*2 :1 $1 t", None),
    "a shard freed": (
        owned.free(b"o", b"t"),
        "*2 :0 $1 u",
        ownership_replies.Fenced(b"u"),
    ),
    "a member that was removed": (BEAT, "*1 :0", None),
    "a beat without a new target": (
        BEAT,
        "*4 :1 :3 $-1 *2 $1 a :2",
        ownership_replies.Beaten(3, None, {"a": 2}),
    ),
    "a shard not kept": (
        owned.keep(b"o", b"t", lease=10),
        "*2 :0 $1 u",
        ownership_replies.Fenced(b"u"),
    ),
    "a shard given up": (owned.free(b"o", b"t"), "*2 :1 $1 t", None),
    "a guarded command": (
        GUARD,
        "*5 :1 $1 t *1 $3 1-0 :0 *1 :3",
        ownership_replies.Guarded([b"1-0"], more=False, replies=[3]),
    ),
    "a fenced command": (GUARD, "*2 :0 $1 u", ownership_replies.Fenced(b"u")),
    "a transaction, by its name": (
        APPLY_SHA,
        "*1 $7 already",
        Applied(pending=False),
    ),
    "an owner's transaction": (
        OWNED_APPLY,
        "*2 $7 applied :1",
        Applied(pending=True, results=[1]),
    ),
    "a batch that is moved": (
        RELAY,
        "*4 $7 relayed $3 1-1 $0  $3 2-1",
        Relayed(missing=(b"2-1",), last=b"1-1"),
    ),
    "a batch that is moved, by its name": (RELAY_SHA, "*1 $4 full", Relayed(full=True)),
    "an owner's batch": (OWNED_RELAY, "*1 $4 full", Relayed(full=True)),
    "an owner's batch, fenced": (
        OWNED_RELAY_SHA,
        "*2 $6 fenced $1 u",
        ownership_replies.Fenced(b"u"),
    ),
    "RPUSH": (relay_script.push_alone(TO_LIST, [(b"a",)])[0], ":3", 3),
    "LPUSH": (
        relay_script.push_alone(relay_script.to_list(b"q", left=True), [(b"a",)])[0],
        ":3",
        3,
    ),
    "LLEN": (relay_script.length(TO_LIST), ":3", 3),
    "a fenced transaction": (
        OWNED_APPLY_SHA,
        "*2 $6 fenced $0 ",
        ownership_replies.Fenced(b""),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_reply_is_parsed_as_its_command_requires(name: str) -> None:
    command, reply, value = GOOD[name]
    assert as_list(read(command, reply)) == value


@pytest.mark.parametrize("name", GOOD)
def test_an_error_reply_stays_an_error_reply_for_every_command(name: str) -> None:
    error = read(GOOD[name][0], "-NOPERM")
    assert isinstance(error, ErrorReply)
    assert error.code == "NOPERM"


OPTIONS = {"BLOCK", "COUNT", "IDLE", "MKSTREAM", "NOACK", "RETRYCOUNT"}
# Handled by `read` itself, or answered by pushes; see `Connection.subscribe`.
OTHERS = {b"MULTI", b"EXEC", b"SUBSCRIBE"}


def test_the_reply_of_every_command_that_is_sent_is_checked() -> None:
    builders = (
        commands,
        probe_commands,
        scripts,
        dead_letter_scripts,
        sending_scripts,
        transaction_script,
        relay_script,
    )
    source = "".join(map(inspect.getsource, builders))
    heads = set(re.findall(r'\(\s*b"([A-Z]+)"', source)) - OPTIONS
    assert {head.encode() for head in heads} - OTHERS == set(reply_parsing._PARSERS)


def test_every_reader_of_replies_is_covered_by_these_tests() -> None:
    tried = [command for command, _, _ in GOOD.values()]
    assert {command[0] for command in tried} == set(reply_parsing._PARSERS)
    ran = {command[1] for command in tried if command[0] in {b"EVAL", b"EVALSHA"}}
    assert ran == set(reply_parsing._BY_SCRIPT)


def test_fields_are_bytes_whatever_they_contain() -> None:
    body = bytes(range(256))
    data = b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$3\r\nmsg\r\n"
    [(_, entries)] = read(XREAD, data + b"$256\r\n" + body + b"\r\n")
    assert entries == [[b"1-1", [b"msg", body]]]


def test_replies_to_other_commands_are_returned_unchanged() -> None:
    odd = [(b"HVALS", b"k"), (b"EVAL", b"return {}", 0)]
    assert reply_parsing.parse(odd, [[b"a", 1], []]) == [[b"a", 1], []]


# -- malformed replies -------------------------------------------------------------

ANYTHING = [
    ":1",
    "$1 x",
    "+OK",
    "*0",
    "%0",
    "*-1",
    "*1 :1",
    "*1 *0",
    "%1 $1 a :1",
    ",1.5",
    "#t",
]

MALFORMED: dict[str, tuple[Command, str]] = {
    "a key that was not asked for": (GROUP_READ, f"%1 $1 u {ENTRIES}"),
    "a key that is none": (XREAD, f"%1 :1 {ENTRIES}"),
    "a number for entries": (XREAD, "%1 $1 s :1"),
    "an entry too short": (RANGE, "*1 *1 $3 1-1"),
    "an entry too long": (RANGE, "*1 *3 $3 1-1 *0 *0"),
    "an entry that is an error": (RANGE, "*1 -ERR"),
    "fields that are one": (RANGE, "*1 *2 $3 1-1 $1 a"),
    "a field too few": (RANGE, "*1 *2 $3 1-1 *1 $1 a"),
    "a field too few among others": (
        XREAD,
        "%1 $1 s *2 *2 $3 1-1 *1 $1 a *2 $3 2-1 _",
    ),
    "a number among fields": (RANGE, "*1 *2 $3 1-1 *2 $1 a :1"),
    "a list among fields": (RANGE, "*1 *2 $3 1-1 *2 $1 a *0"),
    "an id that is a number": (RANGE, "*1 *2 :1 *0"),
    "an id without a dash": (RANGE, "*1 *2 $3 111 *0"),
    "an id with two": (RANGE, "*1 *2 $3 --1 *0"),
    "an id with a letter": (RANGE, "*1 *2 $3 1-x *0"),
    "an id with nothing behind the dash": (RANGE, "*1 *2 $3 11- *0"),
    "an id of too many bits": (RANGE, f"*1 *2 $22 {2**64}-1 *0"),
    "another entry than was asked for": (ONE, "*1 *2 $3 1-2 *0"),
    "two entries where one was asked for": (ONE, "*2 *2 $3 1-1 *0 *2 $3 1-1 *0"),
    "a summary too short": (SUMMARY, "*3 :0 _ _"),
    "a summary without bounds": (SUMMARY, "*4 :2 _ _ *0"),
    "a summary with bounds of nothing": (SUMMARY, "*4 :0 $3 1-1 $3 2-1 _"),
    "a summary of which a bound is no id": (SUMMARY, "*4 :2 $3 1-1 $3 2.1 *0"),
    "a holder of no number": (SUMMARY, "*4 :2 $3 1-1 $3 2-1 *1 *2 $1 c $1 x"),
    "a line too short": (PAGE, "*1 *3 $3 1-1 $1 c :202"),
    "a line that is none": (PAGE, "*1 :7"),
    "a line of no id": (PAGE, "*1 *4 $3 1.1 $1 c :202 :1"),
    "a claim of no ids": (CLAIM, "*2 $3 1-1 $3 2.1"),
    "a claim of entries": (CLAIM, "*1 *2 $3 1-1 *0"),
    "a search without a cursor": (AUTOCLAIM, "*3 $3 5.0 *0 *0"),
    "a search too short": (AUTOCLAIM, "*1 $3 5-0"),
    "a search that found no ids": (AUTOCLAIM, "*3 $3 5-0 *1 $1 x *0"),
    "a search that deleted no ids": (AUTOCLAIM, "*3 $3 5-0 *0 *1 $1 x"),
    "a stream of no length": (STREAM, f"%2 $17 last-generated-id $3 9-1 {FIRST}"),
    "a stream whose last id is none": (
        STREAM,
        f"%3 $6 length :1 $17 last-generated-id $3 9x1 {FIRST}",
    ),
    "a stream whose first entry has no id": (
        STREAM,
        "%3 $6 length :1 $17 last-generated-id $3 9-1 $11 first-entry *2 $1 x *0",
    ),
    "a stream whose last deletion is none": (
        STREAM,
        f"%4 {STREAM_FACTS[:-3]}9x1 $11 first-entry _",
    ),
    "names without their ends": (STREAM, f"*7 {STREAM_FACTS} $1 x"),
    "a name that is a list": (STREAM, f"*8 {STREAM_FACTS} *0 _"),
    "a group that is none": (GROUPS, "*1 :1"),
    "a group of no name": (GROUPS, OLD_GROUP.replace("$4 name", "$4 nbme")),
    "a group that came to no id": (GROUPS, OLD_GROUP.replace("0-0", "0x0")),
    "a consumer of no name": (CONSUMERS, "*1 %2 $7 pending :2 $4 idle :910"),
    "an append of no id": (XADD, "$3 1x1"),
    "a time too short": (commands.time(), "*1 $1 1"),
    "a time of letters": (commands.time(), "*2 $1 1 $1 x"),
    "a greeting of a number": (commands.hello(None, None), ":3"),
    "a greeting of RESP2": (commands.hello(None, None), "%1 $5 proto :2"),
    "a greeting of nothing": (commands.hello(None, None), "%0"),
    "a login of a number": (commands.auth("al", "secret"), ":1"),
    "a user of a number": (probe_commands.acl_whoami(), ":1"),
    "a sign of life of a number": (probe_commands.ping(), ":1"),
    "a database of nothing": (commands.select(7), "$-1"),
    "a client's name of a number": (commands.client_setname("me"), ":1"),
    "a client's id of a word": (commands.client_id(), "+OK"),
    "a role of nothing": (commands.role(), "*0"),
    "a port of letters": (commands.sentinel_primary("x"), "*2 $1 h $1 p"),
    "a port that can't be": (commands.sentinel_primary("x"), "*2 $1 h $5 65536"),
    "listeners of no number": (commands.pubsub_numsub([b"a"]), "*2 $1 a $1 x"),
    "a setting without a value": (commands.config_get(b"a"), "*1 $1 a"),
    "a setting that is a number": (commands.config_get(b"a"), "*2 $1 a :1"),
    "a setting in no list": (commands.config_get(b"a"), ":1"),
    "a hash without a value": (commands.hgetall(b"h"), "*1 $1 a"),
    "a hash with a number": (commands.hgetall(b"h"), "%1 $1 a :1"),
    "a hash with a field too few": (commands.hmget(b"h", (b"a", b"b")), "*1 $1 x"),
    "a field of a hash that is a number": (commands.hmget(b"h", (b"a",)), "*1 :1"),
    "a run of which a line is missing": (ADD_ONCE, "$3 1-1"),
    "a transaction that is neither": (APPLY, "*1 $4 what"),
    "a transaction that broke for no reason": (APPLY, "*2 $6 broken :1"),
    "a transaction of no words": (APPLY, "*0"),
    "a transaction that is fenced without an owner": (APPLY, "*2 $6 fenced $1 u"),
    "a dead letter that is fenced without an owner": (
        SEND_DEAD_LETTER,
        "*2 $6 fenced $1 u",
    ),
    "a fenced transaction of no token": (OWNED_APPLY, "*1 $6 fenced"),
    "a dead letter that is fenced by a number": (
        OWNED_DEAD_LETTER,
        "*2 $6 fenced :1",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_reply_is_a_protocol_error(name: str) -> None:
    with pytest.raises(ProtocolError):
        read(*MALFORMED[name])


def test_an_id_of_an_idempotent_run_that_is_malformed_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        read(ADD_ONCE, b"$7\r\n1-1\n2x1\r\n")


@pytest.mark.parametrize("reply", ANYTHING)
@pytest.mark.parametrize("name", GOOD)
def test_a_reply_of_the_wrong_type_is_a_protocol_error(name: str, reply: str) -> None:
    """A reply that another command of the same kind may have is accepted."""
    command = GOOD[name][0]
    try:
        value = read(command, reply)
    except ProtocolError:
        return
    assert fits(as_list(value), examples(command))


def as_list(value: Any) -> Any:
    """Return the result of a read as a list, since it may be an iterable."""
    return list(value) if isinstance(value, type({}.items())) or value == () else value


def examples(command: Command) -> list[Any]:
    kind = command[:2] if command[0] in {b"XINFO", b"XGROUP", b"EVAL"} else command[:1]
    sized = len(command) > 3 or command[0] != b"XPENDING"
    return [
        good
        for other, _, good in GOOD.values()
        if other[: len(kind)] == kind
        and (other[0] != b"XPENDING" or (len(other) > 3) == sized)
    ]


def fits(value: Any, like: list[Any]) -> bool:
    """Return whether a value could be used in place of one of the others."""
    same = [one for one in like if type(one) is type(value)]
    if not same:
        return False
    if isinstance(value, Applied):
        return True  # its results are those of the user's commands
    if hasattr(value, "_fields"):
        return all(
            fits(part, [one[index] for one in same]) for index, part in enumerate(value)
        )
    if isinstance(value, list | tuple):
        parts = [part for one in same for part in one]
        return all(fits(part, parts) for part in value)
    return True


def ids_of(value: Any) -> Iterator[bytes]:
    match value:
        case PendingEntry(id=id_) | GroupInfo(last_delivered=id_):
            yield id_
        case PendingSummary(lowest=low, highest=high):
            yield from filter(None, (low, high))
        case Claimed(cursor=cursor, ids=ids, deleted=deleted):
            yield from (cursor, *ids, *deleted)
        case [bytes(id_), list() | None] if isinstance(value, list):
            yield id_
        case list() | tuple():
            for part in value:
                yield from ids_of(part)


@given(st.data())
@settings(max_examples=2000, deadline=None)
def test_a_reply_with_any_corrupted_byte_can_be_used_or_is_refused(
    data: st.DataObject,
) -> None:
    command, reply, _ = GOOD[data.draw(st.sampled_from(sorted(GOOD)))]
    good = reply if isinstance(reply, bytes) else words(reply)
    position = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255))
    try:
        malformed = raw(good[:position] + bytes([byte]) + good[position + 1 :])
    except (ValueError, TypeError, AssertionError):
        return  # it is no RESP, or bytes are left over
    if malformed is False:
        return  # the reply is incomplete
    try:
        [value] = reply_parsing.parse([command], [malformed])
    except ProtocolError:
        return
    if isinstance(value, ErrorReply):
        return
    value = as_list(value)
    assert fits(value, examples(command))
    for id_ in ids_of(value):
        EntryId.parse(id_)


# -- several replies at once -------------------------------------------------------


def test_replies_to_several_appends_are_checked_together_and_errors_are_kept() -> None:
    error = ErrorReply("OOM no memory")
    batch = [XADD] * 3
    assert reply_parsing.parse(batch, [b"1-1", error, b"1-2"]) == [
        b"1-1",
        error,
        b"1-2",
    ]
    assert reply_parsing.parse(batch, [error] * 3) == [error] * 3
    malformed: Any
    for malformed in (1, None, [], b"1.2", b"OK"):
        with pytest.raises(ProtocolError):
            reply_parsing.parse(batch, [b"1-1", malformed, b"1-2"])


def test_the_replies_inside_a_transaction_are_parsed_like_any_others() -> None:
    batch = commands.transaction([SUMMARY, commands.xack(b"s", "g", [b"1-1"])])
    batch.append(commands.time())
    done = [[0, None, None, None], ErrorReply("NOGROUP no")]
    time = [b"1", b"2000"]
    found = reply_parsing.parse(batch, [b"OK", b"QUEUED", b"QUEUED", done, time])
    assert found[3] == [PendingSummary(0, None, None, None), done[1]]
    assert found[4] == 1002
    refused = ErrorReply("EXECABORT it")
    assert (
        reply_parsing.parse(batch, [b"OK", refused, b"QUEUED", refused, time])[3]
        is refused
    )


@pytest.mark.parametrize(
    "done", [None, 1, [], [[0, None, None, None]], [1, 1], [1, 1, 1]]
)
def test_a_malformed_reply_inside_a_transaction_is_a_protocol_error(done: Any) -> None:
    batch = commands.transaction([SUMMARY, commands.xack(b"s", "g", [b"1-1"])])
    with pytest.raises(ProtocolError):
        reply_parsing.parse(batch, [b"OK", b"QUEUED", b"QUEUED", done])


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (GROUP_READ, "XREADGROUP"),
        (commands.xpending_summary(b"s", "g"), "XPENDING"),
        (commands.xinfo_groups(b"s"), "XINFO GROUPS"),
        (commands.xgroup_create(b"s", "g", b"0", mkstream=True), "XGROUP CREATE"),
        (commands.client_id(), "CLIENT ID"),
        (APPLY, "EVAL"),
        (("XADD", b"s"), "XADD"),
    ],
)
def test_an_error_reply_names_the_command_that_was_refused(
    command: Command, name: str
) -> None:
    """Several commands may be sent together, and nobody can tell from the text."""
    batch = [commands.time(), command]
    [_, refused] = reply_parsing.parse(
        batch, [[b"1", b"2"], ErrorReply("ERR unknown command")]
    )
    assert refused.command == name
    batch = commands.transaction([command])
    queued = ErrorReply("ERR unknown command")
    refused = ErrorReply("EXECABORT discarded")
    reply_parsing.parse(batch, [b"OK", queued, refused])
    assert (queued.command, refused.command) == (name, "EXEC")
    refused = ErrorReply("WRONGTYPE no stream")
    reply_parsing.parse(batch, [b"OK", b"QUEUED", [refused]])
    assert refused.command == name
