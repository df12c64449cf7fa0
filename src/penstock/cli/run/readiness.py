"""Readiness of `penstock run`, and the file that shows it."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from penstock.health import Health, WorkerHealth, WorkerState

__all__ = ["Readiness"]

# Everybody may read it: a probe may be another user.
_MODE: Final = 0o644
_LOGGER: Final = logging.getLogger("penstock.run")


class Readiness:
    """Ready while all workers are ready, able to get messages, and not draining.

    Args:
        workers: The number of workers.
        file: A file that exists while this is ready; None for no file.
    """

    def __init__(self, workers: int, file: Path | None = None) -> None:
        self._workers = workers
        self._file = file
        # The numbers of the workers that have said that they are ready.
        self._up: set[int] = set()
        self._health = {number: _down(number) for number in range(1, workers + 1)}
        self._draining = False

    def prepare(self) -> None:
        """Remove the file of an earlier run, and check that a file can be created.

        Raises:
            OSError: The file can't be removed or created.
        """
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._write_temporary(self._file).unlink()

    @property
    def ready(self) -> bool:
        """Whether all workers are ready, none is in trouble and none is to drain."""
        healthy = all(each.why is None for each in self._health.values())
        return healthy and len(self._up) == self._workers and not self._draining

    @property
    def health(self) -> Health:
        """The health of all workers, as they have last told it."""
        ready = self.ready
        return Health(
            ready=ready,
            live=True,
            why=None if ready else str(self),
            workers=tuple(self._health.values()),
        )

    def started(self, worker: int, pid: int) -> None:
        """Record that a worker's process has been started."""
        self._health[worker] = WorkerHealth(
            number=worker, pid=pid, state=WorkerState.STARTING, why="it starts"
        )

    def up(self, worker: int) -> None:
        """Record that a worker is ready."""
        self._up.add(worker)
        self._health[worker] = replace(
            self._health[worker], state=WorkerState.RUNNING, why=None
        )
        self._update_file()

    def down(self, worker: int) -> None:
        """Record that a worker has ended."""
        self._up.discard(worker)
        self._health[worker] = _down(worker)
        self._update_file()

    def told(self, worker: int, health: WorkerHealth) -> tuple[str | None, str | None]:
        """Record what a worker tells about itself.

        Returns:
            Why it could not get messages before, and why now, if it has been ready;
            None if it can.
        """
        before, self._health[worker] = self._health[worker].why, health
        if worker not in self._up:
            return None, None
        if (health.why is None) != (before is None):
            self._update_file()
        return before, health.why

    def drain(self) -> None:
        """Record that all workers are to end."""
        self._draining = True
        self._update_file()

    def _update_file(self) -> None:
        if self._file is None:
            return
        try:
            if self.ready:
                temporary = self._write_temporary(self._file)
                try:
                    # This replaces a link, and does not follow it.
                    temporary.replace(self._file)
                finally:
                    temporary.unlink(missing_ok=True)
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            # Not fatal: the workers run, only their readiness is not shown.
            _LOGGER.error("the ready file: %s", error)  # noqa: TRY400

    @staticmethod
    def _write_temporary(file: Path) -> Path:
        """Write the file under another name, so that nobody reads half of it.

        In a folder like /tmp anybody may have put a link there. So the name can't be
        guessed, and a file that exists is not opened.
        """
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with open(descriptor, "w") as opened:  # noqa: PTH123 - a descriptor
                opened.write(f"{os.getpid()}\n")
                if hasattr(os, "fchmod"):  # not on Windows
                    os.fchmod(descriptor, _MODE)
        except OSError:
            Path(name).unlink()
            raise
        return Path(name)

    def __str__(self) -> str:
        if self._draining:
            return "draining"
        for worker, health in self._health.items():
            if worker in self._up and health.why is not None:
                return f"worker {worker}: {health.why}"
        return f"{len(self._up)} of {self._workers} workers are ready"


def _down(number: int) -> WorkerHealth:
    return WorkerHealth(
        number=number, pid=None, state=WorkerState.DOWN, why="its process has ended"
    )
