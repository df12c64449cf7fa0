"""The writer of dead letters under an owner's token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import State
from penstock._core.protocol.commands import Command
from penstock._core.protocol.dead_letter_scripts import (
    SEND_DEAD_LETTER,
    SEND_OWNED_DEAD_LETTER,
)
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.committing.dead_letter_writer import DeadLetterWriter
from penstock._tasks.fencing import Fencing
from penstock._tasks.group import Membership
from penstock.errors import ConnectionLost
from penstock.events import Event
from penstock.retention import KEEP_ALL, retention_of
from support.ledger import GIVEN_UP, A, B, SpyLedger, raw, state_of
from support.scripted import Script, ScriptedConnection

OURS = Fence(b"{a}.owner:g", b"1:c:r.1")
FENCED = Fenced(b"2:d:s.1")


class Rig:
    """A writer of what a ledger has given up, with scripted replies.

    The entries of one stream are owned, and those of the other are shared.
    """

    def __init__(
        self,
        script: Script,
        *,
        on_fenced: Callable[[Entry, Fenced], None] | None = None,
    ) -> None:
        self.ledger = SpyLedger()
        self.connection = ScriptedConnection(script)
        self.fenced: list[tuple[bytes, Fenced]] = []
        self.events: list[Event] = []
        self.owner: Fence | None = OURS
        self.writer = DeadLetterWriter(
            self.connection.for_commands,
            self.ledger,
            cast("Membership", SimpleNamespace(group="g", name="c#1.1")),
            "{stream}.dead",
            retention=retention_of(KEEP_ALL),
            send_lock=asyncio.Lock(),
            on_event=self.events.append,
            fencing=Fencing(
                lambda entry: self.owner if entry.shard is A else None,
                on_fenced or self._note,
            ),
        )

    def _note(self, entry: Entry, reply: Fenced) -> None:
        assert state_of(entry) is State.LOST, "the ledger knows before anybody is told"
        self.fenced.append((entry.id, reply))

    def give_up(self, *numbers: int, shard: Any = A) -> list[Entry]:
        self.ledger.read(*numbers, shard=shard)
        return [self.ledger.fail_next(GIVEN_UP) for _ in numbers]

    def give_up_large(self, number: int, shard: Any = A) -> Entry:
        """Give up an entry that has too many fields for a script."""
        [entry] = self.give_up(number, shard=shard)
        entry.fields = [b"x"] * 8000
        return entry

    @property
    def sent(self) -> list[Command]:
        return [command for batch in self.connection.requests for command in batch]


async def test_the_dead_letters_of_an_owned_shard_are_sent_with_its_token() -> None:
    rig = Rig(lambda batch: [1 for _ in batch])
    [one] = rig.give_up(1)
    [two] = rig.give_up(2, shard=B)
    await rig.writer.round()
    owned, shared = rig.sent
    assert owned[1] == SEND_OWNED_DEAD_LETTER
    assert owned[2:6] == (3, b"a", b"a.dead", OURS.key)
    assert owned[-1] == OURS.token
    assert shared[1] == SEND_DEAD_LETTER
    assert state_of(one) is state_of(two) is State.DONE
    assert rig.fenced == []


async def test_the_owner_is_asked_for_whenever_a_dead_letter_is_sent() -> None:
    """An ownership may have been lost and taken again before it is sent again."""
    later = OURS._replace(token=b"3:c:r.2")

    def replies(batch: Sequence[Command]) -> list[Any]:
        if rig.owner is OURS:
            rig.owner = later
            raise ConnectionLost("here", "it ended")
        return [1]

    rig = Rig(replies)
    [entry] = rig.give_up(1)
    with pytest.raises(ConnectionLost):
        await rig.writer.round()
    assert state_of(entry) is State.TO_DEAD_LETTER
    await rig.writer.round()
    assert [command[-1] for command in rig.sent] == [OURS.token, later.token]
    assert state_of(entry) is State.DONE


async def test_an_entry_whose_dead_letter_is_fenced_is_lost_and_reported() -> None:
    rig = Rig(lambda _: [FENCED, 1])
    one, two = rig.give_up(1, 2)
    assert not await rig.writer.round()
    assert rig.fenced == [(raw(1), FENCED)]
    assert (state_of(one), state_of(two)) == (State.LOST, State.DONE)
    assert (rig.ledger.counters.lost, rig.ledger.counters.dead) == (1, 1)
    assert (rig.ledger.flow.held, rig.ledger.acks.dead_lettering) == (0, 0)
    assert rig.writer.due_in() is None
    assert rig.events == []


async def test_a_dead_letter_that_is_fenced_when_it_is_sent_again_is_lost() -> None:
    """Nobody knows whether it was written the first time, or by the next owner."""
    answers: list[Any] = [ConnectionLost("here", "it ended"), FENCED]

    def replies(batch: Sequence[Command]) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, ConnectionLost):
            raise answer
        return [answer]

    rig = Rig(replies)
    [entry] = rig.give_up(1)
    with pytest.raises(ConnectionLost):
        await rig.writer.round()
    await rig.writer.round()
    assert state_of(entry) is State.LOST
    assert (rig.ledger.counters.lost, rig.ledger.counters.dead) == (1, 0)
    assert not rig.writer._unanswered


async def test_all_entries_of_a_shard_may_be_lost_with_the_first_that_is_fenced() -> (
    None
):
    """Whoever is told has the shard's entries lost, while more replies are at hand."""
    seen: list[bytes] = []

    def lose_all(entry: Entry, _: Fenced) -> None:
        seen.append(entry.id)
        rig.ledger.stream_recreated(A)

    rig = Rig(lambda batch: [FENCED for _ in batch], on_fenced=lose_all)
    entries = rig.give_up(1, 2, 3)
    await rig.writer.round()
    assert seen == [raw(1), raw(2), raw(3)]
    assert {state_of(entry) for entry in entries} == {State.LOST}
    assert rig.ledger.counters.lost == 3
    assert (rig.ledger.flow.held, rig.ledger.acks.dead_lettering) == (0, 0)


async def test_a_shard_that_is_lost_before_the_reply_loses_each_entry_once() -> None:
    def replies(batch: Sequence[Command]) -> list[Any]:
        rig.ledger.stream_recreated(A)
        return [FENCED for _ in batch]

    rig = Rig(replies)
    [entry] = rig.give_up(1)
    await rig.writer.round()
    assert state_of(entry) is State.LOST
    assert rig.ledger.counters.lost == 1


async def test_the_dead_letters_of_an_owned_shard_are_written_by_the_script_only() -> (
    None
):
    """A copy without the token could be that of a former owner."""
    rig = Rig(lambda batch: [ErrorReply("NOPERM no eval") for _ in batch])
    [entry] = rig.give_up(1)
    await rig.writer.round()
    assert state_of(entry) is State.TO_DEAD_LETTER
    [event] = rig.events
    assert event.name == "dead_letters_refused"
    rig.give_up(2, shard=B)
    rig.writer._retry_at = 0.0
    await rig.writer.round()
    assert [command[0] for command in rig.sent[1:3]] == [b"EVAL", b"EVAL"]
    rig.writer._retry_at = 0.0
    await rig.writer.round()
    assert [(command[0], command[1]) for command in rig.sent[3:5]] == [
        (b"EVAL", SEND_OWNED_DEAD_LETTER),
        (b"XADD", b"b.dead"),
    ]


async def test_the_token_is_compared_before_a_large_dead_letter_is_copied() -> None:
    def replies(batch: Sequence[Command]) -> list[Any]:
        if batch[0][0] == b"HGET":
            assert batch == [(b"HGET", OURS.key, b"token")]
            return [OURS.token]
        return [b"9-0", 1, b"9-1"]

    rig = Rig(replies)
    large = rig.give_up_large(1)
    [small] = rig.give_up(2)
    other = rig.give_up_large(3, shard=B)
    assert await rig.writer.round()
    assert [command[0] for command in rig.sent] == [b"HGET", b"XADD", b"EVAL", b"XADD"]
    assert state_of(large) is state_of(other) is State.TO_ACK
    assert state_of(small) is State.DONE


async def test_a_large_dead_letter_is_not_copied_under_another_token() -> None:
    def replies(batch: Sequence[Command]) -> list[Any]:
        return [FENCED.token] if batch[0][0] == b"HGET" else [FENCED]

    rig = Rig(replies)
    large = rig.give_up_large(1)
    [small] = rig.give_up(2)
    assert not await rig.writer.round()
    assert [command[0] for command in rig.sent] == [b"HGET", b"EVAL"]
    assert rig.fenced == [(raw(1), FENCED), (raw(2), FENCED)]
    assert state_of(large) is state_of(small) is State.LOST
    assert (rig.ledger.flow.held, rig.ledger.acks.dead_lettering) == (0, 0)


async def test_a_large_dead_letter_waits_while_the_token_is_not_known() -> None:
    lost = ConnectionLost("here", "it ended")
    answers: list[Any] = [lost, [None]]

    def replies(_: Sequence[Command]) -> list[Any]:
        answer = answers.pop(0) if answers else []
        if answer is lost:
            raise lost
        return list(answer)

    rig = Rig(replies)
    entry = rig.give_up_large(1)
    with pytest.raises(ConnectionLost):
        await rig.writer.round()
    assert state_of(entry) is State.TO_DEAD_LETTER
    await rig.writer.round()
    assert rig.fenced == [(raw(1), Fenced(b""))]  # the shard is free
    assert not rig.writer._unanswered
