"""Failure policy: what becomes of an entry whose attempt failed."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from penstock.retries import DeadLetters, Retry

__all__ = [
    "NACKED",
    "Cause",
    "DeadLettered",
    "Disposition",
    "Dropped",
    "FailedAttempt",
    "RetryAt",
    "Stopped",
    "decide",
]


NACKED: Final = "nacked"
"""The reason of a failure that the handler has asked for, by `nack`."""


Cause: TypeAlias = Literal["attempts", "rejected", "undecodable", "poison"]
"""Why an entry is given up: after its last attempt, or because it may not be retried;
rejected by its handler; not of the payload's type; redelivered after its last attempt.
"""


class RetryAt(Struct, frozen=True):
    """The entry is tried again.

    Attributes:
        delay: Seconds until the next attempt.
        due: The time of the next attempt, by the ledger's clock.
    """

    delay: float
    due: float


class DeadLettered(Struct, frozen=True):
    """The entry goes to the dead letters.

    Attributes:
        reason: The reason, in words.
        error: The exception's type; empty without one.
        traceback: Its traceback, cut; empty without one.
        started: Whether a handler was started at the present attempt.
        cause: Why, as one of a few.
    """

    reason: str
    error: str = ""
    traceback: str = ""
    started: bool = True
    cause: Cause = "attempts"


class Dropped(Struct, frozen=True):
    """The entry is acknowledged, although no handler has handled it."""

    reason: str


class Stopped(Struct, frozen=True):
    """The entry stays pending, and the consumer stops."""

    reason: str


Disposition: TypeAlias = RetryAt | DeadLettered | Dropped | Stopped


class FailedAttempt(Struct, frozen=True):
    """The failure of an attempt.

    Attributes:
        reason: The reason, in words.
        retry: Whether the entry may be tried again.
        delay: Seconds until the next attempt, if the handler has chosen them.
        error: The exception's type; empty without one.
        traceback: Its traceback, cut; empty without one.
        cause: Why the entry is given up, if it is.
    """

    reason: str
    retry: bool
    delay: float | None = None
    error: str = ""
    traceback: str = ""
    cause: Cause = "attempts"


def decide(
    failure: FailedAttempt,
    attempt: int,
    retry: Retry,
    dead_letter_policy: DeadLetters | None,
    *,
    now: float,
    chance: float,
) -> Disposition:
    """Decide what becomes of an entry after an attempt failed.

    Args:
        failure: The failure.
        attempt: The number of the attempt, from 1.
        retry: The policy.
        dead_letter_policy: What to do instead of keeping dead letters; None keeps them.
        now: The time.
        chance: A number from 0 to 1.

    Raises:
        ConfigurationError: The user's backoff function returned no duration.
    """
    most = retry.max_attempts
    if failure.retry and (most is None or attempt < most):
        delay = failure.delay
        if delay is None:
            delay = retry.delay(attempt, chance)
        return RetryAt(delay, now + delay)
    match dead_letter_policy:
        case DeadLetters.DROP:
            return Dropped(failure.reason)
        case DeadLetters.STOP:
            return Stopped(failure.reason)
        case _:
            return DeadLettered(
                failure.reason, failure.error, failure.traceback, cause=failure.cause
            )
