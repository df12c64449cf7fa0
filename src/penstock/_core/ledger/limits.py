"""Limits and signals of a ledger: what bounds it, and whom it wakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock._core.ledger.entry import Entry

__all__ = ["LedgerLimits", "LedgerSignals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLimits:
    """What bounds a ledger.

    Attributes:
        max_pending: Outcomes that are sent without waiting for the interval.
        max_uncommitted: Outcomes that may wait for the server before nothing more is
            read: a server may go on serving reads and refuse acknowledgements. None
            for no bound.
        max_attempts: Attempts after which an entry is not tried again; None for no
            bound.
        lease: Seconds for which an entry without an outcome is this consumer's.
        acknowledges: Whether entries are acknowledged (not in REALTIME).
        strict: Whether no entry may pass a possible poison message while those are
            held.
    """

    max_pending: int
    max_uncommitted: int | None = None
    max_attempts: int | None = None
    lease: float
    acknowledges: bool
    strict: bool = False

    @property
    def single_attempt(self) -> bool:
        """Whether there is one attempt only, whose start must not be forgotten."""
        return self.acknowledges and self.max_attempts == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSignals:
    """Whom a ledger wakes. All but `on_exhausted` may only wake a task.

    Attributes:
        on_capacity: Called when entries can be read or claimed again after a budget
            of 0.
        on_outcomes: Called when the first outcome waits for the committer, and when
            `max_pending` wait.
        on_ready: Called when an entry may be taken that no read has just brought.
        on_postponed: Called when the time of the next retry has become earlier.
        on_exhausted: Called with an entry that was redelivered with all attempts used
            up; has to answer with `Ledger.refuse`.
    """

    on_capacity: Callable[[], None]
    on_outcomes: Callable[[], None]
    on_ready: Callable[[], None]
    on_postponed: Callable[[], None]
    on_exhausted: Callable[[Entry], None]
