"""Retry policies: backoff, attempts, and classes of exceptions."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import retries
from penstock.errors import ConfigurationError
from penstock.retries import Backoff, DeadLetters, Retry

# -- Backoff -----------------------------------------------------------------------


def test_the_defaults_of_retries_are_those_of_the_docstrings() -> None:
    backoff, retry = Backoff(), Retry()
    assert (backoff.first, backoff.factor, backoff.max) == (0.5, 2.0, 60.0)
    assert backoff.jitter == 0.25
    assert (retry.max_attempts, retry.timeout, retry.backoff) == (5, None, backoff)
    assert (retry.on, retry.give_up_on) == ((Exception,), ())


def test_delays_double_up_to_a_minute() -> None:
    backoff = Backoff()
    waits = [backoff.delay(attempt, 0.5) for attempt in range(1, 10)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_chance_changes_a_delay_either_way_by_the_jitter(
    chance: float, share: float
) -> None:
    assert Backoff(first=2, jitter=0.5).delay(1, chance) == 2 * share
    assert Backoff(first=2, jitter=0).delay(1, chance) == 2.0


def test_no_delay_exceeds_the_maximum_whatever_the_chance() -> None:
    assert Backoff(first=10, max=10, jitter=1).delay(1, 1.0) == 10.0
    assert Backoff(first=100, max=10).delay(1, 0.5) == 10.0
    assert Backoff(first=100, max=10).delay(1, 0.0) == 7.5


@pytest.mark.parametrize("factor", [10, 10.0, 1e308, float("inf")])
def test_a_delay_is_a_number_after_any_number_of_attempts(factor: float) -> None:
    backoff = Backoff(factor=factor)
    assert backoff.delay(10_000, 0.5) == 60.0
    assert backoff.delay(1, 0.5) == 0.5


@pytest.mark.parametrize("attempt", [1, 2, 10_000])
@pytest.mark.parametrize("factor", [2, float("inf")])
def test_a_backoff_of_0_never_waits(attempt: int, factor: float) -> None:
    assert Backoff(first=0, factor=factor).delay(attempt, 1.0) == 0.0


@given(
    st.floats(0, 1e6),
    st.floats(1, 1e9),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.integers(1, 10_000),
    st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_a_delay_is_within_its_bounds(  # noqa: PLR0917 - drawn by position
    first: float,
    factor: float,
    most: float,
    jitter: float,
    attempt: int,
    chance: float,
) -> None:
    backoff = Backoff(first, factor, most, jitter)
    wait = backoff.delay(attempt, chance)
    assert 0 <= wait <= most
    plain = Backoff(first, factor, most, 0).delay(attempt, chance)
    assert wait <= plain * (1 + jitter) * 1.000001
    assert wait >= plain * (1 - jitter) * 0.999999
    assert plain <= Backoff(first, factor, most, 0).delay(attempt + 1, chance)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": -1},
        {"first": "1"},
        {"max": float("nan")},
        {"max": float("inf")},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"factor": True},
        {"factor": "2"},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": None},
        {"jitter": True},
    ],
    ids=str,
)
def test_an_invalid_backoff_is_refused_with_the_name_of_its_option(
    wrong: dict[str, Any],
) -> None:
    [name] = wrong
    with pytest.raises(ConfigurationError, match=rf"^Backoff\({name}\)?="):
        Backoff(**wrong)


def test_durations_are_kept_as_float_and_may_equal_their_bounds() -> None:
    backoff = Backoff(first=timedelta(seconds=2), max=3, factor=1, jitter=1)
    assert (backoff.first, backoff.max) == (2.0, 3.0)
    assert type(backoff.max) is float
    assert Backoff(first=0, max=0).delay(5, 1.0) == 0.0


# -- Retry -------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "5", True])
def test_the_number_of_attempts_is_a_whole_number_from_one_up(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Retry\(max_attempts\)="):
        Retry(max_attempts=wrong)


@pytest.mark.parametrize("most", [None, 1, 1000])
def test_one_attempt_is_allowed_and_none_means_no_bound(most: int | None) -> None:
    assert Retry(max_attempts=most).max_attempts == most


@pytest.mark.parametrize("wrong", [0, -1, "5", float("inf"), timedelta(0)])
def test_the_timeout_of_a_handler_is_positive(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Retry\(timeout\)="):
        Retry(timeout=wrong)
    assert Retry(timeout=timedelta(milliseconds=5)).timeout == 0.005


@pytest.mark.parametrize(
    ("backoff", "kept"),
    [
        (5, (5.0,)),
        (0.25, (0.25,)),
        (timedelta(seconds=1), (1.0,)),
        ([1, timedelta(seconds=2)], (1.0, 2.0)),
        (range(1, 4), (1.0, 2.0, 3.0)),
        (Backoff(first=3), Backoff(first=3)),
        (float, float),
    ],
)
def test_a_backoff_is_kept_so_that_it_cannot_be_changed(
    backoff: Any, kept: Any
) -> None:
    assert Retry(backoff=backoff).backoff == kept


@pytest.mark.parametrize("wrong", [[], (), "12", b"12", None, object(), -1, [1, "2"]])
def test_an_invalid_backoff_object_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Retry\(backoff\)?="):
        Retry(backoff=wrong)


def test_the_last_delay_of_a_list_repeats() -> None:
    retry = Retry(backoff=[3, 1, 2])
    assert [retry.delay(attempt, 0.9) for attempt in range(1, 6)] == [3, 1, 2, 2, 2]


def test_a_backoff_function_is_called_with_the_attempt_that_failed() -> None:
    attempts: list[int] = []

    def backoff(attempt: int) -> timedelta:
        attempts.append(attempt)
        return timedelta(seconds=attempt)

    assert Retry(backoff=backoff).delay(7, 0.5) == 7.0
    assert attempts == [7]


@pytest.mark.parametrize("name", ["on", "give_up_on"])
@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        (ValueError, (ValueError,)),
        ((ValueError, KeyError), (ValueError, KeyError)),
        ([ValueError], (ValueError,)),
        ({ValueError}, (ValueError,)),
        (frozenset({KeyError}), (KeyError,)),
        ((), ()),
    ],
)
def test_one_kind_of_exception_or_several_can_be_given(
    name: str, kinds: Any, kept: object
) -> None:
    assert getattr(Retry(**{name: kinds}), name) == kept


@pytest.mark.parametrize("name", ["on", "give_up_on"])
@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "ValueError",
        ValueError(),
        int,
        (ValueError, 5),
        [int],
        # Exceptions that end more than a message are never retried.
        BaseException,
        asyncio.CancelledError,
        KeyboardInterrupt,
    ],
    ids=repr,
)
def test_a_class_that_is_not_an_exception_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^Retry\({name}="):
        Retry(**{name: wrong})


@pytest.mark.parametrize(
    ("retry", "error", "again"),
    [
        (Retry(), ValueError(), True),
        (Retry(), KeyboardInterrupt(), False),
        (Retry(), asyncio.CancelledError(), False),
        (Retry(on=OSError), ConnectionError(), True),
        (Retry(on=OSError), ValueError(), False),
        (Retry(on=(OSError, ValueError)), ValueError(), True),
        (Retry(give_up_on=ValueError), UnicodeError(), False),
        (Retry(give_up_on=ValueError), KeyError(), True),
        (Retry(on=ValueError, give_up_on=UnicodeError), UnicodeError(), False),
        (Retry(on=()), ValueError(), False),
    ],
)
def test_the_policy_decides_which_exceptions_are_retried(
    retry: Retry,
    error: BaseException,
    again: bool,  # noqa: FBT001
) -> None:
    assert retry.allows(error) == again


@pytest.mark.parametrize(
    ("option", "attribute"), [(Retry(), "on"), (Backoff(), "first")]
)
def test_policies_are_frozen(option: object, attribute: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(option, attribute, 5)


def test_a_long_wrong_value_of_a_retry_is_cut_in_the_error() -> None:
    wrong: Any = "x" * 10_000
    for name in ("backoff", "on"):
        with pytest.raises(ConfigurationError) as caught:
            Retry(**{name: wrong})
        assert len(str(caught.value)) < 200


def test_every_choice_about_dead_letters_has_a_short_name() -> None:
    for member in DeadLetters:
        assert getattr(retries, member.name) is member
        assert member.name in retries.__all__
        assert member.value == member.name.lower()
