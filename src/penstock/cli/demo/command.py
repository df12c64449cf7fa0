"""`penstock demo`: lines through a stream, counted by worker processes."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from collections.abc import Coroutine
from contextlib import ExitStack, nullcontext
from typing import Annotated, Any

import anyio
import typer

from penstock import ConfigurationError
from penstock._connection.address import EMBEDDED
from penstock.cli._errors import plain_errors
from penstock.cli._output import Output, quiet_pipe, say
from penstock.cli._server import Json, NoColor, Timeout, with_timeout
from penstock.cli._system import require_posix
from penstock.cli.demo.report import Result, table
from penstock.cli.demo.scenario import Source, clicks, from_file, run
from penstock.embedded import EmbeddedServer
from penstock.events import printable

__all__ = ["demo"]


def demo(
    *,
    input: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(metavar="FILE|-", help="Send the lines of this file; -: stdin."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server; default: a private one."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of worker processes.")
    ] = 2,
    kill: Annotated[
        bool, typer.Option("--kill", help="SIGKILL a worker half-way, and replace it.")
    ] = False,
    owned: Annotated[
        bool,
        typer.Option(
            "--owned", help="Have each worker own shards; the order of a key is kept."
        ),
    ] = False,
    json: Json = False,
    timeout: Timeout = None,
    no_color: NoColor = False,
    lines: Annotated[
        int, typer.Option(min=0, help="Number of clicks to generate.")
    ] = 50_000,
    seed: Annotated[int, typer.Option(help="Seed of the generated clicks.")] = 0,
) -> None:
    """Send lines to a stream, and have worker processes count them per key.

    A line's key is its first word. The exit status is 0 only if each line that has a
    receipt was handled, however workers died. A duplicate is reported, and counts once.
    With --owned, the lines of each key must also have been handled in their order.
    """
    source: Source = nullcontext(clicks(lines, seed))
    with plain_errors(), ExitStack() as stack:
        require_posix("demo", "run it in a container, or on another machine")
        if input is not None:
            file = stack.enter_context(_opened(input))
            source = from_file(file.fileno(), counted=kill)
        if url is None or url.partition("://")[0] == EMBEDDED:
            url = stack.enter_context(EmbeddedServer()).url  # that others can open too
        url = with_timeout(url, timeout)
        work = run(url, source, workers=workers, kill=kill, owned=owned)
        result = asyncio.run(_interruptible(work))
    out = Output(json=json, color=not no_color)
    if json:
        out.object(result.facts())
    else:
        with quiet_pipe():
            out.console.print(table(result))
    for complaint in result.complaints:
        say(complaint)
    raise typer.Exit(1 if result.complaints else 0)


async def _interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for the work; a signal cancels it, so that it cleans up, and exits."""
    caught: list[signal.Signals] = []
    with anyio.CancelScope() as scope:

        def note(number: signal.Signals) -> None:
            caught.append(number)
            scope.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, note, number)
        return await work
    say(f"ended by {caught[0].name}")
    sys.exit(128 + caught[0])


def _opened(path: str) -> io.FileIO:
    try:
        return io.FileIO(0 if path == "-" else path, closefd=path != "-")
    except OSError as error:
        folder = isinstance(error, IsADirectoryError)
        reason = "it is a folder" if folder else error.strerror
        raise ConfigurationError(f"can't read {printable(path)}: {reason}") from None
