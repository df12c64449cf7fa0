"""`penstock streams` and `penstock groups`: lists streams, and the groups of one."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli import _format
from penstock.cli._admin_call import say
from penstock.cli._columns import count_column, text_column
from penstock.cli._options import stream_argument, streams_argument
from penstock.cli._output import Column
from penstock.cli._server import Server, on_server
from penstock.cli.looking.shared import (
    Lease,
    collector,
    group_columns,
    look,
    report,
    sampled,
    state_style,
    worst,
)
from penstock.monitor import Collector, GroupStatus, StreamStatus

__all__ = ["groups", "streams"]


@on_server
def streams(
    patterns: Annotated[
        list[str] | None,
        streams_argument("Names or shell patterns; default: all streams."),
    ] = None,
    *,
    server: Server,
    all_: Annotated[
        bool,
        typer.Option("--all", help="List streams of dead letters (*.dead) as well."),
    ] = False,
    shards: Annotated[
        bool, typer.Option("--shards", help="One row for each shard.")
    ] = False,
    lease: Lease = 60.0,
) -> None:
    """List streams, each with the group that is worst off.

    LAG and PENDING are the sums of all groups, OLDEST is the age of the oldest message
    that a group has not acknowledged. It takes two seconds where the state of a group
    needs two samples.

    Exit status: 0 done; 1 no connection, refused, or a name or pattern has no stream;
    2 wrong usage.
    """
    watched = collector(
        server, patterns or (), companions=all_, per_shard=shards, lease=lease
    )

    async def work(opened: Collector) -> int:
        snapshot = await sampled(opened)
        rows = snapshot.shards if shards else snapshot.streams
        if rows or server.out.json:
            server.out.rows(_columns(shards=shards), rows)
        return 0 if await report(opened, snapshot, patterns or ()) else 1

    look(watched, work)


def _columns(*, shards: bool) -> list[Column[StreamStatus]]:
    first: Column[StreamStatus] = text_column("STREAM", lambda s: s.stream)
    if shards:
        first = text_column("SHARD", lambda s: s.key)
    columns: list[Column[StreamStatus]] = [
        first,
        Column("SHARDS", lambda s: s.shards, priority=6, right=True),
        count_column("LENGTH", lambda s: s.length, 1),
        count_column("GROUPS", lambda s: len(s.groups), 5),
        Column(
            "WORST GROUP",
            _worst_raw,
            _worst_text,
            priority=3,
            style=_worst_style,
        ),
        Column(
            "LAG",
            lambda s: sum(g.lag for g in s.groups),
            _lag,
            priority=1,
            right=True,
        ),
        count_column("PENDING", lambda s: sum(g.pending for g in s.groups), 2),
        Column("OLDEST", _oldest, _oldest_text, priority=2, right=True),
        Column(
            "DEAD",
            lambda s: s.dead_letters,
            lambda s: "-" if s.dead_letters is None else f"{s.dead_letters:,}",
            priority=4,
            right=True,
        ),
    ]
    if shards:
        return [each for each in columns if each.name not in {"SHARDS", "DEAD"}]
    return columns


def _worst(stream: StreamStatus) -> GroupStatus | None:
    return next(iter(worst(stream.groups)), None)


def _worst_raw(stream: StreamStatus) -> str | None:
    group = _worst(stream)
    return None if group is None else f"{group.group} {group.state or '?'}"


def _worst_text(stream: StreamStatus) -> str:
    group = _worst(stream)
    if group is None:
        return "-"
    return f"{_format.text(group.group, 24)} {group.state or '?'}"


def _worst_style(stream: StreamStatus) -> str:
    group = _worst(stream)
    return "" if group is None else state_style(group)


def _lag(stream: StreamStatus) -> str:
    exact = all(group.lag_exact for group in stream.groups)
    return _format.count(sum(group.lag for group in stream.groups), exact=exact)


def _oldest(stream: StreamStatus) -> float | None:
    ages = [g.oldest_age_seconds for g in stream.groups if g.backlog]
    return max((age for age in ages if age is not None), default=None)


def _oldest_text(stream: StreamStatus) -> str:
    return _format.duration(_oldest(stream))


@on_server
def groups(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    *,
    server: Server,
    shards: Annotated[
        bool, typer.Option("--shards", help="One row for each group and shard.")
    ] = False,
    lease: Lease = 60.0,
) -> None:
    """List the groups of a stream, with their states.

    LAG is what was not delivered yet; ≤ marks an upper bound, where the server does not
    know the number. OLDEST is the age of the oldest message that is not acknowledged.

    unread: nothing was ever delivered, and there are no consumers. no consumers: there
    is work, and no consumer has asked for 10 s. stalled: there is work and consumers
    ask, but for a minute nothing was delivered or acknowledged. behind: the lag grows.
    ok, idle: with and without traffic in the last minute.

    Exit status: 0 done; 1 no connection, refused, or no such stream; 2 wrong usage.
    """
    watched = collector(server, [stream], per_shard=shards, lease=lease)

    async def work(opened: Collector) -> int:
        snapshot = await sampled(opened)
        if not await report(opened, snapshot, [stream]):
            return 1
        rows = snapshot.shards if shards else snapshot.streams
        found = [group for one in rows for group in one.groups]
        if not found:
            say(f"stream {stream!a:.80} has no groups")
        else:
            rows_of = found if shards else worst(found)
            server.out.rows(group_columns(shards=shards), rows_of)
        return 0

    look(watched, work)
