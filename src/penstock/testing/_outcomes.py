"""Outcomes: what became of a message, as tests see it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Outcome", "Status"]


class Status(StrEnum):
    """What became of a message.

    Attributes:
        ACKNOWLEDGED: It was acknowledged; for `handled`, the server has confirmed that.
        RETRIED: It is to be tried again.
        DEAD_LETTERED: It went to the dead letters, or is to go there.
        DROPPED: It was given up and acknowledged (`dead_letters=DROP`).
        STOPPED: It was given up, stays pending, and ends its consumer (`STOP`).
        UNACKNOWLEDGED: Its handler has finished without an outcome, and only the
            program itself acknowledges (`auto_commit="rolling"` or `"disabled"`).
        UNHANDLED: No handler is for its type, so it was acknowledged.
        HANDLED: Its handler has returned, and its consumer acknowledges nothing
            (REALTIME).
        FAILED: Its handler has failed, and its consumer retries nothing.
    """

    ACKNOWLEDGED = "acknowledged"
    RETRIED = "retried"
    DEAD_LETTERED = "dead-lettered"
    DROPPED = "dropped"
    STOPPED = "stopped"
    UNACKNOWLEDGED = "unacknowledged"
    UNHANDLED = "unhandled"
    HANDLED = "handled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message, and after how many attempts.

    Attributes:
        status: What became of it; equal to its text, for example `"acknowledged"`.
        attempts: The number of its last attempt, from 1.
        error: The exception of its handler at that attempt, or of decoding its payload;
            None if there was none.
        reason: Why it was given up, in words; empty if it was not.
        delay: Seconds until the next attempt; None if there is none.
    """

    status: Status
    attempts: int
    error: BaseException | None = None
    reason: str = ""
    delay: float | None = None
