"""Durability: the waits for messages that must also be on replicas or on disk.

WAIT and WAITAOF wait for all writes of their connection. So one such command after the
messages of a write serves all messages that ask for the same durability
(https://redis.io/docs/latest/commands/wait/, …/waitaof/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.sending.requests import Durability, SendRequest
from penstock.errors import NotDurable
from penstock.message import Receipt

__all__ = ["DurabilityWait"]

K = TypeVar("K")

# Seconds that are kept for the reply, so that the sender learns what was achieved
# before its deadline.
_SLACK: Final = 0.1


class DurabilityWait(NamedTuple):
    """One wait after a write.

    Attributes:
        durability: The durability that is waited for.
        ms: The most milliseconds.
    """

    durability: Durability
    ms: int

    @property
    def command(self) -> Command:
        """The command for this wait."""
        if self.durability.durable:
            return commands.wait_aof(self.durability.replicas, self.ms)
        return commands.wait(self.durability.replicas, self.ms)


def waits(
    batch: Iterable[SendRequest[K]], now: float, longest: float
) -> list[DurabilityWait]:
    """Return the waits after a write, the shortest first.

    Args:
        batch: The messages that are written.
        now: The time, by the clock of the deadlines.
        longest: The most seconds for all waits together.
    """
    patience: dict[Durability, float] = {}
    for request in batch:
        if (durability := request.durability) is not None:
            left = patience.get(durability, longest)
            patience[durability] = min(left, _patience(request.deadline - now))
    planned, spent = [], 0.0
    for durability, seconds in sorted(patience.items(), key=lambda item: item[1]):
        # 0 means to wait for ever.
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
    """Return the error if a message's durability was not achieved; None if it was."""
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


def check(
    batch: Sequence[SendRequest[K]],
    outcomes: Sequence[Any],
    waits: Sequence[DurabilityWait],
    waited: Sequence[Any],
) -> list[Any]:
    """Replace the outcomes of messages that are not as durable as required.

    Args:
        batch: The messages.
        outcomes: Their ids, or what refused them.
        waits: The waits after them.
        waited: The replies to the waits.
    """
    replies = {
        wait.durability: reply for wait, reply in zip(waits, waited, strict=True)
    }
    checked: list[Any] = []
    for request, outcome in zip(batch, outcomes, strict=True):
        asked = request.durability
        short: NotDurable | None = None
        if asked is not None and type(outcome) is bytes:
            receipt = Receipt(request.shard.stream, request.shard.number, outcome)
            short = shortfall(asked, replies[asked], receipt)
        checked.append(outcome if short is None else short)
    return checked
