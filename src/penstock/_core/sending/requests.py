"""Requests: the messages that are being sent, and the batches that are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from penstock._core.protocol.commands import Command
from penstock.message import Shard

__all__ = [
    "SUSPECT",
    "Durability",
    "IdempotentRun",
    "SendBatch",
    "SendRequest",
    "without",
]

K = TypeVar("K")

SUSPECT: Final = 2
"""The number of connections lost at a write from which on it is written alone."""


class Durability(Struct, frozen=True):
    """The durability that a message needs before its sender is told that it is stored.

    Attributes:
        replicas: The number of replicas that must have the message.
        durable: Whether the message must be in the append-only files, the server's own
            included.
        limit: The most seconds until the outcome; None without a limit. It is part of
            this value so that messages with different limits have separate waits.
    """

    replicas: int
    durable: bool
    limit: float | None


class SendRequest(Struct, Generic[K], eq=False):
    """A message that is being sent.

    Attributes:
        shard: The shard to which the message goes.
        command: The message's XADD.
        size: The approximate size of the message on the network, in bytes.
        ticket: The caller's object that waits for the outcome; it is not used here.
        deadline: The time at which that wait ends, by the caller's clock.
        durability: The required durability; None if the message only has to be stored.
        given_up: Whether the deadline passed after the message had been written.
        unanswered: Whether a write of the message was never answered, so that it may be
            stored, whatever the reply to a later write.
        began_at: When its call began, by the monotonic clock, if it is timed and has no
            outcome; 0 otherwise.
    """

    shard: Shard
    command: Command
    size: int
    ticket: K
    deadline: float = inf
    durability: Durability | None = None
    given_up: bool = False
    unanswered: bool = False
    began_at: float = 0.0


class IdempotentRun(Struct, Generic[K], eq=False):
    """The messages of a batch for one shard: stored in one step, or found to be so.

    Attributes:
        number: Identifies the run among a producer's runs; the same whenever the run is
            written again.
        requests: The run's messages, in order.
    """

    number: int
    requests: list[SendRequest[K]]


class SendBatch(list[SendRequest[K]]):
    """The messages of one write.

    Attributes:
        runs: The same messages by shard, where they have to be stored only once.
        written: The time of the first write, by the caller's clock.
        losses: The number of connections that ended while this was the oldest write
            without a reply.
        cancels: Whether the next write of it only asks which runs were stored, and
            cancels the others, so that their messages can be written one by one.
    """

    __slots__ = ("cancels", "losses", "runs", "written")

    def __init__(
        self, requests: Iterable[SendRequest[K]] = (), *, losses: int = 0
    ) -> None:
        super().__init__(requests)
        self.runs: list[IdempotentRun[K]] = []
        self.written = inf
        self.losses = losses
        self.cancels = False


def without(
    batch: Sequence[SendRequest[K]],
    outcomes: Sequence[Any],
    others: Sequence[SendRequest[K]],
) -> tuple[list[SendRequest[K]], list[Any]]:
    """Return the messages that are not among the others, and their outcomes."""
    left_out = set(map(id, others))
    pairs = [
        (one, outcome)
        for one, outcome in zip(batch, outcomes, strict=True)
        if id(one) not in left_out
    ]
    return [one for one, _ in pairs], [outcome for _, outcome in pairs]
