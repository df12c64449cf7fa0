"""A command on a terminal of some size: a pseudo-terminal, and what appears on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Control sequences: colours, cursor movements, the alternate screen.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>]")


def plain(raw: str) -> str:
    """Return a text without control sequences."""
    return _CONTROL.sub("", raw).replace("\r", "")


class Terminal:
    """A command that runs on a terminal.

    Args:
        command: The words after `penstock`.
        columns: The width of the terminal.
        rows: Its height.
        environment: Variables to set.
    """

    def __init__(
        self,
        *command: str,
        columns: int = 80,
        rows: int = 24,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._ours, theirs = pty.openpty()
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**clean, "TERM": "xterm-256color", **(environment or {})},
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = ""

    def _read(self, seconds: float) -> bool:
        """Read what has come; return False when the terminal is closed."""
        ready, _, _ = select.select([self._ours], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._ours, 65_536)
        except OSError:  # the other end is closed
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    @property
    def text(self) -> str:
        """What appeared, without control sequences."""
        return plain(self.raw)

    @property
    def picture(self) -> str:
        """What the last picture of a full screen has."""
        return plain(self.raw.rpartition("\x1b[H")[2])

    def wait_for(self, condition: Callable[[str], bool], seconds: float = 30) -> str:
        """Read until the last picture fulfils a condition, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(0.1)
            if condition(self.picture):
                return self.picture
        raise AssertionError(self.picture)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def interrupt(self) -> None:
        """Send the signal of Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self, seconds: float = 30) -> int:
        """Read to the end, and return the exit status."""
        end = time.monotonic() + seconds
        while self._read(0.1) and time.monotonic() < end:
            if self._process.poll() is not None and not self._pending():
                break
        return self._process.wait(max(end - time.monotonic(), 0.1))

    def _pending(self) -> bool:
        return bool(select.select([self._ours], [], [], 0)[0])

    def close(self) -> None:
        """Kill the command if it runs, and close the terminal."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._ours)


@contextmanager
def terminal(
    *command: str,
    columns: int = 80,
    rows: int = 24,
    environment: dict[str, str] | None = None,
) -> Iterator[Terminal]:
    """Run a command on a terminal; kill it in the end."""
    made = Terminal(*command, columns=columns, rows=rows, environment=environment)
    try:
        yield made
    finally:
        made.close()
