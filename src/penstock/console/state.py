"""Observed: the last poll that all viewers share, and ten minutes of lags."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from penstock import ServerError, _clock
from penstock.cli.top.view import TopRow, rows
from penstock.monitor import Collector, GroupStatus, Snapshot

__all__ = ["Observed"]

_KEPT: Final = 60  # samples of a lag
_APART: Final = 10.0  # seconds between two of them: ten minutes in all


class Observed:
    """What the polls saw last; a `Watch` of the exporter's.

    Args:
        clock: Returns the time in seconds.

    Attributes:
        snapshot: The last result; None before the first.
        collector: The collector of the last result.
        reason: Why the last poll failed; None if it succeeded.
    """

    def __init__(self, clock: Callable[[], float] = _clock.monotonic) -> None:
        self._clock = clock
        self.snapshot: Snapshot | None = None
        self.collector: Collector | None = None
        self.reason: str | None = None
        self._polled_at = 0.0
        self._lost_at: float | None = None
        self._sampled_at = 0.0
        self._lags: dict[tuple[str, str], deque[int]] = {}

    def polled(self, snapshot: Snapshot, collector: Collector) -> None:
        """Keep the result of a poll."""
        self.snapshot, self.collector = snapshot, collector
        self.reason = self._lost_at = None
        self._polled_at = self._clock()
        self._note([group for one in snapshot.streams for group in one.groups])

    def failed(self, error: ServerError) -> None:
        """Keep the reason; the last result stays."""
        self.reason = str(error)
        if self._lost_at is None:
            self._lost_at = self._clock()

    def _note(self, groups: Sequence[GroupStatus]) -> None:
        """Add a sample of each lag, or replace the newest; forget other groups."""
        fresh = not self._lags or self._clock() - self._sampled_at >= _APART
        if fresh:
            self._sampled_at = self._clock()
        kept = {}
        for group in groups:
            key = group.stream, group.group
            lags = kept[key] = self._lags.get(key, deque(maxlen=_KEPT))
            if lags and not fresh:
                lags[-1] = group.lag
            else:
                lags.append(group.lag)
        self._lags = kept

    @property
    def age(self) -> float:
        """The seconds since the last result."""
        return self._clock() - self._polled_at

    @property
    def outage(self) -> float | None:
        """The seconds for which no poll has succeeded; None if the last one did."""
        return None if self._lost_at is None else self._clock() - self._lost_at

    def rows(self) -> list[TopRow]:
        """Return the groups as `penstock top` does, the worst first."""
        return [] if self.snapshot is None else rows(self.snapshot, self.lags)

    def lags(self, stream: str, group: str) -> list[int]:
        """Return the lags of a group in the last ten minutes, the oldest first."""
        return list(self._lags.get((stream, group), ()))
