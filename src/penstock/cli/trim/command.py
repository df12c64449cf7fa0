"""`penstock trim`: deletes old entries from a stream."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from penstock import ACKED, AccessError, ConfigurationError, MaxAge, MaxLen
from penstock.admin import Admin, Trimmed, TrimTo
from penstock.cli._admin_call import operate, say
from penstock.cli._destructive import Decision, DryRun, Plan, Yes
from penstock.cli._errors import plain_errors
from penstock.cli._options import age_or_id_option, duration_option, stream_argument
from penstock.cli._server import Server, on_server
from penstock.cli.trim.report import as_sentence, columns, trimmed
from penstock.events import printable
from penstock.message import EntryId

__all__ = ["trim"]


@on_server
def trim(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    *,
    server: Server,
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
        float | None,
        duration_option("--max-age", "Keep younger entries, for example 7d or 12h."),
    ] = None,
    before: Annotated[
        Any,  # typer takes no union: an `EntryId`, a `datetime` or None
        age_or_id_option(
            "--before", "Delete older entries than this time with a zone, age or id."
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
        float | None,
        duration_option(
            "--ignore-idle",
            "With --acked: exclude groups that have been idle for this long; entries "
            "that they have not acknowledged are deleted as well.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete old entries from a stream, and report the group that holds the rest.

    If a group would lose entries that it has not acknowledged, you are asked; without a
    terminal, --yes is needed.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such
    stream; 2 wrong usage, or --yes is missing.
    """
    with plain_errors():
        to = _target(
            acked=acked, max_len=max_len, max_age=max_age, before=before, exact=exact
        )

    async def work(admin: Admin) -> bool:
        try:
            losses = await admin.trim_losses(stream, to, ignore_idle=ignore_idle)
        except AccessError:
            if not yes:
                raise
            losses = None
            say("this user may not see what groups would lose")
        plan = Plan(
            "delete them",
            facts=[as_sentence(loss) for loss in losses or ()],
            loses=bool(losses),
            harmless=True,
        )
        if Decision(dry_run, yes).on(plan) is False:
            return False
        shards = await admin.trim(stream, to, ignore_idle=ignore_idle, dry_run=dry_run)
        server.out.rows(
            columns(dry_run=dry_run),
            [trimmed(shard, dry_run=dry_run, losses=losses) for shard in shards],
        )
        for shard in shards:
            _explain(shard, acked=acked)
        return True

    operate(server, work)


def _target(
    *,
    acked: bool,
    max_len: int | None,
    max_age: float | None,
    before: EntryId | datetime | None,
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
        chosen.append(MaxAge(max_age, exact=exact))
    if before is not None:
        chosen.append(before)
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
