"""Exceptions of a codec: decode failures, except for exits of the process."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.handling.settlement import Settler
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import State
from penstock.errors import DecodeError
from support.ledger import A, SpyLedger


class FailureOutcomes:
    """Drops entries that can't be decoded."""

    def __init__(self, ledger: SpyLedger) -> None:
        self.ledger = ledger
        self.reasons: list[str] = []

    def undecodable(self, entry: Entry, error: DecodeError) -> None:
        self.reasons.append(error.reason)
        self.ledger.finish(entry, ack=True)


class Odd(BaseException):
    pass


class Raises:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def encode(self, payload: bytes) -> bytes:
        return payload

    def decode(self, data: bytes) -> bytes:
        if data == b"2":
            raise self.error
        return data


def opened(error: type[BaseException]) -> tuple[SpyLedger, Settler[Any], list[Entry]]:
    ledger = SpyLedger()
    entries = [[b"%d-1" % n, [b"msg", b"%d" % n]] for n in (1, 2, 3)]
    ledger.deliveries.received(A, entries, 0.0, 30)
    refusals: Any = FailureOutcomes(ledger)
    settler: Settler[Any] = Settler(
        ledger,
        Raises(error),
        refusals,
        max_message_bytes=1000,
        why_no_ack=None,
        on_loop_thread=lambda: True,
    )
    taken = [ledger.work.take() for _ in entries]
    return ledger, settler, [entry for entry in taken if entry is not None]


@pytest.mark.parametrize("error", [ValueError, Odd])
def test_an_exception_of_the_codec_makes_the_message_undecodable(
    error: type[BaseException],
) -> None:
    ledger, settler, entries = opened(error)
    left, messages = settler.open_all(entries)
    assert [message.payload for message in messages] == [b"1", b"3"]
    assert left == [entries[0], entries[2]]
    assert entries[1].state is State.TO_ACK
    assert ledger.flow.held == 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exit_in_the_codec_is_raised_and_leaves_no_entry_held(
    error: type[BaseException],
) -> None:
    ledger, settler, entries = opened(error)
    with pytest.raises(error):
        settler.open_all(entries)
    assert ledger.flow.held == 0
    assert {entry.state for entry in entries} == {State.UNSETTLED}


def test_an_exit_while_decoding_a_single_message_is_raised_too() -> None:
    ledger, settler, entries = opened(SystemExit)
    with pytest.raises(SystemExit):
        settler.open(entries[1])
    assert ledger.flow.held == 2
    assert entries[1].state is State.UNSETTLED
