"""Parts of the looking commands: the collector, columns of groups, unknown names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Final, TypeAlias

from penstock import PenstockError
from penstock.cli import _format
from penstock.cli._admin_call import near, perform, say, say_event
from penstock.cli._columns import count_column, text_column
from penstock.cli._options import duration_option
from penstock.cli._output import Column
from penstock.cli._server import Server
from penstock.cli._values import is_pattern, stream_name
from penstock.errors import CommandError, StreamMissing
from penstock.events import OnEvent
from penstock.monitor import Collector, GroupState, GroupStatus, Snapshot
from penstock.monitor._discovery import is_companion

__all__ = [
    "GAP",
    "Lease",
    "collector",
    "group_columns",
    "lag_text",
    "look",
    "oldest_text",
    "report",
    "sampled",
    "state_style",
    "worst",
]

GAP: Final = 2.0
"""Seconds between the two samples of a command that runs once."""

Lease: TypeAlias = Annotated[
    float,
    duration_option(
        "--lease",
        "The consumers' lease; one that is silent for longer counts as gone.",
        default="1m",
        zero=False,
    ),
]

# The worst state first; what one sample does not show may be anything.
_ORDER: Final = (
    GroupState.STALLED,
    GroupState.NO_CONSUMERS,
    GroupState.UNREAD,
    GroupState.BEHIND,
    None,
    GroupState.OK,
    GroupState.IDLE,
)
_STYLES: Final = {
    GroupState.UNREAD: "bold red",
    GroupState.NO_CONSUMERS: "bold red",
    GroupState.STALLED: "bold red",
    GroupState.BEHIND: "yellow",
    GroupState.OK: "green",
    GroupState.IDLE: "dim",
}


def collector(
    server: Server,
    streams: Sequence[str],
    *,
    companions: bool = False,
    per_shard: bool = False,
    lease: float = 60.0,
    on_event: OnEvent | None = None,
) -> Collector:
    """Return a collector of the streams that are named, or that patterns match."""
    names = [stream_name(name, "STREAM") for name in streams if not is_pattern(name)]
    return Collector(
        server.url,
        names,
        patterns=[name for name in streams if is_pattern(name)],
        companions=companions,
        per_shard=per_shard,
        lease=lease,
        on_event=on_event or say_event,
    )


def look(
    watched: Collector,
    work: Callable[[Collector], Awaitable[int]],
    *,
    interrupted: Callable[[], int] | None = None,
) -> None:
    """Run a command with a collector, and exit.

    Args:
        watched: The collector, not open yet.
        work: The command; returns the exit status.
        interrupted: For a command that is meant to be ended by Ctrl-C: returns the
            exit status then.

    Raises:
        Exit: Always.
    """

    async def connected() -> int:
        async with watched as opened:
            try:
                return await work(opened)
            except StreamMissing as error:
                names = near(error.stream, await _names(opened))
                say(f"no stream is named {error.stream!a:.80}; {names}")
                return 1
            except CommandError as error:
                if error.code != "NOGROUP":
                    raise
                say(str(error).partition(" was refused: ")[2])
                return 1

    perform(connected, interrupted)


async def sampled(watched: Collector) -> Snapshot:
    """Poll until the states of all groups are known: twice if that is needed."""
    began = time.monotonic()
    snapshot = await watched.poll()
    states = {group.state for one in snapshot.streams for group in one.groups}
    if None not in states:
        return snapshot
    del snapshot  # of 10,000 groups it takes up megabytes
    await asyncio.sleep(max(0.0, began + GAP - time.monotonic()))
    return await watched.poll()


async def report(
    watched: Collector, snapshot: Snapshot, patterns: Sequence[str] = ()
) -> bool:
    """Say which streams were not found or can't be looked at.

    Args:
        watched: The collector.
        snapshot: Its last poll.
        patterns: The names and patterns that the user gave.

    Returns:
        Whether all of them were found and can be looked at.
    """
    for problem in snapshot.problems:
        say(f"{problem.stream!a:.80} can't be looked at: {problem.text}")
    sought = [f"no stream is named {name!a:.80}" for name in snapshot.missing]
    missing = list(snapshot.missing)
    found = bool(snapshot.streams or snapshot.problems)
    if not found and not snapshot.missing:
        sought = [f"no stream matches {pattern!a:.80}" for pattern in patterns]
        missing = list(patterns)
        if not patterns:
            say("there are no streams in this database")
    if sought:
        names = near(missing[0], await _names(watched))
        say(f"{', '.join(sought)}; {names}")
    return not (sought or snapshot.problems)


async def _names(watched: Collector) -> list[str] | None:
    try:
        return [name for name in await watched.streams() if not is_companion(name)]
    except PenstockError:
        return None  # this user may not list them


def worst(groups: Iterable[GroupStatus]) -> list[GroupStatus]:
    """Return groups in order: the worst state first, then the highest lag."""
    return sorted(
        groups,
        key=lambda g: (_ORDER.index(g.state), -g.lag, -g.pending, g.stream, g.group),
    )


def state_style(group: GroupStatus) -> str:
    """Return the style of a group's state."""
    return "" if group.state is None else _STYLES[group.state]


def group_columns(
    *, stream: bool = False, shards: bool = False, state: bool = True
) -> list[Column[GroupStatus]]:
    """Return the columns of groups.

    Args:
        stream: Whether they are of several streams.
        shards: Whether they are of single shards.
        state: Whether their states are known.
    """
    columns: list[Column[GroupStatus]] = []
    if stream:
        columns.append(text_column("STREAM", lambda g: g.stream))
    if shards:
        columns.append(text_column("SHARD", lambda g: g.key))
    columns.append(text_column("GROUP", lambda g: g.group))
    if state:
        columns.append(
            Column("STATE", lambda g: g.state, _state, priority=1, style=state_style)
        )
    columns += [
        Column("LAG", lambda g: g.lag, lag_text, priority=1, right=True),
        count_column("PENDING", lambda g: g.pending, 2),
        Column(
            "OLDEST",
            lambda g: g.oldest_age_seconds,
            oldest_text,
            priority=2,
            right=True,
        ),
        Column(
            "CONSUMERS",
            lambda g: f"{g.live}/{g.consumers}",
            lambda g: f"{g.live} live of {g.consumers}",
            priority=3,
        ),
        Column("LAST DELIVERED", lambda g: g.last_delivered_id, _delivered, priority=4),
    ]
    return columns


def _name(name: str | None) -> str:
    return _format.text(name)


def _state(group: GroupStatus) -> str:
    return "?" if group.state is None else group.state.value


def lag_text(group: GroupStatus) -> str:
    """Return the lag of a group as a terminal shows it; a bound has `≤`."""
    return _format.count(group.lag, exact=group.lag_exact)


def oldest_text(group: GroupStatus) -> str:
    """Return the age of a group's oldest message; `-` if there is none."""
    return _format.duration(group.oldest_age_seconds) if group.backlog else "-"


def _delivered(group: GroupStatus) -> str:
    age = group.last_delivered_age_seconds
    ago = "" if age is None else f" ({_format.duration(age)} ago)"
    return f"{group.last_delivered_id}{ago}"
