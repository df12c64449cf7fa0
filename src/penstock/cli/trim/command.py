"""`penstock trim`: deletes old entries from a stream."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock import ACKED, ConfigurationError, MaxAge, MaxLen
from penstock.admin import Admin, Trimmed, TrimTo
from penstock.cli._admin_call import Json, Url, confirmed, operate, say
from penstock.cli._errors import plain_errors
from penstock.cli._values import bound, duration
from penstock.cli.trim.report import as_json, as_row, as_sentence, heading
from penstock.events import printable

__all__ = ["trim"]


def trim(
    stream: Annotated[str, typer.Argument(help="The stream, with all its shards.")],
    *,
    url: Url = None,
    acked: Annotated[
        bool,
        typer.Option(
            "--acked", help="Delete the entries that every group has acknowledged."
        ),
    ] = False,
    max_len: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep the newest N entries of each shard."),
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Keep younger entries, for example 7d or 12h."
        ),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION",
            help="Delete older entries than this time with a zone, age or id.",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="With --max-len and --max-age: delete to the exact limit, not only "
            "whole nodes of the stream; this is slower.",
        ),
    ] = False,
    ignore_idle: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="With --acked: exclude groups that have been idle for this long; "
            "entries that they have not acknowledged are deleted as well.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only report how many entries would be deleted."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Delete entries also if groups have not acknowledged them."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Delete old entries from a stream, and report the group that holds the rest.

    If a group would lose entries that it has not acknowledged, nothing is
    deleted without --yes; on a terminal you are asked.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such
    stream; 2 wrong usage, or --yes is missing.
    """
    with plain_errors():
        to = _target(
            acked=acked, max_len=max_len, max_age=max_age, before=before, exact=exact
        )
        idle = None if ignore_idle is None else duration(ignore_idle, "--ignore-idle")

    async def work(admin: Admin) -> bool:
        losses = None
        if dry_run or not yes:
            losses = await admin.trim_losses(stream, to, ignore_idle=idle)
            for loss in losses:
                say(as_sentence(loss))
            if losses and not (dry_run or confirmed("delete them")):
                return False
        shards = await admin.trim(stream, to, ignore_idle=idle, dry_run=dry_run)
        if not json:
            print(heading(dry_run=dry_run))
        for trimmed in shards:
            line = as_json(trimmed, dry_run=dry_run, losses=losses)
            print(line if json else as_row(trimmed))
            _explain(trimmed, acked=acked)
        return True

    operate(url, work)


def _target(
    *,
    acked: bool,
    max_len: int | None,
    max_age: str | None,
    before: str | None,
    exact: bool,
) -> TrimTo:
    """Return the entries to keep; exactly one option must name them.

    Raises:
        ConfigurationError: No option does, or several do, or one is invalid.
    """
    chosen: list[TrimTo] = []
    if acked:
        chosen.append(ACKED)
    if max_len is not None:
        chosen.append(MaxLen(max_len, exact=exact))
    if max_age is not None:
        chosen.append(MaxAge(duration(max_age, "--max-age"), exact=exact))
    if before is not None:
        chosen.append(bound(before, "--before"))
    if len(chosen) != 1:
        raise ConfigurationError(
            "choose the entries to keep or to delete by exactly one of --acked, "
            "--max-len, --max-age and --before"
        )
    if exact and not isinstance(chosen[0], MaxLen | MaxAge):
        raise ConfigurationError(
            "--acked and --before are always exact; leave out --exact"
        )
    return chosen[0]


def _explain(trimmed: Trimmed, *, acked: bool) -> None:
    """Print what the table has no column for."""
    key = printable(trimmed.shard.key)
    if acked and trimmed.floor is None:
        say(f"{key}: there are no groups, or all were excluded, so nothing is deleted")
    if trimmed.ignored:
        names = ", ".join(printable(name) for name in trimmed.ignored)
        say(f"{key}: these groups are idle and were excluded: {names}")
