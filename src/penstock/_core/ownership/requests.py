"""Requests for a shard: whether it is wanted, and when to ask for it."""

from __future__ import annotations

from penstock._core.ownership.actions import Take
from penstock._core.protocol.ownership_replies import Refused

__all__ = ["Requests"]


class Requests:
    """Keeps whether a shard is wanted, and numbers the TAKEs.

    Attributes:
        wanted: Whether the target says that the shard is this member's.
        version: The highest version of a target that said so.
        serial: The number of the last TAKE, sent again or not.
        asked_at: When it was sent last.
        number: The highest number of an ownership of this shard that was seen.
    """

    __slots__ = (
        "_declined_until",
        "_looked",
        "_retry_at",
        "asked_at",
        "number",
        "serial",
        "version",
        "wanted",
    )

    def __init__(self) -> None:
        self.wanted = False
        self.version = 0
        self.serial = 0
        self.asked_at = 0.0
        self.number = 0
        # The time before which TAKE would be refused again.
        self._retry_at = float("-inf")
        # The time before which the user's code would not have the shard again.
        self._declined_until = float("-inf")
        # Whether a TAKE in the air may be too early for an answer that counts.
        self._looked = False

    def want(self, version: int, now: float) -> None:
        """The target of this version says that the shard is this member's."""
        self.wanted = True
        if version > self.version:
            self.version = version
            self.look(now)

    def look(self, now: float) -> None:
        """The answer may be another one now."""
        self._retry_at = min(self._retry_at, now)
        self._looked = True

    def decline(self, until: float) -> None:
        """Don't ask before this time, whatever others change."""
        self._declined_until = until

    def due_at(self) -> float:
        """Return when to send TAKE."""
        if not self.wanted:
            return float("inf")
        return max(self._retry_at, self._declined_until)

    def next(self, now: float) -> Take:
        """Return the next TAKE."""
        self.serial += 1
        return self.again(now)

    def again(self, now: float) -> Take:
        """Return the last TAKE, to be sent again."""
        self.asked_at = now
        self._looked = False
        return Take(self.version, self.serial, self.number)

    def refused(self, reply: Refused, now: float) -> None:
        """TAKE was refused: note until when."""
        if self._looked:
            self._retry_at = now
        elif reply.why == "held":
            self._retry_at = now + reply.value / 1000
        elif reply.why == "old":
            self._retry_at = float("inf")
