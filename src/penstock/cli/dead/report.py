"""What `penstock dead` prints: nothing of it acts on a terminal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from penstock.admin import DeadLetter
from penstock.events import printable

__all__ = ["HEADING", "as_json", "as_lines", "as_row", "outcome"]

_WIDTHS: Final = (22, 5, 22, 16, 8, 20)
# Characters of a name, of a reason, and of a line of more than these.
_NAME: Final = 40
_REASON: Final = 100
_LONG: Final = 100_000_000


def _row(*cells: str) -> str:
    *head, last = cells
    padded = [cell.ljust(width) for cell, width in zip(head, _WIDTHS, strict=True)]
    return " ".join([*padded, last]).rstrip()


HEADING: Final = _row("ID", "SHARD", "ENTRY", "GROUP", "ATTEMPTS", "ERROR", "REASON")


def as_row(letter: DeadLetter) -> str:
    """Put a letter into a line of a table."""
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
    """Tell all of a letter, a fact a line.

    Args:
        letter: The letter.
        payload: Whether the message itself is shown as well.
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
    """Put a letter into a line of JSON, which escapes all that is not ASCII.

    Args:
        letter: The letter.
        whole: Whether all is told that is not the message itself.
        payload: Whether the message itself is told as well.
    """
    told = facts(letter)
    if whole:
        told["traceback"] = letter.traceback
        told["key"] = letter.key
        told["header_names"] = [name for name, _ in letter.headers.pairs]
        told["payload_size"] = None if letter.payload is None else len(letter.payload)
    if payload:
        told["headers"] = letter.headers.pairs
        told |= _payload(letter.payload)
    return json.dumps(told)


def outcome(deed: str, count: int, *, as_json: bool) -> str:
    """Tell to how many letters something was done."""
    return json.dumps({deed: count}) if as_json else f"{count} {deed}"


def facts(letter: DeadLetter) -> dict[str, Any]:
    """List what a letter says of where it comes from, and why it is one."""
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
