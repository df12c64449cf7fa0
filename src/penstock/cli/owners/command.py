"""`penstock owners`: shows who owns which shard, and moves a shard."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock import ConfigurationError
from penstock.admin import Admin, OwnedShard, Owners
from penstock.cli._admin_call import Json, Url, confirmed, operate, say
from penstock.cli._errors import plain_errors
from penstock.cli.owners.report import as_json, as_table, move_as_json, move_as_lines
from penstock.events import printable

__all__ = ["owners"]


def owners(
    stream: Annotated[str, typer.Argument(help="The stream, with all its shards.")],
    *,
    group: Annotated[str, typer.Option(help="The group whose members own shards.")],
    url: Url = None,
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
    json: Json = False,
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

    async def show(admin: Admin) -> bool:
        found = await admin.owners(stream, group)
        for line in as_json(found) if json else as_table(found):
            print(line)
        if not found.members:
            say(f"group {group!a:.80} has no members, so nobody owns its shards")
        return True

    async def change(admin: Admin, shard: int) -> bool:
        take = force
        if force and not yes:
            owned = _owned(await admin.owners(stream, group), shard, to)
            take = owned is not None
            if owned is not None and not _allowed(owned):
                return False
        moved = await admin.move(stream, group, shard, to, force=take)
        for line in [move_as_json(moved)] if json else move_as_lines(moved):
            print(line)
        return True

    operate(url, show if move is None else lambda admin: change(admin, move))


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
