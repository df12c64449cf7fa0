"""Durability: waits for replicas and for the disk."""

from __future__ import annotations

from math import inf

import pytest

from penstock._core.protocol.replies import ErrorReply
from penstock._core.sending import durability
from penstock._core.sending.requests import Durability, SendRequest
from penstock.errors import NotDurable
from penstock.message import Receipt, Shard

SHARD = Shard("orders", 0, b"orders")
RECEIPT = Receipt("orders", 0, b"1-1")


def request(asks: Durability | None, deadline: float = inf) -> SendRequest[None]:
    return SendRequest(SHARD, (), 10, None, deadline, asks)


def test_one_wait_serves_all_messages_that_ask_for_the_same() -> None:
    one, aof = Durability(1, False, None), Durability(2, True, None)  # noqa: FBT003
    batch = [request(one), request(None), request(one), request(aof)]
    first, second = durability.waits(batch, now=100, longest=5)
    assert first.command == (b"WAIT", 1, 5000)
    # Both have five seconds, and the first wait may take them.
    assert second.command == (b"WAITAOF", 1, 2, 1)
    assert durability.waits([request(None)], now=100, longest=5) == []


@pytest.mark.parametrize(
    ("left", "ms"),
    [(100, 5000), (5, 4000), (1, 800), (0.4, 300), (0.1, 50), (0.0001, 1), (-1, 1)],
)
def test_a_wait_leaves_time_for_its_reply(left: float, ms: int) -> None:
    one = Durability(1, False, left)  # noqa: FBT003
    batch = [request(one, 1000 + left), request(one, 2000)]
    [wait] = durability.waits(batch, now=1000, longest=5)
    assert abs(wait.ms - ms) <= 1


def test_the_shortest_wait_comes_first_and_counts_against_the_others() -> None:
    long, short = Durability(1, False, 4), Durability(1, False, 1)  # noqa: FBT003
    waits = durability.waits([request(long, 4), request(short, 1)], now=0, longest=5)
    assert waits == [(short, 800), (long, 2400)]


@pytest.mark.parametrize(
    ("asks", "reply", "facts"),
    [
        (Durability(1, False, None), 1, None),  # noqa: FBT003
        (Durability(1, False, None), 2, None),  # noqa: FBT003
        (Durability(2, False, None), 1, (2, 1, None)),  # noqa: FBT003
        (Durability(0, True, None), [1, 0], None),  # noqa: FBT003
        (Durability(1, True, None), [1, 1], None),  # noqa: FBT003
        (Durability(1, True, None), [1, 0], (1, 0, True)),  # noqa: FBT003
        (Durability(0, True, None), [0, 0], (0, 0, False)),  # noqa: FBT003
        (Durability(1, False, None), ErrorReply("NOPERM no"), (1, 0, None)),  # noqa: FBT003
        (Durability(0, True, None), ErrorReply("ERR appendonly"), (0, 0, False)),  # noqa: FBT003
    ],
)
def test_a_shortfall_is_reported(
    asks: Durability, reply: object, facts: tuple[object, ...] | None
) -> None:
    short = durability.shortfall(asks, reply, RECEIPT)
    if facts is None:
        assert short is None
        return
    assert isinstance(short, NotDurable)
    assert (short.wanted, short.achieved, short.durable) == facts
    assert (short.stream, short.id, short.receipt) == ("orders", "1-1", RECEIPT)
    if isinstance(reply, ErrorReply):
        assert reply.text in str(short)


REDIS_7, REDIS_8 = (
    b"# Server\r\nredis_version:%b\r\nredis_mode:standalone\r\n" % version
    for version in (b"7.4.2", b"8.2.0")
)
VALKEY = (
    b"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2"
)
DENIED = ErrorReply("NOPERM no")


def policy(name: bytes) -> dict[bytes, bytes]:
    return {b"appendfsync": name}


@pytest.mark.parametrize(
    ("settings", "server", "believed"),
    [
        (policy(b"always"), VALKEY, True),
        (policy(b"always"), REDIS_7, True),
        (policy(b"always"), DENIED, True),
        (policy(b"everysec"), VALKEY, False),
        (policy(b"everysec"), REDIS_7, False),
        (policy(b"everysec"), REDIS_8, True),
        (policy(b"everysec"), b"redis_version:10.0.1", True),
        (policy(b"everysec"), b"redis_version:unstable", False),
        (policy(b"everysec"), b"no version", False),
        (policy(b"everysec"), DENIED, None),
        (policy(b"no"), REDIS_8, False),
        (policy(b"no"), DENIED, False),
        (DENIED, REDIS_8, True),
        (DENIED, VALKEY, None),
        (DENIED, DENIED, None),
        ({}, VALKEY, None),
    ],
)
def test_a_server_is_believed_by_its_setting_and_its_version(
    settings: object, server: object, believed: object
) -> None:
    sync = durability.file_sync([settings, server])
    assert sync.believed is believed
    assert bool(sync.reason) == (sync.believed is not True)


def test_only_waits_for_files_ask_what_they_are_worth() -> None:
    one, aof = Durability(1, False, None), Durability(0, True, None)  # noqa: FBT003
    replicas = durability.waits([request(one)], now=0, longest=5)
    assert durability.questions(replicas) == [(b"WAIT", 1, 5000)]
    assert durability.sync_of(replicas, [1]) is None
    both = durability.waits([request(one), request(aof)], now=0, longest=5)
    asked = durability.questions(both)
    assert [command[0] for command in asked] == [
        b"WAIT",
        b"WAITAOF",
        b"CONFIG",
        b"INFO",
    ]
    sync = durability.sync_of(both, [1, (1, 0), policy(b"everysec"), VALKEY])
    assert sync is not None
    assert sync.believed is False


@pytest.mark.parametrize(
    ("setting", "kinds"), [(b"always", [bytes] * 2), (b"everysec", [NotDurable, bytes])]
)
def test_a_message_is_not_durable_where_the_reply_cannot_be_believed(
    setting: bytes, kinds: list[type]
) -> None:
    aof = Durability(1, True, None)  # noqa: FBT003
    batch = [request(aof), request(None)]
    waits = durability.waits(batch, now=0, longest=5)
    waited = [(1, 1), policy(setting), VALKEY]
    sync = durability.sync_of(waits, waited)
    outcomes = durability.check(batch, [b"1-1", b"1-2"], waits, waited, sync)
    assert [type(outcome) for outcome in outcomes] == kinds
    if setting == b"everysec":
        error = outcomes[0]
        assert (error.wanted, error.achieved, error.durable) == (1, 1, False)
        assert "everysec" in str(error)
