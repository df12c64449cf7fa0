"""Lost writes: the message that ends each connection is found and given up."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.sending import idempotence
from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.idempotence import IdempotentRuns
from penstock._core.sending.lost_writes import blame
from penstock._core.sending.requests import SendBatch, SendRequest, without
from penstock.message import Shard

SHARDS = [Shard("orders", n, b"orders:%d" % n) for n in range(3)]


def request(number: int, shard: int = 0) -> SendRequest[int]:
    command = commands.xadd(SHARDS[shard].key, (b"msg", b"%d" % number))
    return SendRequest(SHARDS[shard], command, 10, number)


def written(*sizes: int, whole: bool = False) -> Accumulator[int]:
    """Return messages of which batches of these sizes are in flight."""
    accumulator = Accumulator[int](1000, 10**6, whole=whole)
    number = 0
    for size in sizes:
        for _ in range(size):
            accumulator.add(request(number))
            number += 1
        accumulator.batch(size)
    return accumulator


def lose(accumulator: Accumulator[int], *, idempotent: bool = False) -> list[int]:
    """Lose the connection and return the messages that are given up."""
    suspect = accumulator.suspect
    accumulator.recall()
    assert suspect is not None
    gone = blame(accumulator, suspect, idempotent=idempotent)
    return [one.ticket for one in gone]


def numbers(batch: SendBatch[int]) -> list[int]:
    return [one.ticket for one in batch]


def test_a_write_is_alone_after_two_lost_connections_and_divided_after_three() -> None:
    accumulator = written(2, 2)
    alone = []
    for _ in range(3):
        assert lose(accumulator) == []
        alone.append(accumulator.alone)
        first = accumulator.batch(9)
        if not accumulator.alone:
            accumulator.batch(9)
    assert alone == [False, True, True]
    assert numbers(first) == [0]
    accumulator.answered()
    assert accumulator.alone
    assert numbers(accumulator.batch(9)) == [1]
    accumulator.answered()
    assert not accumulator.alone
    assert numbers(accumulator.batch(9)) == [2, 3]


def test_a_message_is_given_up_after_three_connections_with_nothing_else() -> None:
    accumulator = written(1, 1)
    for loss in range(1, 5):
        assert lose(accumulator) == []
        assert accumulator.alone == (loss >= 2)
        accumulator.batch(9)
    assert lose(accumulator) == [0]
    assert not accumulator.alone
    assert numbers(accumulator.batch(9)) == [1]
    assert (accumulator.held, accumulator.settled) == (1, 1)


def test_connections_that_end_at_different_writes_are_nobodys_fault() -> None:
    accumulator = written(*[2] * 9)
    for _ in range(8):
        assert lose(accumulator) == []
        assert not accumulator.alone
        while accumulator.queued:
            accumulator.batch(2)
        accumulator.answered()


def test_a_write_that_nobody_waits_for_any_more_is_neither_divided_nor_given_up() -> (
    None
):
    for size in (1, 2):
        accumulator = written(size)
        for _ in range(4):
            lose(accumulator)
            accumulator.batch(9)
        batch = accumulator.suspect
        assert batch is not None
        for one in batch:
            one.deadline = 1
        accumulator.overdue(2)
        assert lose(accumulator) == []
        while accumulator.queued:
            accumulator.batch(9)
            accumulator.answered()
        assert accumulator.held == 0


def test_dividing_a_batch_that_has_left_changes_nothing() -> None:
    accumulator = written(2)
    accumulator.divide(accumulator.answered())
    assert (accumulator.queued, accumulator.held) == (0, 0)


def test_a_batch_behind_others_is_divided_in_its_place() -> None:
    accumulator = written(1, 2, 1)
    accumulator.recall()
    first, second = accumulator.written()[:2]
    accumulator.divide(second)
    assert [numbers(batch) for batch in accumulator.written()] == [[0], [1], [2], [3]]
    assert [one.ticket for one in accumulator.give_up(first)] == [0]
    assert [numbers(batch) for batch in accumulator.written()] == [[1], [2], [3]]


def test_the_messages_that_are_not_among_others_keep_their_outcomes() -> None:
    batch = SendBatch([request(number) for number in range(4)])
    left, outcomes = without(batch, "abcd", batch[1:3])
    assert ([one.ticket for one in left], outcomes) == ([0, 3], ["a", "d"])


def test_messages_that_were_given_up_by_their_callers_are_not_given_up_twice() -> None:
    accumulator = written(1, whole=True)
    for _ in range(4):
        lose(accumulator, idempotent=True)
        accumulator.batch(9)
    suspect = accumulator.suspect
    assert suspect is not None
    accumulator.recall()
    suspect[0].given_up = True
    assert blame(accumulator, suspect, idempotent=True) == []
    assert (accumulator.held, accumulator.queued) == (0, 0)


def test_an_idempotent_write_is_cancelled_before_it_is_divided() -> None:
    accumulator, runs = Accumulator[int](100, 10_000, whole=True), IdempotentRuns(b"me")
    for number in range(4):
        accumulator.add(request(number, number % 2))
    batch = accumulator.batch(9)
    [first, second] = runs.commands(batch, accumulator.written())
    for _ in range(3):
        assert lose(accumulator, idempotent=True) == []
        batch = accumulator.batch(9)
    assert batch.cancels
    assert runs.commands(batch, accumulator.written()) == [first[:8], second[:8]]
    # The first run was stored, and the second one never will be.
    replies = [b"1-1\n1-2", b""]
    unstored = idempotence.unstored(batch, replies)
    assert [one.ticket for one in unstored] == [1, 3]
    assert idempotence.outcomes(batch, replies)[::2] == [b"1-1", b"1-2"]
    accumulator.cancelled(unstored)
    assert (accumulator.held, accumulator.settled) == (2, 2)
    assert not any(one.unanswered for one in unstored)
    # They have numbers of their own, and notes above the cancelled runs are kept.
    later = accumulator.batch(9)
    [command] = runs.commands(later, accumulator.written())
    assert numbers(later) == [1]
    assert command[5:8] == (3, command[6], 3)


def test_a_refusal_for_the_moment_keeps_a_cancelled_write_whole() -> None:
    batch = SendBatch([request(0, 0), request(1, 1)])
    IdempotentRuns(b"me").commands(batch)
    batch.cancels = True
    loading = ErrorReply("LOADING the dataset in memory")
    again = idempotence.refused_temporarily(batch, [b"1-1", loading])
    assert again == batch
    kept = idempotence.batch_to_resend(batch, again)
    assert (kept.cancels, kept.runs) == (True, batch.runs)


@pytest.mark.parametrize("note", [b"1-1", b"1-1\n1-2\n1-3"])
def test_a_note_of_another_number_of_messages_stores_none_of_them(note: bytes) -> None:
    batch = SendBatch([request(0), request(1)])
    IdempotentRuns(b"me").commands(batch)
    batch.cancels = True
    first, second = idempotence.outcomes(batch, [note])
    assert isinstance(first, ErrorReply)
    assert first is second


class Server:
    """Streams and notes. A poisonous message ends the connection that brings it."""

    def __init__(self, poison: set[int]) -> None:
        self.poison = poison
        self.stored: list[tuple[bytes, int]] = []
        self.notes: dict[int, bytes] = {}
        self.low = 0
        self.written: list[tuple[Any, ...]] = []

    def reply(self, command: tuple[Any, ...]) -> bytes | None:
        """Execute a command; return None if it ends the connection."""
        self.written.append(command)
        if command[0] == b"XADD":
            _, key, _, _, text = command
            bodies = [int(text)]
            if self.poison & set(bodies):
                return None
            return self.append(key, bodies)
        _, _, _, key, _, run, _, low, *words = command
        bodies = [int(word) for word in words[3::4]]
        if self.poison & set(bodies):
            return None
        if run in self.notes:
            return self.notes[run]
        if run < self.low:
            return b"STALE"
        self.low = max(self.low, low)
        self.notes = {n: note for n, note in self.notes.items() if n >= self.low}
        self.notes[run] = self.append(key, bodies)
        return self.notes[run]

    def append(self, key: bytes, bodies: list[int]) -> bytes:
        self.stored += [(key, body) for body in bodies]
        return b"\n".join(b"1-%d" % body for body in bodies)


class Run:
    """A producer that sends numbers to a server over connections that end."""

    def __init__(self, server: Server, *, idempotent: bool) -> None:
        self.server = server
        self.runs = IdempotentRuns(b"me") if idempotent else None
        self.accumulator = Accumulator[int](1000, 10**6, whole=idempotent)
        self.flights: deque[tuple[SendBatch[int], list[Command]]] = deque()
        self.given_up: list[int] = []
        self.outcomes: dict[int, bytes] = {}

    def write(self, limit: int, in_flight: int) -> None:
        accumulator = self.accumulator
        while accumulator.queued and len(self.flights) < (
            1 if accumulator.alone else in_flight
        ):
            batch = accumulator.batch(limit)
            if self.runs is None:
                packed = [one.command for one in batch]
            else:
                packed = self.runs.commands(batch, accumulator.written())
            self.flights.append((batch, packed))

    def serve(self, lost_replies: int, cut_after: int | None) -> None:
        """Execute what was written; lose the last replies if the connection ends."""
        answers: list[list[bytes]] = []
        ended = False
        for _, packed in self.flights:
            replies = []
            for command in packed:
                ended = ended or cut_after == 0
                reply = None if ended else self.server.reply(command)
                if reply is None:
                    ended = True
                    break
                cut_after = None if cut_after is None else cut_after - 1
                replies.append(reply)
            if ended:
                break
            answers.append(replies)
        if ended:
            answers = answers[: max(0, len(answers) - lost_replies)]
        for replies in answers:
            self.answer(*self.flights.popleft(), replies)
        if ended:
            self.flights.clear()
            suspect = self.accumulator.suspect
            self.accumulator.recall()
            if suspect is not None:
                idempotent = self.runs is not None
                gone = blame(self.accumulator, suspect, idempotent=idempotent)
                self.given_up += numbers(SendBatch(gone))

    def answer(
        self, batch: SendBatch[int], _: list[Command], replies: list[bytes]
    ) -> None:
        outcomes = (
            replies if self.runs is None else idempotence.outcomes(batch, replies)
        )
        unstored = idempotence.unstored(batch, replies) if batch.cancels else []
        if batch.cancels:
            self.accumulator.cancelled(unstored)
        else:
            self.accumulator.answered()
        kept = {one.ticket for one in unstored}
        for one, outcome in zip(batch, outcomes, strict=True):
            if one.ticket not in kept:
                assert outcome == b"1-%d" % one.ticket
                self.outcomes[one.ticket] = outcome


def endless(values: list[int], otherwise: int) -> Iterator[int]:
    yield from values
    while True:
        yield otherwise


@given(
    idempotent=st.booleans(),
    shards=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    data=st.data(),
    limit=st.integers(1, 5),
    in_flight=st.integers(1, 4),
    lost_replies=st.lists(st.integers(0, 3), max_size=30),
    cuts=st.lists(st.integers(0, 8), max_size=2),
)
@settings(max_examples=300, deadline=None)
def test_whatever_ends_connections_only_the_poisonous_messages_are_given_up(
    *,
    idempotent: bool,
    shards: list[int],
    data: st.DataObject,
    limit: int,
    in_flight: int,
    lost_replies: list[int],
    cuts: list[int],
) -> None:
    """Besides the poison, up to two other faults end a connection, at any command."""
    everything = range(len(shards))
    poison = data.draw(st.sets(st.sampled_from(everything), max_size=3))
    server = Server(poison)
    run = Run(server, idempotent=idempotent)
    for number, shard in enumerate(shards):
        run.accumulator.add(request(number, shard))
    losses = endless(lost_replies, 0)
    rounds = 0
    while run.accumulator.held:
        run.write(limit, in_flight)
        run.serve(next(losses), cuts[rounds] if rounds < len(cuts) else None)
        rounds += 1
        assert rounds < 200
    assert run.given_up == sorted(poison)
    assert sorted(run.outcomes) == [n for n in everything if n not in poison]
    for one in SHARDS:
        found = [number for key, number in server.stored if key == one.key]
        firsts = list(dict.fromkeys(found))
        mine = [n for n, at in enumerate(shards) if at == one.number]
        assert firsts == [n for n in mine if n not in poison]
        if idempotent:
            assert found == firsts
    if idempotent:
        # Copies of the writes that the network has held back store nothing.
        before = list(server.stored)
        for command in list(server.written):
            server.reply(command)
        assert server.stored == before
