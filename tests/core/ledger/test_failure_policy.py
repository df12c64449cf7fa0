"""Failure policy: what becomes of an entry whose handler failed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.ledger.failure_policy import (
    DeadLettered,
    Disposition,
    Dropped,
    FailedAttempt,
    RetryAt,
    Stopped,
    decide,
)
from penstock.errors import ConfigurationError
from penstock.retries import DROP, STOP, Backoff, DeadLetters, Delays, Retry

REDELIVERED = FailedAttempt(
    "ValueError: x", retry=True, error="ValueError", traceback="at 5"
)
NEVER = FailedAttempt("rejected", retry=False)


def decided(
    failure: FailedAttempt = REDELIVERED,
    attempt: int = 1,
    retry: Retry | None = None,
    dead_letter_policy: DeadLetters | None = None,
    chance: float = 0.5,
) -> Disposition:
    retry = retry or Retry()
    return decide(failure, attempt, retry, dead_letter_policy, now=100.0, chance=chance)


def test_a_failed_entry_is_retried_after_a_delay() -> None:
    assert decided() == RetryAt(0.5, 100.5)
    assert decided(attempt=2) == RetryAt(1.0, 101.0)
    assert decided(attempt=4) == RetryAt(4.0, 104.0)


@pytest.mark.parametrize(
    ("most", "attempt", "again"),
    [
        (1, 1, False),
        (2, 1, True),
        (2, 2, False),
        (5, 4, True),
        (5, 5, False),
        # Earlier attempts were made under another policy.
        (5, 9, False),
        (None, 1, True),
        (None, 10**9, True),
    ],
)
def test_the_policy_bounds_the_number_of_attempts(
    most: int | None,
    attempt: int,
    again: bool,  # noqa: FBT001
) -> None:
    disposition = decided(attempt=attempt, retry=Retry(max_attempts=most))
    assert isinstance(disposition, RetryAt) == again


def test_a_dead_letter_has_the_reason() -> None:
    assert decided(attempt=5) == DeadLettered("ValueError: x", "ValueError", "at 5")
    assert decided(NEVER) == DeadLettered("rejected")


@pytest.mark.parametrize("attempt", [1, 5])
@pytest.mark.parametrize(
    ("dead_letter_policy", "kind"),
    [(None, DeadLettered), (DROP, Dropped), (STOP, Stopped)],
)
def test_an_entry_that_must_not_be_retried_is_given_up_at_once_by_the_policy(
    attempt: int, dead_letter_policy: DeadLetters | None, kind: type[Disposition]
) -> None:
    disposition = decided(NEVER, attempt, Retry(max_attempts=None), dead_letter_policy)
    assert isinstance(disposition, kind)
    assert not isinstance(disposition, RetryAt)
    assert disposition.reason == "rejected"


@pytest.mark.parametrize("dead_letter_policy", [None, DROP, STOP])
def test_the_dead_letter_policy_applies_only_after_the_last_attempt(
    dead_letter_policy: DeadLetters | None,
) -> None:
    assert isinstance(
        decided(attempt=4, dead_letter_policy=dead_letter_policy), RetryAt
    )


@pytest.mark.parametrize("delay", [0.0, 3.0])
def test_a_delay_that_the_handler_chose_takes_precedence(delay: float) -> None:
    asked = FailedAttempt("nacked", retry=True, delay=delay)
    assert decided(asked, attempt=4) == RetryAt(delay, 100.0 + delay)
    assert isinstance(decided(asked, attempt=5), DeadLettered)


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        ([1, timedelta(seconds=5), 0], [1.0, 5.0, 0.0, 0.0]),
        ((7,), [7.0, 7.0, 7.0, 7.0]),
        (2, [2.0, 2.0, 2.0, 2.0]),
        (lambda attempt: attempt * 10, [10.0, 20.0, 30.0, 40.0]),
        (lambda attempt: timedelta(minutes=attempt), [60.0, 120.0, 180.0, 240.0]),
        (Backoff(first=1, factor=3, max=5, jitter=0), [1.0, 3.0, 5.0, 5.0]),
    ],
)
def test_delays_follow_the_backoff_policy(backoff: Delays, delays: list[float]) -> None:
    retry = Retry(max_attempts=None, backoff=backoff)
    dispositions = [decided(attempt=n, retry=retry) for n in range(1, 5)]
    assert dispositions == [RetryAt(delay, 100.0 + delay) for delay in delays]


@pytest.mark.parametrize("wrong", [-1, "5", None, float("nan"), float("inf"), True])
def test_a_backoff_function_that_returns_no_duration_is_a_configuration_error(
    wrong: object,
) -> None:
    backoff: Callable[..., object] = lambda _: wrong  # noqa: E731
    retry = Retry(backoff=backoff)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="the backoff function's result"):
        decided(retry=retry)
    assert isinstance(decided(NEVER, retry=retry), DeadLettered), "backoff was called"
    assert isinstance(decided(attempt=5, retry=retry), DeadLettered)


@given(st.integers(1, 1000), st.floats(0, 1), st.none() | st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_a_retry_is_due_after_its_delay_and_never_before_now(
    attempt: int, chance: float, most: int | None
) -> None:
    disposition = decided(
        attempt=attempt, retry=Retry(max_attempts=most), chance=chance
    )
    if most is not None and attempt >= most:
        assert isinstance(disposition, DeadLettered)
    else:
        assert isinstance(disposition, RetryAt)
        assert disposition.due == 100.0 + disposition.delay
        assert 0.375 <= disposition.delay <= 60.0
