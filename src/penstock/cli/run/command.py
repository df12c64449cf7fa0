"""`penstock run`: runs a router in worker processes."""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib.util
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import anyio
import typer

from penstock._connection.address import EMBEDDED
from penstock._tasks.task_scopes import task_group
from penstock.cli._errors import plain_errors
from penstock.cli._values import duration
from penstock.cli.run.child import Settings
from penstock.cli.run.health_probe import Status, serve
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.supervisor import Supervisor
from penstock.cli.run.worker import LOG_FORMAT
from penstock.events import TRACEBACKS

__all__ = ["run"]

_LONGEST_GRACE = 86_400.0  # seconds


class Level(StrEnum):
    """The log level."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Tracebacks(StrEnum):
    """When the frames of a handler's exception are logged."""

    NEVER = "never"
    LAST = "last"
    ALWAYS = "always"


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:ROUTER]",
            help="The module and the router's name, by default 'router'.",
        ),
    ],
    *,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of worker processes.")
    ] = 1,
    url: Annotated[
        str | None,
        typer.Option(help="The server; default: the router's own, or REDIS_URL."),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="A file that exists while all workers are ready."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Answer GET /ready and GET /live here; 0: any port."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0: all.")
    ] = "127.0.0.1",
    grace: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Time to drain before workers are killed."
        ),
    ] = "30s",
    log_level: Annotated[
        Level, typer.Option(help="Log level, to standard error.")
    ] = Level.INFO,
    tracebacks: Annotated[
        Tracebacks,
        typer.Option(
            envvar=TRACEBACKS,
            help="When a failed handler's frames are logged: with its last attempt, "
            "with each, or never.",
        ),
    ] = Tracebacks.LAST,
    uvloop: Annotated[
        bool, typer.Option("--uvloop", help="Run on uvloop's event loop.")
    ] = False,
) -> None:
    """Run a router in worker processes until SIGTERM, SIGINT or SIGHUP.

    On a signal it drains: the workers stop reading, finish the messages in
    progress, acknowledge them, and release the others. A second signal kills
    the workers. A worker that dies is restarted.

    Exit status: 0 drained; 1 a worker failed while draining, or did not
    finish within --grace; 2 wrong usage, for example a missing router;
    128+n killed by a second signal, of number n.
    """
    _refuse(url, workers, uvloop=uvloop)
    with plain_errors():
        patience = duration(grace, "--grace", most=_LONGEST_GRACE)
    form = LOG_FORMAT.format(who="main")
    logging.basicConfig(level=log_level.value.upper(), format=form)
    settings = Settings(
        target, workers, url, patience, log_level.value, uvloop, tracebacks
    )
    readiness = Readiness(workers, ready_file)
    # Otherwise the interpreter takes long to exit, see `_end_quickly` in `worker.py`.
    atexit.register(gc.freeze)
    try:
        readiness.prepare()
    except OSError as error:
        raise _wrong(f"can't create the ready file: {error}") from None
    raise typer.Exit(asyncio.run(_run(settings, readiness, host, port)))


async def _run(
    settings: Settings, readiness: Readiness, host: str, port: int | None
) -> int:
    """Run the workers and the health probes, and return the exit status."""

    def status() -> Status:
        return readiness.ready, str(readiness)

    async with task_group() as tasks:
        if port is not None:
            listener = await _listen(host, port)
            tasks.start_soon(serve, listener, status)
        code = await Supervisor(settings, readiness).run()
        tasks.cancel_scope.cancel()
    return code


async def _listen(host: str, port: int) -> anyio.abc.Listener[anyio.abc.SocketStream]:
    try:
        listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    except OSError as error:
        reason = error.strerror or error
        raise _wrong(f"can't listen on {host}:{port}: {reason}") from None
    at = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no query
    logging.getLogger("penstock.run").info("probes are answered on %s:%d", host, at)
    return listener


def _refuse(url: str | None, workers: int, *, uvloop: bool) -> None:
    """Refuse options with which no worker could run.

    Raises:
        Exit: The options exclude each other, or uvloop is not installed.
    """
    if url is not None and workers > 1 and url.partition("://")[0] == EMBEDDED:
        raise _wrong(
            "each worker would start an embedded server of its own; pass the URL of a "
            "shared server, or leave out --workers"
        )
    if uvloop and importlib.util.find_spec("uvloop") is None:
        raise _wrong(
            "uvloop is not installed; pip install uvloop, or leave out --uvloop"
        )


def _wrong(reason: str) -> typer.Exit:
    print(f"penstock: {reason}", file=sys.stderr)
    return typer.Exit(2)
