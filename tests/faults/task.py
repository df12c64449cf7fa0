"""Payloads of a run: a name, a task for the handler, and filling."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

__all__ = ["Task", "make", "parse"]

# Bytes that look like lines, lengths or types of the protocol.
_FILLING = b"\r\n$-1\r\n*2\r\n\x00\xff\x1b[0m"


@dataclass(frozen=True)
class Task:
    """The content of a payload.

    Attributes:
        message: The name of the message.
        what: "ok"; "sleep" for `argument` seconds; or "fail" on `argument` attempts.
        argument: See `what`; 0 with "fail" means all attempts.
    """

    message: str
    what: str
    argument: float


def make(message: str, chance: Random) -> bytes:
    """Return a payload: most are quick, some take time, few fail, once or always."""
    what = chance.choices(
        ["ok", "sleep 0.01", "sleep 0.3", "fail 1", "fail 0"], [76, 20, 1, 2, 1]
    )[0]
    filling = chance.randbytes(chance.choice([16, 200, 2000])) + _FILLING
    return f"{message} {what}\n".encode() + filling


def parse(payload: bytes) -> Task:
    """Return the task of a payload; an invalid payload has no known name."""
    head = payload.partition(b"\n")[0].decode("utf-8", "replace").split(" ")
    message, what, *more = [*head, "ok"][: max(2, len(head))]
    return Task(message, what, float(more[0]) if more else 0.0)
