"""What `penstock dead` says where nothing is found: no letters, or no such stream."""

from __future__ import annotations

from typing import Final

from penstock.admin import Admin
from penstock.admin._selection import Location, Selection
from penstock.cli._admin_call import say
from penstock.cli.dead.filter import DeadLetterFilter

__all__ = ["FAILURES", "all_found", "is_empty", "is_missing"]

FAILURES: Final = ("letters_refused",)
"""Events that report dead letters which a command has left out."""


async def all_found(admin: Admin, selection: Selection, done: int) -> bool:
    """Return whether the selected dead letters were found; print it if not."""
    where = selection.location
    if not done and await is_missing(admin, where.stream, where.name):
        return False
    missed = 0 if selection.ids is None else len(selection.ids) - done
    if missed:
        say(
            f"{missed} of these ids were not found among the dead letters of "
            f"{where.stream!a:.80}"
        )
    return not missed


async def is_missing(admin: Admin, stream: str, dead_letters: str | None) -> bool:
    """Return whether there is no such stream, and print it then.

    Otherwise a misspelt name would look like good news.
    """
    missing = not await admin.dead.stream_exists(stream, dead_letters=dead_letters)
    if missing:
        name = Location.of(stream, dead_letters).name
        say(f"there is no stream {stream!a:.80}, and no {name!a:.80} either")
    return missing


async def is_empty(admin: Admin, wanted: DeadLetterFilter) -> bool:
    """Return whether there is such a stream, and print that nothing was found in it."""
    if await is_missing(admin, wanted.stream, wanted.dead_letters):
        return False
    name = Location.of(wanted.stream, wanted.dead_letters).name
    say(f"{name!a:.80} has no {'such ' if wanted.filtered else ''}letters")
    return True
