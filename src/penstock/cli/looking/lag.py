"""`penstock lag`: the lag of groups, and a check of limits for scripts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from penstock.cli import _format
from penstock.cli._admin_call import near, say
from penstock.cli._options import duration_option
from penstock.cli._server import Server, on_server
from penstock.cli.looking.shared import collector, group_columns, look, report
from penstock.monitor import Collector, GroupStatus

__all__ = ["lag"]

_EXCEEDED: Final = 3
"""The status of a check that has failed."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a group may have: a lag, and an age of its oldest message in seconds."""

    lag: int | None
    age: float | None

    def complaints(self, group: GroupStatus) -> list[str]:
        """Return what exceeds the limits, a sentence each."""
        found = []
        where = f"group {_format.text(group.group)} of {_format.text(group.stream)}"
        if self.lag is not None and group.lag > self.lag:
            number = f"{group.lag:,}" if group.lag_exact else f"up to {group.lag:,}"
            found.append(f"{where} has a lag of {number}, more than {self.lag:,}")
        age = group.oldest_age_seconds
        if self.age is not None and group.backlog and age is None:
            found.append(f"{where} has messages whose age is not known")
        elif self.age is not None and age is not None and age > self.age:
            limit = _format.duration(self.age)
            shown = _format.duration(age)
            found.append(
                f"{where} has a message that is {shown} old, more than {limit}"
            )
        return found


@on_server
def lag(
    stream: Annotated[
        str | None,
        typer.Argument(
            metavar="[STREAM]", help="A name or shell pattern; default: all streams."
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Argument(metavar="[GROUP]", help="Only this group.")
    ] = None,
    *,
    server: Server,
    most: Annotated[
        int | None,
        typer.Option(
            "--max", metavar="N", min=0, help="Fail if a lag is higher than this."
        ),
    ] = None,
    max_age: Annotated[
        float | None,
        duration_option(
            "--max-age", "Fail if a message that is not acknowledged is older."
        ),
    ] = None,
    watch: Annotated[
        float | None,
        duration_option("--watch", "Print again at this interval.", zero=False),
    ] = None,
) -> None:
    """Print the lag of each group, and check it against limits.

    It polls once, for scripts, cron and Nagios. Where the server does not know a
    lag, it is the upper bound (≤), so a check never passes by mistake.

    Exit status: 0 all groups are within the limits; 1 no connection, refused, or no
    such stream or group; 2 wrong usage; 3 a limit is exceeded. With --watch it ends
    with Ctrl-C, and has the status of the last look.
    """
    watched = collector(server, [] if stream is None else [stream])
    limits = _Limits(most, max_age)
    last = 0

    async def work(opened: Collector) -> int:
        nonlocal last
        while True:
            last = await _look(opened, server, stream, group, limits)
            if watch is None:
                return last
            await asyncio.sleep(watch)

    look(watched, work, interrupted=None if watch is None else lambda: last)


async def _look(
    opened: Collector,
    server: Server,
    stream: str | None,
    group: str | None,
    limits: _Limits,
) -> int:
    """Print all lags once, and return the exit status."""
    snapshot = await opened.poll()
    patterns = [] if stream is None else [stream]
    complete = await report(opened, snapshot, patterns)
    groups = [each for one in snapshot.streams for each in one.groups]
    found = [each for each in groups if group in {None, each.group}]
    if group is not None and not found and snapshot.streams:
        names = sorted({each.group for each in groups})
        say(f"no group is named {group!a:.80}; {near(group, names, 'group')}")
        complete = False
    elif snapshot.streams and not found:
        say("the stream has no groups" if stream else "the streams have no groups")
    if found:
        columns = group_columns(stream=True, state=False)
        server.out.rows(columns, found)
    complaints = [text for each in found for text in limits.complaints(each)]
    for text in complaints:
        say(text)
    if not complete:
        return 1
    return _EXCEEDED if complaints else 0
