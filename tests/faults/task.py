"""What a message of a run is: its name, what its handler has to do, and filling."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

__all__ = ["Task", "make", "parse"]

# What makes trouble where lines, lengths or types are taken from the wire.
_FILLING = b"\r\n$-1\r\n*2\r\n\x00\xff\x1b[0m"


@dataclass(frozen=True)
class Task:
    """What a payload says.

    Attributes:
        message: The message's name.
        what: "ok"; "sleep", for as long as `argument`; or "fail", for as many attempts.
        argument: See there; 0 for "fail": all attempts.
    """

    message: str
    what: str
    argument: float


def make(message: str, chance: Random) -> bytes:
    """Make up a payload: most are quick, some take time, few fail, for good or not."""
    what = chance.choices(
        ["ok", "sleep 0.01", "sleep 0.3", "fail 1", "fail 0"], [76, 20, 1, 2, 1]
    )[0]
    filling = chance.randbytes(chance.choice([16, 200, 2000])) + _FILLING
    return f"{message} {what}\n".encode() + filling


def parse(payload: bytes) -> Task:
    """Read a payload; one that is none has no name."""
    head = payload.partition(b"\n")[0].decode("utf-8", "replace").split(" ")
    message, what, *more = [*head, "ok"][: max(2, len(head))]
    return Task(message, what, float(more[0]) if more else 0.0)
