"""Retries: when a message whose handler fails is tried again, and when it is given up.

Durations are seconds, as a number or a `timedelta`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final, TypeAlias

from penstock.durations import Duration, count, seconds
from penstock.errors import ConfigurationError

__all__ = ["DROP", "STOP", "Backoff", "DeadLetters", "Delays", "Kinds", "Retry"]

Delays: TypeAlias = "Backoff | Sequence[Duration] | Callable[[int], Duration]"
Kinds: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]


class DeadLetters(Enum):
    """Policies for messages that were given up, other than keeping them."""

    DROP = "drop"
    """The messages are acknowledged, and reported."""
    STOP = "stop"
    """The consumer ends with `GaveUp`; the message stays pending, and stops the next
    consumer too."""


DROP: Final = DeadLetters.DROP
STOP: Final = DeadLetters.STOP


@dataclass(frozen=True, slots=True)
class Backoff:
    """A delay that grows with every attempt.

    Attributes:
        first: Seconds after the first attempt; default 0.5.
        factor: The factor by which each further delay is longer; default 2.
        max: Seconds at most; default 60.
        jitter: The fraction by which a delay may be longer or shorter, so that messages
            that failed together are not retried together; default 0.25, from 0 to 1.

    Raises:
        ConfigurationError: A number is out of range.

    Example:
        >>> Backoff(first=1, factor=3).delay(2, chance=0.5)
        3.0
    """

    first: Duration = 0.5
    factor: float = 2.0
    max: Duration = 60.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        for name in ("first", "max"):
            value = seconds(getattr(self, name), f"Backoff({name})")
            object.__setattr__(self, name, value)
        for name, low, high in (("factor", 1, float("inf")), ("jitter", 0, 1)):
            number = getattr(self, name)
            if isinstance(number, bool) or not (
                isinstance(number, int | float) and low <= number <= high
            ):
                raise ConfigurationError(
                    f"Backoff({name}={number!r:.60}) is invalid; pass a number from "
                    f"{low} to {high}"
                )

    def delay(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait after an attempt.

        Args:
            attempt: The number of the attempt, from 1.
            chance: A number from 0 to 1 that decides the jitter.
        """
        first, most = seconds(self.first, "first"), seconds(self.max, "max")
        if not first:
            return 0.0
        try:
            delay = min(most, first * self.factor ** (attempt - 1))
        except OverflowError:
            delay = most
        return min(most, delay * (1 - self.jitter + 2 * self.jitter * chance))


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a message is tried, and how long each attempt may take.

    An attempt is a start of the handler, and is counted on the server. A handler that
    is cancelled because its consumer closes has not been attempted. While a message
    waits for its next attempt, its lease is renewed, and other messages are handled,
    unless `ordering` holds back those behind it.

    Attributes:
        max_attempts: Starts of the handler, including the first one; default 5. After
            the last attempt the message goes to the dead letters. None: no limit. With
            1, each start is confirmed by the server before the handler begins, and a
            message that was running when its process was killed is not tried again.
        backoff: Seconds from a failure to the next attempt: a `Backoff` (default), a
            sequence of durations whose last one repeats, or a function of the number of
            the attempt that failed, from 1.
        timeout: Seconds that a handler may take; default None, no limit. After that the
            handler is cancelled, which is a failure. A handler that is not an async
            function can't be cancelled: the timeout is reported, and the handler has
            failed when it ends.
        on: The exceptions after which a message is tried again; default `Exception`.
            After other exceptions, and after those of `give_up_on`, it goes to the dead
            letters at once. After a timeout it is always tried again, unless
            `give_up_on` has `TimeoutError`.
        give_up_on: See `on`; default none.

    Raises:
        ConfigurationError: A number or a type is invalid.

    Example:
        ```python
        Retry(max_attempts=8, backoff=[0.1, 1, 10], give_up_on=ValueError)
        ```
    """

    max_attempts: int | None = 5
    backoff: Delays = Backoff()
    timeout: Duration | None = None
    on: Kinds = Exception
    give_up_on: Kinds = ()

    def __post_init__(self) -> None:
        if self.max_attempts is not None:
            count(self.max_attempts, "Retry(max_attempts)")
        if self.timeout is not None:
            timeout = seconds(self.timeout, "Retry(timeout)", zero=False)
            object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "backoff", _delays(self.backoff))
        for name in ("on", "give_up_on"):
            object.__setattr__(self, name, _kinds(getattr(self, name), name))

    def delay(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait after an attempt that failed.

        Args:
            attempt: The number of the attempt, from 1.
            chance: A number from 0 to 1 that decides the jitter.

        Raises:
            ConfigurationError: The user's backoff function did not return a duration.
        """
        if isinstance(self.backoff, Backoff):
            return self.backoff.delay(attempt, chance)
        if isinstance(self.backoff, Sequence):
            last = len(self.backoff) - 1
            return seconds(self.backoff[min(attempt - 1, last)], "backoff")
        return seconds(self.backoff(attempt), "the backoff function's result")

    def allows(self, error: BaseException) -> bool:
        """Return whether a message is tried again after an exception."""
        return isinstance(error, self.on) and not isinstance(error, self.give_up_on)


def _delays(backoff: Delays) -> Delays:
    if isinstance(backoff, Backoff):
        return backoff
    text = isinstance(backoff, str | bytes)
    if isinstance(backoff, Sequence) and not text and backoff:
        return tuple(seconds(delay, "Retry(backoff)") for delay in backoff)
    if isinstance(backoff, int | float | timedelta):
        return (seconds(backoff, "Retry(backoff)"),)
    if not callable(backoff):
        raise ConfigurationError(
            f"Retry(backoff={backoff!r:.60}) is invalid; pass a Backoff, a list of "
            f"durations, or a function of the attempt"
        )
    return backoff


def _kinds(kinds: Kinds, name: str) -> Kinds:
    listed = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(kinds, list | set | frozenset):
        listed = tuple(kinds)
    for kind in listed:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(
                f"Retry({name}={kind!r:.60}) is not an exception type; pass one such "
                f"as ValueError, or a tuple of them"
            )
    return listed
