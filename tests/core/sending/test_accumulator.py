"""Accumulator: messages from the call until their outcome is known."""

from __future__ import annotations

from math import inf

import pytest

from penstock._core.protocol import commands
from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.requests import SendBatch, SendRequest
from penstock.message import Shard

SHARD = Shard("orders", 0, b"orders")


def request(ticket: str, size: int = 10) -> SendRequest[str]:
    return SendRequest(SHARD, commands.xadd(b"orders", (b"msg", b"")), size, ticket)


def filled(*tickets: str, size: int = 10) -> Accumulator[str]:
    accumulator = Accumulator[str](max_messages=100, max_bytes=10_000)
    for ticket in tickets:
        accumulator.add(request(ticket, size))
    return accumulator


def tickets(batch: list[SendRequest[str]]) -> str:
    return "".join(one.ticket for one in batch)


def test_messages_are_held_from_adding_until_their_outcome_is_known() -> None:
    accumulator = filled(*"abc")
    assert (accumulator.held, accumulator.size, accumulator.queued) == (3, 30, 3)
    accumulator.batch(10)
    assert (accumulator.held, accumulator.size, accumulator.queued) == (3, 30, 0)
    assert accumulator.in_flight == 1
    assert tickets(accumulator.answered()) == "abc"
    assert (accumulator.held, accumulator.size, accumulator.in_flight) == (0, 0, 0)
    assert (accumulator.added, accumulator.settled) == (3, 3)


@pytest.mark.parametrize(
    ("limit", "taken", "left"),
    [(1, "a", 2), (2, "ab", 1), (3, "abc", 0), (9, "abc", 0)],
)
def test_a_batch_takes_up_to_the_limit_from_the_front(
    limit: int, taken: str, left: int
) -> None:
    accumulator = filled(*"abc")
    assert tickets(accumulator.batch(limit)) == taken
    assert accumulator.queued == left


def test_batches_are_answered_in_the_order_in_which_they_were_taken() -> None:
    accumulator = filled(*"abc")
    accumulator.batch(2)
    accumulator.batch(2)
    assert accumulator.in_flight == 2
    assert tickets(accumulator.answered()) == "ab"
    assert (accumulator.settled, accumulator.held) == (2, 1)
    assert tickets(accumulator.answered()) == "c"


def test_a_lost_connection_loses_exactly_the_messages_in_flight() -> None:
    accumulator = filled(*"abcd")
    accumulator.batch(1)
    accumulator.batch(2)
    assert tickets(accumulator.lost()) == "abc"
    assert (accumulator.queued, accumulator.in_flight) == (1, 0)
    assert (accumulator.held, accumulator.settled) == (1, 3)
    assert accumulator.lost() == []
    assert tickets(accumulator.batch(10)) == "d"


def test_abandoning_removes_waiting_messages_and_keeps_those_in_flight() -> None:
    accumulator = filled(*"abc")
    accumulator.batch(1)
    assert tickets(accumulator.abandon()) == "bc"
    assert (accumulator.queued, accumulator.in_flight, accumulator.held) == (0, 1, 1)
    assert tickets(accumulator.answered()) == "a"
    assert accumulator.settled == accumulator.added == 3
    assert accumulator.abandon() == []


def test_the_numbers_of_messages_and_bytes_bound_what_fits() -> None:
    accumulator = Accumulator[str](max_messages=3, max_bytes=100)
    accumulator.add(request("a", 40))
    assert accumulator.fits(60)
    assert not accumulator.fits(61)
    accumulator.add(request("b", 0))
    assert accumulator.fits(60)
    accumulator.add(request("c", 0))
    assert not accumulator.fits(0)


def test_messages_in_flight_count_against_the_bounds() -> None:
    accumulator = Accumulator[str](max_messages=1, max_bytes=100)
    accumulator.add(request("a"))
    accumulator.batch(1)
    assert not accumulator.fits(1)
    accumulator.answered()
    assert accumulator.fits(1)


def test_a_message_larger_than_the_bounds_fits_alone() -> None:
    accumulator = Accumulator[str](max_messages=3, max_bytes=100)
    assert accumulator.fits(1000)
    accumulator.add(request("a", 1000))
    assert not accumulator.fits(0)
    accumulator.batch(1)
    accumulator.answered()
    assert accumulator.fits(1000)


def test_a_hurry_is_over_when_all_messages_that_waited_then_are_taken() -> None:
    accumulator = filled(*"abc")
    assert not accumulator.urgent
    accumulator.hurry()
    accumulator.add(request("d"))
    accumulator.batch(2)
    assert accumulator.urgent
    accumulator.batch(1)
    assert not accumulator.urgent
    accumulator.hurry()
    assert accumulator.urgent
    accumulator.abandon()
    assert not accumulator.urgent


def with_deadline(ticket: str, deadline: float) -> SendRequest[str]:
    return SendRequest(SHARD, (), 10, ticket, deadline)


def test_an_overdue_message_leaves_if_it_was_not_written() -> None:
    accumulator = Accumulator[str](max_messages=100, max_bytes=10_000)
    for number, ticket in enumerate("abcdef"):
        accumulator.add(with_deadline(ticket, number % 3))
    accumulator.batch(3)
    assert accumulator.earliest() == 0
    unwritten, in_flight = accumulator.overdue(1)
    assert (tickets(unwritten), tickets(in_flight)) == ("de", "ab")
    assert (accumulator.queued, accumulator.in_flight, accumulator.held) == (1, 1, 4)
    assert accumulator.settled == 2
    # Messages in flight are removed with their reply, and reported once.
    assert accumulator.overdue(1) == ([], [])
    assert accumulator.earliest() == 2
    assert tickets(accumulator.answered()) == "abc"
    assert tickets(accumulator.batch(9)) == "f"


def test_a_message_without_a_deadline_is_never_overdue() -> None:
    accumulator = filled(*"abc")
    accumulator.batch(1)
    assert accumulator.earliest() == inf
    assert accumulator.overdue(1e300) == ([], [])
    accumulator.add(with_deadline("d", 1))
    unwritten, in_flight = accumulator.overdue(1)
    assert (tickets(unwritten), in_flight) == ("d", [])
    assert tickets(accumulator.batch(9)) == "bc"


def test_an_overdue_message_in_flight_leaves_the_others_waiting() -> None:
    accumulator = Accumulator[str](max_messages=100, max_bytes=10_000)
    accumulator.add(with_deadline("a", 1))
    accumulator.batch(1)
    accumulator.add(with_deadline("b", 2))
    unwritten, in_flight = accumulator.overdue(1)
    assert (unwritten, tickets(in_flight)) == ([], "a")
    assert accumulator.queued == 1


def test_messages_are_compared_by_identity() -> None:
    assert request("a") != request("a")


def test_messages_in_flight_are_written_again_before_waiting_ones() -> None:
    accumulator = filled(*"abcdef")
    accumulator.batch(2)
    accumulator.batch(1)
    assert accumulator.recall() == 3
    assert (accumulator.in_flight, accumulator.queued, accumulator.held) == (0, 6, 6)
    assert accumulator.urgent
    # They stay in their batches, whatever the limit is now.
    assert tickets(accumulator.batch(9)) == "ab"
    # If they are lost once more, they precede those that were not rewritten yet.
    assert accumulator.recall() == 2
    assert [tickets(accumulator.batch(9)) for _ in range(3)] == ["ab", "c", "def"]
    assert accumulator.recall() == 6


def test_refused_messages_are_older_than_those_in_flight() -> None:
    accumulator = filled(*"abcdef")
    first = accumulator.batch(3)
    accumulator.batch(2)
    assert not accumulator.refused
    assert tickets(accumulator.answered(SendBatch([first[0], first[2]]))) == "abc"
    assert (accumulator.refused, accumulator.held, accumulator.settled) == (True, 5, 1)
    assert accumulator.oldest == [first[0], first[2]]
    assert accumulator.recall() == 4
    assert not accumulator.refused
    assert [tickets(accumulator.batch(9)) for _ in range(3)] == ["ac", "de", "f"]
    accumulator.lost()
    assert accumulator.oldest is None


@pytest.mark.parametrize(("whole", "rewritten"), [(False, "b"), (True, "ab")])
def test_a_given_up_message_is_rewritten_only_if_its_batch_has_to_stay_whole(
    *, whole: bool, rewritten: str
) -> None:
    accumulator = Accumulator[str](100, 10_000, whole=whole)
    for ticket, deadline in (("a", 1), ("b", 2), ("c", 1), ("d", inf)):
        accumulator.add(with_deadline(ticket, deadline))
    accumulator.batch(2)
    accumulator.batch(1)
    accumulator.recall()
    unwritten, written = accumulator.overdue(1)
    assert (unwritten, tickets(written)) == ([], "ac")
    assert accumulator.held == len(rewritten) + 1
    assert tickets(accumulator.batch(9)) == rewritten
    assert tickets(accumulator.batch(9)) == "d"
    # It was reported before.
    assert tickets(accumulator.lost()) == "bd"


def test_messages_that_were_first_written_too_long_ago_leave() -> None:
    accumulator = filled(*"abc")
    for now in (1, 2):
        accumulator.batch(1).written = now
    accumulator.recall()
    assert tickets(accumulator.expired(2)) == "a"
    assert accumulator.settled == 1
    assert tickets(accumulator.batch(9)) == "b"
    # Messages in flight stay.
    assert accumulator.expired(99) == []


def test_only_unwritten_messages_of_a_stream_are_withdrawn() -> None:
    other = Shard("other", 1, b"other:1")
    accumulator = filled(*"ab")
    accumulator.batch(10)
    for ticket, shard in (("c", SHARD), ("d", other), ("e", SHARD)):
        command = commands.xadd(shard.key, (b"msg", b""))
        accumulator.add(SendRequest(shard, command, 10, ticket))
    assert tickets(accumulator.withdraw("orders")) == "ce"
    assert tickets(accumulator.withdraw("orders")) == ""
    assert (accumulator.held, accumulator.size, accumulator.queued) == (3, 30, 1)
    assert tickets(accumulator.answered()) == "ab"
    assert tickets(accumulator.batch(10)) == "d"
