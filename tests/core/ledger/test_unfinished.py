"""Check whether a consumer still has something to do up to an id."""

from __future__ import annotations

import pytest

from penstock.message import EntryId
from support.ledger import A, B, SpyLedger


def filled(*, acks: bool = True) -> SpyLedger:
    ledger = SpyLedger(acks=acks)
    entries = [[b"%d-1" % n, [b"msg", b"x"]] for n in (1, 2, 3)]
    ledger.deliveries.received(A, entries, 0.0, 30)
    return ledger


def up_to(number: int) -> EntryId:
    return EntryId(number, 1)


def test_waiting_and_running_entries_up_to_the_id_are_unfinished() -> None:
    ledger = filled()
    assert not ledger.unfinished(A, EntryId(0, 9), settled=True)
    assert ledger.unfinished(A, up_to(1), settled=True)
    assert not ledger.unfinished(B, up_to(3), settled=True)
    assert ledger.work.take() is not None
    assert ledger.unfinished(A, up_to(1), settled=True)


def test_an_entry_is_finished_when_its_acknowledgement_is_confirmed() -> None:
    ledger = filled()
    entry = ledger.work.take()
    assert entry is not None
    ledger.finish(entry, ack=True)
    assert ledger.shards.to_ack(A, entry.id)
    assert ledger.unfinished(A, up_to(1), settled=True)
    # If acknowledgements are sent on demand, nothing more is to be done for it.
    assert not ledger.unfinished(A, up_to(1), settled=False)
    [batch] = ledger.acks.to_send()
    assert not ledger.shards.to_ack(A, entry.id)
    assert ledger.unfinished(A, up_to(1), settled=False)
    ledger.ack_confirmed(batch)
    assert not ledger.unfinished(A, up_to(1), settled=True)
    assert not ledger.shards.to_ack(A, entry.id)
    assert ledger.unfinished(A, up_to(2), settled=True)


def test_an_unsettled_entry_is_finished_because_its_user_acknowledges_it() -> None:
    ledger = filled()
    entry = ledger.work.take()
    assert entry is not None
    ledger.finish(entry, ack=False)
    assert not ledger.unfinished(A, up_to(1), settled=True)
    assert not ledger.shards.to_ack(A, entry.id)


@pytest.mark.parametrize("number", [1, 2])
def test_without_acknowledgements_only_waiting_entries_are_unfinished(
    number: int,
) -> None:
    ledger = filled(acks=False)
    for _ in range(number):
        assert ledger.unfinished(A, up_to(number), settled=True)
        assert ledger.work.take() is not None
    assert not ledger.unfinished(A, up_to(number), settled=True)
    assert ledger.unfinished(A, up_to(3), settled=True)
