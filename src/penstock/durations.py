"""Durations and counts: values of options, checked.

A duration is seconds, as a number or a `timedelta`; it is returned as float.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, TypeAlias

from penstock.errors import ConfigurationError

__all__ = ["Duration", "count", "seconds"]

Duration: TypeAlias = float | timedelta

_LONGEST: Final = 100 * 365 * 86_400.0


def seconds(value: Duration, option: str, *, zero: bool = True) -> float:
    """Check a duration, and return it in seconds.

    Raises:
        ConfigurationError: It is negative, not finite, not a number, or zero although
            `zero` is False.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if (
        isinstance(number, bool)
        or not isinstance(number, int | float)
        # Also false for nan; some event loops refuse longer durations.
        or not 0 <= number <= _LONGEST
        or (number == 0 and not zero)
    ):
        least = "0 or more" if zero else "more than 0"
        raise ConfigurationError(
            f"{option}={value!r:.60} is not a duration; pass seconds ({least}) as a "
            f"number or a timedelta"
        )
    return float(number)


def count(value: int, option: str, *, least: int = 1) -> int:
    """Check a whole number, and return it.

    Raises:
        ConfigurationError: It is less than `least`, or not an integer.
    """
    if type(value) is not int or value < least:
        raise ConfigurationError(
            f"{option}={value!r:.60} is invalid; pass a whole number of at least "
            f"{least}"
        )
    return value
