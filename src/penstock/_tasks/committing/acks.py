"""Acknowledgements of a batch as commands, and the reading of their replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from penstock._core.ledger.pending_acks import AckBatch
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply

__all__ = ["Acks", "PlainAcks"]


class Acks(Protocol):
    """Acknowledges batches of entries, each of one shard."""

    def commands(self, batch: AckBatch) -> list[Command]:
        """Return the commands that acknowledge a batch."""

    def read(
        self, batch: AckBatch, sent: Sequence[Command], replies: Sequence[Any]
    ) -> int | ErrorReply | None:
        """Read the replies to a batch's commands.

        Returns:
            How many entries were pending, a refusal, or None if the shard is another
            consumer's: then nothing was acknowledged, and nothing is to be sent again.
        """

    def not_sent_again(self, batch: AckBatch) -> None:
        """Record that a batch is not sent again, though some of it may be pending."""


class PlainAcks:
    """Acknowledges entries of shards that consumers share.

    Args:
        group: The group.
    """

    def __init__(self, group: str) -> None:
        self._group = group

    def commands(self, batch: AckBatch) -> list[Command]:
        """Return the command that acknowledges a batch."""
        return [commands.xack(batch.shard_state.shard.key, self._group, batch.ids)]

    def read(
        self,
        batch: AckBatch,
        sent: Sequence[Command],
        replies: Sequence[Any],
    ) -> int | ErrorReply | None:
        """Return how many entries were pending, or the refusal."""
        [reply] = replies
        number: int | ErrorReply = reply
        return number

    def not_sent_again(self, batch: AckBatch) -> None:
        """Do nothing: what is pending is claimed when its lease is over."""
