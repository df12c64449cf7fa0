"""Console: polls, and serves the application until a signal comes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import python_multipart  # noqa: F401 - Starlette asks for it late
import uvicorn

from penstock._tasks.task_scopes import task_group
from penstock.cli._system import on_end_signals
from penstock.cli.exporter.exporter import Exporter
from penstock.cli.run.readiness import Readiness
from penstock.console.app import ConsoleOptions, make_app
from penstock.console.security import is_loopback
from penstock.console.state import Observed
from penstock.monitor import Collector
from penstock.observe.group_metrics import Selection

__all__ = ["Console", "ConsoleOptions", "is_loopback"]

_SERIES: Final = 2000  # of /metrics, as of the exporter
_GRACE: Final = 2  # seconds for requests that are under way at the end


class Console:
    """The console: what polls, and what serves.

    Args:
        collector: Makes a collector.
        options: How it is served.
        readiness: Shows whether there is a result to show.
        root: The path under which a proxy serves it.
    """

    def __init__(
        self,
        collector: Callable[[], Collector],
        options: ConsoleOptions,
        readiness: Readiness,
        root: str = "",
    ) -> None:
        observed = Observed()
        self._exporter = Exporter(
            collector, Selection(_SERIES), options.interval, readiness, observed
        )
        self._server = _Server(
            uvicorn.Config(
                make_app(options, observed, self._exporter),
                # The token may be in the query of a request.
                access_log=False,
                log_level="warning",
                root_path=root,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=_GRACE,
            )
        )

    async def run(self, listener: socket.socket) -> None:
        """Poll and serve until SIGINT or SIGTERM."""
        on_end_signals(self.end)
        async with task_group() as tasks:
            tasks.start_soon(self._exporter.run)
            await self._server.serve(sockets=[listener])
            tasks.cancel_scope.cancel()

    def end(self) -> None:
        """Have `run` return once requests under way are answered."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Leaves the signals to the console, which ends with status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield
