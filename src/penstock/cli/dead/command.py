"""The commands of `penstock dead`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from penstock import EntryId
from penstock._core.messages.envelope import FIELD
from penstock.admin import Admin, DeadLetter
from penstock.cli._admin_call import operate, say
from penstock.cli._options import id_argument, id_option
from penstock.cli._output import emit
from penstock.cli._server import Server, on_server
from penstock.cli.dead import options
from penstock.cli.dead.changing import purge, redrive
from penstock.cli.dead.filter import DeadLetterFilter
from penstock.cli.dead.found import FAILURES, is_empty, is_missing
from penstock.cli.dead.report import (
    COLUMNS,
    COUNTS,
    as_lines,
    count_row,
    letter_row,
)

__all__ = ["dead"]

dead: Final = typer.Typer(
    no_args_is_help=True, help="List, show, count, redrive and purge dead letters."
)


@dead.command("list")
@on_server
def list_(
    stream: options.Stream,
    *,
    server: Server,
    group: options.Group = None,
    error: options.Error = None,
    reason: options.Reason = None,
    after: Annotated[
        EntryId | None,
        id_option("--after", "Begin after the dead letter with this id."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="The maximum number of dead letters.")
    ] = 100,
    dead_letters: options.DeadLetters = None,
) -> None:
    """List a stream's dead letters, oldest first, without payloads and headers."""
    wanted = DeadLetterFilter(stream, dead_letters, None, group, error, reason)

    async def work(admin: Admin) -> bool:
        printer = server.out.printer(COLUMNS)
        shown = 0
        last: DeadLetter | None = None
        letters = admin.dead.each(
            stream, after=after, where=wanted.matches, dead_letters=dead_letters
        )
        async for dead_letter in letters:
            if last is not None and shown == limit:
                say(f"there are more; continue with --after {last.id}")
                break
            printer.add(letter_row(dead_letter))
            shown, last = shown + 1, dead_letter
        if shown:
            printer.end()
        return bool(shown) or await is_empty(admin, wanted)

    operate(server, work, bad=FAILURES)


@dead.command()
@on_server
def show(
    stream: options.Stream,
    id: Annotated[EntryId, id_argument("The id of the dead letter.")],  # noqa: A002
    *,
    server: Server,
    payload: Annotated[
        bool,
        typer.Option("--payload", help="Show the payload and the headers as well."),
    ] = False,
    field: Annotated[
        str,
        typer.Option(metavar="NAME", help="The field that holds the payload."),
    ] = FIELD,
    dead_letters: options.DeadLetters = None,
) -> None:
    """Show one dead letter in full."""

    async def work(admin: Admin) -> bool:
        dead_letter = await admin.dead.read(
            stream, id, dead_letters=dead_letters, field=field
        )
        if dead_letter is None:
            if await is_missing(admin, stream, dead_letters):
                return False
            say(
                f"{stream!a:.80} has no dead letter '{id}'; "
                f"`penstock dead list` lists them"
            )
            return False
        if server.out.json:
            server.out.object(letter_row(dead_letter, whole=True, payload=payload))
        else:
            emit("\n".join(as_lines(dead_letter, payload=payload)))
        return True

    operate(server, work, bad=FAILURES)


@dead.command()
@on_server
def summary(
    stream: options.Stream,
    *,
    server: Server,
    group: options.Group = None,
    error: options.Error = None,
    reason: options.Reason = None,
    before: options.Before = None,
    dead_letters: options.DeadLetters = None,
) -> None:
    """Count dead letters by error and group, with the first and the last time."""
    wanted = DeadLetterFilter(stream, dead_letters, None, group, error, reason, before)

    async def work(admin: Admin) -> bool:
        counts = await admin.dead.summary(
            stream, where=wanted.matches, before=before, dead_letters=dead_letters
        )
        if not counts:
            return await is_empty(admin, wanted)
        rows = [count_row(stream, count) for count in counts]
        server.out.rows(COUNTS, rows)
        return True

    operate(server, work, bad=FAILURES)


dead.command()(redrive)
dead.command()(purge)
