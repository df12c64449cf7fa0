"""`penstock dead`: dead letters listed, shown, sent back and purged."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import typer

from penstock.admin import Admin, DeadLetter
from penstock.admin._selection import Selection
from penstock.cli._admin_call import Json, Url, operate, say
from penstock.cli._errors import plain_errors
from penstock.cli.dead.filter import DeadLetterFilter
from penstock.cli.dead.report import HEADING, as_json, as_lines, as_row, outcome

__all__ = ["dead"]

dead: Final = typer.Typer(
    no_args_is_help=True, help="List, show, redrive and purge dead letters."
)

# Events after which not everything has been done.
_BAD: Final = ("letters_refused",)

_Stream: TypeAlias = Annotated[
    str, typer.Argument(help="The stream that the letters come from.")
]
_Group: TypeAlias = Annotated[
    str | None, typer.Option(help="Those that this group gave up.")
]
_Error: TypeAlias = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Those with this exception's type.")
]
_Reason: TypeAlias = Annotated[
    str | None, typer.Option(help="Those with this text in their reason.")
]
_Ids: TypeAlias = Annotated[
    list[str] | None, typer.Option("--id", help="This one; may be given repeatedly.")
]
_Limit: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="At most so many, the oldest first.")
]
_Yes: TypeAlias = Annotated[bool, typer.Option("--yes", help="All of them.")]
_Kept: TypeAlias = Annotated[
    str | None,
    typer.Option("--dead-letters", help="Where they are; default: STREAM.dead."),
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
        str | None, typer.Option(metavar="ID", help="Begin behind this letter.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    dead_letters: _Kept = None,
    json: Json = False,
) -> None:
    """List a stream's dead letters, oldest first, without what is in the messages."""
    options = DeadLetterFilter(stream, dead_letters, None, group, error, reason)

    async def work(admin: Admin) -> bool:
        shown = 0
        last: DeadLetter | None = None
        letters = admin.dead.each(
            stream, after=after, where=options.matches, dead_letters=dead_letters
        )
        async for letter in letters:
            if last is not None and shown == limit:
                say(f"there are more; go on with --after {last.id}")
                break
            if not (json or shown):
                print(HEADING, flush=True)
            print(as_json(letter) if json else as_row(letter), flush=True)
            shown, last = shown + 1, letter
        return True

    operate(url, work, bad=_BAD)


@dead.command()
def show(
    stream: _Stream,
    id: Annotated[str, typer.Argument(help="The letter's id.")],  # noqa: A002
    *,
    url: Url = None,
    payload: Annotated[
        bool, typer.Option("--payload", help="The payload and the headers as well.")
    ] = False,
    dead_letters: _Kept = None,
    json: Json = False,
) -> None:
    """Show all of one dead letter."""

    async def work(admin: Admin) -> bool:
        letter = await admin.dead.read(stream, id, dead_letters=dead_letters)
        if letter is None:
            say(
                f"{stream!a:.80} has no dead letter {id!a:.60}; "
                f"`penstock dead list` tells which there are"
            )
            return False
        if json:
            print(as_json(letter, whole=True, payload=payload))
        else:
            print("\n".join(as_lines(letter, payload=payload)))
        return True

    operate(url, work, bad=_BAD)


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
        typer.Option(metavar="STREAM", help="Send them there, not to their shards."),
    ] = None,
    dead_letters: _Kept = None,
    json: Json = False,
) -> None:
    """Send dead letters back to where they come from, as new messages.

    The exit status is 1 if one that was named by --id could not be.
    """
    options = DeadLetterFilter(
        stream, dead_letters, id, group, error, reason, limit=limit, yes=yes
    )
    with plain_errors():
        selection = options.select("redrive")

    async def work(admin: Admin) -> bool:
        moved = await admin.dead.select(selection).redrive(to)
        print(outcome("redriven", moved, as_json=json))
        return _all_found(selection, stream, moved)

    operate(url, work, bad=_BAD)


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
            metavar="TIME|ID",
            help="Those older than a time with zone, or than a letter.",
        ),
    ] = None,
    limit: _Limit = None,
    yes: _Yes = False,
    dead_letters: _Kept = None,
    json: Json = False,
) -> None:
    """Delete dead letters for good.

    The exit status is 1 if one that was named by --id was not there.
    """
    options = DeadLetterFilter(
        stream, dead_letters, id, group, error, reason, before, limit, yes
    )
    with plain_errors():
        selection = options.select("purge")

    async def work(admin: Admin) -> bool:
        deleted = await admin.dead.select(selection).purge(all=yes)
        print(outcome("purged", deleted, as_json=json))
        return _all_found(selection, stream, deleted)

    operate(url, work, bad=_BAD)


def _all_found(selection: Selection, stream: str, done: int) -> bool:
    """Return whether a call reached every id that was given; report if not."""
    missed = 0 if selection.ids is None else len(selection.ids) - done
    if missed:
        say(f"{missed} of these were not there, or no dead letters of {stream!a:.80}")
    return not missed
