"""Report of `penstock demo`: progress on a terminal, and the result of a run."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct, structs
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

__all__ = [
    "DemoResult",
    "Progress",
    "Result",
    "Tally",
    "display",
    "progress_grid",
    "table",
    "tally",
]

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
    disordered: int = 0  # keys of which a line was handled before an earlier one
    moved: int = 0  # keys whose lines several workers have handled
    keys: Counter[bytes] = field(default_factory=Counter)  # distinct lines by key


class Handled(NamedTuple):
    """A line of a journal."""

    at: int  # nanoseconds, by a clock that all workers share
    which: bytes  # the message
    key: bytes
    worker: Path


def tally(receipts: Iterable[bytes], journals: Iterable[Path]) -> Tally:
    """Compare the lines sent, in their order, with the workers' journals.

    A line that was handled again says nothing about the order: what counts is when it
    was handled first.
    """
    handled = sorted(each for path in journals for each in _journal(path))
    sent = {which: number for number, which in enumerate(receipts)}
    first: dict[bytes, Handled] = {}
    for each in handled:
        if each.which in sent:
            first.setdefault(each.which, each)
    unknown = sum(each.which not in sent for each in handled)
    by_key: defaultdict[bytes, list[Handled]] = defaultdict(list)
    for each in first.values():
        by_key[each.key].append(each)
    return Tally(
        sent=len(sent),
        handled=len(handled),
        distinct=len(first),
        lost=len(sent) - len(first),
        duplicates=len(handled) - len(first) - unknown,
        unknown=unknown,
        disordered=sum(_is_disordered(lines, sent) for lines in by_key.values()),
        moved=sum(len({line.worker for line in x}) > 1 for x in by_key.values()),
        keys=Counter({key: len(lines) for key, lines in by_key.items()}),
    )


def _journal(path: Path) -> Iterator[Handled]:
    # The kill may tear the last line. Its message was not acknowledged then, so another
    # worker has handled it.
    for line in path.read_bytes().split(b"\n")[:-1]:
        at, which, key = line.split(b" ", 2)
        yield Handled(int(at), which, key, path)


def _is_disordered(lines: Iterable[Handled], sent: Mapping[bytes, int]) -> bool:
    return any(sent[a.which] > sent[b.which] for a, b in pairwise(lines))


class DemoResult(Struct, frozen=True, kw_only=True):
    """The result of a run, as JSON shows it; numbers are of lines.

    Attributes:
        sent: Sent, and confirmed by the server.
        handled: Handled; one that was handled twice counts twice.
        distinct: Handled, and different.
        lost: Sent, and handled by no worker.
        duplicates: Handled again.
        keys_out_of_order: The number of keys of which a line was handled before an
            earlier one.
        keys_moved: The number of keys whose lines several workers have handled.
        seconds: The time from the first line sent to the last one acknowledged.
        messages_per_second: The lines handled in a second.
        keys: The number of keys.
        top: The ten most frequent keys, with their lines.
        killed: The number of workers that were killed.
        joined: The number of workers that joined after that.
        in_hand_when_killed: Read by the killed worker and not acknowledged.
        problems: What went wrong, a sentence each.
    """

    sent: int
    handled: int
    distinct: int
    lost: int
    duplicates: int
    keys_out_of_order: int
    keys_moved: int
    seconds: float
    messages_per_second: int
    keys: int
    top: dict[str, int]
    killed: int
    joined: int
    in_hand_when_killed: int
    problems: list[str]


@dataclass(frozen=True)
class Result:
    """Result of a run."""

    tally: Tally
    seconds: float  # from the first line sent to the last one acknowledged
    killed: int  # workers
    killed_pending: int  # lines that the killed worker had read and not acknowledged
    joined: int = 0  # workers that have joined since then
    in_order: bool = False  # whether the lines of a key had to be handled in order
    problems: Sequence[str] = ()  # a sentence each, without what the tally says

    @property
    def complaints(self) -> list[str]:
        """All that went wrong, a sentence each; empty for a good run."""
        tally, found = self.tally, list(self.problems)
        if tally.lost:
            found.append(f"{tally.lost} of {tally.sent} lines were lost")
        if tally.unknown:
            found.append(f"{tally.unknown} messages were handled that have no receipt")
        if self.in_order and tally.disordered:
            found.append(f"{tally.disordered} keys were handled out of order")
        return found

    def facts(self) -> DemoResult:
        """Return the result as JSON shows it."""
        tally, seconds = self.tally, self.seconds
        # Equal counts by name, so that the same input gives the same list.
        top = sorted(tally.keys.items(), key=lambda item: (-item[1], item[0]))[:10]
        return DemoResult(
            sent=tally.sent,
            handled=tally.handled,
            distinct=tally.distinct,
            lost=tally.lost,
            duplicates=tally.duplicates,
            keys_out_of_order=tally.disordered,
            keys_moved=tally.moved,
            seconds=round(seconds, 3),
            messages_per_second=round(tally.distinct / seconds if seconds else 0.0),
            keys=len(tally.keys),
            top={key.decode("utf-8", "backslashreplace"): n for key, n in top},
            killed=self.killed,
            joined=self.joined,
            in_hand_when_killed=self.killed_pending,
            problems=self.complaints,
        )


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
    for name, value in structs.asdict(facts).items():
        if isinstance(value, int | float) and (result.killed or "killed" not in name):
            made.add_row(name.replace("_", " "), f"{value:,}")
    made.add_section()
    for key, count in facts.top.items():
        # No markup and no control character of a key may act here.
        clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key[:60])
        made.add_row(Text(clean or "(none)"), f"{count:,}")
    return made
