"""Sending many messages: queues them as space becomes free, with outcomes in order."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from typing import Any, TypeAlias

from penstock._core.sending.requests import SendRequest
from penstock._tasks.sending.outcomes import Ticket
from penstock._tasks.sending.send_defaults import SendDefaults
from penstock._tasks.sending.sender import Sender
from penstock.errors import (
    ConfigurationError,
    NotDurable,
    SendFailed,
    SendUnknown,
    ShardsDiffer,
    UsageError,
)
from penstock.outgoing import ManyMessages, Outcome, Outgoing, SendOptions

__all__ = ["Pack", "SendResults", "check_messages"]

Pack: TypeAlias = Callable[[Outgoing[Any], ManyMessages], SendRequest[Ticket]]
# The defaults, the stream, and the options that the call chose.
Route: TypeAlias = tuple[SendDefaults, str, SendOptions]
_Failure: TypeAlias = SendFailed | SendUnknown | NotDurable | ConfigurationError


def check_messages(messages: Any, *kinds: type) -> None:
    """Check that messages are of one of some kinds of iterables, and no payload.

    Raises:
        ConfigurationError: They are not.
    """
    if isinstance(messages, str | bytes | bytearray | memoryview | Mapping) or (
        not isinstance(messages, kinds)
    ):
        raise ConfigurationError(
            f"messages of type {type(messages).__name__} can't be sent; pass a "
            f"list, or another iterable, of payloads or Outgoing"
        )


class SendResults:
    """The outcomes of the messages of a `send_many`, in their order.

    Await it for the list of all outcomes. Or iterate over it with `async for`, which
    holds no more outcomes than the producer may hold messages. Either sends the
    messages, and each message is sent once.

    Raises:
        ClosedError: The producer is not open, or was closed meanwhile.
        UsageError: It was already awaited or iterated over.
    """

    def __init__(self, sender: Sender, route: Route, messages: Any, pack: Pack) -> None:
        check_messages(messages, Iterable, AsyncIterable)
        self._sender = sender
        self._route = route
        self._messages: Iterable[Any] | AsyncIterable[Any] = messages
        self._pack = pack
        self._many = ManyMessages()
        self._begun = False

    def __await__(self) -> Generator[Any, None, list[Outcome]]:
        return self._all(self._begin()).__await__()

    def __aiter__(self) -> AsyncGenerator[Outcome]:
        return self._begin()

    def _begin(self) -> AsyncGenerator[Outcome]:
        if self._begun:
            raise UsageError(
                "these messages have already been sent; call send_many again"
            )
        self._begun = True
        return self._each()

    @staticmethod
    async def _all(outcomes: AsyncGenerator[Outcome]) -> list[Outcome]:
        async with aclosing(outcomes):
            return [outcome async for outcome in outcomes]

    async def _each(self) -> AsyncGenerator[Outcome]:
        self._sender.check(*self._route)
        # Messages that were queued and whose outcome is not yielded yet, in order.
        # Their number is bounded by what the producer may hold.
        window: deque[Ticket | _Failure] = deque()
        try:
            async with aclosing(_one_by_one(self._messages)) as messages:
                async for message in messages:
                    window.append(await self._put(message))
                    while window and (
                        _known(window[0]) or len(window) > self._sender.max_messages
                    ):
                        yield await _outcome(window.popleft())
            while window:
                yield await _outcome(window.popleft())
        finally:
            self._many.ended()

    async def _put(self, message: Any) -> Ticket | _Failure:
        if not isinstance(message, Outgoing):
            message = Outgoing(message)
        try:
            self._many.count += 1
            request = self._pack(message, self._many)
            if (wait := self._sender.put(request)) is not None:
                await wait
        except (ConfigurationError, SendFailed) as error:
            return error
        return request.ticket

    def __del__(self) -> None:
        # As for a coroutine that was never awaited. (An object that `__init__` refused
        # has sent nothing, and has no such attribute.)
        if not getattr(self, "_begun", True):
            warnings.warn(
                "the result of send_many was neither awaited nor iterated, so nothing "
                "was sent",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        state = "started" if self._begun else "not started"
        return f"<Outcomes for {self._route[1]!r:.80}, {state}>"


def _known(outcome: Ticket | _Failure) -> bool:
    return isinstance(outcome, Exception) or outcome.done()


async def _outcome(outcome: Ticket | _Failure) -> Outcome:
    if isinstance(outcome, Exception):
        return outcome
    try:
        return await outcome
    except (SendFailed, SendUnknown, NotDurable, ShardsDiffer) as error:
        return error


async def _one_by_one(
    messages: Iterable[Any] | AsyncIterable[Any],
) -> AsyncGenerator[Any]:
    if isinstance(messages, AsyncIterable):
        async for message in messages:
            yield message
    else:
        for message in messages:
            yield message
