"""Output of `penstock dead`, without characters that act on a terminal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from penstock.admin import DeadLetter
from penstock.events import printable

__all__ = ["HEADING", "as_json", "as_lines", "as_row", "outcome"]

_WIDTHS: Final = (22, 5, 22, 16, 8, 20)
# The maximum number of characters of a name, of a reason, and of longer texts.
_NAME: Final = 40
_REASON: Final = 100
_LONG: Final = 100_000_000


def _row(*cells: str) -> str:
    *head, last = cells
    padded = [cell.ljust(width) for cell, width in zip(head, _WIDTHS, strict=True)]
    return " ".join([*padded, last]).rstrip()


HEADING: Final = _row("ID", "SHARD", "ENTRY", "GROUP", "ATTEMPTS", "ERROR", "REASON")


def as_row(letter: DeadLetter) -> str:
    """Return the row of a table for a dead letter."""
    return _row(
        str(letter.id),
        str(letter.shard),
        str(letter.entry_id),
        printable(letter.group, _NAME),
        str(letter.attempts),
        printable(letter.error, _NAME) or "-",
        printable(letter.reason, _REASON),
    )


def as_lines(letter: DeadLetter, *, payload: bool) -> Iterator[str]:
    """Yield the lines that show a dead letter, one for each fact.

    Args:
        letter: The dead letter.
        payload: Whether the payload and the headers are shown as well.
    """
    for name, value in facts(letter).items():
        if value is not None:
            yield f"{name}: {printable(str(value), 1000)}"
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


def as_json(letter: DeadLetter, *, whole: bool = False, payload: bool = False) -> str:
    """Return a line of JSON for a dead letter, in which all but ASCII is escaped.

    Args:
        letter: The dead letter.
        whole: Whether the traceback, the key, the headers' names and the payload's size
            are included.
        payload: Whether the payload and the headers are included.
    """
    record = facts(letter)
    if whole:
        record["traceback"] = letter.traceback
        record["key"] = letter.key
        record["header_names"] = [name for name, _ in letter.headers.pairs]
        record["payload_size"] = None if letter.payload is None else len(letter.payload)
    if payload:
        record["headers"] = letter.headers.pairs
        record |= _payload(letter.payload)
    return json.dumps(record)


def outcome(done: str, count: int, *, as_json: bool) -> str:
    """Return the line that reports how many dead letters were changed."""
    return json.dumps({done: count}) if as_json else f"{count} {done}"


def facts(letter: DeadLetter) -> dict[str, Any]:
    """Return the origin of a dead letter, and why it was given up."""
    return {
        "id": str(letter.id),
        "stream": letter.stream,
        "shard": letter.shard,
        "entry_id": str(letter.entry_id),
        "group": letter.group,
        "consumer": letter.consumer,
        "attempts": letter.attempts,
        "time": None if letter.time is None else letter.time.isoformat(),
        "error": letter.error,
        "reason": letter.reason,
    }


def _payload(body: bytes | None) -> dict[str, str | None]:
    if body is None:
        return {"payload": None}
    try:
        return {"payload": body.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(body).decode()}
