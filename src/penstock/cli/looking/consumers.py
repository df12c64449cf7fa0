"""`penstock consumers` and `penstock pending`: who has what, and for how long."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from penstock.cli import _format
from penstock.cli._admin_call import say
from penstock.cli._columns import count_column, duration_column, text_column
from penstock.cli._options import duration_option, group_argument, stream_argument
from penstock.cli._output import Column
from penstock.cli._server import Server, on_server
from penstock.cli.looking.shared import Lease, collector, look
from penstock.monitor import Collector, ConsumerStatus, PendingCount, PendingStatus
from penstock.monitor.model import ConsumerState

__all__ = ["CONSUMERS_OF_GROUPS", "consumers", "pending"]

_STYLES: Final = {
    ConsumerState.LIVE: "green",
    ConsumerState.SILENT: "yellow",
    ConsumerState.GONE: "red",
}

_CONSUMERS: Final[list[Column[ConsumerStatus]]] = [
    text_column("CONSUMER", lambda c: c.consumer),
    Column("STATE", lambda c: c.state, priority=1, style=lambda c: _STYLES[c.state]),
    count_column("PENDING", lambda c: c.pending, 1),
    duration_column("OLDEST", lambda c: c.oldest_age_seconds, 2),
    duration_column("ASKED", lambda c: c.asked_seconds, 2),
    duration_column("GOT", lambda c: c.got_seconds, 3),
    text_column("HOST", lambda c: c.host, 4),
    Column("PID", lambda c: c.pid, priority=4, right=True),
]
CONSUMERS_OF_GROUPS: Final[list[Column[ConsumerStatus]]] = [
    text_column("STREAM", lambda c: c.stream, 5),
    text_column("GROUP", lambda c: c.group),
    *_CONSUMERS,
]
"""The columns of consumers of several groups."""
_PENDING: Final[list[Column[PendingStatus]]] = [
    Column("ID", lambda p: p.id),
    duration_column("AGE", lambda p: p.age_seconds, 2),
    duration_column("IDLE", lambda p: p.idle_seconds, 1),
    Column("ATTEMPTS", lambda p: p.attempts, priority=1, right=True),
    text_column("CONSUMER", lambda p: p.consumer, 2),
    Column("SHARD", lambda p: p.shard, priority=3, right=True),
]
_COUNTS: Final[list[Column[PendingCount]]] = [
    Column("BY", lambda c: "consumer" if c.attempts is None else "attempts"),
    Column(
        "VALUE",
        lambda c: c.consumer if c.attempts is None else c.attempts,
        lambda c: _format.text(c.consumer) if c.attempts is None else str(c.attempts),
    ),
    count_column("PENDING", lambda c: c.pending),
    Column("OLDEST ID", lambda c: c.oldest_id, priority=2),
    duration_column("OLDEST", lambda c: c.oldest_age_seconds, 1),
]


@on_server
def consumers(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    group: Annotated[str, group_argument()],
    *,
    server: Server,
    lease: Lease = 60.0,
) -> None:
    """List the consumers of a group.

    STATE: live consumers have asked the server for something in the last 10 s; silent
    ones have not; gone ones have not for longer than the lease, so that others claim
    what they have. ASKED and GOT say how long ago a consumer asked, and was given or
    acknowledged something (from Redis 7.2). HOST and PID are taken from the name, if
    Penstock chose it. A consumer whose handlers are all busy asks only when it renews
    its leases, every third of a lease.

    Exit status: 0 done; 1 no connection, refused, or no such stream or group; 2 wrong
    usage.
    """

    async def work(opened: Collector) -> int:
        found = await opened.consumers(stream, group)
        if found:
            server.out.rows(_CONSUMERS, found)
        else:
            say(f"group {group!a:.80} of {stream!a:.80} has no consumers")
        return 0

    look(collector(server, [], lease=lease), work)


@on_server
def pending(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    group: Annotated[str, group_argument()],
    *,
    server: Server,
    consumer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only messages of this consumer.")
    ] = None,
    idle: Annotated[
        float,
        duration_option(
            "--idle",
            "Only messages that were not delivered, claimed or renewed for this long.",
        ),
    ] = 0.0,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="The maximum number, oldest first.")
    ] = 100,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary", help="Count all of them, by consumer and by attempts."
        ),
    ] = False,
) -> None:
    """List messages that were delivered and are not acknowledged, oldest first.

    AGE says how long ago a message was sent, IDLE how long ago it was delivered,
    claimed or renewed: longer than the lease means that nobody has it.

    Exit status: 0 done; 1 no connection, refused, or no such stream or group; 2 wrong
    usage.
    """

    async def work(opened: Collector) -> int:
        shown: int
        if summary:
            counts = await opened.pending_counts(
                stream, group, consumer=consumer, idle=idle
            )
            shown = len(counts)
            if counts:
                server.out.rows(_COUNTS, counts)
        else:
            found = await opened.pending(
                stream, group, consumer=consumer, idle=idle, limit=limit + 1
            )
            shown = len(found)
            if found:
                server.out.rows(_PENDING, found[:limit])
            if shown > limit:
                say("there are more; pass a higher --limit, or --summary")
        if not shown:
            such = "such pending" if consumer or idle else "pending"
            say(f"group {group!a:.80} of {stream!a:.80} has no {such} messages")
        return 0

    look(collector(server, []), work)
