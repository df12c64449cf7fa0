"""Output of `penstock dead`, without characters that act on a terminal."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from msgspec import UNSET, Struct, UnsetType, structs

from penstock import EntryId
from penstock.admin import DeadLetter, DeadLetterCount
from penstock.cli import _format
from penstock.cli._columns import count_column, text_column
from penstock.cli._output import Column
from penstock.events import printable

__all__ = [
    "COLUMNS",
    "COUNTS",
    "CountRow",
    "LetterRow",
    "Purged",
    "Redriven",
    "as_lines",
    "count_row",
    "letter_row",
]

# The maximum number of characters of a reason, and of longer texts.
_REASON: Final = 100
_LONG: Final = 100_000_000


class LetterRow(Struct, frozen=True, kw_only=True):
    """A dead letter. `dead list` has no more than its origin and the reason.

    Attributes:
        id: The dead letter's id.
        stream: The stream that the message comes from.
        shard: The number of its shard.
        entry_id: The message's id there.
        group: The group that gave it up.
        consumer: The consumer that did.
        attempts: The number of times that a handler was started for it.
        time: When it was given up; None if that can't be read.
        error: The exception's type; empty without an exception.
        reason: The reason in words.
        traceback: The end of the exception's traceback, with `dead show`.
        key: The message's key, likewise; None if it has none.
        header_names: The names of its headers, likewise.
        payload_size: The bytes of its payload, likewise; None if it has none.
        headers: Its headers, with `dead show --payload`.
        payload: The payload, likewise; None if it has none.
        payload_base64: The payload, if it is no text in UTF-8.
    """

    id: str
    stream: str
    shard: int
    entry_id: str
    group: str
    consumer: str
    attempts: int
    time: datetime | None
    error: str
    reason: str
    traceback: str | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    header_names: list[str] | UnsetType = UNSET
    payload_size: int | UnsetType | None = UNSET
    headers: list[tuple[str, str]] | UnsetType = UNSET
    payload: str | UnsetType | None = UNSET
    payload_base64: str | UnsetType = UNSET


class Redriven(Struct, frozen=True, kw_only=True):
    """The number of dead letters that were sent back, or would be.

    Attributes:
        redriven: The number.
        dry_run: Whether nothing was changed.
    """

    redriven: int
    dry_run: bool


class Purged(Struct, frozen=True, kw_only=True):
    """The number of dead letters that were deleted, or would be.

    Attributes:
        purged: The number.
        dry_run: Whether nothing was changed.
    """

    purged: int
    dry_run: bool


class CountRow(Struct, frozen=True, kw_only=True):
    """The number of dead letters with one error, of one group.

    Attributes:
        stream: The stream that the messages come from.
        error: The exception's type; empty without an exception.
        group: The group that gave the messages up.
        letters: Their number.
        first_id: The id of the oldest of them.
        last_id: The id of the newest of them.
        first_time: When the oldest was written; null if its id is no time.
        last_time: When the newest was written; null if its id is no time.
    """

    stream: str
    error: str
    group: str
    letters: int
    first_id: str
    last_id: str
    first_time: datetime | None
    last_time: datetime | None


def count_row(stream: str, count: DeadLetterCount) -> CountRow:
    """Return the row of a count."""
    return CountRow(
        stream=stream,
        error=count.error,
        group=count.group,
        letters=count.letters,
        first_id=str(count.first),
        last_id=str(count.last),
        first_time=_time(count.first),
        last_time=_time(count.last),
    )


def _time(id_: EntryId) -> datetime | None:
    try:
        return id_.timestamp
    except OverflowError:
        return None


COUNTS: Final[list[Column[CountRow]]] = [
    text_column("ERROR", lambda row: row.error),
    text_column("GROUP", lambda row: row.group),
    count_column("LETTERS", lambda row: row.letters),
    Column("FIRST", lambda row: row.first_id, lambda row: _moment(row.first_time), 2),
    Column("LAST", lambda row: row.last_id, lambda row: _moment(row.last_time), 1),
]
"""The columns of counts."""


def _moment(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M:%S}Z"


COLUMNS: Final[list[Column[LetterRow]]] = [
    Column("ID", lambda row: row.id),
    Column("SHARD", lambda row: row.shard, priority=4, right=True),
    Column("ENTRY", lambda row: row.entry_id, priority=3),
    Column(
        "GROUP",
        lambda row: row.group,
        lambda row: _format.text(row.group, 40),
        priority=1,
    ),
    Column("ATTEMPTS", lambda row: row.attempts, priority=2, right=True),
    Column(
        "ERROR",
        lambda row: row.error,
        lambda row: _format.text(row.error, 40),
        priority=1,
    ),
    Column(
        "REASON",
        lambda row: row.reason,
        lambda row: _format.text(row.reason, _REASON),
    ),
]


def as_lines(letter: DeadLetter, *, payload: bool) -> Iterator[str]:
    """Yield the lines that show a dead letter, one for each fact.

    Args:
        letter: The dead letter.
        payload: Whether the payload and the headers are shown as well.
    """
    row = structs.asdict(letter_row(letter))
    for name, value in row.items():
        if value is not None and value is not UNSET:
            shown = value.isoformat() if isinstance(value, datetime) else str(value)
            yield f"{name}: {printable(shown, 1000)}"
    for line in letter.traceback.splitlines():
        yield f"    {printable(line, 1000)}"
    body = letter.payload
    yield f"key: {'none' if letter.key is None else printable(letter.key, 1000)}"
    for name, value in letter.headers.pairs:
        shown = f": {printable(value, _LONG)}" if payload else ""
        yield f"header {printable(name, 1000)}{shown}"
    if body is None or not payload:
        yield f"payload: {'none' if body is None else f'{len(body)} bytes'}"
        return
    yield "payload:"
    for part in body.split(b"\n"):
        yield f"    {printable(part, _LONG)}"


def letter_row(
    letter: DeadLetter, *, whole: bool = False, payload: bool = False
) -> LetterRow:
    """Return the row of a dead letter.

    Args:
        letter: The dead letter.
        whole: Whether the traceback, the key, the headers' names and the payload's size
            are included.
        payload: Whether the payload and the headers are included.
    """
    row = LetterRow(
        id=str(letter.id),
        stream=letter.stream,
        shard=letter.shard,
        entry_id=str(letter.entry_id),
        group=letter.group,
        consumer=letter.consumer,
        attempts=letter.attempts,
        time=None if letter.time is None else letter.time.astimezone(UTC),
        error=letter.error,
        reason=letter.reason,
    )
    body = letter.payload
    if whole:
        row = structs.replace(
            row,
            traceback=letter.traceback,
            key=letter.key,
            header_names=[name for name, _ in letter.headers.pairs],
            payload_size=None if body is None else len(body),
        )
    if payload:
        row = structs.replace(row, headers=list(letter.headers.pairs))
        try:
            text = None if body is None else body.decode()
        except UnicodeDecodeError:
            encoded = base64.b64encode(body or b"").decode()
            return structs.replace(row, payload_base64=encoded)
        row = structs.replace(row, payload=text)
    return row
