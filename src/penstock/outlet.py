"""Outlets: one stream of a producer, and options for sending to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from typing import Generic, TypeAlias, TypeVar, Unpack

from penstock._core.sending.requests import SendRequest
from penstock._tasks.sending.outcomes import Ticket
from penstock._tasks.sending.send_defaults import SendDefaults
from penstock._tasks.sending.send_many import SendResults
from penstock._tasks.sending.sender import Sender
from penstock.errors import ConfigurationError
from penstock.message import Receipt
from penstock.outgoing import (
    ManyMessages,
    MessageOptions,
    Outgoing,
    SendOptions,
    own_choices,
)

__all__ = ["KeyOf", "Outlet"]

T = TypeVar("T")

KeyOf: TypeAlias = Callable[[T], str | None]
"""Returns a payload's key, or None."""


class Outlet(Generic[T]):
    """One stream of a producer, with the options that its messages share.

    `Producer.to` creates it. It is valid for as long as the producer exists, however
    often the producer is opened. All outlets of a producer share its buffer and its
    connection, so the order within a stream is that of the calls, through any outlet.

    Attributes:
        stream: The stream to which its messages are sent.
    """

    def __init__(
        self,
        producer: object,
        sender: Sender,
        stream: str,
        defaults: SendDefaults,
        key: KeyOf[T] | None,
    ) -> None:
        # Only to hold a reference: a producer without references is closed.
        self._producer = producer
        self.stream = stream
        self._sender = sender
        self._defaults = defaults
        self._key = key

    async def send(
        self,
        payload: T,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> Receipt:
        """Send a message and wait until the server has it; see `Producer.send`."""
        return await (await self.enqueue(payload, key=key, headers=headers, **choices))

    async def enqueue(
        self,
        payload: T,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> asyncio.Future[Receipt]:
        """Queue a message, waiting only for buffer space; see `Producer.enqueue`."""
        request = self._pack(payload, key, headers, choices)
        if (wait := self._sender.put(request)) is not None:
            await wait
        return request.ticket

    def enqueue_nowait(
        self,
        payload: T,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> asyncio.Future[Receipt]:
        """Queue a message if there is space now; see `Producer.enqueue_nowait`."""
        request = self._pack(payload, key, headers, choices)
        self._sender.put_now(request)
        return request.ticket

    def send_many(
        self,
        messages: Iterable[T | Outgoing[T]] | AsyncIterable[T | Outgoing[T]],
        **choices: Unpack[SendOptions],
    ) -> SendResults:
        """Send messages, each with an outcome of its own; see `Producer.send_many`."""
        route = (self._defaults, self.stream, choices)
        pack = partial(self._pack_one, choices)
        return SendResults(self._sender, route, messages, pack)

    def _pack_one(
        self, choices: SendOptions, message: Outgoing[T], many: ManyMessages
    ) -> SendRequest[Ticket]:
        return self._pack(
            message.payload,
            message.key,
            message.headers,
            own_choices(message, choices),
            many,
        )

    def _pack(
        self,
        payload: T,
        key: str | None,
        headers: Mapping[str, str] | None,
        choices: MessageOptions,
        many: ManyMessages | None = None,
    ) -> SendRequest[Ticket]:
        if key is None and self._key is not None:
            try:
                key = self._key(payload)
            except Exception as error:
                # The exception's own text may quote the payload.
                raise ConfigurationError(
                    f"key= of the outlet to {self.stream!r:.80} raised "
                    f"{type(error).__name__} for a payload of type "
                    f"{type(payload).__name__}; fix it, or pass key= to the call"
                ) from error
        return self._sender.pack(
            self._defaults,
            self.stream,
            payload,
            key,
            headers,
            choices=choices,
            many=many,
        )

    def __repr__(self) -> str:
        return f"<Outlet to {self.stream!r:.80}>"
