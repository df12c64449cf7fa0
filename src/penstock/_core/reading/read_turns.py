"""Read turns: how many entries each of several readers may request.

The readers of one consumer share its read budget. COUNT is a number per request, and it
is not known which streams have entries, so an even share would be safe: whatever the
replies bring, the budget suffices. But a request costs about the same for few entries
as for many, and with 64 readers an even share is a 64th of the budget.

So an even share is what a reader requests while it waits for entries at the server. If
the reply has as many entries as were requested, the stream has more of them. Then the
reader waits for its turn: one after the other, the readers with more to read request
many entries each, without waiting at the server, as long as the budget has room for
what they may bring together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ReadTurns", "Turn"]

# The entries that make a request worth its cost, and the part of all messages that may
# be held which one reader may request at a time.
_WORTHWHILE: Final = 100
_PART: Final = 4


@dataclass(slots=True, eq=False)
class Turn:
    """What one reader may request.

    Attributes:
        has_more: Whether the reader's last reply had as many entries as it requested.
        granted: The entries that the reader may request in its turn; 0 while it has
            none.
    """

    has_more: bool = False
    granted: int = 0


class ReadTurns:
    """Divides a read budget among readers.

    Attributes:
        readers: The number of readers.
    """

    __slots__ = ("_granted", "_waiting", "readers")

    def __init__(self) -> None:
        self.readers = 0
        # The readers that wait for a turn, in the order in which they asked.
        self._waiting: dict[Turn, None] = {}
        # The sum of what is granted and not yet read.
        self._granted = 0

    @property
    def any_waiting(self) -> bool:
        """Whether a reader waits for its turn."""
        return bool(self._waiting)

    def is_waiting(self, turn: Turn) -> bool:
        """Return whether a reader waits for its turn."""
        return turn in self._waiting

    def join(self) -> Turn:
        """Return the turn of one more reader."""
        self.readers += 1
        return Turn()

    def leave(self, turn: Turn) -> None:
        """Forget a reader that reads no more."""
        self.readers -= 1
        self._waiting.pop(turn, None)
        self.give_back(turn)

    def ask(self, turn: Turn, budget: int) -> int:
        """Return how many entries a reader may request.

        Args:
            turn: The reader's turn.
            budget: The entries that all readers may request now.

        Returns:
            At least 1, unless the budget is 0 or the reader has to wait for its turn:
            then it waits for `next`.
        """
        if turn.granted:
            return turn.granted
        if turn.has_more and self.readers > 1:
            self._waiting.setdefault(turn)
            return 0
        self._waiting.pop(turn, None)
        return self._share(budget)

    def next(self, budget: int, capacity: int) -> Turn | None:
        """Give the reader that has waited longest its turn, if there is room for it.

        Args:
            budget: The entries that all readers may request now.
            capacity: The messages that may be held.

        Returns:
            The turn; None if no reader waits or there is no room.
        """
        count = self._worthwhile(budget, capacity)
        if not self._waiting or not 0 < count <= budget - self._granted:
            return None
        turn = next(iter(self._waiting))
        del self._waiting[turn]
        turn.granted = count
        self._granted += count
        return turn

    def give_back(self, turn: Turn) -> None:
        """End a reader's turn, if it has one, after its reply or without a request."""
        self._granted -= turn.granted
        turn.granted = 0

    def _share(self, budget: int) -> int:
        return -(-budget // self.readers)

    def _worthwhile(self, budget: int, capacity: int) -> int:
        """Return how many entries a reader requests in its turn.

        Half of the budget is the most: a reader whose connection has just failed must
        not hold up all others.
        """
        most = max(_WORTHWHILE, capacity // _PART, self._share(budget))
        return min(most, -(-budget // 2))
