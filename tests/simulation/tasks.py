"""Tasks: what messages tell their handlers to do, beyond those of the fault tests.

A payload begins with the message's name and its task; see `faults.task`, which reads
them. More tasks:

- `nack n`: hand it back with a delay, on the first n attempts;
- `reject 0`: reject it;
- `cancel n`: raise CancelledError, on the first n attempts;
- `hopeless 0`: raise ValueError, which some consumers give up on at once;
- `block s`: hold up the event loop for s seconds;
- `hang s`: take s seconds, which some consumers do not allow;
- `leave 0`: raise GeneratorExit, which ends `run`, where there is one;
- `exit 0` and `interrupt 0`: raise SystemExit and KeyboardInterrupt, which end `run`,
  where the program catches them;
- `kill 0`: kill the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from faults.task import make as make_common

__all__ = ["MORE", "make"]

MORE: Final = (
    *("nack 1", "nack 2", "reject 0", "cancel 1", "hopeless 0"),
    *("block 0.05", "block 1.5", "hang 3", "leave 0", "kill 0"),
    *("exit 0", "interrupt 0"),
)
"""All tasks that are not those of the fault tests."""


def make(message: str, chance: Random, more: Mapping[str, float]) -> bytes:
    """Return a payload.

    Args:
        message: The name of the message.
        chance: Decides what it is.
        more: The share of messages that have each of the further tasks.
    """
    payload = make_common(message, chance)
    place = chance.random()
    for task, share in more.items():
        place -= share
        if place < 0:
            _, _, rest = payload.partition(b"\n")
            return f"{message} {task}\n".encode() + rest
    return payload
