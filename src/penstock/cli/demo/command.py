"""`penstock demo`: lines through a stream, counted by worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Final

import anyio
import typer
from rich.console import Console

from penstock import embedded
from penstock._connection.address import EMBEDDED
from penstock.cli._errors import plain_errors
from penstock.cli.demo.input import Lines, clicks, from_file
from penstock.cli.demo.report import Display, table
from penstock.cli.demo.result import Result
from penstock.cli.demo.scenario import Settings, run
from penstock.cli.demo.worker_processes import WorkerDied
from penstock.events import printable

__all__ = ["demo"]

_LINES: Final = 50_000
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
    ] = _LINES,
    seed: Annotated[int, typer.Option(help="Which clicks to make up.")] = 0,
) -> None:
    """Send lines to a stream, and have worker processes count them per key.

    A line's key is its first word. Every line that has a receipt must have been
    handled in the end, however workers died; the exit status is 0 only then. A line
    that was handled twice is counted once, and told of as a duplicate.
    """
    with (
        plain_errors(WorkerDied),
        _server(url) as address,
        _opened(input) as descriptor,
    ):
        settings = Settings(address, workers, kill)
        made = clicks(lines, seed) if descriptor is None else descriptor
        result = asyncio.run(_interruptible(settings, made))
    if json:
        print(result.to_json(), flush=True)
    else:
        Console().print(table(result))
    for complaint in result.complaints:
        print(f"penstock: {complaint}", file=sys.stderr)
    raise typer.Exit(1 if result.complaints else 0)


async def _interruptible(settings: Settings, source: Lines | int) -> Result:
    """Run, and on a signal clean up all the same.

    Raises:
        SystemExit: There was a signal.
    """
    caught: list[signal.Signals] = []
    with anyio.CancelScope() as scope:
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(
                number, _note, number, caught, scope
            )
        with Display(Console(stderr=True)) as display:
            async with _lines(source, counted=settings.kill) as lines:
                return await run(settings, lines, display)
    print(f"penstock: ended by {caught[0].name}", file=sys.stderr)
    sys.exit(128 + caught[0])


def _note(
    number: signal.Signals, caught: list[signal.Signals], scope: anyio.CancelScope
) -> None:
    caught.append(number)
    scope.cancel()


@asynccontextmanager
async def _lines(source: Lines | int, *, counted: bool) -> AsyncIterator[Lines]:
    if isinstance(source, Lines):
        yield source
        return
    async with from_file(source, counted=counted) as lines:
        yield lines


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    """Give the server's URL; the embedded one's is its socket, for other processes."""
    if url is not None and url.partition("://")[0] != EMBEDDED:
        yield url
        return
    server = embedded.acquire()
    try:
        yield server.url
    finally:
        embedded.release(server)


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
        descriptor = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _refused(path, error.strerror) from None
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise _refused(path, "it is a folder")
        yield descriptor
    finally:
        os.close(descriptor)


def _refused(path: str, reason: str | None) -> typer.Exit:
    print(f"penstock: can't read {printable(path)}: {reason}", file=sys.stderr)
    return typer.Exit(2)
