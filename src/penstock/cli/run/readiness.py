"""Whether `penstock run` is at work, and the file that tells so."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

__all__ = ["Readiness"]

_LOGGER: Final = logging.getLogger("penstock.run")


class Readiness:
    """Ready while all workers are, and none is to drain.

    Args:
        workers: How many there are to be.
        file: Is there as long as that is so; None for none.
    """

    def __init__(self, workers: int, file: Path | None = None) -> None:
        self._workers = workers
        self._file = file
        # The workers that are ready.
        self._up: set[int] = set()
        self._draining = False

    def prepare(self) -> None:
        """Remove a file that an earlier run has left, and see whether one can be made.

        Raises:
            OSError: None can be made.
        """
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._half(self._file).unlink()

    @property
    def ready(self) -> bool:
        """Whether it is."""
        return len(self._up) == self._workers and not self._draining

    def up(self, worker: int) -> None:
        """Note that a worker is ready."""
        self._up.add(worker)
        self._tell()

    def down(self, worker: int) -> None:
        """Note that a worker has ended."""
        self._up.discard(worker)
        self._tell()

    def drain(self) -> None:
        """Note that all are to end."""
        self._draining = True
        self._tell()

    def _tell(self) -> None:
        if self._file is None:
            return
        try:
            if self.ready:
                self._half(self._file).replace(self._file)
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            # The workers work; it is only that nobody is told.
            _LOGGER.error("the ready file: %s", error)  # noqa: TRY400

    @staticmethod
    def _half(file: Path) -> Path:
        """Make it under another name: whoever sees it shall see it whole."""
        half = file.with_name(f".{file.name}.{os.getpid()}")
        half.write_text(f"{os.getpid()}\n")
        return half

    def __str__(self) -> str:
        if self._draining:
            return "draining"
        return f"{len(self._up)} of {self._workers} workers are ready"
