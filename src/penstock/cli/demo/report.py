"""What `penstock demo` shows: how far it is, and a table at the end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock.cli.demo.progress import Progress
from penstock.cli.demo.result import Result

__all__ = ["Display", "table"]

_INTERVAL: Final = 0.25  # seconds between two pictures
_KEY_WIDTH: Final = 60  # characters


class Display:
    """Shows progress on a terminal; elsewhere nothing.

    Args:
        console: Where.
    """

    def __init__(self, console: Console) -> None:
        # Drawn by us when there is news, so without a thread of its own; gone in the
        # end, when the table says it all.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._on = console.is_terminal
        # What was shown last, and when.
        self._shown = Progress()
        self._at = time.monotonic()

    def __enter__(self) -> Self:
        if self._on:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._on:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far it is, unless that was done just now."""
        now = time.monotonic()
        if not self._on or now - self._at < _INTERVAL:
            return
        rate = (progress.handled - self._shown.handled) / (now - self._at)
        self._shown, self._at = progress, now
        self._live.update(picture(progress, rate), refresh=True)


def picture(progress: Progress, rate: float) -> Table:
    """Lay out how far it is."""
    grid = Table.grid(padding=(0, 2))
    rows = [
        ("sent", f"{progress.sent:,}"),
        ("handled", f"{progress.handled:,}"),
        ("rate", f"{rate:,.0f}/s"),
        ("lag", f"{progress.lag:,}"),
        ("pending", f"{progress.pending:,}"),
    ]
    rows += [
        (f"in flight, {name}", f"{count:,}")
        for name, count in sorted(progress.in_flight.items())
    ]
    for name, value in rows:
        grid.add_row(name, Text(value, justify="right"))
    return grid


def table(result: Result) -> Table:
    """Lay out what came of a run."""
    tally = result.tally
    rows = [
        ("sent", f"{tally.sent:,}"),
        ("handled", f"{tally.handled:,}"),
        ("distinct", f"{tally.distinct:,}"),
        ("lost", f"{tally.lost:,}"),
        ("duplicates", f"{tally.duplicates:,}"),
        ("seconds", f"{result.seconds:.3f}"),
        ("messages per second", f"{result.rate:,.0f}"),
    ]
    if result.killed:
        rows.append(("killed workers", f"{result.killed}"))
        rows.append(("in their hands", f"{result.in_hand:,}"))
    rows.append(("keys", f"{len(tally.keys):,}"))
    made = Table(show_header=False)
    made.add_column()
    made.add_column(justify="right")
    for name, value in rows:
        made.add_row(name, value)
    made.add_section()
    for key, count in result.top():
        made.add_row(_shown(key), f"{count:,}")
    return made


def _shown(key: str) -> Text:
    """Somebody's text: neither markup nor control characters may act here."""
    clean = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in key[:_KEY_WIDTH]
    )
    return Text(clean or "(none)")
