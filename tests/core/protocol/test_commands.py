"""Commands: the words of each, and the keys of scripts."""

from __future__ import annotations

from typing import cast

import hiredis
import pytest

from penstock._core.protocol import commands, dead_letter_scripts, scripts
from penstock._core.protocol.commands import Command

# One line for each builder: its command, and the words as one would type them.
CASES: list[tuple[Command, str]] = [
    (commands.xadd(b"s", (b"msg", b"a")), "XADD s * msg a"),
    (commands.xadd(b"s", iter([b"msg", b"a"]), "5-*"), "XADD s 5-* msg a"),
    (
        commands.xread([b"s", b"t"], [b"0-0", "$"], 10, 2000),
        "XREAD COUNT 10 BLOCK 2000 STREAMS s t 0-0 $",
    ),
    (
        commands.xread([b"s"], [b"0-0"], 10, None),
        "XREAD COUNT 10 STREAMS s 0-0",
    ),
    (
        commands.xreadgroup("g", "c", [b"s", b"t"], 10, None),
        "XREADGROUP GROUP g c COUNT 10 STREAMS s t > >",
    ),
    (
        commands.xreadgroup("g", "c", [b"s"], 10, None, noack=True),
        "XREADGROUP GROUP g c COUNT 10 NOACK STREAMS s >",
    ),
    (
        commands.xreadgroup("g", "c", [b"s", b"t"], 10, 2000),
        "XREADGROUP GROUP g c COUNT 10 BLOCK 2000 STREAMS s t > >",
    ),
    (
        commands.xreadgroup("g", "c", [b"s"], 1, 0, noack=True),
        "XREADGROUP GROUP g c COUNT 1 BLOCK 0 NOACK STREAMS s >",
    ),
    (commands.xrange_one(b"s", b"1-1"), "XRANGE s 1-1 1-1"),
    (commands.xrange_between(b"s", b"1-1", b"2-1", 10), "XRANGE s 1-1 2-1 COUNT 10"),
    (commands.xrevrange_last(b"s"), "XREVRANGE s + - COUNT 1"),
    (commands.xdel(b"s", iter([b"1-1", b"2-1"])), "XDEL s 1-1 2-1"),
    (commands.xack(b"s", "g", [b"1-1", b"2-1"]), "XACK s g 1-1 2-1"),
    (commands.xack(b"s", "g", iter([b"1-1"])), "XACK s g 1-1"),
    (
        commands.xpending_page(b"s", "g", "c", b"1-1", 500),
        "XPENDING s g (1-1 + 500 c",
    ),
    (
        commands.xpending_page(b"s", "g", None, b"1-1", 500),
        "XPENDING s g (1-1 + 500",
    ),
    (
        commands.xpending_between(b"s", "g", "c", low=b"1-1", high=b"9-1", count=10),
        "XPENDING s g 1-1 9-1 10 c",
    ),
    (
        commands.xautoclaim(b"s", "g", "c", idle=60000, cursor=b"0-0", count=100),
        "XAUTOCLAIM s g c 60000 0-0 COUNT 100 JUSTID",
    ),
    (
        commands.xclaim(b"s", "g", "c", iter([b"1-1", b"2-1"]), idle=0),
        "XCLAIM s g c 0 1-1 2-1 JUSTID",
    ),
    (
        commands.xclaim(b"s", "g", "c", [b"1-1"], idle=500, words=(b"RETRYCOUNT", 0)),
        "XCLAIM s g c 500 1-1 RETRYCOUNT 0 JUSTID",
    ),
    (commands.xpending_summary(b"s", "g"), "XPENDING s g"),
    (
        commands.xgroup_create(b"s", "g", b"0-0", mkstream=True),
        "XGROUP CREATE s g 0-0 MKSTREAM",
    ),
    (
        commands.xgroup_create(b"s", "g", "$", mkstream=False),
        "XGROUP CREATE s g $",
    ),
    (commands.xgroup_setid(b"s", "g", b"5-1"), "XGROUP SETID s g 5-1"),
    (commands.exists(iter([b"s", b"s:0"])), "EXISTS s s:0"),
    (commands.key_type(b"s"), "TYPE s"),
    (commands.get(b"k"), "GET k"),
    (commands.scan_streams(b"7", 9), "SCAN 7 TYPE stream COUNT 9"),
    (commands.mget(iter([b"k", b"l"])), "MGET k l"),
    (commands.set_if_missing(b"k", b"v"), "SET k v NX"),
    (commands.xinfo_stream(b"s"), "XINFO STREAM s"),
    (commands.xinfo_groups(b"s"), "XINFO GROUPS s"),
    (
        commands.xgroup_destroy(b"s", "g"),
        "XGROUP DESTROY s g",
    ),
    (
        commands.xgroup_delconsumer(b"s", "g", b"c"),
        "XGROUP DELCONSUMER s g c",
    ),
    (
        commands.xclaim_restore(b"s", "g", "c", iter([b"1-1", b"2-1"])),
        "XCLAIM s g c 0 1-1 2-1 IDLE 31536000000 RETRYCOUNT 0 FORCE JUSTID",
    ),
    (commands.xinfo_consumers(b"s", "g"), "XINFO CONSUMERS s g"),
    (commands.publish(b"channel", b"text"), "PUBLISH channel text"),
    (commands.pubsub_numsub(iter([b"one", b"two"])), "PUBSUB NUMSUB one two"),
    (commands.unlink(b"orders"), "UNLINK orders"),
    (commands.subscribe([b"one", b"two"]), "SUBSCRIBE one two"),
    (commands.hello(None, None), "HELLO 3"),
    (commands.hello(None, "secret"), "HELLO 3 AUTH default secret"),
    (commands.auth(None, "secret"), "AUTH secret"),
    (commands.auth("al", "secret"), "AUTH al secret"),
    (commands.select(7), "SELECT 7"),
    (commands.client_setname("me"), "CLIENT SETNAME me"),
    (commands.client_id(), "CLIENT ID"),
    (commands.client_unblock(42), "CLIENT UNBLOCK 42 TIMEOUT"),
    (commands.time(), "TIME"),
    (commands.info(b"memory"), "INFO memory"),
]


def packed(command: Command) -> bytes:
    # The stubs require a tuple of one word.
    return cast("bytes", hiredis.pack_command(cast("tuple[str]", command)))


@pytest.mark.parametrize(("command", "typed"), CASES, ids=[typed for _, typed in CASES])
def test_a_command_is_packed_as_one_would_type_it(command: Command, typed: str) -> None:
    assert isinstance(command, tuple)
    reader = hiredis.Reader()
    reader.feed(packed(command))
    assert reader.gets() == typed.encode().split()


def test_a_transaction_is_the_commands_between_multi_and_exec() -> None:
    batch = iter([commands.xinfo_stream(b"s"), commands.xinfo_groups(b"s")])
    assert commands.transaction(batch) == [
        (b"MULTI",),
        (b"XINFO", b"STREAM", b"s"),
        (b"XINFO", b"GROUPS", b"s"),
        (b"EXEC",),
    ]


def test_a_consumer_is_removed_by_a_script_that_names_its_key() -> None:
    eval_, script, keys, *rest = scripts.remove_empty_consumer(b"s", "g", b"c")
    assert (eval_, keys, rest) == (b"EVAL", 1, [b"s", "g", b"c"])
    assert isinstance(script, bytes)
    check, remove = script.index(b"XPENDING"), script.index(b"DELCONSUMER")
    assert check < remove


def test_entries_are_reclaimed_by_a_script_that_checks_the_owner_of_each() -> None:
    words = (b"IDLE", 60000, b"RETRYCOUNT", 0)
    claim = scripts.claim_own(b"s", "g", "c", iter([b"1-1", b"2-1"]), words)
    eval_, script, keys, *rest = claim
    assert (eval_, keys) == (b"EVAL", 1)
    assert rest == [b"s", "g", "c", 4, *words, b"1-1", b"2-1"]
    assert isinstance(script, bytes)
    assert script.index(b"XPENDING") < script.index(b"XCLAIM")
    assert b"id, id, 1, name)" in script, "the entry must belong to the caller"


def test_a_stream_is_described_by_a_script_that_names_its_key() -> None:
    eval_, script, keys, *rest = scripts.stream_facts(b"s")
    assert (eval_, keys, rest) == (b"EVAL", 1, [b"s"])
    assert isinstance(script, bytes)
    assert b"XINFO" in script


def test_entries_are_moved_by_a_script_that_names_all_its_keys() -> None:
    moves = [(b"1-1", b"s:0"), (b"2-1", b"s:1")]
    eval_, script, keys, *rest = dead_letter_scripts.move_entries(b"d", moves, 22)
    assert (eval_, keys) == (b"EVAL", 3)
    assert rest == [b"d", b"s:0", b"s:1", 22, b"1-1", b"2-1"]
    assert isinstance(script, bytes)
    check, copy, delete = map(script.index, (b"XRANGE", b"XADD", b"XDEL"))
    assert check < copy < delete


def test_one_script_writes_a_dead_letter_before_it_acknowledges_the_entry() -> None:
    dead_letter_fields = iter([b"msg", b"a", b"dead.id", b"1-1"])
    eval_, script, number, *rest = dead_letter_scripts.send_dead_letter(
        b"s",
        "g",
        "c",
        b"1-1",
        dead=b"s.dead",
        fields=dead_letter_fields,
        trim=(b"MAXLEN", b"~", 5),
    )
    assert (eval_, number) == (b"EVAL", 2)
    keys = [b"s", b"s.dead"]
    trim = (b"MAXLEN", b"~", 5, b"*")
    assert rest == [*keys, "g", "c", b"1-1", *trim, b"msg", b"a", b"dead.id", b"1-1"]
    assert isinstance(script, bytes)
    steps = [script.index(word) for word in (b"XPENDING", b"XADD", b"XACK")]
    assert steps == sorted(steps), "an entry could be lost otherwise"
    assert b"group, id, id, 1, consumer)" in script, (
        "the entry must belong to the caller"
    )


def test_keys_and_values_are_sent_unchanged_whatever_they_contain() -> None:
    key, body = b"a b\r\n{tag}\x00\xff", bytes(range(256))
    reader = hiredis.Reader()
    reader.feed(packed(commands.xadd(key, (b"msg", body))))
    assert reader.gets() == [b"XADD", key, b"*", b"msg", body]


def test_names_are_sent_as_utf_8() -> None:
    reader = hiredis.Reader()
    reader.feed(packed(commands.xack(b"s", "gruppe für alle", [b"1-1"])))
    assert reader.gets()[2] == "gruppe für alle".encode()


def test_a_producer_sends_these_commands_when_it_opens() -> None:
    assert scripts.may_script() == (b"EVAL", b"return 1", 0)
    assert commands.wait(2, 50) == (b"WAIT", 2, 50)
    assert commands.pexpire(b"s", 50) == (b"PEXPIRE", b"s", 50)
    assert commands.config_get(b"a") == (b"CONFIG", b"GET", b"a")
    assert commands.wait_aof(2, 50) == (b"WAITAOF", 1, 2, 50)
