"""A worker of `penstock run` as its parent sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, Final

import anyio

from penstock._tasks.lifetime import task_group
from penstock.cli.run import worker as program
from penstock.cli.run.status_pipe import READY, REFUSED, URL_VARIABLE

__all__ = ["Child", "Settings", "spawned", "started"]

_LAST_WORDS: Final = 1.0  # seconds for what an ended process has said to be read
_MOST_WORDS: Final = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be run.

    Attributes:
        target: `module:attribute` of the router.
        workers: How many processes.
        url: The server; None for the router's own.
        grace: Seconds to drain.
        level: The log's.
        uvloop: Whether the workers have uvloop's event loop.
    """

    target: str
    workers: int = 1
    url: str | None = None
    grace: float = 30.0
    level: str = "info"
    uvloop: bool = False


class Child:
    """A worker process.

    Args:
        process: It.
        line: Our end of the line to it.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, line: socket.socket
    ) -> None:
        self._process = process
        self._line = line
        self._said = b""
        # Set when it can't say any more.
        self._heard = asyncio.Event()
        # Whether it has been ready, and whether it is we who killed it.
        self.ready = False
        self.killed = False

    @property
    def reason(self) -> str:
        """Why it can't be run, in its own words; empty if it did not say."""
        if not self._said.startswith(REFUSED):
            return ""
        return self._said.removeprefix(REFUSED).decode("utf-8", "replace")

    async def ended(self, on_ready: Callable[[], None]) -> int:
        """Wait for its end; gives its status.

        Args:
            on_ready: Called when it is ready.
        """
        async with task_group() as tasks:
            tasks.start_soon(self._listen, on_ready)
            status = await self._process.wait()
            # Somebody else may hold the other end: what a handler has forked.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await self._heard.wait()
            tasks.cancel_scope.cancel()
        return status

    async def _listen(self, on_ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(self._line, _MOST_WORDS):
                self._said += data[: _MOST_WORDS - len(self._said)]
                if not self.ready and self._said.startswith(READY):
                    self.ready = True
                    on_ready()
        self._heard.set()

    def drain(self) -> None:
        """Tell it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.killed = True
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def leave_nothing(self) -> None:
        """End it if it is alive, and wait for that."""
        if self._process.returncode is None:
            self.kill()
            with anyio.CancelScope(shield=True):
                await self._process.wait()


def started(settings: Settings, number: int) -> AbstractAsyncContextManager[Child]:
    """Start a worker of `penstock run`; when the block is left, it is gone.

    Raises:
        OSError: On entering: the process can't be started.
    """
    return spawned(
        *(program.__name__, settings.target, str(number)),
        *(str(settings.grace), settings.level),
        "uvloop" if settings.uvloop else "asyncio",
        url=settings.url,
    )


@asynccontextmanager
async def spawned(
    module: str, *arguments: str, url: str | None, stderr: IO[bytes] | None = None
) -> AsyncIterator[Child]:
    """Start a worker process; when the block is left, the process is gone.

    Args:
        module: The module to run. Its first argument is the descriptor of its end of
            the status pipe.
        *arguments: The other arguments.
        url: The server, for the environment; None adds nothing there.
        stderr: The process's standard error; default: ours.

    Raises:
        OSError: The process can't be started.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(0)  # the event loop waits for it
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                # Without the current folder in front, where any module would go
                # before Python's own while we are being imported.
                *(sys.executable, "-P", "-m", module, str(theirs.fileno())),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                env=_environment(url),
                # Ctrl-C in a terminal is for the parent, who sees to its workers.
                start_new_session=True,
            )
        child = Child(process, ours)
        try:
            yield child
        finally:
            await child.leave_nothing()


def _environment(url: str | None) -> dict[str, str]:
    return dict(os.environ) if url is None else {**os.environ, URL_VARIABLE: url}
