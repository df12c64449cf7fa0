"""For how long a connection has answered nothing, over reconnects."""

from __future__ import annotations

__all__ = ["Silence"]


class Silence:
    """Keeps the time of the oldest question without an answer.

    Replies come in the order of the questions. So each answer shows that those asked
    before it have theirs, and the silence of the others begins with that answer. A
    connection that is lost ends no silence: only an answer on the next one does.

    Attributes:
        asking: Questions under way.
        since: When the oldest question without an answer was asked; None without any.
    """

    __slots__ = ("_lost", "asking", "since")

    def __init__(self) -> None:
        self.asking = 0
        self.since: float | None = None
        # Whether a connection was lost since the last answer.
        self._lost = False

    def asked(self, now: float) -> None:
        """Record a question."""
        self.asking += 1
        if self.since is None:
            self.since = now

    def answered(self, now: float) -> None:
        """Record the answer to the oldest question."""
        self.asking -= 1
        self._lost = False
        self.since = now if self.asking else None

    def lost(self) -> None:
        """Record that a question's connection ended before the answer."""
        self.asking -= 1
        self._lost = True

    def given_up(self) -> None:
        """Record that nobody waits for a question's answer any more."""
        self.asking -= 1
        if not self.asking and not self._lost:
            self.since = None
