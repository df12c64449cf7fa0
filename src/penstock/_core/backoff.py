"""Reconnect with backoff: the seconds to wait before the next attempt."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReconnectBackoff"]


@dataclass(slots=True)
class ReconnectBackoff:
    """Exponential backoff with jitter; only real progress resets it.

    The cap bounds how long a consumer waits for a server that is available again, after
    an outage of any length: under a second, jitter included. Two refused attempts a
    second cost nobody anything.

    Attributes:
        first: Seconds before the first retry.
        factor: The factor by which the wait grows with each further retry.
        cap: The longest wait in seconds, before jitter.
        failures: The number of attempts in a row that have failed.
    """

    first: float = 0.05
    factor: float = 2.0
    cap: float = 0.6
    failures: int = 0

    def failed(self, chance: float) -> float:
        """Record a failed attempt and return the seconds to wait before the next one.

        Args:
            chance: A number from 0 to 1. It changes the wait by up to a quarter either
                way, so that the consumers of a fleet do not all reconnect at the same
                time.
        """
        try:
            delay = min(self.cap, self.first * self.factor**self.failures)
        except OverflowError:
            delay = self.cap
        self.failures += 1
        return delay * (0.75 + chance / 2)

    def progress(self) -> None:
        """Reset the backoff: the server has done some real work."""
        self.failures = 0
