"""Silence: the time for which the server has not answered."""

from __future__ import annotations

from penstock._core.reading.silence import Silence


def test_silence_begins_with_the_oldest_request_and_ends_with_its_answer() -> None:
    silence = Silence()
    assert silence.since is None
    silence.asked(1.0)
    silence.asked(2.0)
    assert silence.since == 1.0
    silence.answered(3.0)
    # The second request was sent before the first was answered.
    assert silence.since == 3.0
    assert silence.asking == 1
    silence.answered(4.0)
    assert silence.since is None
    assert silence.asking == 0


def test_a_lost_connection_does_not_end_silence_but_an_answer_on_the_next_does() -> (
    None
):
    silence = Silence()
    silence.asked(1.0)
    silence.lost()
    assert silence.since == 1.0
    silence.asked(2.0)
    silence.given_up()
    assert silence.since == 1.0
    silence.asked(3.0)
    silence.answered(4.0)
    assert silence.since is None
    silence.asked(5.0)
    silence.given_up()
    assert silence.since is None


def test_requests_that_no_caller_waits_for_any_more_are_no_silence() -> None:
    silence = Silence()
    silence.asked(1.0)
    silence.asked(2.0)
    silence.given_up()
    assert silence.since == 1.0
    silence.given_up()
    assert silence.since is None
