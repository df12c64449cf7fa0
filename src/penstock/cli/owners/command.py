"""`penstock owners`: shows who owns which shard, and moves a shard."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock import ConfigurationError
from penstock.admin import Admin, OwnedShard, Owners
from penstock.cli._admin_call import confirmed, operate, say
from penstock.cli._errors import plain_errors
from penstock.cli._options import stream_argument
from penstock.cli._output import emit
from penstock.cli._server import Server, on_server
from penstock.cli.owners.report import (
    MEMBERS,
    SHARDS,
    member_row,
    moved,
    owned_row,
    sentences,
)
from penstock.events import printable

__all__ = ["owners"]


@on_server
def owners(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    group: Annotated[
        str | None,
        typer.Argument(metavar="GROUP", help="The group whose members own shards."),
    ] = None,
    *,
    server: Server,
    group_option: Annotated[
        str | None,
        typer.Option("--group", metavar="GROUP", help="The same, as an option."),
    ] = None,
    move: Annotated[
        int | None,
        typer.Option(metavar="SHARD", help="Move the shard with this number."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="MEMBER",
            help="With --move: the member that gets it; default: another one, with "
            "the fewest shards.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With --move: take the shard away from an owner that does not drain; "
            "messages may be handled twice.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --force: do not ask.")
    ] = False,
) -> None:
    """Show which member of a group owns which shard, or move a shard.

    A move changes which member should own the shard; its owner drains it first.
    With --force it is taken away at once: on a terminal you are asked, elsewhere
    nothing is changed without --yes.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such
    stream or group; 2 wrong usage, no such shard or member, or --yes is missing.
    """
    with plain_errors():
        _check(move=move, to=to, force=force, yes=yes)
        name = _only(group, group_option)

    async def show(admin: Admin) -> bool:
        found = await admin.owners(stream, name)
        server.out.rows(SHARDS, map(owned_row, found.shards))
        if found.members and not server.out.json:
            emit("")
        if found.members:
            server.out.rows(MEMBERS, map(member_row, found.members))
        if not found.members:
            say(f"group {name!a:.80} has no members, so nobody owns its shards")
        return True

    async def change(admin: Admin, shard: int) -> bool:
        take = force
        if force and not yes:
            owned = _owned(await admin.owners(stream, name), shard, to)
            take = owned is not None
            if owned is not None and not _allowed(owned):
                return False
        move = await admin.move(stream, name, shard, to, force=take)
        if server.out.json:
            server.out.object(moved(move))
        else:
            for line in sentences(move):
                emit(line)
        return True

    operate(server, show if move is None else lambda admin: change(admin, move))


def _only(argument: str | None, option: str | None) -> str:
    """Return the group, which has to be named once.

    Raises:
        ConfigurationError: It is not named, or twice.
    """
    named = [name for name in (argument, option) if name is not None]
    if len(named) != 1:
        raise ConfigurationError(
            "name one group: penstock owners STREAM GROUP, or --group GROUP"
        )
    return named[0]


def _check(*, move: int | None, to: str | None, force: bool, yes: bool) -> None:
    """Check that the options fit together.

    Raises:
        ConfigurationError: They do not.
    """
    if move is None and (to is not None or force or yes):
        raise ConfigurationError(
            "--to, --force and --yes are for moving a shard; name it by --move"
        )


def _owned(owners: Owners, shard: int, to: str | None) -> OwnedShard | None:
    """Return the shard, if it has an owner that would lose it."""
    for owned in owners.shards:
        if owned.shard.number == shard and owned.owner not in {None, to}:
            return owned
    return None


def _allowed(owned: OwnedShard) -> bool:
    """Say what taking a shard away means, and ask whether to do it.

    Raises:
        Exit: There is nobody to ask, so `--yes` is needed.
    """
    number = owned.shard.number
    say(
        f"{printable(owned.owner or '')} owns shard {number}, with {owned.pending:,} "
        f"pending entries; those that it is handling are handled twice"
    )
    return confirmed(f"take shard {number} away from it")
