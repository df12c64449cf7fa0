"""Read budget: what each reader may request, and when to wake those that may not."""

from __future__ import annotations

from collections.abc import Callable

from penstock import _clock
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.reading.read_turns import ReadTurns, Turn
from penstock._core.reading.request_size import ReadSizes

__all__ = ["ReadBudget", "ReaderBudget"]


class ReadBudget:
    """The read budget of a consumer, shared by its readers.

    Args:
        flow: Decides how many entries may be read.
        is_suspended: Returns whether nothing may be read now.

    Attributes:
        sizes: How much one request may ask for. What one connection has shown of the
            sizes of entries and replies is true of the others as well.
    """

    def __init__(self, flow: FlowControl, is_suspended: Callable[[], bool]) -> None:
        self._flow = flow
        self._is_suspended = is_suspended
        self.sizes = ReadSizes()
        self._turns = ReadTurns()
        # How to wake the readers, by their turns.
        self._resume: dict[Turn, Callable[[], None]] = {}
        # The readers that found no budget and do not wait for a turn.
        self._without: dict[Turn, None] = {}

    def join(self, resume: Callable[[], None]) -> ReaderBudget:
        """Return the part of one more reader.

        Args:
            resume: Wakes the reader after it was allowed to request nothing.
        """
        turn = self._turns.join()
        self._resume[turn] = resume
        return ReaderBudget(self, turn)

    def leave(self, turn: Turn) -> None:
        """Forget a reader that reads no more."""
        del self._resume[turn]
        self._without.pop(turn, None)
        self._turns.leave(turn)
        self._continue()

    def ask(self, turn: Turn, left: int) -> int:
        """Return how many entries a reader may request; after 0, it is woken.

        Args:
            turn: The reader's turn.
            left: How many more entries its last request could have brought.
        """
        self._without.pop(turn, None)
        budget = self._available(left)
        count = self._turns.ask(turn, budget)
        if not budget:
            if not self._turns.is_waiting(turn):
                self._without[turn] = None
            return count
        # The ledger no longer wakes a reader that found no budget before.
        self._wake_those_without()
        self._grant(budget, asking=turn)
        return count or turn.granted

    def give_back(self, turn: Turn) -> None:
        """End a reader's turn, if it has one."""
        if turn.granted:
            self._turns.give_back(turn)
            self._continue()

    def resume(self) -> None:
        """Wake the readers that may read, after there was no budget."""
        self._wake_those_without()
        self._continue()

    def _continue(self) -> None:
        """Give readers that wait for it their turn, as far as the budget allows."""
        if self._turns.any_waiting:
            self._grant(self._available(0))

    def _grant(self, budget: int, asking: Turn | None = None) -> None:
        capacity = self._flow.capacity
        while (turn := self._turns.next(budget, capacity)) is not None:
            if turn is not asking:
                self._resume[turn]()

    def _wake_those_without(self) -> None:
        without, self._without = self._without, {}
        for turn in without:
            self._resume[turn]()

    def _available(self, left: int) -> int:
        """Return how many entries all readers may request.

        What the last read could have brought is read, though it may be little by now.
        """
        if self._is_suspended():
            return 0
        flow = self._flow
        return flow.read_budget(_clock.boottime()) or min(left, flow.fits)


class ReaderBudget:
    """What one reader may request.

    Args:
        shared: The budget of all readers.
        turn: The reader's turn.
    """

    def __init__(self, shared: ReadBudget, turn: Turn) -> None:
        self._shared = shared
        self._turn = turn
        # The budget that the last read left unused because its size was limited.
        self._left = 0

    @property
    def is_turn(self) -> bool:
        """Whether the reader has its turn: then its request must not wait."""
        return bool(self._turn.granted)

    def ask(self) -> int:
        """Return how many entries to request; after 0, the reader is woken."""
        left, self._left = self._left, 0
        return self._shared.ask(self._turn, left)

    def used(self, *, full: bool, left: int) -> None:
        """Record the reply to a request.

        Args:
            full: Whether it had as many entries as were requested.
            left: How many more entries could have been requested.
        """
        self._turn.has_more = full
        self._left = left

    def give_back(self) -> None:
        """End the turn, if there is one, after its reply or without a request."""
        self._shared.give_back(self._turn)

    def leave(self) -> None:
        """End the part of this reader, which reads no more."""
        self._shared.leave(self._turn)
