"""Request queue: the requests that wait for replies, and the parser of the replies.

Replies come in the order of the requests. So each reply belongs to the oldest request
that waits, also if no caller waits for its result any more. After a reply that its
command cannot return, no further reply can be attributed to a request, and neither can
those that were received together with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import hiredis

from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock.errors import ConnectionLost

__all__ = ["DEMOTED", "Read", "Request", "RequestQueue"]

Read: TypeAlias = Callable[[list[Any]], list[Any]]
"""Turns replies into values, or raises `ProtocolError`."""

DEMOTED: Final = "READONLY"
"""The beginning of the reason for leaving a server that has become a replica."""

_INCOMPLETE: Final = object()


def _error_factory(
    demotions: list[str], secrets: list[str]
) -> Callable[[str], Exception]:
    """Return a function that makes error replies, and records those of a replica.

    It removes the secrets from all but the first word.

    It is not a method of `RequestQueue`: hiredis' reader would then keep the queue
    alive that holds it.
    """

    def error_reply(text: str) -> ErrorReply:
        for secret in secrets:
            code, space, rest = text.partition(" ")
            text = code + space + rest.replace(secret, "***")
        reply = ErrorReply(text)
        if reply.code == DEMOTED:
            demotions.append(reply.text)
        return reply

    # hiredis' stubs demand an exception; any value will do.
    return cast("Callable[[str], Exception]", error_reply)


@dataclass(slots=True)
class Request:
    """A request that waits for its replies.

    Attributes:
        count: The number of its replies.
        deadline: When they are due, by the loop's clock.
        future: Gets their values.
        read: Turns the replies into values; None if they are the values.
        pushes: Whether the replies are RESP3 pushes, as for SUBSCRIBE, unless it is
            refused.
    """

    count: int
    deadline: float
    future: asyncio.Future[list[Any]]
    read: Read | None
    pushes: bool = False


class RequestQueue:
    """The requests of one connection, in the order in which they were written.

    Attributes:
        waiting: The requests that wait for replies, the oldest first.
        on_message: Called for messages on the channels that the connection has
            subscribed to.
        demotion: Why to leave the server, if it has become a replica. It keeps its
            connections then, but nothing can be written on them any more. This is None
            until the requests have been answered that were sent before it said so.
        secrets: What is removed from error replies.
    """

    def __init__(self) -> None:
        self.waiting: deque[Request] = deque()
        self.on_message: Callable[[], None] | None = None
        self.demotion: str | None = None
        self.secrets: list[str] = []
        # The replies in which the server said that it is a replica now; and the number
        # of requests that were waiting for replies at that time and still are.
        self._demotions: list[str] = []
        self._due: int | None = None
        self._parser = hiredis.Reader(
            protocolError=ValueError,
            replyError=_error_factory(self._demotions, self.secrets),
            notEnoughData=_INCOMPLETE,
        )
        # The replies of the oldest request that have been received.
        self._replies: list[Any] = []

    def received(self, data: bytes) -> None:
        """Match received replies with the requests that wait for them.

        Raises:
            ProtocolError: The bytes are not RESP, or contain a reply that its command
                cannot return, or a reply without a request. All requests still wait, as
                after any other exception, which is a bug of ours.
        """
        answered: list[tuple[Request, list[Any]]] = []
        try:
            self._parse(data, answered)
            values = [
                replies if request.read is None else request.read(replies)
                for request, replies in answered
            ]
        except Exception:
            self.waiting.extendleft(request for request, _ in reversed(answered))
            raise
        for (request, _), value in zip(answered, values, strict=True):
            if not request.future.done():
                request.future.set_result(value)
        if self._demotions:
            self._count_due(len(answered))

    def _count_due(self, answered: int) -> None:
        """Count down the requests that were sent before the server was demoted."""
        before = self._due
        self._due = len(self.waiting) if before is None else before - answered
        if self._due <= 0:
            self.demotion = self._demotions[0]

    def _parse(self, data: bytes, answered: list[tuple[Request, list[Any]]]) -> None:
        """Find the requests that the received bytes answer.

        Raises:
            ProtocolError: The bytes are not RESP, or contain a reply without a request.
        """
        gets, replies, waiting = self._parser.gets, self._replies, self.waiting
        try:
            self._parser.feed(data)
            while (reply := gets(False)) is not _INCOMPLETE:  # noqa: FBT003 - hiredis' way
                if type(reply) is hiredis.PushNotification and not self._handle_push(
                    reply
                ):
                    continue
                replies.append(reply)
                if len(replies) == waiting[0].count:
                    answered.append((waiting.popleft(), replies))
                    self._replies = replies = []
        except (ValueError, IndexError, TypeError, MemoryError):
            # The last two are raised by hiredis, too: for a map with lists as keys, and
            # for a list that is longer than memory.
            raise ProtocolError from None

    def _handle_push(self, push: list[Any]) -> bool:
        """Handle a push; return whether it is the reply of the oldest request."""
        kind = push[0]
        if kind == b"subscribe":
            return bool(self.waiting) and self.waiting[0].pushes
        if type(kind) is not bytes:
            raise ValueError("a push without a name")
        if kind == b"message" and self.on_message is not None:
            self.on_message()
        return False

    def fail(self, server: str, reason: str) -> None:
        """Fail all requests with `ConnectionLost`."""
        while self.waiting:
            future = self.waiting.popleft().future
            if not future.done():
                future.set_exception(ConnectionLost(server, reason))
                # A caller that has stopped waiting must not be blamed for an exception
                # that nobody retrieved.
                future.exception()
