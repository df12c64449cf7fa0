"""Sends: how many messages had each outcome, and how long they took."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from penstock._core.metrics.histogram import Histogram

__all__ = ["SEND_OUTCOMES", "SendOutcome", "SendTotals"]

SendOutcome: TypeAlias = Literal["stored", "failed", "unknown", "not_durable"]
SEND_OUTCOMES: Final[tuple[SendOutcome, ...]] = (
    *("stored", "failed"),
    *("unknown", "not_durable"),
)


class SendTotals:
    """The messages of one stream that have an outcome.

    Attributes:
        outcomes: Their number by outcome.
        seconds: How long those took that are stored, from the call to the receipt.
    """

    __slots__ = ("outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[SendOutcome, int] = dict.fromkeys(SEND_OUTCOMES, 0)
        self.seconds = Histogram()
