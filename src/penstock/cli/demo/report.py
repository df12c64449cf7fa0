"""Report of `penstock demo`: progress on a terminal, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock.cli.demo.result import Result

__all__ = ["Progress", "Show", "display", "picture", "table"]

_INTERVAL: Final = 0.25  # seconds between two pictures
_KEY_WIDTH: Final = 60  # characters


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run.

    Attributes:
        sent: Lines that the server has.
        unsettled: Lines on their way to it.
        lag: Lines that no worker has read yet.
        pending: Lines that a worker has read and not acknowledged yet.
        in_flight: The pending lines by worker; a worker without any is left out.
    """

    sent: int = 0
    unsettled: int = 0
    lag: int = 0
    pending: int = 0
    in_flight: Mapping[str, int] = field(default_factory=dict)

    @property
    def handled(self) -> int:
        """Lines that are acknowledged."""
        return self.sent - self.lag - self.pending

    @property
    def idle(self) -> bool:
        """Whether all lines so far are acknowledged."""
        return not (self.unsettled or self.lag or self.pending)


Show: TypeAlias = Callable[[Progress], None]


@contextmanager
def display(console: Console) -> Iterator[Show]:
    """Yield a function that shows progress on a terminal, and elsewhere nothing."""
    if not console.is_terminal:
        yield lambda _: None
        return
    shown, at = Progress(), time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal shown, at
        now = time.monotonic()
        if now - at >= _INTERVAL:
            rate = (progress.handled - shown.handled) / (now - at)
            shown, at = progress, now
            live.update(picture(progress, rate), refresh=True)

    # Drawn by `show`, so without a thread; erased in the end: the table says it all.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield show


def picture(progress: Progress, rate: float) -> Table:
    """Lay out the progress."""
    rows = [
        ("sent", f"{progress.sent:,}"),
        ("handled", f"{progress.handled:,}"),
        ("rate", f"{rate:,.0f}/s"),
        ("lag", f"{progress.lag:,}"),
        ("pending", f"{progress.pending:,}"),
    ]
    for worker, count in sorted(progress.in_flight.items()):
        rows.append((f"in flight, {worker}", f"{count:,}"))
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(name, Text(value, justify="right"))
    return grid


def table(result: Result) -> Table:
    """Lay out the result of a run."""
    made = Table(show_header=False)
    made.add_column()
    made.add_column(justify="right")
    for name, value in result.numbers().items():
        if result.killed or "killed" not in name:
            made.add_row(name.replace("_", " "), f"{value:,}")
    made.add_section()
    for key, count in result.top():
        made.add_row(_shown(key), f"{count:,}")
    return made


def _shown(key: str) -> Text:
    """Escape a key from outside: no markup or control character may act here."""
    clean = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in key[:_KEY_WIDTH]
    )
    return Text(clean or "(none)")
