"""`penstock info`: all that is known of one stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from penstock.cli import _format
from penstock.cli._columns import count_column, text_column
from penstock.cli._options import stream_argument
from penstock.cli._output import Column, emit
from penstock.cli._server import Server, on_server
from penstock.cli.looking.shared import (
    Lease,
    collector,
    group_columns,
    look,
    report,
    sampled,
    worst,
)
from penstock.monitor import Collector, ShardStatus, StreamDetails

__all__ = ["info"]

_SHARDS: Final[list[Column[ShardStatus]]] = [
    text_column("SHARD", lambda s: s.key),
    count_column("LENGTH", lambda s: s.length, 1),
    Column("FIRST ID", lambda s: s.first_id, priority=3),
    Column("LAST ID", lambda s: s.last_id, priority=2),
    Column(
        "ADDED",
        lambda s: s.entries_added,
        lambda s: "-" if s.entries_added is None else f"{s.entries_added:,}",
        priority=4,
        right=True,
    ),
    Column(
        "MEMORY",
        lambda s: s.memory_bytes,
        lambda s: _format.size(s.memory_bytes),
        priority=2,
        right=True,
    ),
]


@on_server
def info(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    *,
    server: Server,
    lease: Lease = 60.0,
) -> None:
    """Show one stream completely: its shards, groups, dead letters and trimming.

    MEMORY is the server's estimate.

    Exit status: 0 done; 1 no connection, refused, or no such stream; 2 wrong usage.
    """
    watched = collector(server, [stream], lease=lease)

    async def work(opened: Collector) -> int:
        snapshot = await sampled(opened)
        if not await report(opened, snapshot, [stream]):
            return 1
        [found] = snapshot.streams
        details = await opened.details(found)
        if server.out.json:
            server.out.object(details)
            return 0
        for name, text, raw in _facts(details):
            emit(f"{name}: {text}" if server.out.is_table else f"{name}\t{raw}")
        emit("")
        server.out.rows(_SHARDS, details.shards)
        if details.groups:
            emit("")
            server.out.rows(group_columns(), worst(details.groups))
        return 0

    look(watched, work)


def _facts(details: StreamDetails) -> Iterator[tuple[str, str, object]]:
    """Yield each fact about the stream as a whole: name, text, and value for a pipe."""
    yield "stream", _format.text(details.stream), _format.text(details.stream, 1000)
    if details.recorded_shards is not None:
        number = details.recorded_shards
        yield "shards by the record", f"{number:,}", number
    if details.sharder:
        yield "sharder", _format.text(details.sharder), _format.text(details.sharder)
    yield "length", f"{details.length:,}", details.length
    size = details.memory_bytes
    yield "memory", _format.size(size), "-" if size is None else size
    letters = details.dead_letters
    known = "not known" if letters is None else f"{letters:,}"
    yield "dead letters", known, "-" if letters is None else letters
    yield "trimming", _trimming(details), _trimming(details)
    if not details.groups:
        yield "groups", "none", "none"


def _trimming(details: StreamDetails) -> str:
    """Say whether anything deletes entries of the stream."""
    removed = details.entries_removed
    if removed is None:
        return "not known, since this server does not count entries"
    if not removed:
        return "nothing has deleted any entry so far"
    added = details.entries_added
    return f"{removed:,} of {added:,} entries were deleted"
