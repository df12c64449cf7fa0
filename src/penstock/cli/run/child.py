"""A worker process of `penstock run`, as its parent sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import IO, Final

import anyio
import msgspec

from penstock._tasks.task_scopes import task_group
from penstock.cli.run import worker as program
from penstock.cli.run.settings import Settings
from penstock.cli.run.status_pipe import (
    DUMP,
    URL_VARIABLE,
    WORKER_VARIABLE,
    WORKERS_VARIABLE,
    Frame,
    Frames,
)
from penstock.events import TRACEBACKS

__all__ = ["Child", "spawned", "started"]

_READ_TIMEOUT: Final = 1.0  # seconds to read the messages of a process that ended
_MAX_BYTES: Final = 65_536  # bytes that are received at a time


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
        self._frames = Frames()
        self._refusal = b""
        # Set when the worker can't send any more.
        self._all_read = asyncio.Event()
        # Whether the worker has been ready, whether the parent killed it, and whether
        # it is replaced because its event loop stood still, or since its code changed.
        self.ready = False
        self.killed = False
        self.hung = self.outdated = False
        # Whether it has told what became of its messages.
        self.drained = False

    @property
    def reason(self) -> str:
        """Why the worker can't be run; empty if it sent no reason."""
        return self._refusal.decode("utf-8", "replace")

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def ended(
        self,
        on_ready: Callable[[], None],
        on_answer: Callable[[Frame, bytes], None] = lambda _kind, _content: None,
    ) -> int:
        """Wait for the end of the process, and return its exit status.

        Args:
            on_ready: Called when the worker is ready.
            on_answer: Called with each answer to `ask`: its kind, and its content.
        """
        async with task_group() as tasks:
            tasks.start_soon(self._listen, on_ready, on_answer)
            status = await self._process.wait()
            # A process that a handler has forked may hold the other end open.
            with suppress(TimeoutError):
                async with asyncio.timeout(_READ_TIMEOUT):
                    await self._all_read.wait()
            tasks.cancel_scope.cancel()
        return status

    async def _listen(
        self, on_ready: Callable[[], None], on_answer: Callable[[Frame, bytes], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(self._socket, _MAX_BYTES):
                for kind, content in self._frames.add(data):
                    if kind is Frame.REFUSED:
                        self._refusal = content
                    elif kind is Frame.READY:
                        self.ready = True
                        on_ready()
                    else:
                        on_answer(kind, content)
        self._all_read.set()

    def ask(self, what: bytes) -> None:
        """Ask the worker for something; the answer comes later, if at all."""
        # The socket is full if the process has been stopped for long, and closed if it
        # has ended.
        with suppress(OSError):
            self._socket.send(what)

    def drain(self) -> None:
        """Send SIGTERM, on which the worker drains."""
        self.send_signal(signal.SIGTERM)

    def dump(self) -> None:
        """Have the process write to its standard error where its threads are."""
        self.send_signal(DUMP)

    def kill(self) -> None:
        """Kill the process."""
        self.killed = True
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
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
    public = replace(settings, url=None)
    return spawned(
        *(program.__name__, str(number), msgspec.json.encode(public).decode()),
        url=settings.url,
        variables={
            # Two edits within a second may leave compiled code that seems up to date.
            **({"PYTHONDONTWRITEBYTECODE": "1"} if settings.reload else {}),
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
