"""Silence: the time for which the server has not answered, across reconnects."""

from __future__ import annotations

__all__ = ["Silence"]


class Silence:
    """Keeps the time of the oldest unanswered request.

    Replies come in the order of the requests. So each answer proves that all requests
    before it have been answered, and the silence of the others begins with that answer.
    A lost connection does not end a silence: only an answer on the next connection
    does.

    Attributes:
        asking: The number of requests without an answer.
        since: The time from which the oldest unanswered request has waited; None if
            there is none.
    """

    __slots__ = ("_lost", "asking", "since")

    def __init__(self) -> None:
        self.asking = 0
        self.since: float | None = None
        # Whether a connection was lost since the last answer.
        self._lost = False

    def asked(self, now: float) -> None:
        """Record a request."""
        self.asking += 1
        if self.since is None:
            self.since = now

    def answered(self, now: float) -> None:
        """Record the answer to the oldest request."""
        self.asking -= 1
        self._lost = False
        self.since = now if self.asking else None

    def lost(self) -> None:
        """Record that the connection of a request ended before the answer."""
        self.asking -= 1
        self._lost = True

    def given_up(self) -> None:
        """Record that no caller waits for the answer to a request any more."""
        self.asking -= 1
        if not self.asking and not self._lost:
            self.since = None
