"""Output of results: a table on a terminal, columns in a pipe, or JSON.

Results go to standard output, all else to standard error. A reader that closes the pipe
ends the command with status 0.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.events import printable

__all__ = ["Column", "Output", "as_json", "emit", "fit", "quiet_pipe", "say", "table"]

R = TypeVar("R")

_GAP: Final = 2  # spaces between two columns
_NARROW: Final = 12  # characters to which a name is cut before a column is left out
_BATCH: Final = 500  # rows of one table: rich keeps all of a table's cells in memory
_CUT: Final = 1000  # characters of a text in a pipe


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A column of a table.

    Attributes:
        name: The heading.
        raw: Returns the value of a row, for a pipe: a number, an id or a text.
        shown: Returns what a terminal shows; default: the value as it is.
        priority: Columns with the highest number are left out first, where a terminal
            is too narrow; a column with 0 never is.
        right: Whether its cells are aligned to the right.
        style: Returns the style of a cell, by the row.
    """

    name: str
    raw: Callable[[R], object]
    shown: Callable[[R], str] | None = None
    priority: int = 0
    right: bool = False
    style: Callable[[R], str] | None = None

    def cell(self, row: R) -> str:
        """Return the cell of a row on a terminal."""
        return _plain(self.raw(row)) if self.shown is None else self.shown(row)


@dataclass(slots=True)
class Output:
    """Prints the results of a command.

    Attributes:
        json: Whether to print JSON.
        color: Whether colours are allowed.
    """

    json: bool = False
    color: bool = True
    console: Console = field(init=False)

    def __post_init__(self) -> None:
        self.console = Console(
            no_color=not self.color or None, highlight=False, markup=False, emoji=False
        )

    @property
    def is_table(self) -> bool:
        """Whether results are read by a person."""
        return not self.json and self.console.is_terminal

    def rows(self, columns: Sequence[Column[R]], rows: Iterable[R]) -> None:
        """Print rows, which are the objects that JSON shows.

        Raises:
            Exit: Nobody reads the output any more.
        """
        printer = self.printer(columns)
        for row in rows:
            printer.add(row)
        printer.end()

    def printer(self, columns: Sequence[Column[R]]) -> Printer[R]:
        """Return what prints rows as they come; on a terminal, all in the end."""
        return Printer(self, columns)

    def object(self, value: object) -> None:
        """Print a line of JSON, in which all but ASCII is escaped."""
        emit(as_json(value))


class Printer(Generic[R]):
    """Prints the rows of one table.

    Args:
        out: Where they go.
        columns: The columns.
    """

    def __init__(self, out: Output, columns: Sequence[Column[R]]) -> None:
        self._out = out
        self._columns = columns
        self._rows: list[R] = []
        self._headed = False

    def add(self, row: R) -> None:
        """Print a row; on a terminal, keep it until the widths are known.

        Raises:
            Exit: Nobody reads the output any more.
        """
        if self._out.json:
            self._out.object(row)
        elif self._out.is_table:
            self._rows.append(row)
        else:
            self._head()
            emit("\t".join(_plain(column.raw(row)) for column in self._columns))

    def end(self) -> None:
        """Print what is kept, and the heading if there was no row.

        Raises:
            Exit: Nobody reads the output any more.
        """
        if self._out.is_table:
            self._table(self._columns, self._rows)
        elif not self._out.json:
            self._head()

    def _head(self) -> None:
        if not self._headed:
            emit("\t".join(column.name for column in self._columns))
            self._headed = True

    def _table(self, columns: Sequence[Column[R]], rows: Sequence[R]) -> None:
        console = self._out.console
        cells = [[column.cell(row) for row in rows] for column in columns]
        kept = fit(columns, _widths(columns, cells), console.width)
        for start in range(0, max(len(rows), 1), _BATCH):
            made = _empty_table(columns, kept, headed=not start)
            for at in range(start, min(start + _BATCH, len(rows))):
                made.add_row(*_row(columns, kept, rows[at], [c[at] for c in cells]))
            with quiet_pipe():
                console.print(made)


def table(columns: Sequence[Column[R]], rows: Sequence[R], width: int) -> Table:
    """Return a table of a few rows that is no wider than a terminal."""
    cells = [[column.cell(row) for row in rows] for column in columns]
    kept = fit(columns, _widths(columns, cells), width)
    made = _empty_table(columns, kept, headed=True)
    for at, row in enumerate(rows):
        made.add_row(*_row(columns, kept, row, [some[at] for some in cells]))
    return made


def _widths(columns: Sequence[Column[R]], cells: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(map(len, [column.name, *some]))
        for column, some in zip(columns, cells, strict=True)
    ]


def _empty_table(
    columns: Sequence[Column[R]], kept: Mapping[int, int], *, headed: bool
) -> Table:
    made = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        show_header=headed,
        header_style="bold",
    )
    for number, width in kept.items():
        made.add_column(
            columns[number].name,
            justify="right" if columns[number].right else "left",
            width=width,
            no_wrap=True,
            overflow="ellipsis",
        )
    return made


def _row(
    columns: Sequence[Column[R]], kept: Iterable[int], row: R, cells: Sequence[str]
) -> Iterator[Text]:
    return (Text(cells[number], _style(columns[number], row)) for number in kept)


def _style(column: Column[R], row: R) -> str:
    return "" if column.style is None else column.style(row)


def fit(
    columns: Sequence[Column[Any]], widths: Sequence[int], width: int
) -> dict[int, int]:
    """Return the columns that a terminal has space for, each with its width.

    Columns are left out by priority. Names that are too long are cut only if that saves
    a column, or if nothing else is left to leave out.

    Args:
        columns: The columns.
        widths: The width that each needs.
        width: The width of the terminal.
    """
    kept = dict(enumerate(widths))

    def needed(number: int) -> int:
        is_name = columns[number].priority == 0 and not columns[number].right
        return min(kept[number], _NARROW) if is_name else kept[number]

    def total() -> int:
        return sum(map(needed, kept)) + _GAP * (len(kept) - 1)

    while total() > width:
        priorities = {number: columns[number].priority for number in kept}
        most = max(priorities.values())
        if not most:
            break
        del kept[max(n for n, priority in priorities.items() if priority == most)]
    spare = max(width - total(), 0)
    given: dict[int, int] = {}
    for number, wanted in kept.items():
        least = needed(number)
        given[number] = min(wanted, least + spare)
        spare -= given[number] - least
    return given


def as_json(value: object) -> str:
    """Return the JSON of a struct, in which all but ASCII is escaped."""
    return json.dumps(msgspec.to_builtins(value))


def _plain(value: object) -> str:
    """Return a value for a pipe: a number as it is, a text escaped, `-` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return str(value)
    return printable(str(value), _CUT) or "-"


def emit(line: str) -> None:
    """Print a line to standard output.

    Raises:
        Exit: With status 0: nobody reads the output any more.
    """
    with quiet_pipe():
        print(line, flush=True)


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Print; a pipe that its reader has closed ends the command with status 0.

    Raises:
        Exit: The pipe is closed.
    """
    try:
        yield
    except BrokenPipeError:
        silence()
        raise typer.Exit(0) from None


def silence() -> None:
    """Discard what is printed from now on, also what Python flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def say(text: str) -> None:
    """Print a message to standard error."""
    print(f"penstock: {text}", file=sys.stderr)
