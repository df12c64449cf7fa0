"""`penstock read` and `penstock tail`: print messages, without a group."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import typer

from penstock import ConfigurationError, EntryId, Start
from penstock._core.protocol.replies import RawEntry
from penstock._tasks.reading.follower import Follower, open_follower
from penstock._tasks.reading.positions import first_id
from penstock._tasks.reading.replay_reader import ReplayRange, replay_pages
from penstock.admin import Admin
from penstock.cli._admin_call import operate, say, say_event
from penstock.cli._errors import plain_errors
from penstock.cli._options import position_option, stream_argument
from penstock.cli._server import Server, on_server
from penstock.cli.messages.shown import MessagePrinter
from penstock.message import Shard

__all__ = ["read", "tail"]

_PAGE = 1000

_Stream: TypeAlias = Annotated[str, stream_argument("The stream, with all its shards.")]
_ShardNumber: TypeAlias = Annotated[
    int | None,
    typer.Option("--shard", metavar="N", min=0, help="Only this shard."),
]
_NoPayload: TypeAlias = Annotated[
    bool, typer.Option("--no-payload", help="Print no payloads.")
]
_Full: TypeAlias = Annotated[
    bool,
    typer.Option("--full", help="Print whole payloads, not only their beginning."),
]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The messages to print.

    Attributes:
        stream: The stream.
        shard: The number of the only shard; None for all.
        low: The first position.
        high: The last position, included.
        reverse: Whether the newest message comes first.
        limit: The most messages; None for all.
        last: How many of the newest messages come before those that are added; None
            for all between the positions.
        follow: Whether messages that are added are printed too.
    """

    stream: str
    shard: int | None
    low: EntryId | datetime = EntryId.MIN
    high: EntryId | datetime = EntryId.MAX
    reverse: bool = False
    limit: int | None = None
    last: int | None = None
    follow: bool = False


@on_server
def read(
    stream: _Stream,
    *,
    server: Server,
    from_: Annotated[
        Any,  # typer takes no union: a `Start`, an `EntryId`, a `datetime` or None
        position_option("--from", "The first position.", default="earliest"),
    ] = None,
    to: Annotated[
        Any, position_option("--to", "The last position.", default="latest")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The maximum number.")
    ] = None,
    reverse: Annotated[
        bool, typer.Option("--reverse", help="The newest message first.")
    ] = False,
    shard: _ShardNumber = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Then print new messages as they arrive, until Ctrl-C."
        ),
    ] = False,
    no_payload: _NoPayload = False,
    full: _Full = False,
) -> None:
    """Print the messages of a stream, oldest first.

    No group is needed, and none is touched. Messages of all shards are in the order of
    their ids. With --json, `penstock send --json-lines` reads the output.

    Exit status: 0 done, also if there are no such messages, and with --follow after
    Ctrl-C; 1 no connection, refused, or no such stream or shard; 2 wrong usage.
    """
    with plain_errors():
        wanted = _Wanted(
            stream,
            shard,
            *_between(from_, to, reverse=reverse, follow=follow),
            reverse=reverse,
            limit=limit,
            last=0 if from_ is Start.LATEST else None,
            follow=follow,
        )
    _print(server, wanted, payload=not no_payload, full=full)


@on_server
def tail(
    stream: _Stream,
    *,
    server: Server,
    last: Annotated[
        int,
        typer.Option(
            "-n",
            "--last",
            metavar="N",
            min=0,
            max=100_000,
            help="The number of existing messages to print first.",
        ),
    ] = 10,
    shard: _ShardNumber = None,
    no_payload: _NoPayload = False,
    full: _Full = False,
) -> None:
    """Print the last messages of a stream, then new ones as they arrive, until Ctrl-C.

    No group is needed, and none is touched.

    Exit status: 0 after Ctrl-C; 1 no connection, refused, or no such stream or shard;
    2 wrong usage.
    """
    wanted = _Wanted(stream, shard, last=last, follow=True)
    _print(server, wanted, payload=not no_payload, full=full)


def _between(
    from_: Start | EntryId | datetime | None,
    to: Start | EntryId | datetime | None,
    *,
    reverse: bool,
    follow: bool,
) -> tuple[EntryId | datetime, EntryId | datetime]:
    """Return the first and the last position.

    Raises:
        ConfigurationError: The options select nothing, or exclude each other.
    """
    if follow and (reverse or to is not None):
        raise ConfigurationError(
            "--follow goes on after the newest message; leave out --reverse and --to, "
            "or --follow"
        )
    if from_ is Start.LATEST and not follow:
        raise ConfigurationError(
            "--from latest leaves nothing to read; pass --follow as well, or an age "
            "like 15m"
        )
    if to is Start.EARLIEST:
        raise ConfigurationError(
            "--to earliest leaves nothing to read; pass an id, a time or an age"
        )
    return (
        EntryId.MIN if from_ is None or isinstance(from_, Start) else from_,
        EntryId.MAX if to is None or isinstance(to, Start) else to,
    )


def _print(server: Server, wanted: _Wanted, *, payload: bool, full: bool) -> None:
    """Print messages, and exit."""

    async def work(admin: Admin) -> bool:
        shards = await admin.keys(wanted.stream)
        if wanted.shard is not None:
            numbers = ", ".join(str(shard.number) for shard in shards[:20])
            shards = [one for one in shards if one.number == wanted.shard]
            if not shards:
                name = f"{wanted.stream!a:.80}"
                say(f"{name} has no shard {wanted.shard}; there are: {numbers}")
                return False
        printer = MessagePrinter(
            server.out, payload=payload, full=full, several=len(shards) > 1
        )
        count = await _each(server.url, wanted, shards, printer.add)
        printer.head()
        if not count:
            say(f"{wanted.stream!a:.80} has no such messages")
        return True

    operate(server, work, interrupted=(lambda: 0) if wanted.follow else None)


async def _each(
    url: str,
    wanted: _Wanted,
    shards: Sequence[Shard],
    show: Callable[[Shard, RawEntry], None],
) -> int:
    """Show each message, and return their number."""
    count = 0
    async with aclosing(_messages(url, wanted, shards)) as messages:
        async for shard, entry in messages:
            show(shard, entry)
            count += 1
            if count == wanted.limit:
                break
    return count


async def _messages(
    url: str, wanted: _Wanted, shards: Sequence[Shard]
) -> AsyncGenerator[tuple[Shard, RawEntry], None]:
    """Yield messages: those that are there, and then those that are added."""
    grows = wanted.shard is None
    following = open_follower(url, wanted.stream, None if grows else shards, say_event)
    # It is opened first, so that nothing is missed between the two.
    async with following if wanted.follow else nullcontext() as follower:
        async with aclosing(_present(url, wanted, shards)) as present:
            async for shard, entry in present:
                if follower is not None:
                    follower.passed(shard, EntryId.parse(entry[0]))
                yield shard, entry
        if follower is not None:
            async with aclosing(_added(follower, wanted)) as added:
                async for found in added:
                    yield found


async def _present(
    url: str, wanted: _Wanted, shards: Sequence[Shard]
) -> AsyncGenerator[tuple[Shard, RawEntry], None]:
    """Yield the messages that are there."""
    if wanted.last == 0:
        return
    limit = wanted.last or wanted.limit or _PAGE
    reach = ReplayRange(
        stream=wanted.stream,
        shards=shards,
        search=False,
        low=wanted.low,
        high=wanted.high,
        reverse=wanted.reverse or wanted.last is not None,
        page=min(limit, _PAGE),
    )
    newest: list[tuple[Shard, RawEntry]] = []
    async with aclosing(replay_pages(url, reach, say_event)) as pages:
        async for page in pages:
            for found in page:
                if wanted.last is None:
                    yield found
                elif len(newest) < wanted.last:
                    newest.append(found)
            if len(newest) == wanted.last:
                break
    for found in reversed(newest):
        yield found


async def _added(
    follower: Follower, wanted: _Wanted
) -> AsyncGenerator[tuple[Shard, RawEntry], None]:
    """Yield the messages that are added."""
    async with aclosing(follower.entries()) as batches:
        async for batch in batches:
            for shard, entry in batch:
                id_ = EntryId.parse(entry[0])
                if id_ >= first_id(wanted.low, id_):
                    yield shard, entry
