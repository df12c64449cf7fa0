"""What an operator or a fault does to the model of the server."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import hiredis
import pytest

from simulation.server import REDIS_6_2, VALKEY_9, Server, Version


class Timer:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.timers: list[Timer] = []

    def wall(self) -> float:
        return self.now

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [t for t in self.timers if t.due <= end and not t.cancelled]:
            timer = min(due, key=lambda each: each.due)
            self.timers.remove(timer)
            self.now = max(self.now, timer.due)
            timer.callback()
        self.now = end


class Client:
    """A client of the model; calling it sends a command and returns the replies."""

    def __init__(self, server: Server) -> None:
        self._reader = hiredis.Reader()
        self.ended = False
        self.session = server.connected(self)

    def send(self, data: bytes) -> None:
        self._reader.feed(data)

    def close(self) -> None:
        self.ended = True

    def take(self) -> list[Any]:
        found = []
        while (reply := self._reader.gets()) is not False:
            found.append(str(reply) if isinstance(reply, Exception) else reply)
        return found

    def __call__(self, *words: Any) -> list[Any]:
        self.session.received(hiredis.pack_command(words))
        return self.take()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Server:
    return make(clock)


def make(clock: Clock, version: Version = VALKEY_9, **config: str) -> Server:
    directives = {name.replace("_", "-"): value for name, value in config.items()}
    return Server(clock, random.Random(1), version, config=directives)


READ = ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 1000, "STREAMS", "s", ">")


def test_a_blocked_read_ends_at_its_timeout(clock: Clock, server: Server) -> None:
    client = Client(server)
    client("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    assert client(*READ) == []
    assert client("PING") == []
    clock.advance(0.999)
    assert client.take() == []
    clock.advance(0.001)
    assert client.take() == [None, b"PONG"]


def test_a_frozen_server_runs_later_what_it_has_received(
    clock: Clock, server: Server
) -> None:
    """What was received goes first: the read whose time is over gets the entry."""
    reader, writer, gone = (Client(server) for _ in range(3))
    writer("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    reader(*READ)
    server.frozen = True
    assert writer("XADD", "s", "5-5", "a", "1") == []
    assert gone("XADD", "s", "5-6", "a", "1") == []
    gone.session.closed()
    clock.advance(5)
    assert reader.take() == []
    server.frozen = False
    assert reader.take() == [[[b"s", [[b"5-5", [b"a", b"1"]]]]]]
    assert writer.take() == [b"5-5"]
    assert writer("XLEN", "s") == [2]


def test_a_restart_ends_connections_and_keeps_what_it_is_told(server: Server) -> None:
    client = Client(server)
    client("SET", "x", "1")
    client("XADD", "s", "1-1", "a", "1")
    client("XGROUP", "CREATE", "s", "g", "0")
    [digest] = client("SCRIPT", "LOAD", "return 1")
    snapshot = server.snapshot()
    client("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    client("SET", "x", "2")
    run_id = server.run_id
    server.restart(snapshot)
    assert client.ended
    assert client("GET", "x") == []
    again = Client(server)
    assert again("GET", "x") == [b"1"]
    assert again("XPENDING", "s", "g") == [[0, None, None, None]]
    assert again("EVALSHA", digest, 0) == ["NOSCRIPT No matching script."]
    assert again.session.number == client.session.number
    assert server.run_id != run_id
    # The snapshot does not change with the server.
    again("SET", "x", "3")
    server.restart(snapshot)
    assert Client(server)("GET", "x") == [b"1"]


def test_a_crash_keeps_what_had_reached_the_disk(clock: Clock) -> None:
    server = make(clock, appendonly="yes")
    client = Client(server)
    client("XADD", "s", "*", "a", "1")
    assert client("WAITAOF", 1, 0, 0) == []
    clock.advance(1)
    assert client.take() == [[1, 0]]
    client(
        "EVAL", "redis.call('XADD', 's', '*', 'a', '2') redis.call('SET', 'x', 1)", 0
    )
    clock.advance(1)
    before = client("XRANGE", "s", "-", "+")
    client("XADD", "s", "*", "a", "3")
    server.crash()
    again = Client(server)
    assert again("XRANGE", "s", "-", "+") == before
    assert again("GET", "x") == [b"1"]


def test_without_a_journal_a_crash_keeps_what_was_saved(server: Server) -> None:
    client = Client(server)
    client("SET", "x", "1")
    server.crash()
    client = Client(server)
    assert client("GET", "x") == [None]
    client("SET", "x", "1")
    client("SAVE")
    client("SET", "x", "2")
    server.crash()
    assert Client(server)("GET", "x") == [b"1"]


def test_a_replica_follows_and_takes_over_with_what_it_has(
    clock: Clock, server: Server
) -> None:
    replica = make(clock)
    client = Client(server)
    client("XADD", "s", "1-1", "a", "1")
    client("XGROUP", "CREATE", "s", "g", "0")
    server.replicate_to(replica, 0.1)
    client("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    assert client("WAIT", 1, 1000) == []
    clock.advance(0.2)
    assert client.take() == [1]
    client("XADD", "s", "2-1", "a", "1")
    assert client("WAIT", 1, 50) == []
    clock.advance(0.05)
    assert client.take() == [0]
    other = Client(replica)
    assert other("XADD", "s", "*", "a", "1") == [
        "READONLY You can't write against a read only replica."
    ]
    replica.promote()
    server.demote()
    clock.advance(1)
    assert other("XLEN", "s") == [1]
    assert other("XPENDING", "s", "g")[0][0] == 1
    assert other("XADD", "s", "3-1", "a", "1") == [b"3-1"]
    assert client("XADD", "s", "9-1", "a", "1")[0].startswith("READONLY")
    replica.replicate_to(server, 0.1)
    assert client("XLEN", "s") == [2]


def test_who_waits_on_a_demoted_server_is_told(clock: Clock, server: Server) -> None:
    client = Client(server)
    client("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    client(*READ)
    server.demote()
    assert client.take()[0].startswith("UNBLOCKED")
    assert client.ended


def test_a_served_read_reaches_the_replica_on_old_servers(clock: Clock) -> None:
    """These serve a blocked client without running its command again."""
    server, replica = make(clock, REDIS_6_2), make(clock, REDIS_6_2)
    reader, writer = Client(server), Client(server)
    writer("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    server.replicate_to(replica, 0.1)
    reader(*READ)
    writer("XADD", "s", "1-1", "a", "1")
    assert len(reader.take()) == 1
    clock.advance(1)
    assert Client(replica)("XPENDING", "s", "g")[0][0] == 1


def test_states_that_refuse(server: Server) -> None:
    client, other = Client(server), Client(server)
    guards = server.guards
    client("MULTI")
    client("XADD", "s", "*", "a", "1")
    guards.out_of_memory = True
    assert client("EXEC")[0].startswith("EXECABORT")
    assert other("XADD", "s", "*", "a", "1")[0].startswith("OOM ")
    assert other("DEL", "s") == [0]
    guards.out_of_memory = False
    guards.misconf = True
    assert other("DEL", "s")[0].startswith("MISCONF ")
    assert other("GET", "s") == [None]
    guards.misconf = False
    guards.loading = True
    assert other("GET", "s")[0].startswith("LOADING ")
    guards.loading = False
    other("CONFIG", "SET", "min-replicas-to-write", 1)
    assert other("DEL", "s")[0].startswith("NOREPLICAS ")
    other("CONFIG", "SET", "min-replicas-to-write", 0)
    guards.busy = True
    assert other("GET", "s")[0].startswith("BUSY ")
    assert other("SCRIPT", "KILL") == [b"OK"]
    guards.refused["xadd"] = b"NOPERM not this one"
    assert other("XADD", "s", "*", "a", "1") == ["NOPERM not this one"]
    assert other("EVAL", "return redis.pcall('XADD', 's', '*', 'a', '1')", 0) == [
        "NOPERM not this one"
    ]


def test_a_pause_postpones_writes_only(clock: Clock, server: Server) -> None:
    client, other = Client(server), Client(server)
    client("CLIENT", "PAUSE", 1000, "WRITE")
    assert client("GET", "x") == [None]
    assert client("SET", "x", "1") == []
    assert client("GET", "x") == []
    assert other("GET", "x") == [None]
    clock.advance(1)
    assert client.take() == [b"OK", b"1"]


def test_killed_clients_end_at_once(server: Server) -> None:
    client, other = Client(server), Client(server)
    client("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    other(*READ)
    assert client("CLIENT", "KILL", "TYPE", "normal") == [1]
    assert other.ended
    client("XADD", "s", "*", "a", "1")
    assert client("XPENDING", "s", "g")[0][0] == 0


def test_keys_expire_by_the_clock(clock: Clock, server: Server) -> None:
    client = Client(server)
    client("SET", "x", "1", "PX", 100)
    clock.advance(0.099)
    assert client("GET", "x") == [b"1"]
    clock.advance(0.001)
    assert client("GET", "x") == [None]


def test_a_clock_set_back_does_not_set_ids_back(clock: Clock, server: Server) -> None:
    client = Client(server)
    [first] = client("XADD", "s", "*", "a", "1")
    clock.now -= 100
    [second] = client("XADD", "s", "*", "a", "1")
    assert second == first.partition(b"-")[0] + b"-1"
