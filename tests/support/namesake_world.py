"""Processes of which two have the same name, and what may become of them.

A process that knows of a namesake takes nothing any more. Until the target changes,
each process takes the shard once at most. A TAKE that it had to send again may be
executed late: it fences the process itself, which then takes the shard once more. So
two of one name don't take it from each other in turn.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import ClassVar

from penstock._core.ownership.states import ShardState
from penstock._core.protocol import ownership_scripts
from support.owned_world import LEASE, Flight, Process, Violation, World

__all__ = ["NamesakeProcess", "NamesakeWorld"]


class NamesakeProcess(Process):
    """A process that may have a namesake."""

    def _take(self, version: int, serial: int, least: int) -> None:
        if self.ended:
            raise Violation(f"O11: {self} takes although it knows of a namesake")
        super()._take(version, serial, least)


class NamesakeWorld(World):
    """A world whose first two processes have the same name.

    Attributes:
        takes: How often each process has taken the shard since the target changed.
        repeats: How often each one had to send a TAKE again since then.
        undone: Whether the server has lost data, or connections have been cut.
    """

    process_class: ClassVar[type[Process]] = NamesakeProcess

    def __init__(self, names: Sequence[str] = ("a", "b")) -> None:
        super().__init__([names[0], *names])
        self.takes = Counter[Process]()
        self.repeats = Counter[Process]()
        self.undone = False

    def _check_token(self, process: Process, raw: bytes) -> None:
        super()._check_token(process, raw)
        self.takes[process] += 1
        if self.takes[process] > 1 + 2 * self.repeats[process]:
            raise Violation(f"O11: {process} takes the shard again: {self.takes}")

    def retarget(self, name: str) -> None:
        super().retarget(name)
        self._forget()

    def fail_over(self) -> None:
        super().fail_over()
        self._forget()

    def _forget(self) -> None:
        self.takes.clear()
        self.repeats.clear()
        # A TAKE that is on its way is one of the time before.
        for process in self.processes:
            self.repeats[process] += sum(map(_takes, process.writing))
        for flight, _ in self.late:
            self.repeats[flight.process] += _takes(flight)

    def cut(self, line: deque[Flight]) -> None:
        self.undone = True
        for flight in line:
            self.repeats[flight.process] += _takes(flight)
        super().cut(line)

    def settle(self) -> None:
        """Let everything go on fairly; one of a name is left, unless TAKEs were late.

        A TAKE that is executed late may end the last process of a name: it has the
        newest token then, and the process that sent it knows of the other one already.
        """
        try:
            super().settle()
        except Violation as violation:
            unsettled = str(violation).startswith("O9")
            if not (unsettled and self.undone and self._all_ended()):
                raise
        # A process that is fenced finds it out with its next KEEP.
        for _ in range(int(2 * LEASE)):
            self._step_fairly()
        self.check_namesakes()

    def _all_ended(self) -> bool:
        wanted = [p for p in self.processes if p.name == self.target[1]]
        return all(process.ended for process in wanted)

    def check_namesakes(self) -> None:
        """Check that only one process of a name is left with the shard."""
        live = [p for p in self.processes if p.shard.state is ShardState.LIVE]
        if len(live) > 1:
            raise Violation(f"O11: {live} are both live in the end")


def _takes(flight: Flight) -> bool:
    return flight.words[0][1] == ownership_scripts.TAKE
