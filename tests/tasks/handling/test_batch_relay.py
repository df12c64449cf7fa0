"""Batches that one script moves: lost replies, and what the ledger learns."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._core.ledger.states import State
from penstock._core.protocol.commands import Command
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.relay_script import Relayed, to_list
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.fencing import Fencing
from penstock._tasks.group import Membership
from penstock._tasks.handling import batch_relay
from penstock._tasks.handling.batch_relay import BatchRelay
from penstock.errors import ClosedError, ConnectionLost
from penstock.message import Shard
from support.ledger import A, SpyLedger, raw, state_of
from support.scripted import ScriptedConnection

LOST = ConnectionLost("here", "it ended")
OOM = ErrorReply("OOM no memory")
PUSH = to_list(b"q")


class Rig:
    """Four entries that a handler has, and the replies of the server in turn."""

    def __init__(self, *answers: Any, owner: Fence | None = None) -> None:
        self.answers = list(answers)
        self.ledger = SpyLedger()
        self.ledger.read(1, 2, 3, 4)
        self.entries = [self.ledger.start_next() for _ in range(4)]
        self.connection = ScriptedConnection(self._reply)
        self.fenced: list[bytes] = []
        self.gone: list[Shard] = []
        member = SimpleNamespace(group="g", name_in=lambda _: "c")
        self.batches = BatchRelay(
            self.connection.for_commands,
            self.ledger,
            cast("Membership", member),
            on_gone=self.gone.append,
            fencing=Fencing(
                lambda _: owner, lambda entry, _: self.fenced.append(entry.id)
            ),
        )

    def _reply(self, batch: Sequence[Command]) -> list[Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    async def relay(self, body: bytes = b"x") -> Relayed:
        items = [(entry, (body,)) for entry in self.entries]
        return await self.batches.relay(items, PUSH)

    @property
    def states(self) -> list[State]:
        return [state_of(entry) for entry in self.entries]

    @property
    def sent(self) -> list[Command]:
        return [command for batch in self.connection.requests for command in batch]


DONE, RUNNING, LOST_STATE = State.DONE, State.RUNNING, State.LOST


async def test_what_is_pushed_is_acknowledged_and_what_was_missing_is_lost() -> None:
    rig = Rig(Relayed(missing=(raw(2),), last=raw(4)))
    await rig.relay()
    assert rig.states == [DONE] * 4
    assert (rig.ledger.counters.acked, rig.ledger.counters.lost) == (3, 1)


async def test_the_script_is_sent_again_until_there_is_a_reply() -> None:
    """What it no longer finds was pushed by the call whose reply was lost."""
    rig = Rig(LOST, LOST, Relayed(missing=tuple(raw(n) for n in (1, 2, 3, 4))))
    await rig.relay()
    assert rig.states == [DONE] * 4
    assert (rig.ledger.counters.acked, rig.ledger.counters.lost) == (4, 0)
    assert len(rig.sent) == 3


async def test_a_server_that_has_forgotten_the_script_gets_it_whole() -> None:
    rig = Rig(OOM, ErrorReply("NOSCRIPT No matching script."), Relayed(last=raw(4)))
    await rig.relay()
    await rig.relay()
    assert [command[0] for command in rig.sent] == [b"EVAL", b"EVALSHA", b"EVAL"]
    assert rig.states == [DONE] * 4


@pytest.mark.parametrize("reply", [OOM, Relayed(failure=OOM), Relayed(full=True)])
async def test_what_was_refused_stays_with_the_handler(reply: Any) -> None:
    rig = Rig(reply)
    found = await rig.relay()
    assert found.full is (reply == Relayed(full=True))
    assert rig.states == [RUNNING] * 4


NO_GROUP = ErrorReply("NOGROUP No such key or consumer group")


@pytest.mark.parametrize("reply", [NO_GROUP, Relayed(failure=NO_GROUP)])
async def test_a_group_that_does_not_exist_is_reported(reply: Any) -> None:
    """The reader may be waiting for these very handlers."""
    rig = Rig(reply)
    await rig.relay()
    assert rig.gone == [rig.entries[0].shard]


async def test_a_refusal_in_the_middle_settles_what_was_before_it() -> None:
    """An entry behind it that another consumer has is settled too."""
    rig = Rig(Relayed(failure=OOM, last=raw(2), missing=(raw(4),)))
    await rig.relay()
    assert rig.states == [DONE, DONE, RUNNING, DONE]
    assert (rig.ledger.counters.acked, rig.ledger.counters.lost) == (2, 1)


async def test_under_the_token_of_a_former_owner_all_are_lost() -> None:
    rig = Rig(Fenced(b"2:d:s.1"), owner=Fence(b"{a}.owner:g", b"1:c:r.1"))
    await rig.relay()
    assert rig.states == [LOST_STATE] * 4
    assert rig.fenced == [entry.id for entry in rig.entries]


async def test_nothing_is_sent_for_a_stream_that_was_recreated() -> None:
    rig = Rig()
    rig.ledger.stream_recreated(A)
    await rig.relay()
    assert rig.sent == []


async def test_an_entry_from_before_the_group_was_recreated_waits_for_redelivery() -> (
    None
):
    rig = Rig(Relayed(missing=tuple(raw(n) for n in (1, 2, 3, 4))))
    for entry in rig.entries:
        entry.shard_state.undelivered.add(entry.id)
    await rig.relay()
    assert rig.states == [RUNNING] * 4


async def test_a_closed_consumer_sends_nothing() -> None:
    rig = Rig()
    rig.ledger.close()
    with pytest.raises(ClosedError):
        await rig.relay()


async def test_large_entries_and_many_entries_go_in_several_scripts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value, body in (("_BYTES", 10, b"12345"), ("_ENTRIES", 2, b"x")):
        monkeypatch.setattr(batch_relay, name, value)
        rig = Rig(Relayed(last=raw(2)), Relayed(last=raw(4)))
        await rig.relay(body)
        assert rig.states == [DONE] * 4
        assert len(rig.sent) == 2


async def test_after_a_refusal_the_next_script_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the order would be another one."""
    monkeypatch.setattr(batch_relay, "_ENTRIES", 2)
    rig = Rig(Relayed(full=True))
    await rig.relay()
    assert len(rig.sent) == 1
