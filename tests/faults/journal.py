"""Journals: a process records each action before its consequences."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.history import History, Note, Record, dump, load

__all__ = ["Journal", "read"]

# The number of records after which the file is synced to the disk.
_GROUP = 200


class Journal:
    """The file of a process with its records.

    A record is one write(2), so it survives a process that is killed right after it.
    The file is synced once for a group of records, in case the machine fails.

    Args:
        path: The path of the file.
        who: The name of the process.
    """

    def __init__(self, path: Path | str, who: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._who = who
        self._written = 0

    def add(self, kind: type[Record], **facts: Any) -> None:
        """Write a record with the current time."""
        self.write(kind(at=time.monotonic(), who=self._who, **facts))

    def note(self, text: str) -> None:
        """Write a note."""
        self.add(Note, text=text)

    def write(self, record: Record) -> None:
        """Write a given record."""
        line = dump(record)
        assert os.write(self._file, line) == len(line)
        self._written += 1
        if self._written % _GROUP == 0:
            os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read(folder: Path) -> History:
    """Return the records of all journals of a folder in the order of time."""
    return load(_contents(folder))


def _contents(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.journal")):
        yield path.read_bytes()
