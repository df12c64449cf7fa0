"""Lost writes: finds the message that ends each connection on which it is written.

A server closes the connection that brings it a larger field than it takes
(`proto-max-bulk-len`), and some proxies cut at a size. Such a message, written again
and again, would keep all others from being sent.

Replies come in the order of the writes. So of the writes that a connection leaves
unanswered, the oldest one is the suspect. The connection may have lost replies at its
end, so the suspect is written alone before it is blamed. If connections still end, its
messages are written one by one, and the message at which connections go on ending is
given up.
"""

from __future__ import annotations

from typing import Final, TypeVar

from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.requests import SUSPECT, SendBatch, SendRequest

__all__ = ["blame"]

K = TypeVar("K")

# The connections that must have ended at a write of several messages before these are
# written one by one, and at a single message before it is given up. The first `SUSPECT`
# of them may have had other writes in flight; from then on the write is alone.
_DIVIDE: Final = SUSPECT + 1
_GIVE_UP: Final = SUSPECT + 3


def blame(
    accumulator: Accumulator[K], suspect: SendBatch[K], *, idempotent: bool
) -> list[SendRequest[K]]:
    """Record that a connection ended at a write, and decide what becomes of the write.

    Args:
        accumulator: The messages; those of the write have been recalled.
        suspect: The oldest write that the connection left unanswered.
        idempotent: Whether the write may have been stored and must not be stored again.
            Then it is cancelled before its messages are written one by one.

    Returns:
        The message that is given up, if there is one.
    """
    suspect.losses += 1
    if len(suspect) == 1:
        return accumulator.give_up(suspect) if suspect.losses >= _GIVE_UP else []
    if suspect.losses >= _DIVIDE:
        if idempotent:
            suspect.cancels = True
        else:
            accumulator.divide(suspect)
    return []
