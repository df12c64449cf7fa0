"""A worker process of `penstock run`, as its parent sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, Final

import anyio

from penstock._tasks.task_scopes import task_group
from penstock.cli.run import worker as program
from penstock.cli.run.status_pipe import (
    READY,
    REFUSED,
    SILENT,
    URL_VARIABLE,
    WORKER_VARIABLE,
    WORKERS_VARIABLE,
)
from penstock.events import TRACEBACKS

__all__ = ["Child", "Settings", "spawned", "started"]

_READ_TIMEOUT: Final = 1.0  # seconds to read the messages of a process that ended
_MAX_BYTES: Final = 65_536  # bytes of a worker's messages


@dataclass(frozen=True, slots=True)
class Settings:
    """The router to run, and how.

    Attributes:
        target: `module:attribute` of the router.
        workers: The number of processes.
        url: The server; None for the router's own.
        grace: Seconds to drain before workers are killed.
        level: The log level.
        uvloop: Whether the workers use uvloop's event loop.
        tracebacks: When the workers log tracebacks, see `log_event`.
    """

    target: str
    workers: int = 1
    url: str | None = None
    grace: float = 30.0
    level: str = "info"
    uvloop: bool = False
    tracebacks: str = "last"


class Child:
    """A worker process.

    Args:
        process: The process.
        status_socket: The parent's end of the worker's `StatusPipe`.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, status_socket: socket.socket
    ) -> None:
        self._process = process
        self._socket = status_socket
        self._received = b""
        self._refusal: bytes | None = None
        # Set when the worker can't send any more.
        self._all_read = asyncio.Event()
        # Whether the worker has been ready, and whether the parent killed it.
        self.ready = False
        self.killed = False

    @property
    def reason(self) -> str:
        """Why the worker can't be run; empty if it sent no reason."""
        return (self._refusal or b"").decode("utf-8", "replace")

    async def ended(
        self,
        on_ready: Callable[[], None],
        on_beat: Callable[[float], None] = lambda _: None,
    ) -> int:
        """Wait for the end of the process, and return its exit status.

        Args:
            on_ready: Called when the worker is ready.
            on_beat: Called from then on, as long as the worker's event loop turns, with
                the seconds for which the server has owed it an answer.
        """
        async with task_group() as tasks:
            tasks.start_soon(self._listen, on_ready, on_beat)
            status = await self._process.wait()
            # A process that a handler has forked may hold the other end open.
            with suppress(TimeoutError):
                async with asyncio.timeout(_READ_TIMEOUT):
                    await self._all_read.wait()
            tasks.cancel_scope.cancel()
        return status

    async def _listen(
        self, on_ready: Callable[[], None], on_beat: Callable[[float], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(self._socket, _MAX_BYTES):
                if self._refusal is not None:
                    self._refusal += data[: _MAX_BYTES - len(self._refusal)]
                else:
                    self._received += data
                    self._read_lines(on_ready, on_beat)
        self._all_read.set()

    def _read_lines(
        self, on_ready: Callable[[], None], on_beat: Callable[[float], None]
    ) -> None:
        while self._refusal is None and b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            if line + b"\n" == REFUSED:
                self._refusal = self._received
            elif line + b"\n" == READY:
                self.ready = True
                on_ready()
            elif line.startswith(SILENT):
                on_beat(float(line.removeprefix(SILENT)))

    def drain(self) -> None:
        """Send SIGTERM, on which the worker drains."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process."""
        self.killed = True
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ensure_ended(self) -> None:
        """Kill the process if it is alive, and wait for its end."""
        if self._process.returncode is None:
            self.kill()
            with anyio.CancelScope(shield=True):
                await self._process.wait()


def started(settings: Settings, number: int) -> AbstractAsyncContextManager[Child]:
    """Start a worker of `penstock run`; when the context is left, it has ended.

    Raises:
        OSError: On entering: the process can't be started.
    """
    return spawned(
        *(program.__name__, settings.target, str(number)),
        *(str(settings.grace), settings.level),
        "uvloop" if settings.uvloop else "asyncio",
        url=settings.url,
        variables={
            TRACEBACKS: settings.tracebacks,
            WORKER_VARIABLE: str(number),
            WORKERS_VARIABLE: str(settings.workers),
        },
    )


@asynccontextmanager
async def spawned(
    module: str,
    *arguments: str,
    url: str | None,
    stderr: IO[bytes] | None = None,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Child]:
    """Start a worker process; when the context is left, the process has ended.

    Args:
        module: The module to run. Its first argument is the descriptor of its end of
            the status pipe.
        *arguments: The other arguments.
        url: The server, for the environment; None adds nothing there.
        stderr: The process's standard error; default: ours.
        variables: More variables for the environment.

    Raises:
        OSError: The process can't be started.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(0)  # non-blocking, as the event loop needs it
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                # -P: without the current folder at the front of sys.path, where any
                # module would shadow Python's own while Penstock is imported.
                *(sys.executable, "-P", "-m", module, str(theirs.fileno())),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                env={**_environment(url), **(variables or {})},
                # Ctrl-C in a terminal reaches only the parent, which stops its workers.
                start_new_session=True,
            )
        child = Child(process, ours)
        try:
            yield child
        finally:
            await child.ensure_ended()


def _environment(url: str | None) -> dict[str, str]:
    return dict(os.environ) if url is None else {**os.environ, URL_VARIABLE: url}
