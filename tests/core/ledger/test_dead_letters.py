"""Dead letters in the ledger, from giving an entry up to its acknowledgement."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import IllegalTransition, State
from support.ledger import (
    GIVEN_UP,
    KEY,
    A,
    B,
    SpyLedger,
    ids,
    known,
    only,
    raw,
    state_of,
)


def dead_letter(ledger: SpyLedger, *numbers: int) -> None:
    ledger.read(*numbers)
    for _ in numbers:
        ledger.fail_next(GIVEN_UP)


def send_dead_letters(ledger: SpyLedger, *numbers: int) -> list[Entry]:
    """Send dead letters whose replies have not come."""
    dead_letter(ledger, *numbers)
    return ledger.acks.dead_letters_to_send(len(numbers))


def test_a_given_up_entry_keeps_its_fields_and_capacity_until_it_is_dead_lettered() -> (
    None
):
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.fail_next(GIVEN_UP)
    assert state_of(entry) is State.TO_DEAD_LETTER
    assert (entry.fields, entry.disposition) == ([b"msg", b""], GIVEN_UP)
    assert entry.unconfirmed
    assert ledger.shards.unconfirmed() == [entry]
    assert (
        ledger.flow.held,
        ledger.flow.size,
        ledger.acks.dead_lettering,
        ledger.acks.uncommitted,
    ) == (
        1,
        10,
        1,
        0,
    )
    assert ledger.outcome_signals == 1
    assert ledger.acks.dead_letters_to_send(10) == [entry]
    assert state_of(entry) is State.DEAD_LETTERING
    assert entry.unconfirmed
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.dead_lettering) == (
        1,
        10,
        1,
    )
    ledger.dead_letter_confirmed(entry, ours=True)
    assert state_of(entry) is State.DONE
    assert not entry.unconfirmed
    assert entry.fields == ()
    assert (
        ledger.flow.held,
        ledger.flow.size,
        ledger.acks.dead_lettering,
        ledger.acks.uncommitted,
    ) == (
        0,
        0,
        0,
        0,
    )
    assert (ledger.counters.dead, ledger.counters.acked, ledger.counters.lost) == (
        1,
        0,
        0,
    )
    assert not known(ledger, A, raw(1))
    assert ledger.acks.to_send() == []


def test_the_committer_is_woken_for_each_entry_to_dead_letter() -> None:
    ledger = SpyLedger()
    dead_letter(ledger, 1, 2, 3)
    assert ledger.outcome_signals == 3


def test_at_most_as_many_entries_are_taken_as_fit_into_one_write() -> None:
    ledger = SpyLedger()
    dead_letter(ledger, 1, 2)
    ledger.read(3, 4, shard=B)
    for _ in range(2):
        ledger.fail_next(GIVEN_UP)
    assert ledger.acks.dead_letters_to_send(0) == []
    assert ids(ledger.acks.dead_letters_to_send(3)) == [raw(1), raw(2), raw(3)]
    assert ids(ledger.acks.dead_letters_to_send(3)) == [raw(4)]
    assert ledger.acks.dead_letters_to_send(3) == []
    assert ledger.acks.dead_lettering == 4


def test_a_dead_letter_whose_reply_was_lost_is_sent_again() -> None:
    ledger = SpyLedger()
    [one, two] = send_dead_letters(ledger, 1, 2)
    ledger.dead_letter_unconfirmed(one)
    assert state_of(one) is State.TO_DEAD_LETTER
    assert one.fields
    assert (ledger.flow.held, ledger.acks.dead_lettering) == (2, 2)
    assert ledger.acks.dead_letters_to_send(10) == [one]
    ledger.dead_letter_confirmed(two, ours=True)
    ledger.dead_letter_confirmed(one, ours=True)
    assert (ledger.flow.held, ledger.acks.dead_lettering, ledger.counters.dead) == (
        0,
        0,
        2,
    )


def test_an_entry_that_another_consumer_has_claimed_is_counted_as_lost() -> None:
    ledger = SpyLedger()
    [entry] = send_dead_letters(ledger, 1)
    ledger.dead_letter_confirmed(entry, ours=False)
    assert (ledger.counters.dead, ledger.counters.lost) == (0, 1)
    assert (ledger.flow.held, ledger.acks.dead_lettering) == (0, 0)
    assert not known(ledger, A, raw(1))


def test_an_entry_that_was_copied_and_not_acknowledged_is_acknowledged_separately() -> (
    None
):
    ledger = SpyLedger()
    [entry] = send_dead_letters(ledger, 1)
    ledger.dead_letter_written(entry)
    assert state_of(entry) is State.TO_ACK
    assert entry.fields == ()
    assert (ledger.flow.held, ledger.acks.dead_lettering, ledger.acks.uncommitted) == (
        0,
        0,
        1,
    )
    assert ledger.counters.dead == 1
    assert ledger.outcome_signals == 2
    batch = only(ledger.acks.to_send())
    assert batch.ids == [raw(1)]
    ledger.ack_confirmed(batch)
    assert not known(ledger, A, raw(1))
    assert (ledger.counters.acked, ledger.acks.uncommitted) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    ["dead_letter_confirmed", "dead_letter_written", "dead_letter_unconfirmed"],
)
@pytest.mark.parametrize("state", set(State) - {State.DEAD_LETTERING, State.RELEASED})
def test_a_reply_to_an_entry_that_was_not_sent_is_an_illegal_transition(
    answer: str, state: State
) -> None:
    ledger = SpyLedger()
    [entry] = send_dead_letters(ledger, 1)
    entry.state = state
    facts = {"ours": True} if answer == "dead_letter_confirmed" else {}
    with pytest.raises(
        IllegalTransition, match=f"^{answer.replace('_', ' ')} is not possible"
    ):
        getattr(ledger, answer)(entry, **facts)
    assert entry.state is state


@pytest.mark.parametrize("answer", ["dead_letter_confirmed", "dead_letter_written"])
def test_the_reader_is_woken_when_a_dead_letter_is_written(answer: str) -> None:
    ledger = SpyLedger(max_messages=1)
    [entry] = send_dead_letters(ledger, 1)
    assert ledger.read_budget() == 0
    facts = {"ours": True} if answer == "dead_letter_confirmed" else {}
    getattr(ledger, answer)(entry, **facts)
    assert ledger.capacity_signals == 1
    assert ledger.read_budget() == 1


def test_an_entry_to_dead_letter_can_be_lost_to_other_consumers() -> None:
    ledger = SpyLedger(lease=30.0)
    dead_letter(ledger, 1, 2)
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert (ledger.flow.held, ledger.flow.size, ledger.acks.dead_lettering) == (
        1,
        10,
        1,
    )
    assert ids(ledger.acks.dead_letters_to_send(10)) == [raw(2)]


def test_a_dead_letter_in_flight_is_not_lost_when_a_renewal_does_not_list_it() -> None:
    ledger = SpyLedger(lease=30.0)
    [entry] = send_dead_letters(ledger, 1)
    [renewal] = ledger.to_renew(25.0)
    assert len(ledger.removals.lose_all_but(renewal, [])) == 0
    ledger.dead_letter_confirmed(entry, ours=True)
    assert (ledger.counters.lost, ledger.counters.dead) == (0, 1)


def test_entries_dead_lettered_while_pending_entries_are_read_are_not_recovered() -> (
    None
):
    ledger = SpyLedger()
    [one, two] = send_dead_letters(ledger, 1, 2)
    with ledger.deliveries.recovering(A):
        ledger.dead_letter_confirmed(one, ours=True)
        ledger.dead_letter_confirmed(two, ours=False)
        assert ledger.recover(1, 2, 3, attempts=1) == 1
    assert ledger.start_next().id == raw(3)


@pytest.mark.parametrize("replaced", [False, True])
def test_an_entry_whose_dead_letter_is_fenced_is_lost(
    replaced: bool,  # noqa: FBT001
) -> None:
    ledger = SpyLedger(max_messages=1)
    [entry] = send_dead_letters(ledger, 1)
    assert ledger.read_budget() == 0
    finished = Mock()
    ledger.watchers[finished] = None
    if replaced:
        ledger.stream_recreated(A)
    ledger.fenced(entry)
    assert state_of(entry) is State.LOST
    assert entry.fields == ()
    assert (ledger.flow.held, ledger.acks.dead_lettering) == (0, 0)
    assert (ledger.counters.dead, ledger.counters.lost) == (0, 1)
    assert not known(ledger, A, raw(1))
    assert ledger.acks.dead_letters_to_send(10) == []
    assert ledger.capacity_signals
    assert finished.called


def test_an_entry_whose_dead_letter_is_fenced_may_be_recovered_at_once() -> None:
    """It is pending still, and the next owner may be this consumer again."""
    ledger = SpyLedger()
    [entry] = send_dead_letters(ledger, 1)
    with ledger.deliveries.recovering(A):
        ledger.fenced(entry)
        assert ledger.recover(1, attempts=1) == 1
    assert ledger.start_next().id == raw(1)


def test_an_entry_whose_dead_letter_is_fenced_is_lost_although_the_group_is_new() -> (
    None
):
    ledger = SpyLedger()
    [entry] = send_dead_letters(ledger, 1)
    ledger.shards.group_recreated(A, now=5.0)
    ledger.fenced(entry)
    assert state_of(entry) is State.LOST
    assert ledger.acks.dead_letters_to_send(10) == []


@pytest.mark.parametrize("state", [State.RELEASED, State.LOST, State.DONE])
def test_an_entry_that_has_left_is_not_lost_by_a_fenced_outcome(state: State) -> None:
    ledger = SpyLedger()
    [entry] = send_dead_letters(ledger, 1)
    entry.state = state
    ledger.fenced(entry)
    assert state_of(entry) is state
    assert ledger.counters.lost == 0


def test_an_entry_that_waits_for_its_dead_letter_is_not_recovered() -> None:
    ledger = SpyLedger()
    send_dead_letters(ledger, 1)
    dead_letter(ledger, 2)
    assert ledger.recover(1, 2, attempts=1, claimed=True) == 0
    assert ledger.acks.uncommitted == 0
    assert ledger.acks.dead_lettering == 2


def test_a_seek_and_a_released_shard_keep_the_entries_to_dead_letter() -> None:
    ledger = SpyLedger()
    send_dead_letters(ledger, 1)
    dead_letter(ledger, 2)
    assert ledger.removals.drop(A) == 0
    assert ledger.removals.release_shard(A) == []
    assert sorted(ledger.shards.ids(A)) == [raw(1), raw(2)]
    assert ids(ledger.acks.dead_letters_to_send(10)) == [raw(2)]
    assert ledger.acks.dead_lettering == 2


# -- redelivery --------------------------------------------------------------------


def test_an_entry_to_dead_letter_that_is_redelivered_is_handled_again() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.fail_next(GIVEN_UP)
    assert ledger.read(1, rewound=True) == 1
    assert state_of(entry) is State.LOST
    assert (ledger.acks.dead_lettering, ledger.flow.held, ledger.counters.lost) == (
        0,
        1,
        0,
    )
    assert ledger.acks.dead_letters_to_send(10) == []
    assert ledger.start_next().deliveries == 1


@pytest.mark.parametrize("dead_letter_written", [False, True])
def test_an_entry_redelivered_while_its_dead_letter_is_in_flight_stays_in_the_ledger(
    dead_letter_written: bool,  # noqa: FBT001
) -> None:
    ledger = SpyLedger(ordering=KEY)
    [old] = send_dead_letters(ledger, 1)
    assert ledger.read(1, rewound=True) == 1
    assert ledger.flow.held == 2
    if dead_letter_written:
        ledger.dead_letter_written(old)
        batch = only(ledger.acks.to_send())
        assert batch.ids == [raw(1)]
        ledger.ack_confirmed(batch)
    else:
        ledger.dead_letter_confirmed(old, ours=True)
    assert (ledger.flow.held, ledger.acks.dead_lettering, ledger.acks.uncommitted) == (
        1,
        0,
        0,
    )
    assert known(ledger, A, raw(1))
    ledger.process_next()
    assert only(ledger.acks.to_send()).ids == [raw(1)]


# -- closing -----------------------------------------------------------------------


def test_an_entry_to_dead_letter_is_released_with_its_attempts() -> None:
    ledger = SpyLedger()
    ledger.recover(1, attempts=2)
    ledger.fail_next(GIVEN_UP)
    dead_letter(ledger, 2)
    assert list(ledger.removals.release()) == [(A, 4, [raw(1)]), (A, 2, [raw(2)])]
    assert ledger.acks.dead_letters_to_send(10) == []
    assert ledger.shards.unconfirmed() == []


def test_a_released_entry_is_not_dead_lettered_when_its_handler_finishes_late() -> None:
    ledger = SpyLedger()
    ledger.read(1)
    entry = ledger.start_next()
    ledger.refuse(entry, GIVEN_UP, entry.fields)
    assert list(ledger.removals.release()) == [(A, 2, [raw(1)])]
    ledger.finish(entry, ack=False)
    assert state_of(entry) is State.RELEASED
    assert (ledger.flow.held, ledger.acks.dead_lettering) == (0, 0)


def test_closing_drops_the_entries_to_dead_letter() -> None:
    ledger = SpyLedger()
    dead_letter(ledger, 1)
    ledger.close()
    assert not any(shard_state.to_dead_letter for shard_state in ledger.shards.values())
    assert (ledger.flow.held, ledger.acks.dead_lettering) == (0, 0)
