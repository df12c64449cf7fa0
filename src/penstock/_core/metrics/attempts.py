"""Attempts: how many there were of each outcome, and how long they took."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import NACKED, RetryAt
from penstock._core.ledger.states import FAILED, LOST
from penstock._core.messages.entry_times import milliseconds
from penstock._core.metrics.histogram import BOUNDS, Histogram

__all__ = ["OUTCOMES", "SHORT", "AttemptTotals", "Outcome", "outcome_of"]

Outcome: TypeAlias = Literal["ok", "failed", "rejected", "timeout", "lost", "cancelled"]
OUTCOMES: Final[tuple[Outcome, ...]] = (
    *("ok", "failed", "rejected"),
    *("timeout", "lost", "cancelled"),
)

SHORT: Final = BOUNDS[0]
"""Seconds of the longest attempts that are in the first bucket."""
# The share of an age by which ids with the same recorded age may differ.
_SPREAD: Final = 0.01
# Digits of an id's milliseconds from 2001 to 2286. Ids of as many digits are in the
# order of their bytes.
_DIGITS: Final = 13


def outcome_of(entry: Entry, outcome: Outcome) -> Outcome:
    """Return the outcome of an attempt, by what the entry's user has done before.

    Args:
        entry: The entry, before its attempt is recorded in the ledger.
        outcome: The outcome if its user has done nothing.
    """
    if entry.state is LOST:
        return "lost"
    if entry.state is not FAILED or outcome == "cancelled":
        return outcome
    disposition = entry.disposition
    if isinstance(disposition, RetryAt) or disposition is None:
        return "failed"
    return "failed" if disposition.reason == NACKED else "rejected"


class AttemptTotals:
    """The ended attempts of one handler with the messages of one stream.

    Attributes:
        others: The number of attempts of each outcome but `ok`.
        seconds: The durations.
        ages: The ages of messages when their first attempt began.
    """

    __slots__ = (
        "_age",
        "_bucket",
        "_high",
        "_low",
        "_until",
        "ages",
        "others",
        "seconds",
    )

    def __init__(self) -> None:
        self.others: dict[Outcome, int] = {}
        self.seconds = Histogram()
        self.ages = Histogram()
        # Ids from `_low` to below `_high` have this age, until that time.
        self._low = self._high = b""
        self._until = 0.0
        self._age, self._bucket = 0.0, 0

    def number(self, outcome: Outcome) -> int:
        """Return the number of attempts with an outcome."""
        if outcome != "ok":
            return self.others.get(outcome, 0)
        # Another thread may ask between the two increments of an attempt.
        return max(0, self.seconds.number - sum(list(self.others.values())))

    def ended_otherwise(self, outcome: Outcome) -> None:
        """Record that the attempt that has just ended was not `ok`."""
        self.others[outcome] = self.others.get(outcome, 0) + 1

    def all_aged_as_before(self, ids: Sequence[bytes], began: float) -> bool:
        """Record the ages of messages whose first attempts began, if they are known.

        To parse each id would take longer than all else that is recorded of an attempt.
        So ids that are close to each other, within a hundredth of their age or in one
        millisecond, count with the age of one of them.

        Args:
            ids: The entries' ids, in the order of their stream.
            began: When the last attempt began, by the clock of `aged`.

        Returns:
            Whether they were known; otherwise `aged` records each.
        """
        if not ids:
            return True
        if began >= self._until or ids[0] < self._low or ids[-1] >= self._high:
            return False
        ages = self.ages
        ages.counts[self._bucket] += len(ids)
        ages.total += self._age * len(ids)
        return True

    def aged(self, id_: bytes, began: float, wall: float) -> None:
        """Record the age of a message whose first attempt began.

        Args:
            id_: The entry's id; one that is no time is not recorded.
            began: When the attempt began, by any clock that is always the same.
            wall: The same, in seconds since 1970.
        """
        if self.all_aged_as_before((id_,), began):
            return
        digits = id_.partition(b"-")[0]
        moment = milliseconds(int(digits), wall * 1000)
        if moment is None:
            return
        self._age = age = max(0.0, wall - moment / 1000)
        self.ages.observe(age)
        self._bucket = bisect_left(BOUNDS, age)
        spread = age * _SPREAD
        self._until = began + max(0.001, spread)
        low, high = (b"%d" % (moment + sign * int(spread * 1000)) for sign in (-1, 1))
        if len(digits) == len(low) == len(high) == _DIGITS:
            self._low, self._high = low, high + b"."
        else:
            self._low = self._high = b""
