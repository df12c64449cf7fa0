"""`penstock top`: the groups that are worst off, on a screen that is kept current."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Final

import typer
from rich.live import Live

from penstock import ServerError
from penstock.cli._options import duration_option, streams_argument
from penstock.cli._output import say
from penstock.cli._server import Server, on_server
from penstock.cli.looking.consumers import CONSUMERS_OF_GROUPS
from penstock.cli.looking.shared import GAP, Lease, collector, look, report
from penstock.cli.top.view import View, columns, rows
from penstock.events import Event
from penstock.monitor import Collector

try:
    import termios
    import tty
except ImportError:  # on Windows
    _HAS_KEYS = False
else:
    _HAS_KEYS = True

__all__ = ["top"]

_MOST_CONSUMERS: Final = 20
"""The groups whose consumers are shown."""
_TICK: Final = 1.0  # seconds between two pictures of an outage


@on_server
def top(
    streams: Annotated[
        list[str] | None,
        streams_argument("Names or shell patterns; default: all streams."),
    ] = None,
    *,
    server: Server,
    interval: Annotated[
        float,
        duration_option(
            "--interval",
            "Time between two polls.",
            default="2s",
            zero=False,
            most=86_400.0,
        ),
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table, and end.")
    ] = False,
    lease: Lease = 60.0,
) -> None:
    """Show all groups, the worst first, with their rates.

    IN/S and OUT/S are the messages added and delivered in a second, ETA is the time
    until the lag is gone. Keys: q quits, s changes the order, space pauses, c shows
    consumers. If the connection is lost, the last numbers stay, dimmed.

    Without a terminal, on Windows, with --once and with --json it takes two samples and
    prints one table.

    Exit status: 0 done; 1 no connection, refused, or a name or pattern has no stream;
    2 wrong usage.
    """
    live = not once and server.out.is_table and sys.stdin.isatty()
    if live and not _HAS_KEYS:
        say("this system's terminal can't report single keys, so this is one table")
        live = False
    watched = collector(
        server,
        streams or (),
        lease=lease,
        on_event=_ignore if live else None,
    )

    async def print_once(opened: Collector) -> int:
        await opened.poll()
        await asyncio.sleep(min(interval, GAP))
        snapshot = await opened.poll()
        found = rows(snapshot, opened.lags)
        if server.out.json:
            for row in found:
                server.out.object(row.group)
        elif found:
            server.out.rows(columns(), found)
        return 0 if await report(opened, snapshot, streams or ()) else 1

    async def show(opened: Collector) -> int:
        view = View(interval, CONSUMERS_OF_GROUPS)
        await _Screen(opened, view, server).run()
        return 0

    look(watched, show if live else print_once, interrupted=lambda: 0)


def _ignore(_: Event) -> None:
    """Print nothing over the screen, which shows an outage itself."""


class _Screen:
    """Keeps the screen current, and listens to keys.

    Args:
        opened: The collector.
        view: What is shown.
        server: The server and the console.
    """

    def __init__(self, opened: Collector, view: View, server: Server) -> None:
        self._opened = opened
        self._view = view
        self._console = server.out.console
        self._keys: asyncio.Queue[str] = asyncio.Queue()
        # When the last poll succeeded, and when the next one is due.
        self._answered = time.monotonic()
        self._due = 0.0

    async def run(self) -> None:
        """Show the groups until the user quits."""
        polling: asyncio.Task[None] | None = None
        key = asyncio.ensure_future(self._keys.get())
        with (
            _keyboard(self._keys),
            Live(console=self._console, screen=True, auto_refresh=False) as live,
        ):
            try:
                while True:
                    now = time.monotonic()
                    if polling is None and not self._view.paused and now >= self._due:
                        polling = asyncio.ensure_future(self._poll())
                        self._due = now + self._view.interval
                    waiting = {key} if polling is None else {key, polling}
                    await asyncio.wait(
                        waiting,
                        timeout=min(_TICK, max(self._due - now, 0.05)),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if polling is not None and polling.done():
                        polling.result()
                        polling = None
                    if key.done():
                        if not self._view.press(key.result()):
                            return
                        key = asyncio.ensure_future(self._keys.get())
                    self._note_silence()
                    size = self._console.size
                    live.update(
                        self._view.render(size.width, size.height), refresh=True
                    )
            finally:
                for task in (key, polling):
                    if task is not None:
                        task.cancel()
                        with suppress(asyncio.CancelledError, ServerError):
                            await task

    async def _poll(self) -> None:
        """Poll once; what goes wrong is shown."""
        view, opened = self._view, self._opened
        try:
            snapshot = await opened.poll()
            view.rows = rows(snapshot, opened.lags)
            if view.with_consumers:
                groups = [row.group for row in view.ordered[:_MOST_CONSUMERS]]
                view.consumers = [
                    one
                    for group in groups
                    for one in await opened.consumers(group.stream, group.group)
                ]
            if view.server is None or view.server.version is not None:
                # A user who may not ask is not refused with every poll.
                view.server = await opened.server()
        except ServerError as error:
            view.reason = str(error)
            view.outage = time.monotonic() - self._answered
            return
        view.problems = [
            f"{problem.stream!a:.80} can't be looked at: {problem.text}"
            for problem in snapshot.problems
        ]
        view.clock = snapshot.time.astimezone().strftime("%H:%M:%S")
        view.outage, view.reason = None, ""
        self._answered = time.monotonic()

    def _note_silence(self) -> None:
        """Note that the server has not answered for longer than two polls take."""
        if self._view.paused:
            self._answered = time.monotonic()
            return
        silent = time.monotonic() - self._answered
        if self._view.outage is not None or silent > 2 * self._view.interval + _TICK:
            self._view.outage = silent


@contextmanager
def _keyboard(keys: asyncio.Queue[str]) -> Iterator[None]:
    """Put the keys that are pressed into a queue, without waiting for a line."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        typed = os.read(descriptor, 32)
        if not typed:  # the terminal is gone
            loop.remove_reader(descriptor)
            keys.put_nowait("q")
        for byte in typed:
            keys.put_nowait(chr(byte))

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
