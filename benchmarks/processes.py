"""Processes of the benchmarks' own: told things and heard by lines of JSON."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent
# Seconds without a word after which a process counts as stuck.
PATIENCE = 180.0


class Stuck(RuntimeError):  # noqa: N818 - it names what happened
    """A process said nothing for too long."""


class Child:
    """A module of ours, run by an interpreter of its own; use it with `with`.

    What it writes to its standard error is seen. URLs are told, not given as arguments:
    there may be a password in them, and `ps` shows those.
    """

    def __init__(
        self, module: str, *arguments: str, python: str | Path = sys.executable
    ) -> None:
        self._name = " ".join((module, *arguments))
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": import_path(str(python))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # `select` has to see what there is
        )
        self._killed = False

    def tell(self, **what: Any) -> None:
        """Write a line; to one that was killed, nothing."""
        if self._killed:
            return
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        self._process.stdin.write(json.dumps(what).encode() + b"\n")

    def kill(self) -> None:
        """End it by SIGKILL, and wait until it is gone; that is no failure then."""
        self._killed = True
        self._process.kill()
        self._process.wait()

    def hear(self, patience: float = PATIENCE) -> Any:
        """Wait for its next line.

        Raises:
            RuntimeError: It ended.
            Stuck: It said nothing for so many seconds.
        """
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        ready, _, _ = select.select([self._process.stdout], [], [], patience)
        if not ready:
            raise Stuck(f"{self._name} said nothing for {patience:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended; what it wrote is above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let it end; kill it if it does not, or if something else went wrong."""
        process = self._process
        if kind is not None:
            process.kill()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        if kind is None and process.returncode and not self._killed:
            raise RuntimeError(f"{self._name} ended with {process.returncode}")


def import_path(python: str) -> str:
    """Where it imports from: our modules, and for this interpreter what it was told."""
    told = os.environ.get("PYTHONPATH", "") if python == sys.executable else ""
    return os.pathsep.join(filter(None, (str(ROOT), told)))
