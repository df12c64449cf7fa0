"""Blocking: reads are paced where the server does not let them wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.protocol.replies import ErrorReply
from penstock._core.reading.blocking import POLL, Blocking


def test_reads_that_last_their_time_follow_each_other_at_once() -> None:
    blocking = Blocking()
    assert blocking.wait(2.0) == 2.0
    for _ in range(10):
        assert blocking.pause(2.0, 2.0) == 0
        assert blocking.pause(2.0, 1.0) == 0
    assert not blocking.ignored


def test_from_the_third_early_answer_in_a_row_on_there_is_a_pause() -> None:
    blocking = Blocking()
    assert [blocking.pause(2.0, 0.01) for _ in range(5)] == [0, 0, POLL, POLL, POLL]
    assert blocking.ignored
    # It is asked to block all the same, since it may begin to.
    assert blocking.wait(2.0) == 2.0
    assert blocking.pause(2.0, 2.0) == 0
    assert not blocking.ignored
    assert [blocking.pause(2.0, 0.01) for _ in range(3)] == [0, 0, POLL]


def test_a_read_without_block_is_followed_by_a_pause() -> None:
    blocking = Blocking()
    blocking.refused = True
    assert blocking.wait(2.0) == 0
    assert blocking.pause(2.0, 0.001) == POLL
    assert blocking.pause(2.0, 5.0) == POLL
    # No longer than a read of that time would have waited.
    assert blocking.pause(0.03, 0.001) == 0.03


def test_the_next_connection_is_asked_to_block_again() -> None:
    blocking = Blocking()
    blocking.refused = True
    blocking.connected()
    assert blocking.wait(2.0) == 2.0
    for _ in range(3):
        blocking.pause(2.0, 0.0)
    blocking.connected()
    assert blocking.pause(2.0, 0.0) == 0


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("ERR unknown option BLOCK", True),
        ("ERR syntax error", True),
        ("ERR blocking commands are not supported", True),
        ("ERR no such key", False),
        ("NOGROUP no such group", False),
        ("WRONGTYPE no stream", False),
        ("NOPERM no permission", False),
        ("LOADING the dataset", False),
        ("UNBLOCKED force unblock", False),
    ],
)
def test_only_some_refusals_are_worth_a_repeat_without_block(
    text: str, *, may: bool
) -> None:
    blocking = Blocking()
    assert blocking.may_refuse(ErrorReply(text)) is may
    blocking.refused = True
    assert not blocking.may_refuse(ErrorReply(text))


@given(
    answers=st.lists(st.floats(0, 3), max_size=60),
    refused=st.booleans(),
    wait=st.floats(0.01, 3),
)
def test_early_answers_never_cause_more_reads_than_polling(
    answers: list[float], *, refused: bool, wait: float
) -> None:
    """Three reads may follow at once; all others take half of their time or a pause."""
    blocking = Blocking()
    blocking.refused = refused
    quick = 0
    for took in answers:
        pause = blocking.pause(wait, took)
        assert 0 <= pause <= min(POLL, wait)
        early = took < wait / 2
        quick = quick + 1 if early and not pause else 0
        assert quick < 3
        assert pause or not refused
