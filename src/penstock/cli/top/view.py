"""The view of `penstock top`: what is on the screen, without the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct
from rich.console import Group, RenderableType
from rich.style import Style
from rich.styled import Styled
from rich.text import Text

from penstock.cli import _format
from penstock.cli._columns import text_column
from penstock.cli._output import Column, table
from penstock.cli.looking.shared import lag_text, oldest_text, state_style, worst
from penstock.monitor import ConsumerStatus, GroupStatus, ServerStatus, Snapshot

__all__ = ["ORDERS", "TopRow", "View", "columns", "rows", "spark"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_AROUND: Final = 5  # lines of the screen that are no rows
_HELP: Final = "q quit  s sort  space pause  c consumers"


class TopRow(Struct, frozen=True):
    """A group as `top` shows it.

    Attributes:
        group: The group.
        dead: The dead letters of its stream.
        lags: Its recent lags, the oldest first.
    """

    group: GroupStatus
    dead: int | None
    lags: list[int]


def rows(snapshot: Snapshot, lags: Callable[[str, str], list[int]]) -> list[TopRow]:
    """Return the rows of a poll, the worst state first."""
    dead = {one.stream: one.dead_letters for one in snapshot.streams}
    groups = worst(group for one in snapshot.streams for group in one.groups)
    return [
        TopRow(group, dead[group.stream], lags(group.stream, group.group))
        for group in groups
    ]


ORDERS: Final[dict[str, Callable[[TopRow], tuple[object, ...]] | None]] = {
    "state": None,  # as they come
    "lag": lambda row: (-row.group.lag,),
    "pending": lambda row: (-row.group.pending,),
    "oldest": lambda row: (-(row.group.oldest_age_seconds or 0),),
    "name": lambda row: (row.group.stream, row.group.group),
}
"""The orders of rows, by name."""


def spark(lags: Sequence[int]) -> str:
    """Return lags as bars, the highest one in full height."""
    most = max(lags, default=0)
    if not most:
        return _BARS[0] * len(lags)
    return "".join(_BARS[lag * (len(_BARS) - 1) // most] for lag in lags)


def eta_text(group: GroupStatus) -> str:
    """Return the time until a group has caught up; `never` if it does not."""
    if not group.lag:
        return "-"
    if group.eta_seconds is not None:
        return _format.duration(group.eta_seconds)
    known = group.in_per_second is not None and group.out_per_second is not None
    return "never" if known else "?"


def columns() -> list[Column[TopRow]]:
    """Return the columns of groups."""
    return [
        text_column("STREAM", lambda r: r.group.stream),
        text_column("GROUP", lambda r: r.group.group),
        Column(
            "STATE",
            lambda r: r.group.state,
            lambda r: r.group.state.value if r.group.state else "?",
            priority=1,
            style=lambda r: state_style(r.group),
        ),
        _right(
            "IN/S",
            4,
            lambda r: r.group.in_per_second,
            lambda r: _format.rate(r.group.in_per_second),
        ),
        _right(
            "OUT/S",
            4,
            lambda r: r.group.out_per_second,
            lambda r: _format.rate(r.group.out_per_second),
        ),
        _right("LAG", 1, lambda r: r.group.lag, lambda r: lag_text(r.group)),
        Column(
            "↕",
            lambda r: ",".join(map(str, r.lags)),
            lambda r: spark(r.lags),
            priority=7,
        ),
        _right(
            "PENDING",
            2,
            lambda r: r.group.pending,
            lambda r: _format.count(r.group.pending),
        ),
        _right(
            "OLDEST",
            3,
            lambda r: r.group.oldest_age_seconds,
            lambda r: oldest_text(r.group),
        ),
        _right("ETA", 5, lambda r: r.group.eta_seconds, lambda r: eta_text(r.group)),
        _right("LIVE", 3, lambda r: r.group.live, lambda r: str(r.group.live)),
        _right(
            "DEAD",
            6,
            lambda r: r.dead,
            lambda r: "-" if r.dead is None else f"{r.dead:,}",
        ),
    ]


def _right(
    name: str,
    priority: int,
    raw: Callable[[TopRow], object],
    shown: Callable[[TopRow], str],
) -> Column[TopRow]:
    return Column(name, raw, shown, priority=priority, right=True)


@dataclass
class View:
    """What is on the screen.

    Attributes:
        interval: The seconds between two polls.
        consumer_columns: The columns of consumers.
        server: The server; None if it was not asked yet.
        rows: The groups of the last poll.
        consumers: Their consumers, if these are shown.
        problems: What could not be looked at.
        clock: The server's time of the last poll, to show.
        order: The order of the rows, see `ORDERS`.
        paused: Whether it is not polled.
        with_consumers: Whether consumers are shown in place of groups.
        outage: For how long the server has not answered, in seconds; None if it does.
        reason: Why it does not.
    """

    interval: float
    consumer_columns: Sequence[Column[ConsumerStatus]]
    server: ServerStatus | None = None
    rows: list[TopRow] = field(default_factory=list)
    consumers: list[ConsumerStatus] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    clock: str = ""
    order: str = "state"
    paused: bool = False
    with_consumers: bool = False
    outage: float | None = None
    reason: str = ""

    def press(self, key: str) -> bool:
        """Do what a key asks for, and return whether to go on."""
        if key in {"q", "Q", "\x03", "\x04"}:
            return False
        if key == "s":
            names = list(ORDERS)
            self.order = names[(names.index(self.order) + 1) % len(names)]
        elif key == " ":
            self.paused = not self.paused
        elif key == "c":
            self.with_consumers = not self.with_consumers
        return True

    @property
    def ordered(self) -> list[TopRow]:
        """The rows in their order."""
        order = ORDERS[self.order]
        return self.rows if order is None else sorted(self.rows, key=order)

    def render(self, width: int, height: int) -> RenderableType:
        """Return what a screen of some size shows."""
        most = max(height - _AROUND - bool(self.problems), 1)
        if self.with_consumers:
            shown, number = (
                table(self.consumer_columns, self.consumers[:most], width),
                len(self.consumers),
            )
        else:
            shown, number = (
                table(columns(), self.ordered[:most], width),
                len(self.rows),
            )
        body: list[RenderableType] = [shown]
        if number > most:
            body.append(Text(f"… {number - most:,} more"))
        if not number:
            body = [Text("no consumers" if self.with_consumers else "no groups")]
        lines: list[RenderableType] = [_line(self._head(), width), Text("")]
        if self.outage is not None:
            lines[1] = _line(self._outage(), width, "bold red")
            body = [Styled(each, Style(dim=True)) for each in body]
        lines += body
        lines += [_line(each, width, "yellow") for each in self.problems[:1]]
        lines.append(_line(self._foot(), width, "dim"))
        return Group(*lines)

    def _head(self) -> str:
        parts = ["penstock top"]
        if self.server is not None:
            parts += [
                self.server.address,
                self.server.version or "",
                _memory(self.server),
            ]
        parts += [self.clock, f"every {_format.duration(self.interval)}"]
        return "  ".join(part for part in parts if part)

    def _outage(self) -> str:
        duration = _format.duration(self.outage)
        reason = f": {self.reason}" if self.reason else ""
        return f"no answer from the server for {duration}{reason}"

    def _foot(self) -> str:
        paused = "  paused" if self.paused else ""
        return f"{_HELP}  sorted by {self.order}{paused}"


def _line(text: str, width: int, style: str = "") -> Text:
    """Return a line that is cut where the screen ends."""
    line = Text(text, style, no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line


def _memory(server: ServerStatus) -> str:
    if server.used_memory_bytes is None:
        return ""
    used = f"mem {_format.size(server.used_memory_bytes)}"
    if server.max_memory_bytes is not None:
        used += f" of {_format.size(server.max_memory_bytes)}"
    return f"{used} {server.policy or ''}".rstrip()
