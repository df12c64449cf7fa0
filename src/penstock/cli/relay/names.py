"""Names of a relay's consumers: the same ones after a restart.

A process that has the name of its predecessor goes on with the messages that the
predecessor had, at once and in their order. Two relays that run at the same time on one
host need different names, so each holds a lock on a number.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha1
from pathlib import Path
from typing import Final, NamedTuple

from penstock.identity import consumer_name, host_id

with suppress(ImportError):  # not on Windows, where `penstock relay` is refused
    import fcntl

__all__ = ["OwnName", "hold", "own_name"]

_MOST: Final = 100  # relays of one stream and group on one host
_LOOK: Final = 0.02  # seconds between two looks at a lock


class OwnName(NamedTuple):
    """A name that no other process of this host has.

    Attributes:
        name: The name.
        workers: The path of a file that is locked while workers of that name run;
            empty if there is none.
    """

    name: str
    workers: str = ""


@contextmanager
def own_name(*what: str, patience: float = 0.0) -> Iterator[OwnName]:
    """Hold a name that no other process of this host has meanwhile.

    Workers of a parent that was killed drain for a while. What they read last would
    come behind what this relay reads, so it waits for their end.

    Args:
        *what: The server, the stream and the group.
        patience: Seconds to wait for workers of a former parent.
    """
    mark = sha1("\0".join(what).encode(), usedforsecurity=False).hexdigest()[:16]
    base = Path(tempfile.gettempdir()) / f"penstock-relay-{os.getuid()}-{mark}"
    locked = _lock_first(base)
    if locked is None:
        yield OwnName(consumer_name())
        return
    number, descriptor = locked
    workers = f"{base}-{number}.workers"
    try:
        _wait_for(workers, time.monotonic() + patience)
        yield OwnName(f"{host_id()}:relay-{number}", workers)
    finally:
        os.close(descriptor)


def hold(path: str) -> None:
    """Lock the file of the workers until this process ends."""
    if path:
        with suppress(OSError):
            # Never closed; the system does that.
            fcntl.flock(_open(path), fcntl.LOCK_SH | fcntl.LOCK_NB)


def _wait_for(path: str, until: float) -> None:
    """Wait until no process holds a file."""
    with suppress(OSError):
        descriptor = _open(path)
        try:
            while time.monotonic() < until:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(_LOOK)
        finally:
            os.close(descriptor)


def _lock_first(base: Path) -> tuple[int, int] | None:
    """Lock the first file that nobody has locked.

    Returns:
        The number of the file, and its descriptor; None if there is no place for it.
    """
    for number in range(1, _MOST + 1):
        try:
            descriptor = _open(f"{base}-{number}.lock")
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return number, descriptor
    return None


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)
