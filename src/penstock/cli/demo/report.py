"""Report of `penstock demo`: progress on a terminal, and the result of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

__all__ = ["Progress", "Result", "Tally", "display", "progress_grid", "table", "tally"]

_COUNTS: Final = ("sent", "handled", "distinct", "lost", "duplicates")
_INTERVAL: Final = 0.25  # seconds between two pictures


@dataclass(frozen=True)
class Progress:
    """Progress of a run, in lines."""

    sent: int = 0  # and confirmed by the server
    unsettled: int = 0  # on their way to it
    lag: int = 0  # not read yet by any worker
    pending: int = 0  # read and not acknowledged yet
    in_flight: Mapping[str, int] = field(default_factory=dict)  # pending, by worker

    @property
    def handled(self) -> int:
        """Lines that are acknowledged."""
        return self.sent - self.lag - self.pending

    @property
    def idle(self) -> bool:
        """Whether all lines so far are acknowledged."""
        return not (self.unsettled or self.lag or self.pending)


@dataclass
class Tally:
    """Counts of the lines that were sent, and of those in the workers' journals."""

    sent: int = 0  # and confirmed: they have a receipt
    handled: int = 0  # a line that was handled twice counts twice
    distinct: int = 0  # different lines handled, of those sent
    lost: int = 0  # sent, and handled by no worker
    duplicates: int = 0  # handled again
    unknown: int = 0  # handled without a receipt
    keys: Counter[bytes] = field(default_factory=Counter)  # distinct lines by key


def tally(receipts: Iterable[bytes], journals: Iterable[Path]) -> Tally:
    """Compare the ids of the lines sent with journals: an id and a key per line."""
    # The kill may tear the last line. Its message was not acknowledged then, so another
    # worker has handled it.
    lines = [line for path in journals for line in path.read_bytes().split(b"\n")[:-1]]
    handled = [line.partition(b" ") for line in lines]
    sent = set(receipts)
    keys = {id_: key for id_, _, key in handled if id_ in sent}
    lost, unknown = (
        len(sent) - len(keys),
        sum(id_ not in sent for id_, _, _ in handled),
    )
    duplicates = len(handled) - len(keys) - unknown
    counts = len(sent), len(handled), len(keys), lost, duplicates, unknown
    return Tally(*counts, keys=Counter(keys.values()))


@dataclass(frozen=True)
class Result:
    """Result of a run."""

    tally: Tally
    seconds: float  # from the first line sent to the last one acknowledged
    killed: int  # workers
    killed_pending: int  # lines that the killed worker had read and not acknowledged
    problems: Sequence[str] = ()  # a sentence each, without what the tally says

    @property
    def complaints(self) -> list[str]:
        """All that went wrong, a sentence each; empty for a good run."""
        tally, found = self.tally, list(self.problems)
        if tally.lost:
            found.append(f"{tally.lost} of {tally.sent} lines were lost")
        if tally.unknown:
            found.append(f"{tally.unknown} messages were handled that have no receipt")
        return found

    def facts(self) -> dict[str, Any]:
        """Return the result as a JSON object, with the ten most frequent keys."""
        tally, seconds = self.tally, self.seconds
        # Equal counts by name, so that the same input gives the same list.
        top = sorted(tally.keys.items(), key=lambda item: (-item[1], item[0]))[:10]
        return {
            **{name: getattr(tally, name) for name in _COUNTS},
            "seconds": round(seconds, 3),
            "messages_per_second": round(tally.distinct / seconds if seconds else 0.0),
            "keys": len(tally.keys),
            "top": {key.decode("utf-8", "backslashreplace"): n for key, n in top},
            "killed": self.killed,
            "in_hand_when_killed": self.killed_pending,
            "problems": self.complaints,
        }


@contextmanager
def display() -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress on standard error, if that is a terminal."""
    shown, at = Progress(), time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal shown, at
        now = time.monotonic()
        if now - at >= _INTERVAL:
            rate = (progress.handled - shown.handled) / (now - at)
            shown, at = progress, now
            live.update(progress_grid(progress, rate), refresh=True)

    # Drawn by `show`, so without a thread; erased in the end: the table says it all.
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield show


def progress_grid(progress: Progress, rate: float) -> Table:
    """Lay out the progress."""
    grid = Table.grid(Column(), Column(justify="right"), padding=(0, 2))
    grid.add_row("sent", f"{progress.sent:,}")
    grid.add_row("handled", f"{progress.handled:,}")
    grid.add_row("rate", f"{rate:,.0f}/s")
    grid.add_row("lag", f"{progress.lag:,}")
    grid.add_row("pending", f"{progress.pending:,}")
    for name, count in sorted(progress.in_flight.items()):
        grid.add_row(f"in flight, {name}", f"{count:,}")
    return grid


def table(result: Result) -> Table:
    """Lay out the result of a run."""
    made = Table(Column(), Column(justify="right"), show_header=False)
    facts = result.facts()
    for name, value in facts.items():
        if isinstance(value, int | float) and (result.killed or "killed" not in name):
            made.add_row(name.replace("_", " "), f"{value:,}")
    made.add_section()
    for key, count in facts["top"].items():
        # No markup and no control character of a key may act here.
        clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key[:60])
        made.add_row(Text(clean or "(none)"), f"{count:,}")
    return made
