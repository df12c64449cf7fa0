"""What was given up, until its letter is written and it is acknowledged."""

from __future__ import annotations

import pytest

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import IllegalTransition, State
from support.ledger import GIVEN_UP, KEY, A, B, Books, ids, known, now, raw, the


def dead(books: Books, *numbers: int) -> None:
    books.read(*numbers)
    for _ in numbers:
        books.failed(GIVEN_UP)


def sent(books: Books, *numbers: int) -> list[Entry]:
    """Have entries buried; their replies have not come."""
    dead(books, *numbers)
    return books.acks.dead_letters_to_send(len(numbers))


def test_what_was_given_up_keeps_its_body_and_its_room_until_it_is_copied() -> None:
    books = Books()
    books.read(1)
    entry = books.failed(GIVEN_UP)
    assert now(entry) is State.TO_DEAD_LETTER
    assert (entry.fields, entry.disposition) == ([b"msg", b""], GIVEN_UP)
    assert entry.unconfirmed
    assert books.shards.unconfirmed() == [entry]
    assert (
        books.flow.held,
        books.flow.size,
        books.acks.dead_lettering,
        books.acks.uncommitted,
    ) == (
        1,
        10,
        1,
        0,
    )
    assert books.outcome_rings == 1
    assert books.acks.dead_letters_to_send(10) == [entry]
    assert now(entry) is State.DEAD_LETTERING
    assert entry.unconfirmed
    assert (books.flow.held, books.flow.size, books.acks.dead_lettering) == (1, 10, 1)
    books.dead_letter_confirmed(entry, ours=True)
    assert now(entry) is State.DONE
    assert not entry.unconfirmed
    assert entry.fields == ()
    assert (
        books.flow.held,
        books.flow.size,
        books.acks.dead_lettering,
        books.acks.uncommitted,
    ) == (
        0,
        0,
        0,
        0,
    )
    assert (books.counters.dead, books.counters.acked, books.counters.lost) == (1, 0, 0)
    assert not known(books, A, raw(1))
    assert books.acks.to_send() == []


def test_the_committer_is_rung_for_each_that_dies() -> None:
    books = Books()
    dead(books, 1, 2, 3)
    assert books.outcome_rings == 3


def test_no_more_are_taken_than_go_into_one_write() -> None:
    books = Books()
    dead(books, 1, 2)
    books.read(3, 4, shard=B)
    for _ in range(2):
        books.failed(GIVEN_UP)
    assert books.acks.dead_letters_to_send(0) == []
    assert ids(books.acks.dead_letters_to_send(3)) == [raw(1), raw(2), raw(3)]
    assert ids(books.acks.dead_letters_to_send(3)) == [raw(4)]
    assert books.acks.dead_letters_to_send(3) == []
    assert books.acks.dead_lettering == 4


def test_a_letter_whose_reply_was_lost_is_sent_again() -> None:
    books = Books()
    [one, two] = sent(books, 1, 2)
    books.dead_letter_unconfirmed(one)
    assert now(one) is State.TO_DEAD_LETTER
    assert one.fields
    assert (books.flow.held, books.acks.dead_lettering) == (2, 2)
    assert books.acks.dead_letters_to_send(10) == [one]
    books.dead_letter_confirmed(two, ours=True)
    books.dead_letter_confirmed(one, ours=True)
    assert (books.flow.held, books.acks.dead_lettering, books.counters.dead) == (
        0,
        0,
        2,
    )


def test_what_somebody_else_has_by_then_is_no_letter_of_ours() -> None:
    books = Books()
    [entry] = sent(books, 1)
    books.dead_letter_confirmed(entry, ours=False)
    assert (books.counters.dead, books.counters.lost) == (0, 1)
    assert (books.flow.held, books.acks.dead_lettering) == (0, 0)
    assert not known(books, A, raw(1))


def test_what_was_copied_and_not_acknowledged_is_acknowledged_by_itself() -> None:
    books = Books()
    [entry] = sent(books, 1)
    books.dead_letter_written(entry)
    assert now(entry) is State.TO_ACK
    assert entry.fields == ()
    assert (books.flow.held, books.acks.dead_lettering, books.acks.uncommitted) == (
        0,
        0,
        1,
    )
    assert books.counters.dead == 1
    assert books.outcome_rings == 2
    batch = the(books.acks.to_send())
    assert batch.ids == [raw(1)]
    books.ack_confirmed(batch)
    assert not known(books, A, raw(1))
    assert (books.counters.acked, books.acks.uncommitted) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    ["dead_letter_confirmed", "dead_letter_written", "dead_letter_unconfirmed"],
)
@pytest.mark.parametrize("state", set(State) - {State.DEAD_LETTERING, State.RELEASED})
def test_there_is_no_reply_to_what_was_not_sent(answer: str, state: State) -> None:
    books = Books()
    [entry] = sent(books, 1)
    entry.state = state
    facts = {"ours": True} if answer == "dead_letter_confirmed" else {}
    with pytest.raises(
        IllegalTransition, match=f"^{answer.replace('_', ' ')} is not possible"
    ):
        getattr(books, answer)(entry, **facts)
    assert entry.state is state


@pytest.mark.parametrize("answer", ["dead_letter_confirmed", "dead_letter_written"])
def test_the_reader_is_rung_when_a_letter_is_written(answer: str) -> None:
    books = Books(max_messages=1)
    [entry] = sent(books, 1)
    assert books.read_budget() == 0
    facts = {"ours": True} if answer == "dead_letter_confirmed" else {}
    getattr(books, answer)(entry, **facts)
    assert books.room_rings == 1
    assert books.read_budget() == 1


def test_what_is_dead_can_be_lost_to_others() -> None:
    books = Books(lease=30.0)
    dead(books, 1, 2)
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [raw(2)])) == 1
    assert (books.flow.held, books.flow.size, books.acks.dead_lettering) == (1, 10, 1)
    assert ids(books.acks.dead_letters_to_send(10)) == [raw(2)]


def test_what_is_being_buried_is_not_lost_by_a_renewal_that_misses_it() -> None:
    books = Books(lease=30.0)
    [entry] = sent(books, 1)
    [renewal] = books.to_renew(25.0)
    assert len(books.removals.lose_all_but(renewal, [])) == 0
    books.dead_letter_confirmed(entry, ours=True)
    assert (books.counters.lost, books.counters.dead) == (0, 1)


def test_what_was_buried_while_pending_entries_were_read_does_not_come_back() -> None:
    books = Books()
    [one, two] = sent(books, 1, 2)
    with books.deliveries.recovering(A):
        books.dead_letter_confirmed(one, ours=True)
        books.dead_letter_confirmed(two, ours=False)
        assert books.back(1, 2, 3, attempts=1) == 1
    assert books.started().id == raw(3)


def test_what_is_dying_does_not_come_back() -> None:
    books = Books()
    sent(books, 1)
    dead(books, 2)
    assert books.back(1, 2, attempts=1, claimed=True) == 0
    assert books.acks.uncommitted == 0
    assert books.acks.dead_lettering == 2


def test_a_seek_and_a_shard_given_up_leave_the_dead_their_letters() -> None:
    books = Books()
    sent(books, 1)
    dead(books, 2)
    assert books.removals.drop(A) == 0
    assert books.removals.release_shard(A) == []
    assert sorted(books.shards.ids(A)) == [raw(1), raw(2)]
    assert ids(books.acks.dead_letters_to_send(10)) == [raw(2)]
    assert books.acks.dead_lettering == 2


# -- set back ----------------------------------------------------------------------


def test_what_is_dead_and_comes_again_is_handled_again() -> None:
    books = Books()
    books.read(1)
    entry = books.failed(GIVEN_UP)
    assert books.read(1, rewound=True) == 1
    assert now(entry) is State.LOST
    assert (books.acks.dead_lettering, books.flow.held, books.counters.lost) == (
        0,
        1,
        0,
    )
    assert books.acks.dead_letters_to_send(10) == []
    assert books.started().deliveries == 1


@pytest.mark.parametrize("dead_letter_written", [False, True])
def test_what_came_again_while_it_was_buried_stays_in_the_books(
    dead_letter_written: bool,  # noqa: FBT001
) -> None:
    books = Books(ordering=KEY)
    [old] = sent(books, 1)
    assert books.read(1, rewound=True) == 1
    assert books.flow.held == 2
    if dead_letter_written:
        books.dead_letter_written(old)
        batch = the(books.acks.to_send())
        assert batch.ids == [raw(1)]
        books.ack_confirmed(batch)
    else:
        books.dead_letter_confirmed(old, ours=True)
    assert (books.flow.held, books.acks.dead_lettering, books.acks.uncommitted) == (
        1,
        0,
        0,
    )
    assert known(books, A, raw(1))
    books.done()
    assert the(books.acks.to_send()).ids == [raw(1)]


# -- closing -----------------------------------------------------------------------


def test_what_is_dead_is_given_back_with_the_attempts_it_had() -> None:
    books = Books()
    books.back(1, attempts=2)
    books.failed(GIVEN_UP)
    dead(books, 2)
    assert list(books.removals.release()) == [(A, 4, [raw(1)]), (A, 2, [raw(2)])]
    assert books.acks.dead_letters_to_send(10) == []
    assert books.shards.unconfirmed() == []


def test_what_failed_is_given_back_and_not_buried_by_a_handler_that_ends_late() -> None:
    books = Books()
    books.read(1)
    entry = books.started()
    books.refuse(entry, GIVEN_UP, entry.fields)
    assert list(books.removals.release()) == [(A, 2, [raw(1)])]
    books.finish(entry, ack=False)
    assert now(entry) is State.RELEASED
    assert (books.flow.held, books.acks.dead_lettering) == (0, 0)


def test_closing_forgets_the_dead() -> None:
    books = Books()
    dead(books, 1)
    books.close()
    assert not any(shard_state.to_dead_letter for shard_state in books.shards.values())
    assert (books.flow.held, books.acks.dead_lettering) == (0, 0)
