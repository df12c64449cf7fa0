"""Readiness of `penstock run`, and the file that shows it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

__all__ = ["Readiness"]

_LOGGER: Final = logging.getLogger("penstock.run")


class Readiness:
    """Ready while all workers are ready, and not draining.

    Args:
        workers: The number of workers.
        file: A file that exists while this is ready; None for no file.
    """

    def __init__(self, workers: int, file: Path | None = None) -> None:
        self._workers = workers
        self._file = file
        # The numbers of the workers that are ready.
        self._up: set[int] = set()
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
        """Whether all workers are ready and none is to drain."""
        return len(self._up) == self._workers and not self._draining

    def up(self, worker: int) -> None:
        """Record that a worker is ready."""
        self._up.add(worker)
        self._update_file()

    def down(self, worker: int) -> None:
        """Record that a worker has ended."""
        self._up.discard(worker)
        self._update_file()

    def drain(self) -> None:
        """Record that all workers are to end."""
        self._draining = True
        self._update_file()

    def _update_file(self) -> None:
        if self._file is None:
            return
        try:
            if self.ready:
                self._write_temporary(self._file).replace(self._file)
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            # Not fatal: the workers run, only their readiness is not shown.
            _LOGGER.error("the ready file: %s", error)  # noqa: TRY400

    @staticmethod
    def _write_temporary(file: Path) -> Path:
        """Write the file under another name, so that nobody reads half of it."""
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(f"{os.getpid()}\n")
        return temporary

    def __str__(self) -> str:
        if self._draining:
            return "draining"
        return f"{len(self._up)} of {self._workers} workers are ready"
