"""How long to wait before the next try."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReconnectBackoff"]


@dataclass(slots=True)
class ReconnectBackoff:
    """Exponential waiting with jitter; reset only by real progress.

    The cap is what a consumer may wait for a server that is back, after an outage of
    any length: under a second, jitter included. To be refused twice a second costs
    nobody anything.

    Attributes:
        first: Seconds before the first retry.
        factor: By how much each further one waits longer.
        cap: Seconds at most, before jitter.
        failures: How many tries failed in a row.
    """

    first: float = 0.05
    factor: float = 2.0
    cap: float = 0.6
    failures: int = 0

    def failed(self, chance: float) -> float:
        """Count a failure and give the seconds to wait.

        Args:
            chance: A number from 0 to 1; moves the wait by a quarter either way, so
                that a fleet does not come back in step.
        """
        try:
            delay = min(self.cap, self.first * self.factor**self.failures)
        except OverflowError:
            delay = self.cap
        self.failures += 1
        return delay * (0.75 + chance / 2)

    def progress(self) -> None:
        """Start over: the other side did some real work."""
        self.failures = 0
