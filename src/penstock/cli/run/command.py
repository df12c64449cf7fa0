"""`penstock run`: runs a router in worker processes."""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib.util
import logging
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import anyio
import typer

from penstock._connection.address import EMBEDDED
from penstock._tasks.task_scopes import task_group
from penstock.cli._errors import plain_errors
from penstock.cli._options import duration_option
from penstock.cli._system import require_posix
from penstock.cli._url import OWN, server_url
from penstock.cli.run.http_server import listen, serve
from penstock.cli.run.logs import LogFormat, Logs
from penstock.cli.run.pages import pages
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.reload import watch
from penstock.cli.run.run_metrics import RunMetrics
from penstock.cli.run.settings import Settings
from penstock.cli.run.status_pipe import WORKERS_VARIABLE
from penstock.cli.run.supervisor import Supervisor
from penstock.events import TRACEBACKS

__all__ = ["run"]

_LONGEST_GRACE = 86_400.0  # seconds
_SHORTEST_HANG = 1.0  # seconds


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
        int,
        typer.Option(
            envvar=WORKERS_VARIABLE, min=1, help="Number of worker processes."
        ),
    ] = 1,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The server; default: $PENSTOCK_URL, or the content of the file that "
            "$PENSTOCK_URL_FILE names, then the router's own, then $REDIS_URL or "
            "$REDIS_URL_FILE.",
        ),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PENSTOCK_READY_FILE",
            help="A file that exists while all workers are ready.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            envvar="PENSTOCK_PORT",
            min=0,
            max=65535,
            help="Answer GET /live, /ready, /health and /metrics here; 0: any port.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            envvar="PENSTOCK_HOST", help="The address to listen on; 0.0.0.0: all."
        ),
    ] = "127.0.0.1",
    metrics: Annotated[
        bool | None,
        typer.Option(
            "--metrics/--no-metrics",
            envvar="PENSTOCK_METRICS",
            help="Serve the metrics of all workers at /metrics, for Prometheus; "
            "default: if the extra 'metrics' is installed.",
            show_default=False,
        ),
    ] = None,
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up",
            envvar="PENSTOCK_UNTIL_CAUGHT_UP",
            help="Drain and end once no group has lag or pending messages.",
        ),
    ] = False,
    factory: Annotated[
        bool,
        typer.Option(
            "--factory",
            envvar="PENSTOCK_FACTORY",
            help="The target is a function that returns the router.",
        ),
    ] = False,
    app_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="PENSTOCK_APP_DIR",
            help="Import modules from this folder instead of the current one.",
        ),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            envvar="PENSTOCK_RELOAD",
            help="Restart the worker when its code changes; for development.",
        ),
    ] = False,
    reload_dir: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            envvar="PENSTOCK_RELOAD_DIR",
            help="Watch this folder; may be repeated. Default: the folder from which "
            "modules are imported.",
        ),
    ] = None,
    grace: Annotated[
        float,
        duration_option(
            "--grace",
            "Time to drain before workers are killed.",
            default="30s",
            most=_LONGEST_GRACE,
            envvar="PENSTOCK_GRACE",
        ),
    ] = 30.0,
    hang_timeout: Annotated[
        float,
        duration_option(
            "--hang-timeout",
            "Replace a worker whose event loop stands still for longer; 0: never.",
            default="5m",
            most=_LONGEST_GRACE,
            envvar="PENSTOCK_HANG_TIMEOUT",
        ),
    ] = 300.0,
    log_level: Annotated[
        Level,
        typer.Option(envvar="PENSTOCK_LOG_LEVEL", help="Log level, to standard error."),
    ] = Level.INFO,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="PENSTOCK_LOG_FORMAT",
            help="For each record a line of text, or a JSON object.",
        ),
    ] = LogFormat.TEXT,
    log_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="PENSTOCK_LOG_CONFIG",
            help="Configure logging by this file instead: .json or .yaml for "
            "dictConfig, or .ini.",
        ),
    ] = None,
    tracebacks: Annotated[
        Tracebacks,
        typer.Option(
            envvar=TRACEBACKS,
            help="When a failed handler's frames are logged: with its last attempt, "
            "with each, or never.",
        ),
    ] = Tracebacks.LAST,
    uvloop: Annotated[
        bool,
        typer.Option(
            "--uvloop", envvar="PENSTOCK_UVLOOP", help="Run on uvloop's event loop."
        ),
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
    with plain_errors():
        require_posix("run", "call router.run() in a program of yours there")
        url = server_url(url, [OWN])
    _refuse(url, workers, hang_timeout, uvloop=uvloop)
    config = "" if log_config is None else str(log_config.absolute())
    logs = Logs(log_level.value, log_format.value, config)
    with plain_errors():
        logs.configure("main")
    settings = Settings(
        *(target, workers, url, grace, hang_timeout, logs, uvloop, tracebacks),
        metrics=_serves_metrics(metrics, port),
        until_caught_up=until_caught_up,
        factory=factory,
        app_dir="" if app_dir is None else str(app_dir.absolute()),
        reload=reload,
    )
    _refuse_reload(settings)
    watched = reload_dir or [app_dir or Path.cwd()]
    readiness = Readiness(workers, ready_file)
    # Otherwise the interpreter takes long to exit, see `_end_quickly` in `worker.py`.
    atexit.register(gc.freeze)
    try:
        readiness.prepare()
    except OSError as error:
        raise _wrong(f"can't create the ready file: {error}") from None
    raise typer.Exit(asyncio.run(_run(settings, readiness, host, port, watched)))


async def _run(
    settings: Settings,
    readiness: Readiness,
    host: str,
    port: int | None,
    watched: Sequence[Path],
) -> int:
    """Run the workers and the probes, and return the exit status."""
    metrics = RunMetrics(readiness, settings.workers)
    async with task_group() as tasks:
        if port is not None:
            listener = await _listen(host, port)
            page = metrics.page if settings.metrics else None
            tasks.start_soon(serve, listener, pages(readiness, page))
        if settings.metrics:
            tasks.start_soon(metrics.poll)
        supervisor = Supervisor(settings, readiness, metrics)
        if settings.reload:
            tasks.start_soon(watch, watched, supervisor.reload)
        code = await supervisor.run()
        tasks.cancel_scope.cancel()
    return code


async def _listen(host: str, port: int) -> anyio.abc.Listener[anyio.abc.SocketStream]:
    try:
        listener = await listen(host, port)
    except OSError as error:
        raise _wrong(str(error)) from None
    at = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no query
    logging.getLogger("penstock.run").info("probes are answered on %s:%d", host, at)
    return listener


def _refuse(
    url: str | None, workers: int, hang_timeout: float, *, uvloop: bool
) -> None:
    """Refuse options with which no worker could run.

    Raises:
        Exit: The options exclude each other, one is out of range, or uvloop is not
            installed.
    """
    if url is not None and workers > 1 and url.partition("://")[0] == EMBEDDED:
        raise _wrong(
            "each worker would start an embedded server of its own; pass the URL of a "
            "shared server, or leave out --workers"
        )
    if 0 < hang_timeout < _SHORTEST_HANG:
        raise _wrong(
            f"--hang-timeout {hang_timeout:g}s is too short: a busy event loop would "
            f"count as hung; write {_SHORTEST_HANG:g}s or more, or 0 for never"
        )
    if uvloop and importlib.util.find_spec("uvloop") is None:
        raise _wrong(
            "uvloop is not installed; pip install uvloop, or leave out --uvloop"
        )


def _refuse_reload(settings: Settings) -> None:
    """Refuse options with which code can't be reloaded.

    Raises:
        Exit: It is asked for, and impossible.
    """
    if not settings.reload:
        return
    if settings.workers > 1:
        raise _wrong("--reload runs one worker; leave out --workers, or --reload")
    if settings.until_caught_up:
        raise _wrong("--reload never ends by itself; leave out --until-caught-up")
    if importlib.util.find_spec("watchfiles") is None:
        raise _wrong(
            "--reload needs watchfiles, which is not installed; install it with: "
            "pip install 'penstock[reload]'"
        )


def _serves_metrics(wanted: bool | None, port: int | None) -> bool:  # noqa: FBT001
    """Return whether the metrics of the workers are served.

    Raises:
        Exit: They were asked for, and there is no port for them, or no package.
    """
    installed = importlib.util.find_spec("prometheus_client") is not None
    if wanted and port is None:
        raise _wrong("--metrics are served by HTTP; pass --port too")
    if wanted and not installed:
        raise _wrong(
            "metrics need prometheus_client, which is not installed; install it with: "
            "pip install 'penstock[metrics]', or leave out --metrics"
        )
    if wanted is None and port is not None and not installed:
        logging.getLogger("penstock.run").info(
            "there is no /metrics; for it: pip install 'penstock[metrics]'"
        )
    return port is not None and installed and wanted is not False


def _wrong(reason: str) -> typer.Exit:
    print(f"penstock: {reason}", file=sys.stderr)
    return typer.Exit(2)
