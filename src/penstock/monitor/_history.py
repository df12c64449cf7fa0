"""What a collector remembers of earlier polls: when a group moved, and its rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = ["History", "Sample", "Trace"]

# Seconds for which samples are kept, and the least distance of two of them. The newest
# one is replaced until it is that far from the one before: so a group has eight at
# most, however often it is polled.
_KEPT: Final = 60.0
_APART: Final = 7.5
# Seconds over which a rate is computed at least, if there are samples that old.
_RATE_OVER: Final = 5.0
# A gap between two samples that is too short to divide by.
_NO_TIME: Final = 0.05


class Sample(NamedTuple):
    """The numbers of a group over all shards, at one moment.

    Attributes:
        at: The moment, in seconds of some clock.
        lag: The lag.
        exact: Whether it is exact.
        added: The entries ever added to the stream; None if that is not known.
        read: The server's count of entries up to the group's position; likewise.
        distance: How far the position is behind the last id, as a time in milliseconds;
            None if the ids are no times.
    """

    at: float
    lag: int
    exact: bool
    added: int | None
    read: int | None
    distance: int | None


@dataclass(slots=True)
class Trace:
    """When a group moved in one shard.

    Attributes:
        position: The last delivered id and the number of pending entries.
        since: When it was first polled.
        changed: When the position was seen to change; at first, when it was polled.
        polls: How often it was polled.
        seen: The number of the last poll of the collector that saw it.
    """

    position: tuple[bytes, int]
    since: float
    changed: float
    polls: int = 1
    seen: int = 0

    @property
    def moved(self) -> bool:
        """Whether the position was ever seen to change."""
        return self.changed > self.since

    def note(self, position: tuple[bytes, int], now: float) -> None:
        """Note the position of a poll."""
        self.polls += 1
        if position != self.position:
            self.position, self.changed = position, now


@dataclass(slots=True)
class History:
    """The recent samples of a group over all shards.

    Attributes:
        samples: The samples, the oldest first.
        seen: The number of the last poll of the collector that saw the group.
    """

    samples: list[Sample] = field(default_factory=list)
    seen: int = 0

    def note(self, sample: Sample) -> None:
        """Add the sample of a poll."""
        samples = self.samples
        if len(samples) > 1 and samples[-1].at - samples[-2].at < _APART:
            samples[-1] = sample
        else:
            samples.append(sample)
        while len(samples) > 2 and sample.at - samples[0].at > _KEPT:  # noqa: PLR2004
            del samples[0]

    @property
    def grows(self) -> bool:
        """Whether the lag has grown over the samples."""
        first, last = self.samples[0], self.samples[-1]
        if first.exact and last.exact:
            return last.lag > first.lag
        # Bounds say nothing; but a position falls back in time if the lag grows.
        if first.distance is not None and last.distance is not None:
            return last.distance > first.distance
        added, read = _grown(first.added, last.added), _grown(first.read, last.read)
        return added is not None and read is not None and added > read

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """The entries added and delivered in a second; None if that is not known."""
        last = self.samples[-1]
        first = self.samples[0]
        for sample in self.samples:
            if last.at - sample.at >= _RATE_OVER:
                first = sample
        seconds = last.at - first.at
        added = _grown(first.added, last.added)
        if seconds < _NO_TIME or added is None:
            return None, None
        delivered = _grown(first.read, last.read)
        if delivered is None and first.exact and last.exact:
            delivered = added - (last.lag - first.lag)
        into = max(added, 0) / seconds
        return into, None if delivered is None else max(delivered, 0) / seconds


def _grown(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first
