"""Sending of the messages of `penstock send`: ids in their order, and the outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock import (
    ConfigurationError,
    NotDurable,
    Outgoing,
    PenstockError,
    Producer,
    Receipt,
    SendUnknown,
)
from penstock.cli._admin_call import say
from penstock.cli.messages.source import BadLineError
from penstock.outgoing import own_choices

__all__ = ["Outcomes", "Sending"]

# The most messages whose outcome is waited for.
_WAITING: Final = 10_000

_Ticket: TypeAlias = tuple[int, "asyncio.Future[Receipt]"]


@dataclass(slots=True)
class Outcomes:
    """The numbers of messages by their outcomes.

    Attributes:
        stored: Messages that the server has.
        failed: Messages that it does not have.
        unknown: Messages that it may have.
        wrong_usage: Whether the first failure was a message that can't be sent.
    """

    stored: int = 0
    failed: int = 0
    unknown: int = 0
    wrong_usage: bool = False

    @property
    def complete(self) -> bool:
        """Whether all messages are stored."""
        return not self.failed and not self.unknown

    def failure(self, number: int, error: PenstockError) -> None:
        """Count a message that is not stored, or not certainly; report the first."""
        if self.complete:
            self.wrong_usage = isinstance(error, ConfigurationError)
            say(f"message {number:,}: {error}")
            say("no more is sent")
        if isinstance(error, SendUnknown):
            self.unknown += 1
        elif isinstance(error, NotDurable):
            self.stored += 1
        else:
            self.failed += 1

    def __str__(self) -> str:
        return (
            f"{self.stored:,} stored, {self.failed:,} not stored, "
            f"{self.unknown:,} unknown"
        )


class Sending:
    """Sends messages in their order; behind the first failure, it only counts them.

    Args:
        producer: The producer.
        stream: The stream.
        outcomes: Counts the outcomes.
        on_receipt: Called with each receipt, in the order of the messages.
    """

    def __init__(
        self,
        producer: Producer,
        stream: str,
        outcomes: Outcomes,
        on_receipt: Callable[[Receipt], None],
    ) -> None:
        self._producer = producer
        self._stream = stream
        self._outcomes = outcomes
        self._on_receipt = on_receipt
        # The messages that were queued, with their numbers; None behind the last one.
        self._waiting: asyncio.Queue[_Ticket | None] = asyncio.Queue(_WAITING)

    async def run(
        self, messages: AsyncIterable[Outgoing[bytes] | BadLineError]
    ) -> None:
        """Send messages, and wait for their outcomes.

        Args:
            messages: The messages; or why one of them can't be sent.

        Raises:
            OSError: The input can't be read, or the output can't be written.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._collect())
                number = 0
                async for message in messages:
                    number += 1
                    await self._put(number, message)
                await self._waiting.put(None)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _put(self, number: int, message: Outgoing[bytes] | BadLineError) -> None:
        if not self._outcomes.complete:
            self._outcomes.failed += 1
        elif isinstance(message, BadLineError):
            self._outcomes.failure(number, message)
        else:
            own = own_choices(message, {})
            key, headers = message.key, message.headers
            try:
                future = await self._producer.enqueue(
                    self._stream, message.payload, key=key, headers=headers, **own
                )
            except PenstockError as error:
                self._outcomes.failure(number, error)
            else:
                await self._waiting.put((number, future))

    async def _collect(self) -> None:
        while (ticket := await self._waiting.get()) is not None:
            number, future = ticket
            try:
                receipt = await future
            except PenstockError as error:
                self._outcomes.failure(number, error)
            else:
                self._outcomes.stored += 1
                self._on_receipt(receipt)
