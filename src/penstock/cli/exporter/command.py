"""`penstock exporter`: polls streams and groups, and serves their metrics."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from penstock._tasks.task_scopes import task_group
from penstock.cli._admin_call import perform, say
from penstock.cli._errors import plain_errors
from penstock.cli._options import duration_option, streams_argument
from penstock.cli._server import Server, on_server
from penstock.cli._system import on_end_signals
from penstock.cli.looking.shared import Lease, collector
from penstock.cli.run.http_server import listen, serve
from penstock.cli.run.readiness import Readiness

if TYPE_CHECKING:
    from penstock.cli.exporter.exporter import Exporter

__all__ = ["exporter"]


@on_server
def exporter(
    patterns: Annotated[
        list[str] | None,
        streams_argument("Names or shell patterns; default: all streams."),
    ] = None,
    *,
    server: Server,
    port: Annotated[
        int,
        typer.Option(
            envvar="PENSTOCK_PORT",
            min=0,
            max=65535,
            help="The port to listen on; 0: any port.",
        ),
    ] = 9464,
    host: Annotated[
        str,
        typer.Option(
            envvar="PENSTOCK_HOST", help="The address to listen on; 0.0.0.0: all."
        ),
    ] = "127.0.0.1",
    interval: Annotated[
        float,
        duration_option(
            "--interval",
            "The time from one poll to the next.",
            default="15s",
            zero=False,
            most=86_400.0,
            envvar="PENSTOCK_INTERVAL",
        ),
    ] = 15.0,
    per_shard: Annotated[
        bool,
        typer.Option(
            "--per-shard",
            envvar="PENSTOCK_PER_SHARD",
            help="Export each shard by itself, too; for up to 256 shards of a stream.",
        ),
    ] = False,
    no_consumers: Annotated[
        bool,
        typer.Option(
            "--no-consumers",
            envvar="PENSTOCK_NO_CONSUMERS",
            help="Do not export the numbers of consumers.",
        ),
    ] = False,
    max_series: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=10,
            envvar="PENSTOCK_MAX_SERIES",
            help="The maximum number of series; streams that do not fit are left out.",
        ),
    ] = 2000,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PENSTOCK_READY_FILE",
            help="A file that exists while there is a result to serve.",
        ),
    ] = None,
    lease: Lease = 60.0,
) -> None:
    """Serve the metrics of streams and groups at /metrics, for Prometheus.

    It polls by its own clock and serves the last result, so that any number of
    scrapers costs one poll. After three intervals without a successful poll the result
    is withdrawn, and /ready answers with 503. /live answers as long as it runs.

    Exit status: 0 ended by SIGINT or SIGTERM; 2 wrong usage.
    """
    parts = _parts()
    readiness = Readiness(1, ready_file)
    with plain_errors():
        readiness.prepare()
        make = partial(
            collector, server, patterns or (), per_shard=per_shard, lease=lease
        )
        make()  # refuses names that are invalid
    selection = parts.Selection(max_series, consumers=not no_consumers)
    made = parts.Exporter(make, selection, interval, readiness, per_shard=per_shard)

    async def work() -> int:
        try:
            return await _run(made, host, port, interval)
        except parts.TooManyShardsError as error:
            say(str(error))
            return 2
        finally:
            readiness.drain()

    perform(work, lambda: 0)


def _parts() -> ModuleType:
    """Return the module that needs the extra `metrics`.

    Raises:
        Exit: With status 2: it is not installed. All other commands work without.
    """
    try:
        from penstock.cli.exporter import exporter as parts  # noqa: PLC0415
    except ModuleNotFoundError as error:
        say(str(error))
        raise typer.Exit(2) from None
    return parts


async def _run(exporter: Exporter, host: str, port: int, interval: float) -> int:
    """Poll and serve until a signal comes."""
    listener = await listen(host, port)
    at = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no query
    say(f"serving http://{host}:{at}/metrics, polled every {interval:g} s")
    ended = asyncio.Event()
    on_end_signals(ended.set)
    async with task_group() as tasks:
        tasks.start_soon(serve, listener, exporter.pages())
        tasks.start_soon(exporter.run)
        await ended.wait()
        tasks.cancel_scope.cancel()
    return 0
