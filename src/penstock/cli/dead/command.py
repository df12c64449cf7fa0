"""The commands of `penstock dead`."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import typer

from penstock._core.messages.envelope import FIELD
from penstock.admin import Admin, DeadLetter
from penstock.admin._selection import Location, Selection
from penstock.cli._admin_call import Json, Url, operate, say
from penstock.cli._errors import plain_errors
from penstock.cli._values import entry_id
from penstock.cli.dead.filter import DeadLetterFilter
from penstock.cli.dead.report import HEADING, as_json, as_lines, as_row, outcome

__all__ = ["dead"]

dead: Final = typer.Typer(
    no_args_is_help=True, help="List, show, redrive and purge dead letters."
)

# Events that report dead letters which a command has left out.
_FAILURES: Final = ("letters_refused",)

_Stream: TypeAlias = Annotated[
    str, typer.Argument(help="The stream that the dead letters come from.")
]
_Group: TypeAlias = Annotated[
    str | None, typer.Option(help="Only dead letters of this group.")
]
_Error: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="Only dead letters with this exception."),
]
_Reason: TypeAlias = Annotated[
    str | None, typer.Option(help="Only dead letters with this text in the reason.")
]
_Ids: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--id", help="Only the dead letter with this id; may be repeated."),
]
_Limit: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="The maximum number, oldest first.")
]
_Yes: TypeAlias = Annotated[
    bool, typer.Option("--yes", help="Select all dead letters.")
]
_DeadLetters: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--dead-letters",
        help="The stream that contains the dead letters; default: STREAM.dead.",
    ),
]


@dead.command("list")
def list_(
    stream: _Stream,
    *,
    url: Url = None,
    group: _Group = None,
    error: _Error = None,
    reason: _Reason = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Begin after the dead letter with this id."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="The maximum number of dead letters.")
    ] = 100,
    dead_letters: _DeadLetters = None,
    json: Json = False,
) -> None:
    """List a stream's dead letters, oldest first, without payloads and headers."""
    options = DeadLetterFilter(stream, dead_letters, None, group, error, reason)
    with plain_errors():
        above = None if after is None else entry_id(after, "--after")

    async def work(admin: Admin) -> bool:
        shown = 0
        last: DeadLetter | None = None
        letters = admin.dead.each(
            stream, after=above, where=options.matches, dead_letters=dead_letters
        )
        async for dead_letter in letters:
            if last is not None and shown == limit:
                say(f"there are more; continue with --after {last.id}")
                break
            if not (json or shown):
                print(HEADING, flush=True)
            print(as_json(dead_letter) if json else as_row(dead_letter), flush=True)
            shown, last = shown + 1, dead_letter
        return bool(shown) or await _is_empty(admin, stream, dead_letters)

    operate(url, work, bad=_FAILURES)


@dead.command()
def show(
    stream: _Stream,
    id: Annotated[str, typer.Argument(help="The id of the dead letter.")],  # noqa: A002
    *,
    url: Url = None,
    payload: Annotated[
        bool,
        typer.Option("--payload", help="Show the payload and the headers as well."),
    ] = False,
    field: Annotated[
        str,
        typer.Option(metavar="NAME", help="The field that holds the payload."),
    ] = FIELD,
    dead_letters: _DeadLetters = None,
    json: Json = False,
) -> None:
    """Show one dead letter in full."""
    with plain_errors():
        wanted = entry_id(id, "ID")

    async def work(admin: Admin) -> bool:
        dead_letter = await admin.dead.read(
            stream, wanted, dead_letters=dead_letters, field=field
        )
        if dead_letter is None:
            if await _is_missing(admin, stream, dead_letters):
                return False
            say(
                f"{stream!a:.80} has no dead letter {id!a:.60}; "
                f"`penstock dead list` lists them"
            )
            return False
        if json:
            print(as_json(dead_letter, whole=True, payload=payload))
        else:
            print("\n".join(as_lines(dead_letter, payload=payload)))
        return True

    operate(url, work, bad=_FAILURES)


@dead.command()
def redrive(
    stream: _Stream,
    *,
    url: Url = None,
    id: _Ids = None,  # noqa: A002 - the option's name
    group: _Group = None,
    error: _Error = None,
    reason: _Reason = None,
    limit: _Limit = None,
    yes: _Yes = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="STREAM",
            help="Send the messages to this stream instead of their shards.",
        ),
    ] = None,
    dead_letters: _DeadLetters = None,
    json: Json = False,
) -> None:
    """Send dead letters back to the shards that they come from, as new messages.

    The exit status is 1 if a dead letter named by --id was not redriven.
    """
    options = DeadLetterFilter(
        stream, dead_letters, id, group, error, reason, limit=limit, yes=yes
    )
    with plain_errors():
        selection = options.select("redrive")

    async def work(admin: Admin) -> bool:
        moved = await admin.dead.select(selection).redrive(to)
        print(outcome("redriven", moved, as_json=json))
        return await _found(admin, selection, moved)

    operate(url, work, bad=_FAILURES)


@dead.command()
def purge(
    stream: _Stream,
    *,
    url: Url = None,
    id: _Ids = None,  # noqa: A002 - the option's name
    group: _Group = None,
    error: _Error = None,
    reason: _Reason = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION",
            help="Only dead letters older than this time with a zone, age or id.",
        ),
    ] = None,
    limit: _Limit = None,
    yes: _Yes = False,
    dead_letters: _DeadLetters = None,
    json: Json = False,
) -> None:
    """Delete dead letters permanently.

    The exit status is 1 if an entry named by --id did not exist.
    """
    options = DeadLetterFilter(
        stream, dead_letters, id, group, error, reason, before, limit, yes
    )
    with plain_errors():
        selection = options.select("purge")

    async def work(admin: Admin) -> bool:
        deleted = await admin.dead.select(selection).purge(all=yes)
        print(outcome("purged", deleted, as_json=json))
        return await _found(admin, selection, deleted)

    operate(url, work, bad=_FAILURES)


async def _found(admin: Admin, selection: Selection, done: int) -> bool:
    """Return whether the selected dead letters were found; print it if not."""
    where = selection.location
    if not done and not await _is_empty(admin, where.stream, where.name):
        return False
    missed = 0 if selection.ids is None else len(selection.ids) - done
    if missed:
        say(
            f"{missed} of these ids were not found among the dead letters of "
            f"{where.stream!a:.80}"
        )
    return not missed


async def _is_missing(admin: Admin, stream: str, dead_letters: str | None) -> bool:
    """Return whether there is no such stream, and print it then.

    Otherwise a misspelt name would look like good news.
    """
    missing = not await admin.dead.stream_exists(stream, dead_letters=dead_letters)
    if missing:
        name = Location.of(stream, dead_letters).name
        say(f"there is no stream {stream!a:.80}, and no {name!a:.80} either")
    return missing


async def _is_empty(admin: Admin, stream: str, dead_letters: str | None) -> bool:
    """Return whether there is such a stream, and print that nothing was found in it."""
    if await _is_missing(admin, stream, dead_letters):
        return False
    say(f"{Location.of(stream, dead_letters).name!a:.80} has no such letters")
    return True
