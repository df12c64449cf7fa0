"""The options of `penstock dead` that select dead letters."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from penstock import EntryId
from penstock.cli._options import (
    age_or_id_option,
    id_option,
    stream_argument,
    stream_option,
)

__all__ = [
    "Before",
    "DeadLetters",
    "Error",
    "Group",
    "Ids",
    "Limit",
    "Reason",
    "Stream",
]

Stream: TypeAlias = Annotated[
    str, stream_argument("The stream that the dead letters come from.")
]
Group: TypeAlias = Annotated[
    str | None, typer.Option(help="Only dead letters of this group.")
]
Error: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="Only dead letters with this exception."),
]
Reason: TypeAlias = Annotated[
    str | None, typer.Option(help="Only dead letters with this text in the reason.")
]
Ids: TypeAlias = Annotated[
    list[EntryId] | None,
    id_option("--id", "Only the dead letter with this id; may be repeated."),
]
Limit: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="The maximum number, oldest first.")
]
DeadLetters: TypeAlias = Annotated[
    str | None,
    stream_option(
        "--dead-letters",
        "The stream that contains the dead letters; default: STREAM.dead.",
    ),
]


Before: TypeAlias = Annotated[
    Any,  # typer takes no union: an `EntryId`, a `datetime` or None
    age_or_id_option(
        "--before", "Only dead letters older than this time with a zone, age or id."
    ),
]
