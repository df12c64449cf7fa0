"""Runs of contenders, each in a process of its own, on one server."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.environment import peers_python
from benchmarks.job import Job, Run
from benchmarks.peers import Candidate
from benchmarks.processes import PATIENCE, Child
from benchmarks.spread import Spread

# Seconds for a run of about two, after which it will not end any more.
_LONGEST = 60.0


@dataclass
class Row:
    """A contender's runs, and how many more there were that stood still."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    stuck: int = 0

    @classmethod
    def of(cls, stored: Any) -> Row:
        """What a result has stored."""
        runs = [Run(**run) for run in stored["runs"]]
        return cls(**{**stored, "runs": runs})

    @property
    def rate(self) -> Spread:
        """Messages a second."""
        return Spread.of([run.messages / run.seconds for run in self.runs])

    @property
    def client_cpu(self) -> float:
        """The client's processor microseconds for a message."""
        return self._each([run.client_cpu * 1e6 / run.messages for run in self.runs])

    @property
    def server_cpu(self) -> float:
        """The server's processor microseconds for a message."""
        return self._each([run.server_cpu * 1e6 / run.messages for run in self.runs])

    @property
    def executing(self) -> float:
        """The microseconds for which the server executed commands for a message."""
        return self._each(
            [sum(run.executing.values()) / run.messages for run in self.runs]
        )

    @property
    def commands(self) -> float:
        """What the server executed for a message."""
        return self._each([sum(run.calls.values()) / run.messages for run in self.runs])

    def stored(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def _each(figures: list[float]) -> float:
        return Spread.of(figures).median


def perform(candidate: Candidate, job: Job) -> tuple[Run, dict[str, str]]:
    """Have one run; gives also the versions of what it ran on.

    Raises:
        Stuck: It does not end.
    """
    python = sys.executable if candidate.ours else peers_python()
    arguments = (candidate.peer, candidate.way)
    with Child("benchmarks.contender", *arguments, python=python) as child:
        child.tell(**asdict(job))
        heard = child.hear(PATIENCE if candidate.ours else _LONGEST)
    return Run(**heard["run"]), heard["versions"]
