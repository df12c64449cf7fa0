"""Transactions under an owner's token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import State
from penstock._core.protocol.commands import Command
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.replies import ErrorReply
from penstock._core.protocol.transaction_script import (
    OWNED_SCRIPT,
    OWNED_SCRIPT_SHA,
    SCRIPT,
)
from penstock._core.protocol.transactions import Applied
from penstock._tasks.fencing import Fencing
from penstock._tasks.group import Membership
from penstock._tasks.handling.transactions import Applier
from penstock.errors import ConnectionLost, TransactionFailed
from penstock.message import Receipt, Shard
from penstock.transaction import Transaction
from support.ledger import A, SpyLedger, raw, state_of
from support.scripted import ScriptedConnection

OURS = Fence(b"{a}.owner:g", b"1:c:r.1")
FENCED = Fenced(b"2:d:s.1")
APPLIED = Applied(pending=True, results=[1])


class Rig:
    """An applier for one entry, with the replies that the server gives in turn."""

    def __init__(
        self,
        *answers: Any,
        owner: Fence | None = OURS,
        on_fenced: Callable[[Entry, Fenced], None] | None = None,
    ) -> None:
        self.answers = list(answers)
        self.ledger = SpyLedger()
        self.ledger.read(1)
        self.entry = self.ledger.start_next()
        self.connection = ScriptedConnection(self._reply)
        self.owner = owner
        self.fenced: list[tuple[bytes, Fenced]] = []
        self.gone: list[Shard] = []
        self.applier = Applier(
            self.connection.for_commands,
            self.ledger,
            cast("Membership", SimpleNamespace(group="g", name="c#1.1")),
            dead="{stream}.dead",
            dead_retention=None,
            drop=False,
            reject=lambda *_: None,
            on_event=lambda _: None,
            on_gone=self.gone.append,
            fencing=Fencing(lambda _: self.owner, on_fenced or self._note),
        )

    def _note(self, entry: Entry, reply: Fenced) -> None:
        assert state_of(entry) is State.LOST, "the ledger knows before anybody is told"
        self.fenced.append((entry.id, reply))

    def _reply(self, batch: Sequence[Command]) -> list[Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer()
        return [answer]

    async def transact(self) -> Transaction[Receipt]:
        async with self.applier.begin(self.entry, []) as tx:
            tx.command("INCR", "n")
        return tx

    @property
    def sent(self) -> list[Command]:
        return [command for batch in self.connection.requests for command in batch]


async def test_the_transaction_of_an_owned_shard_is_sent_with_its_token() -> None:
    rig = Rig(APPLIED)
    tx = await rig.transact()
    assert tx.applied is True
    [command] = rig.sent
    assert command[1] == OWNED_SCRIPT
    assert command[2:7] == (4, b"a", b"a.dead", b"n", OURS.key)
    assert command[-1] == OURS.token
    assert state_of(rig.entry) is State.DONE
    assert rig.ledger.counters.acked == 1
    assert rig.fenced == []


async def test_the_transaction_of_a_shared_shard_is_compared_with_nothing() -> None:
    rig = Rig(APPLIED, owner=None)
    await rig.transact()
    [command] = rig.sent
    assert command[1] == SCRIPT
    assert OURS.key not in command


async def test_the_script_is_sent_whole_where_the_server_has_only_the_other_one() -> (
    None
):
    rig = Rig(ErrorReply("NOSCRIPT No matching script."), APPLIED)
    rig.applier._script._loaded = True
    tx = await rig.transact()
    assert tx.applied is True
    assert [command[:2] for command in rig.sent] == [
        (b"EVALSHA", OWNED_SCRIPT_SHA),
        (b"EVAL", OWNED_SCRIPT),
    ]


async def test_a_fenced_transaction_says_that_nothing_was_applied() -> None:
    rig = Rig(FENCED)
    tx = await rig.transact()
    assert tx.applied is False
    assert (tx.results, tx.receipts) == ((), ())
    assert rig.fenced == [(raw(1), FENCED)]
    assert state_of(rig.entry) is State.LOST
    assert rig.ledger.is_lost(rig.entry)
    assert (rig.ledger.counters.lost, rig.ledger.counters.acked) == (1, 0)


async def test_a_message_whose_transaction_was_fenced_is_not_acknowledged() -> None:
    rig = Rig(FENCED)
    await rig.transact()
    rig.ledger.finish(rig.entry, ack=True)
    assert rig.ledger.acks.to_send() == []
    assert rig.ledger.flow.held == 0
    assert rig.ledger.counters.late == 1


async def test_a_transaction_that_is_fenced_when_it_is_sent_again_stays_open() -> None:
    """It may have been applied before its reply was lost."""
    rig = Rig(ConnectionLost("here", "it ended"), FENCED)
    tx = await rig.transact()
    assert tx.applied is None
    assert state_of(rig.entry) is State.LOST
    assert rig.ledger.counters.lost == 1
    assert rig.fenced == [(raw(1), FENCED)]


async def test_a_shard_that_is_lost_before_the_reply_loses_the_entry_once() -> None:
    def lost() -> Fenced:
        rig.ledger.stream_recreated(A)
        return FENCED

    rig = Rig(lost)
    tx = await rig.transact()
    assert tx.applied is False
    assert state_of(rig.entry) is State.LOST
    assert rig.ledger.counters.lost == 1


async def test_a_transaction_is_not_sent_again_to_a_stream_that_was_recreated() -> None:
    """An entry of this id is another message there."""

    def recreated() -> None:
        rig.ledger.stream_recreated(A)
        raise ConnectionLost("here", "it ended")

    rig = Rig(recreated)
    tx = await rig.transact()
    assert tx.applied is None
    assert len(rig.sent) == 1
    assert rig.fenced == []


@pytest.mark.parametrize("repeated", [False, True])
async def test_a_shard_that_is_lost_by_the_report_changes_nothing_of_the_answer(
    repeated: bool,  # noqa: FBT001
) -> None:
    def lose_all(_: Entry, __: Fenced) -> None:
        rig.ledger.stream_recreated(A)

    before = [ConnectionLost("here", "it ended")] if repeated else []
    rig = Rig(*before, FENCED, on_fenced=lose_all)
    tx = await rig.transact()
    assert tx.applied is (None if repeated else False)
    assert rig.ledger.counters.lost == 1


async def test_a_group_that_does_not_exist_is_reported() -> None:
    """The reader may be waiting for this very handler."""
    rig = Rig(ErrorReply("NOGROUP No such key or consumer group"))
    with pytest.raises(TransactionFailed):
        await rig.transact()
    assert rig.gone == [rig.entry.shard]
