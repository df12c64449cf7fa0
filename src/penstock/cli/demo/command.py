"""`penstock demo`: lines through a stream, counted by worker processes."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Annotated, Final

import anyio
import typer
from rich.console import Console

from penstock._connection.address import EMBEDDED
from penstock.cli._errors import plain_errors
from penstock.cli.demo.input import Lines, clicks, from_file
from penstock.cli.demo.report import display, table
from penstock.cli.demo.result import Result
from penstock.cli.demo.scenario import run
from penstock.cli.demo.workers import WorkerDied
from penstock.embedded import EmbeddedServer
from penstock.events import printable

__all__ = ["demo"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo(
    *,
    input: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(metavar="FILE|-", help="Send these lines; - reads stdin."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="The server; default: a private one, gone afterwards."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many worker processes.")] = 2,
    kill: Annotated[
        bool,
        typer.Option("--kill", help="End a worker with SIGKILL half-way, replace it."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, in the last line.")
    ] = False,
    lines: Annotated[
        int, typer.Option(min=0, help="How many clicks to make up without --input.")
    ] = 50_000,
    seed: Annotated[int, typer.Option(help="Which clicks to make up.")] = 0,
) -> None:
    """Send lines to a stream, and have worker processes count them per key.

    A line's key is its first word. Every line that has a receipt must have been
    handled in the end, however workers died; the exit status is 0 only then. A line
    that was handled twice is counted once, and reported as a duplicate.
    """
    source: AbstractAsyncContextManager[Lines]
    with (
        plain_errors(WorkerDied),
        _opened(input) as descriptor,
        _server(url) as address,
    ):
        if descriptor is None:
            source = nullcontext(clicks(lines, seed))
        else:
            source = from_file(descriptor, counted=kill)
        result = asyncio.run(_interruptible(source, address, workers, kill=kill))
    if json:
        print(result.to_json(), flush=True)
    else:
        Console().print(table(result))
    for complaint in result.complaints:
        print(f"penstock: {complaint}", file=sys.stderr)
    raise typer.Exit(1 if result.complaints else 0)


async def _interruptible(
    source: AbstractAsyncContextManager[Lines], url: str, workers: int, *, kill: bool
) -> Result:
    """Run the demo; on a signal, clean up all the same.

    Raises:
        SystemExit: A signal came.
    """
    caught: list[signal.Signals] = []
    with anyio.CancelScope() as scope:

        def note(number: signal.Signals) -> None:
            caught.append(number)
            scope.cancel()

        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, note, number)
        with display(Console(stderr=True)) as show:
            async with source as lines:
                return await run(url, lines, show, workers=workers, kill=kill)
    print(f"penstock: ended by {caught[0].name}", file=sys.stderr)
    sys.exit(128 + caught[0])


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    """Yield the server's URL; the embedded one's is its socket, for other processes."""
    if url is not None and url.partition("://")[0] != EMBEDDED:
        yield url
        return
    with EmbeddedServer() as server:
        yield server.url


@contextmanager
def _opened(path: str | None) -> Iterator[int | None]:
    """Open the input.

    Raises:
        Exit: It can't be opened.
    """
    if path is None:
        yield None
        return
    try:
        file = io.FileIO(0 if path == "-" else path, closefd=path != "-")
    except OSError as error:
        folder = isinstance(error, IsADirectoryError)
        reason = "it is a folder" if folder else error.strerror
        print(f"penstock: can't read {printable(path)}: {reason}", file=sys.stderr)
        raise typer.Exit(2) from None
    with file:
        yield file.fileno()
