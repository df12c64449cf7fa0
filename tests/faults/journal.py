"""Journals: what a process does is written down before anything follows from it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.history import History, Note, Record, dump, load

__all__ = ["Journal", "read"]

# Records after which the disk is waited for.
_GROUP = 200


class Journal:
    """A process' own file of records.

    A record is one write(2), so it outlives a process that is killed right after; the
    disk, which a machine's end would need, is waited for once a group of them.

    Args:
        path: Where.
        who: The process.
    """

    def __init__(self, path: Path | str, who: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._who = who
        self._written = 0

    def tell(self, kind: type[Record], **facts: Any) -> None:
        """Write a record of now."""
        self.write(kind(at=time.monotonic(), who=self._who, **facts))

    def note(self, text: str) -> None:
        """Write down anything else."""
        self.tell(Note, text=text)

    def write(self, record: Record) -> None:
        """Write a record as it is."""
        line = dump(record)
        assert os.write(self._file, line) == len(line)
        self._written += 1
        if self._written % _GROUP == 0:
            os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read(folder: Path) -> History:
    """Read all journals of a folder, into the order of time."""
    return load(_contents(folder))


def _contents(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.journal")):
        yield path.read_bytes()
