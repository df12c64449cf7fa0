"""Messages that have to be elsewhere too before their senders are told: the waits.

WAIT and WAITAOF wait for all that their connection has written, so one of them, behind
the messages of a write, does for all that ask for the same
(https://redis.io/docs/latest/commands/wait/, …/waitaof/).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeVar

from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.sending.accumulator import Durability, Sending
from penstock.errors import NotDurable
from penstock.message import Receipt

__all__ = ["DurabilityWait"]

K = TypeVar("K")

# Seconds of a message's time that are left for the reply: what was achieved is to be
# told before the time is over.
_SLACK: Final = 0.1


class DurabilityWait(NamedTuple):
    """One wait behind a write.

    Attributes:
        durability: What for.
        ms: Milliseconds at most.
    """

    durability: Durability
    ms: int

    @property
    def command(self) -> Command:
        """Its words."""
        if self.durability.durable:
            return commands.wait_aof(self.durability.replicas, self.ms)
        return commands.wait(self.durability.replicas, self.ms)


def waits(
    batch: Iterable[Sending[K]], now: float, longest: float
) -> list[DurabilityWait]:
    """Plan what to wait for behind a write, the shortest wait first.

    Args:
        batch: What is written.
        now: The time, by the clock of the deadlines.
        longest: Seconds at most, for all of them together.
    """
    patience: dict[Durability, float] = {}
    for sending in batch:
        if (durability := sending.durability) is not None:
            left = patience.get(durability, longest)
            patience[durability] = min(left, _patience(sending.deadline - now))
    planned, spent = [], 0.0
    for durability, seconds in sorted(patience.items(), key=lambda item: item[1]):
        # 0 would be for ever.
        planned.append(
            DurabilityWait(durability, max(1, int((seconds - spent) * 1000)))
        )
        spent = max(spent, seconds)
    return planned


def _patience(left: float) -> float:
    return max(left / 2, min(left * 0.8, left - _SLACK))


def shortfall(
    durability: Durability, reply: Any, receipt: Receipt
) -> NotDurable | None:
    """Say what is missing of what was asked for; None if nothing is."""
    if isinstance(reply, ErrorReply):
        achieved, own, reason = 0, False, reply.text
    elif durability.durable:
        (local, achieved), reason = reply, ""
        own = local > 0
    else:
        achieved, own, reason = reply, True, ""
    if not reason and own and achieved >= durability.replicas:
        return None
    return NotDurable(
        receipt,
        receipt.stream,
        str(receipt.id),
        wanted=durability.replicas,
        achieved=achieved,
        durable=own if durability.durable else None,
        reason=reason,
    )
