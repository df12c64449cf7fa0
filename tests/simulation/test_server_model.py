"""The model of the server, held against the real servers that are installed.

Command sequences of several clients, some of them blocked, go to both. All replies must
agree, and so must the moments at which they come. To compare for longer, set
PENSTOCK_SIMULATION_EXAMPLES (150 sequences for each server by default).
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock._core.protocol import (
    dead_letter_scripts,
    scripts,
    sending_scripts,
    transaction_script,
)
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.transactions import Effects
from simulation.real_servers import Wire, binary, running
from simulation.server import VERSIONS, Server, Session, Version

EXAMPLES = int(os.environ.get("PENSTOCK_SIMULATION_EXAMPLES", "150"))
CLIENTS = 5
LATE = 5.0
Words = tuple[Any, ...]
Step = tuple[int, Words]


@pytest.fixture(scope="module", params=list(VERSIONS))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Version, Path]]:
    """A version, and the socket of a real server of it."""
    version = VERSIONS[request.param]
    program = binary(version)
    if program is None:
        pytest.skip(f"{version.label} is not installed")
    with running(program, tmp_path_factory.mktemp(version.label)) as path:
        yield version, path


# -- both sides ------------------------------------------------------------------------


class Clock:
    """A clock that is set; no timer ever fires."""

    def __init__(self) -> None:
        self.now = time.time()

    def wall(self) -> float:
        return self.now

    def after(self, delay: float, callback: Callable[[], None]) -> Clock:
        return self

    def cancel(self) -> None:
        pass


class Inbox:
    """What the model sends to a client."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.ended = False

    def send(self, data: bytes) -> None:
        self.reader.feed(data)

    def close(self) -> None:
        self.ended = True

    def take(self) -> list[object]:
        """Return the replies that have come."""
        replies = []
        while (reply := self.reader.gets()) is not False:
            replies.append(reply)
        return replies


def plain(reply: Any) -> object:
    """Return a reply without what may differ."""
    if isinstance(reply, bytes):
        return re.sub(rb"@?user_script: ?\d+", b"user_script", reply)
    if isinstance(reply, hiredis.ReplyError):
        return ("error", plain(str(reply).encode()))
    if isinstance(reply, dict):
        return {
            key: hours(value) if key in AGES else plain(value)
            for key, value in reply.items()
            if key != NODE_COUNT
        }
    if isinstance(reply, list):
        kind = "push" if isinstance(reply, hiredis.PushNotification) else "array"
        return (kind, *plain_list(reply))
    return reply


def plain_list(reply: list[Any]) -> list[object]:
    if NODE_COUNT in reply:
        place = reply.index(NODE_COUNT)
        reply = reply[:place] + reply[place + 2 :]
    found = [
        hours(item) if place and reply[place - 1] in AGES else plain(item)
        for place, item in enumerate(reply)
    ]
    if is_pending(reply):
        found[-2] = hours(reply[-2])
    return found


NODE_COUNT = b"radix-tree-nodes"
AGES = [b"idle", b"inactive", b"seen-time", b"active-time"]


def is_pending(reply: list[Any]) -> bool:
    """Return whether this describes a pending entry: id, owner, age, count."""
    if len(reply) not in {3, 4} or not isinstance(reply[0], bytes):
        return False
    numbers = all(isinstance(item, int) for item in reply[-2:])
    return numbers and re.fullmatch(rb"\d+-\d+", reply[0]) is not None


def hours(ms: Any) -> object:
    """Return an age or a time without what may differ; tests set whole hours."""
    return ms if ms == -1 else ("hours", round(ms / 3_600_000))


class Model:
    """The model and its clients."""

    def __init__(self, version: Version) -> None:
        self.clock = Clock()
        self._server = Server(self.clock, random.Random(0), version)
        self.inboxes: list[Inbox] = []
        self._sessions: list[Session] = []
        for _ in range(CLIENTS):
            inbox = Inbox()
            self.inboxes.append(inbox)
            self._sessions.append(self._server.connected(inbox))

    def number(self, client: int) -> int:
        return self._sessions[client].number

    def send(self, client: int, request: bytes) -> None:
        self._sessions[client].received(request)

    def reconnect(self, client: int) -> None:
        self._sessions[client].closed()
        self.inboxes[client] = Inbox()
        self._sessions[client] = self._server.connected(self.inboxes[client])


class Real:
    """A real server and its clients."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._control = Wire(path)
        self._ask(self._control, b"FLUSHALL", b"ASYNC")
        self._ask(self._control, b"SCRIPT", b"FLUSH")
        self.wires: list[Wire] = []
        self._numbers: list[int] = []
        for _ in range(CLIENTS):
            self._connect()

    def _connect(self) -> None:
        wire = Wire(self._path)
        self.wires.append(wire)
        self._numbers.append(self._ask(wire, b"CLIENT", b"ID"))

    def _ask(self, wire: Wire, *words: bytes) -> Any:
        wire.send(hiredis.pack_command(words))  # type: ignore[arg-type]
        return wire.reply(LATE)

    def number(self, client: int) -> int:
        return self._numbers[client]

    def send(self, client: int, request: bytes) -> None:
        self.wires[client].send(request)

    def reconnect(self, client: int) -> None:
        self.wires[client].close()
        self._connect()
        self.wires[client] = self.wires.pop()
        self._numbers[client] = self._numbers.pop()

    def settle(self) -> list[bytes]:
        """Return the streams' last ids, once all replies to requests have come."""
        found = []
        for key in KEYS:
            facts = self._ask(self._control, b"XINFO", b"STREAM", key)
            is_stream = isinstance(facts, list)
            found.append(
                facts[facts.index(b"last-generated-id") + 1] if is_stream else b""
            )
        return found

    def close(self) -> None:
        for wire in (*self.wires, self._control):
            wire.close()


class Comparison:
    """A run of the same steps on the model and on a real server."""

    def __init__(self, version: Version, path: Path) -> None:
        self._model = Model(version)
        self._real = Real(path)
        # The ids that were made from the clock, and the streams' last ids.
        self._ids: list[bytes] = []
        self._last = [b""] * len(KEYS)

    def run(self, steps: list[Step]) -> None:
        """Run the steps, and compare all replies."""
        try:
            for client, words in steps:
                self._step(client, words)
        finally:
            self._real.close()

    def _step(self, client: int, words: Words) -> None:
        if words[0] == "RECONNECT":
            self._model.reconnect(client)
            self._real.reconnect(client)
            return
        words = self._with_ids(words)
        self._real.send(client, pack(words, self._real))
        last_ids = self._real.settle()
        replies = [wire.waiting() for wire in self._real.wires]
        self._learn(last_ids, CLOCK_ID.findall(repr(replies).encode()))
        self._model.send(client, pack(words, self._model))
        for number, (inbox, real) in enumerate(
            zip(self._model.inboxes, replies, strict=True)
        ):
            here, there = map(plain, inbox.take()), map(plain, real)
            self._compare(f"client {number}", list(here), list(there), words)

    def _compare(self, who: str, here: Any, there: Any, words: Words) -> None:
        if words[0] != "HELLO":
            assert here == there, f"{who}: model {here}, real {there}"

    def _learn(self, last_ids: list[bytes], seen: list[bytes]) -> None:
        """Note new ids, and set the model's clock to the time that they were made."""
        pairs = zip(last_ids, self._last, strict=True)
        moved = [last for last, before in pairs if last != before]
        self._last = last_ids
        new = [id_ for id_ in seen if id_ not in self._ids]
        made = [id_ for id_ in (*new, *moved) if CLOCK_ID.fullmatch(id_)]
        self._ids += made
        times = [int(id_.partition(b"-")[0]) / 1000 + 0.0001 for id_ in made]
        self._model.clock.now = max(times, default=time.time())

    def _with_ids(self, words: Words) -> Words:
        """Return words with ids in the place of their placeholders."""
        if not self._ids:
            return tuple(b"1-1" if is_id(word) else word for word in words)
        count = len(self._ids)
        return tuple(
            self._ids[word[1] % count] if is_id(word) else word for word in words
        )


def is_id(word: Any) -> bool:
    return isinstance(word, tuple) and word[0] == "id"


def pack(words: Words, side: Model | Real) -> bytes:
    """Return a request, with the numbers that clients have on a side."""

    def word(given: Any) -> Any:
        return side.number(given[1]) if isinstance(given, tuple) else given

    request: bytes = hiredis.pack_command(tuple(map(word, words)))
    return request


CLOCK_ID = re.compile(rb"\d{13}-\d+")
KEYS = [b"s", b"t", b"x"]


def compare(version: Version, path: Path, steps: list[Step]) -> None:
    """Compare the replies to steps.

    A step within which a millisecond ends may differ by that, so steps that differ are
    run again.
    """
    for left in reversed(range(3)):
        try:
            Comparison(version, path).run([*BEGINNING, *steps])
        except AssertionError:
            if not left:
                raise
        else:
            return


# -- what is sent ----------------------------------------------------------------------

client = st.integers(0, CLIENTS - 1)
key = st.sampled_from(["s", "s", "s", "t"])
any_key = st.sampled_from(["s", "s", "t", "x"])
group = st.sampled_from(["g", "g", "g", "h"])
consumer = st.sampled_from(["c", "d", "e"])
given_id = st.builds("{}-{}".format, st.integers(0, 9), st.integers(0, 3))
auto_id = st.tuples(st.just("id"), st.integers(0, 20))
entry_id: st.SearchStrategy[Any] = given_id | auto_id
ids = st.lists(entry_id, min_size=1, max_size=4)
low = st.sampled_from(["-", "0", "3"]) | given_id | given_id.map("({}".format) | auto_id
high = st.sampled_from(["+", "9"]) | given_id | given_id.map("({}".format) | auto_id
small = st.integers(0, 4)
position = st.sampled_from(["0", "$", "-"]) | entry_id
HOUR = 3_600_000
idle = st.sampled_from([0, 0, HOUR, 3 * HOUR])


def words(*parts: Any) -> st.SearchStrategy[Words]:
    """Return commands whose parts are words, or strategies of words or of lists."""
    made = [
        part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts
    ]
    return st.tuples(*made).map(flat)


def flat(parts: Any) -> Words:
    found: list[Any] = []
    for part in parts:
        if isinstance(part, list):
            found += flat(part)
        else:
            found.append(part)
    return tuple(found)


def maybe(*parts: Any) -> st.SearchStrategy[list[Any]]:
    return st.just([]) | words(*parts).map(list)


trim = words(
    st.sampled_from(["MAXLEN", "MINID"]),
    st.sampled_from([[], ["="], ["~"]]),
    small | entry_id,
    maybe("LIMIT", small),
).map(list)
fields = st.sampled_from([["a", "1"], ["a", "1", "b", "2"], ["n", 5], ["odd"]])
streams = st.one_of(
    words("STREAMS", key, position),
    words("STREAMS", "s", "t", position, position),
).map(list)
group_streams = st.one_of(
    words("STREAMS", key, ">"),
    words("STREAMS", "s", "t", ">", ">"),
    words("STREAMS", key, entry_id),
    words("STREAMS", "s", "t", ">", "0"),
).map(list)

writes = st.one_of(
    words("XADD", key, "*", fields),
    words("XADD", key, given_id, fields),
    words("XADD", key, "5-*", fields),
    words("XADD", any_key, maybe("NOMKSTREAM"), trim, "*", fields),
    words("XADD", key, "1-0", fields),
    words("XDEL", key, ids),
    words("XTRIM", key, trim),
    words(
        "XSETID", key, entry_id, maybe("ENTRIESADDED", small, "MAXDELETEDID", entry_id)
    ),
)
ranges = st.one_of(
    words("XLEN", any_key),
    words("XRANGE", key, low, high, maybe("COUNT", small)),
    words("XREVRANGE", key, high, low, maybe("COUNT", small)),
    words("XREAD", maybe("COUNT", small), streams),
)
reads = words(
    "XREADGROUP",
    "GROUP",
    group,
    consumer,
    maybe("COUNT", small),
    maybe("NOACK"),
    group_streams,
)
waits = st.one_of(
    words("XREAD", maybe("COUNT", small), "BLOCK", 0, streams),
    words(
        "XREADGROUP",
        "GROUP",
        group,
        consumer,
        maybe("COUNT", small),
        "BLOCK",
        0,
        group_streams,
    ),
)
acknowledgements = st.one_of(
    words("XACK", key, group, ids),
    words("XPENDING", key, group),
    words(
        "XPENDING", key, group, maybe("IDLE", idle), low, high, small, maybe(consumer)
    ),
    words(
        *("XCLAIM", key, group, consumer, idle, ids, maybe("IDLE", idle)),
        *(maybe("RETRYCOUNT", small), maybe("FORCE"), maybe("JUSTID")),
        maybe("LASTID", entry_id),
    ),
    words(
        *("XAUTOCLAIM", key, group, consumer, idle, low, maybe("COUNT", small)),
        maybe("JUSTID"),
    ),
)
groups = st.one_of(
    words("XGROUP", "CREATE", key, group, position, maybe("MKSTREAM")),
    words("XGROUP", "CREATE", key, group, position, maybe("ENTRIESREAD", small)),
    words("XGROUP", "SETID", key, group, position, maybe("ENTRIESREAD", small)),
    words("XGROUP", "CREATECONSUMER", key, group, consumer),
    words("XGROUP", "DELCONSUMER", key, group, consumer),
    words("XGROUP", "DESTROY", key, group),
)
infos = st.one_of(
    words("XINFO", "STREAM", any_key),
    words("XINFO", "STREAM", key, "FULL"),
    words("XINFO", "GROUPS", any_key),
    words("XINFO", "CONSUMERS", key, group),
)
foreign = st.one_of(
    words(st.sampled_from(["DEL", "UNLINK"]), any_key),
    words("RENAME", any_key, any_key),
    words("SET", any_key, "1"),
    words("GET", any_key),
    words("INCR", any_key),
    words("TYPE", any_key),
    words("EXISTS", any_key, any_key),
    words("HSET", any_key, "f", "1"),
    words("HGETALL", any_key),
    words("HINCRBY", any_key, "f", 2),
    words("PEXPIRE", key, st.sampled_from([-1, HOUR])),
    words("FLUSHALL", "ASYNC"),
    words("PING"),
    words("NOSUCH", "a"),
    words("XADD"),
)


def script(build: Callable[..., Words], *args: Any, **options: Any) -> Any:
    """Return one of the library's scripts with any arguments."""
    return st.builds(lambda given: build(*given, **options), st.tuples(*args))


as_bytes = {
    "key": key.map(str.encode),
    "group": group,
    "consumer": consumer,
    "id": given_id.map(str.encode),
    "ids": st.lists(given_id.map(str.encode), min_size=1, max_size=3),
}
B = as_bytes
OWNER = Fence(b"owner", b"token")
owners = st.sampled_from([None, OWNER, OWNER._replace(token=b"other")])
own_scripts = st.one_of(
    script(
        scripts.xtrim_acked,
        B["key"],
        B["id"],
        st.sampled_from([(), (b"h",)]),
        given_id.map(lambda id_: (b"MINID", id_)),
    ),
    script(scripts.last_id, B["key"]),
    script(scripts.stream_facts, B["key"]),
    script(scripts.count_between, B["key"], st.just(b"-"), B["id"], small),
    script(scripts.remove_empty_consumer, B["key"], group, consumer),
    script(
        scripts.claim_own,
        B["key"],
        group,
        consumer,
        B["ids"],
        st.sampled_from([(), (b"IDLE", HOUR), (b"RETRYCOUNT", 2)]),
    ),
    st.builds(
        lambda key, group, consumer, id_, owner: dead_letter_scripts.send_dead_letter(
            key, group, consumer, id_, dead=b"t", fields=[b"why", b"1"], owner=owner
        ),
        B["key"],
        group,
        consumer,
        B["id"],
        owners,
    ),
    st.builds(
        lambda run, low, entries: sending_scripts.add_once(
            b"s", b"mark", run, entries, life=HOUR, low=low
        ),
        small,
        small,
        st.lists(
            st.sampled_from(
                [(b"*", b"a", b"1"), (b"MAXLEN", 2, b"*", b"a", b"1"), (b"1-0", b"a")]
            ),
            max_size=3,
        ),
    ),
    script(
        dead_letter_scripts.move_entries,
        B["key"],
        B["ids"].map(lambda given: [(id_, b"t") for id_ in given]),
        st.sampled_from([0, 2]),
    ),
)


def apply(
    id_: bytes,
    inner: list[tuple[str, list[Any]]],
    *,
    dead: bool,
    whole: bool,
    owner: Fence | None,
) -> Words:
    """Return the script of a transaction."""
    effects = Effects(b"s")
    for name, args in inner:
        effects.command(name, args)
    letters = b"t" if dead else None
    behind = [b"why", b"?"]
    behind = [b"why", b"?"]
    return transaction_script.apply(
        b"s",
        "g",
        id_,
        effects,
        dead=letters,
        behind=behind,
        reason=2,
        trim=(),
        drop=False,
        whole=whole,
        owner=owner,
    )


transactions = st.builds(
    apply,
    B["id"],
    st.lists(
        st.sampled_from(
            [
                ("HINCRBY", ["x", "f", 1]),
                ("INCR", ["x"]),
                ("SET", ["x", "text"]),
                ("DEL", ["x"]),
                ("LPUSH", ["x", 1]),
                ("XADD", ["t", "*", "a", "1"]),
                ("XADD", ["t", "1-0", "a", "1"]),
            ]
        ),
        min_size=1,
        max_size=4,
    ),
    dead=st.booleans(),
    whole=st.sampled_from([True, True, False]),
    owner=owners,
)
lua = st.sampled_from(
    [
        ("EVAL", "return redis.call('XLEN', KEYS[1])", 1, "s"),
        ("EVAL", "return redis.call('XLEN', KEYS[1])", 1, "x"),
        ("EVAL", "return redis.pcall('XLEN', 'x')", 0),
        ("EVAL", "return {1, 2.7, 'a', false, {true, {err = 'NO way'}}}", 0),
        ("EVAL", "return redis.call('XINFO', 'GROUPS', 's')", 0),
        ("EVAL", "return redis.call('XRANGE', 's', '-', '+')", 0),
        ("EVAL", "redis.call('SET', 'x', 1.5) return redis.call('GET', 'x')", 0),
        ("EVAL", "return redis.error_reply('ODD one')", 0),
        ("EVAL", "return redis.call('NOSUCH')", 0),
        ("EVALSHA", "0" * 40, 0),
    ]
)
usual = st.one_of(writes, writes, reads, reads, ranges, acknowledgements, groups, infos)
command = st.one_of(usual, usual, usual, foreign, own_scripts, transactions, lua)
single = st.tuples(client, command | waits)
transaction = st.builds(
    lambda client, before, inner, between, after, other: [
        *((client, words) for words in before),
        (client, ("MULTI",)),
        *((client, words) for words in inner),
        *((other, words) for words in between),
        (client, (after,)),
    ],
    client,
    st.sampled_from([[], [("WATCH", "s")]]),
    st.lists(usual | foreign | waits, max_size=4),
    st.lists(writes | groups, max_size=1),
    st.sampled_from(["EXEC", "EXEC", "EXEC", "DISCARD"]),
    client,
)
messages = st.one_of(
    words("SUBSCRIBE", st.sampled_from(["m", "n"])),
    words("UNSUBSCRIBE", "m"),
    words("PUBLISH", st.sampled_from(["m", "n"]), "hello"),
    words("PUBSUB", "NUMSUB", "m", "n"),
)
operators = st.one_of(
    words(
        "CLIENT",
        "UNBLOCK",
        st.tuples(st.just("client"), client),
        st.sampled_from(["TIMEOUT", "ERROR"]),
    ),
    words("RECONNECT"),
)
steps = st.lists(
    st.one_of(
        single.map(lambda step: [step]),
        single.map(lambda step: [step]),
        single.map(lambda step: [step]),
        transaction,
        st.tuples(client, messages | operators).map(lambda step: [step]),
    ),
    min_size=5,
    max_size=60,
).map(lambda lists: [step for each in lists for step in each])

BEGINNING: list[Step] = [
    (4, ("CONFIG", "SET", "stream-node-max-entries", 3)),
    (0, ("HELLO", 3)),
    (1, ("HELLO", 3)),
    (4, ("HSET", "owner", "token", "token")),
    (4, ("XADD", "s", "1-1", "a", "1")),
    (4, ("XADD", "s", "2-1", "a", "1")),
    (4, ("XADD", "s", "*", "a", "1")),
    (4, ("XGROUP", "CREATE", "s", "g", "0")),
    (4, ("XGROUP", "CREATE", "s", "h", "$")),
    (4, ("XGROUP", "CREATE", "t", "g", "0", "MKSTREAM")),
    (4, ("XREADGROUP", "GROUP", "g", "c", "COUNT", "2", "STREAMS", "s", ">")),
]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps)
def test_the_model_replies_as_the_server_does(
    pair: tuple[Version, Path], steps: list[Step]
) -> None:
    compare(*pair, steps)


def test_the_model_runs_an_owners_scripts_as_the_server_does(
    pair: tuple[Version, Path],
) -> None:
    """With the token, with another, and in the end without an owner."""
    stale = OWNER._replace(token=b"other")
    calls = [("INCR", ["x"]), ("XADD", ["t", "9-0", "a", "1"])]
    steps: list[Step] = [
        step
        for owner in (stale, OWNER, OWNER)
        for step in (
            (0, apply(b"1-1", calls, dead=True, whole=True, owner=owner)),
            (0, apply(b"1-1", calls, dead=True, whole=False, owner=owner)),
            (
                1,
                dead_letter_scripts.send_dead_letter(
                    b"s", "g", "d", b"2-1", dead=b"u", fields=[b"a", b"1"], owner=owner
                ),
            ),
            (2, ("XPENDING", "s", "g")),
            (2, ("MGET", "x")),
            (2, ("XLEN", "u")),
        )
    ]
    gone: list[Step] = [(3, ("DEL", "owner")), *steps[:3]]
    compare(*pair, [*steps, *gone])
