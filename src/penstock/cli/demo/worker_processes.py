"""The worker processes of `penstock demo`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process

from penstock.cli.demo import worker as program
from penstock.events import printable

__all__ = ["Target", "WorkerDied", "WorkerProcesses", "open_workers"]

_CLOSING: Final = 15.0  # seconds that workers have to close; a consumer's own are 10
_SETTLING: Final = 0.02  # seconds for what a worker wrote to have reached the server
_LOG_TAIL: Final = 2000  # bytes


class WorkerDied(Exception):  # noqa: N818 - what happened
    """A worker ended that nobody had told to."""

    def __init__(self, name: str, status: int, log: str) -> None:
        said = f", saying: {log}" if log else ""
        super().__init__(f"{name} ended with status {status}{said}")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a crew works.

    Attributes:
        url: The server.
        stream: The stream's name.
        group: The group's name.
    """

    url: str
    stream: str
    group: str


@dataclass(frozen=True, slots=True)
class _Worker:
    name: str
    process: Process
    log: Path

    @property
    def status(self) -> int | None:
        return self.process.returncode

    def death(self) -> WorkerDied:
        text = self.log.read_bytes()[-_LOG_TAIL:].strip()
        return WorkerDied(self.name, self.status or 0, printable(text, _LOG_TAIL))


class WorkerProcesses:
    """Worker processes that share a stream.

    Args:
        place: Where they work.
        folder: Where they keep journals and logs.
    """

    def __init__(self, place: Target, folder: Path) -> None:
        self._place = place
        self._folder = folder
        # Those at work by name, and how many processes there have been.
        self._workers: dict[str, _Worker] = {}
        self._started = 0
        self.killed = 0

    def journals(self) -> list[Path]:
        """Give what all wrote down, the killed ones too."""
        return sorted(self._folder.glob("*.journal"))

    async def start(self, names: list[str]) -> None:
        """Start workers and wait until each one reads the stream.

        Raises:
            WorkerDied: One could not.
            OSError: A process can't be started.
        """
        for name in names:
            await self._start(name)
        for worker in self._workers.values():
            assert worker.process.stdout is not None  # noqa: S101 - it is a pipe
            try:
                await worker.process.stdout.receive()
            except anyio.EndOfStream:
                await worker.process.wait()
                raise worker.death() from None

    def check(self) -> None:
        """Make sure that all are at work.

        Raises:
            WorkerDied: One is not.
        """
        for worker in self._workers.values():
            if worker.status is not None:
                raise worker.death()

    @asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[None]:
        """Freeze a worker, so that what is pending in its name stays so."""
        worker = self._workers[name]
        _signal(worker.process, signal.SIGSTOP)
        try:
            await anyio.sleep(_SETTLING)
            yield
        finally:
            _signal(worker.process, signal.SIGCONT)

    async def replace(self, name: str) -> None:
        """End a worker with SIGKILL and start another one in its place."""
        worker = self._workers[name]
        worker.process.kill()
        await worker.process.wait()
        await worker.process.aclose()
        del self._workers[name]  # not before: until it is gone it is ours to end
        self.killed += 1
        await self._start(name)

    async def _start(self, name: str) -> None:
        self._started += 1
        place = self._place
        path = self._folder / f"{self._started}-{name}"
        journal, log = path.with_suffix(".journal"), path.with_suffix(".log")
        with log.open("wb") as file:
            process = await anyio.open_process(
                [
                    sys.executable,
                    # Else any module of the current folder would go before ours.
                    "-P",
                    "-m",
                    program.__name__,
                    place.stream,
                    place.group,
                    name,
                    str(journal),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=_environment(place.url),
                # Ctrl-C in a terminal is for the parent, which ends its workers.
                start_new_session=True,
            )
        self._workers[name] = _Worker(name, process, log)

    async def stop(self) -> list[str]:
        """End all cleanly; gives a sentence for each one that did not."""
        for worker in self._workers.values():
            _signal(worker.process, signal.SIGTERM)
        with anyio.move_on_after(_CLOSING):
            for worker in self._workers.values():
                await worker.process.wait()
        complaints = []
        for worker in self._workers.values():
            if worker.status is None:
                complaints.append(f"{worker.name} did not end within {_CLOSING:g} s")
            elif worker.status:
                complaints.append(str(worker.death()))
            # Kills it if need be.
            await worker.process.aclose()
        self._workers.clear()
        return complaints


@asynccontextmanager
async def open_workers(place: Target) -> AsyncIterator[WorkerProcesses]:
    """Give a crew to be started; in the end no process and no file is left."""
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        worker_processes = WorkerProcesses(place, Path(folder))
        try:
            yield worker_processes
        finally:
            with anyio.CancelScope(shield=True):
                await worker_processes.stop()


def _environment(url: str) -> Mapping[str, str]:
    return {**os.environ, program.URL_VARIABLE: url}


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
