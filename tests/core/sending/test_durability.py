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
