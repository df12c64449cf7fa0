"""Worker processes of `penstock demo`."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from penstock._tasks.lifetime import task_group
from penstock.cli.demo import worker as program
from penstock.cli.run.child import Child, spawned
from penstock.events import printable

__all__ = ["WorkerDied", "Workers"]

_SETTLING: Final = 0.02  # seconds until commands that a worker sent are executed
_LOG_TAIL: Final = 2000  # bytes


class WorkerDied(Exception):  # noqa: N818 - what happened
    """A worker ended that nobody had told to."""


class Workers:
    """Worker processes that share a stream.

    Args:
        url: The server.
        stream: The stream's name.
        folder: The folder of the journals, one for each process.
    """

    def __init__(self, url: str, stream: str, folder: Path) -> None:
        self.stream = stream
        self._url = url
        self._folder = folder
        # Each worker's latest process by the worker's name; how many there have been.
        self._children: dict[str, Child] = {}
        self._started = 0
        self._ready = asyncio.Semaphore(0)
        self._stopping = False
        # A sentence for each worker that did not stop cleanly.
        self.complaints: list[str] = []

    def journals(self) -> list[Path]:
        """Return the journals of all processes, including the killed ones."""
        return sorted(self._folder.glob("*.journal"))

    @asynccontextmanager
    async def running(self, count: int) -> AsyncIterator[None]:
        """Run workers during a block, which begins when all of them read the stream.

        Raises:
            WorkerDied: A worker ended by itself; the block is cancelled.
            OSError: A process can't be started.
        """
        async with task_group() as tasks:
            try:
                for number in range(1, count + 1):
                    tasks.start_soon(self._keep, f"worker-{number}")
                for _ in range(count):
                    await self._ready.acquire()
                yield
            finally:
                self._stop()

    @asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[Child]:
        """Freeze a worker, so that its pending entries stay pending."""
        child = self._children[name]
        child.send_signal(signal.SIGSTOP)
        try:
            await anyio.sleep(_SETTLING)
            yield child
        finally:
            child.send_signal(signal.SIGCONT)

    def _stop(self) -> None:
        self._stopping = True
        loop = asyncio.get_running_loop()
        for child in self._children.values():
            child.drain()
            loop.call_later(program.CLOSING, child.kill)

    async def _keep(self, name: str) -> None:
        """Run a process for a worker, and another one after each that was killed."""
        # Only `_stop` ends the process: a cancellation would not let it close.
        with anyio.CancelScope(shield=True):
            while not self._stopping and await self._run(name):
                pass

    async def _run(self, name: str) -> bool:
        """Run a process to its end; return whether it was killed by us.

        Raises:
            WorkerDied: It ended by itself.
        """
        self._started += 1
        journal = self._folder / f"{self._started}-{name}.journal"
        with tempfile.TemporaryFile() as log:
            arguments = program.__name__, self.stream, name, str(journal)
            async with spawned(*arguments, url=self._url, stderr=log) as child:
                self._children[name] = child
                if self._stopping:  # while it was started
                    child.drain()
                status = await child.ended(self._ready.release)
            log.seek(0)
            said = printable(log.read()[-_LOG_TAIL:].strip(), _LOG_TAIL)
        ending = f"{name} ended with status {status}" + (said and f", saying: {said}")
        if not (self._stopping or child.killed):
            raise WorkerDied(ending)
        if self._stopping and child.killed:
            ending = f"{name} did not end within {program.CLOSING:g} s"
        # By SIGTERM it ends if it has not come so far as to handle it.
        if self._stopping and status not in (0, -signal.SIGTERM):
            self.complaints.append(ending)
        return child.killed
