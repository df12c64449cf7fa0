"""The producer for synchronous code: a `penstock.Producer` on a loop in a thread."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack
from weakref import WeakSet

import penstock
from penstock._tasks.sending.send_many import check_messages
from penstock.errors import ClosedError, UsageError
from penstock.message import Receipt
from penstock.outgoing import MessageOptions, Outcome, Outgoing, SendOptions
from penstock.sync._loop_thread import loop_thread

__all__ = ["Producer"]

P = ParamSpec("P")
T = TypeVar("T")

# Messages that `send_many` takes from its source before it sends them.
_CHUNK: Final = 500


def _with_options_of(
    model: Callable[Concatenate[Any, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a constructor the arguments of another class's one."""

    def given(function: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        return wraps(model, assigned=())(function)

    return given


class Producer:
    """Sends messages from synchronous code, and from any number of threads.

    It opens when it is first used, on an event loop in a thread that all producers of
    the process share; so it may be created when a module is imported, and before a
    server forks its workers. Used before the fork, it can't be used after it. A program
    that ends closes its producers first, which sends what they have queued.

    The order within a stream is that of the calls of a thread.

    The URL and all options are those of `penstock.Producer`.

    Raises:
        ConfigurationError: An option is invalid.

    Example:
        ```python
        from penstock.sync import Producer

        with Producer("redis://localhost") as producer:
            receipt = producer.send("orders", b"...", key="customer-7")
        ```
    """

    @_with_options_of(penstock.Producer.__init__)
    def __init__(self, *given: Any, **options: Any) -> None:
        self._producer = penstock.Producer(*given, **options)
        self._lock = threading.Lock()
        # The process that has opened it.
        self._process: int | None = None
        self._closed = False

    def send(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> Receipt:
        """Send a message and wait until the server has it.

        If the wait is interrupted, as by Ctrl-C, the message is not withdrawn: it is
        stored once or not at all.

        Args:
            stream: The stream's name.
            payload: The payload.
            key: The message's key, or None.
            headers: Text by name.
            **choices: Options for this message only.

        Raises:
            ConnectError: The server can't be reached for opening; nothing was sent.
            AccessError: The server refuses this user; nothing was sent.
            ClosedError: The producer was closed.
            UsageError: The producer was used before this process was forked.
            PenstockError: The message was not stored, or may not be; see
                `penstock.Producer.send`.
        """
        send = self._opened().send
        return self._call(
            partial(send, stream, payload, key=key, headers=headers, **choices)
        )

    def enqueue(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> Future[Receipt]:
        """Queue a message, waiting only while the buffer has no space.

        Args:
            stream: The stream's name.
            payload: The payload.
            key: The message's key, or None.
            headers: Text by name.
            **choices: Options for this message only.

        Returns:
            Gives the receipt, or raises what `send` raises. Cancelling it withdraws
            nothing.

        Raises:
            PenstockError: The message was not queued, as for `send`.
        """
        producer, outcome = self._opened(), Future[Receipt]()
        outcome.set_running_or_notify_cancel()

        async def queue() -> None:
            ticket = await producer.enqueue(
                stream, payload, key=key, headers=headers, **choices
            )
            ticket.add_done_callback(partial(_pass_on, outcome))

        self._call(queue)
        return outcome

    def send_many(
        self,
        stream: str,
        messages: Iterable[Any | Outgoing[Any]],
        **choices: Unpack[SendOptions],
    ) -> list[Outcome]:
        """Send messages one after the other, each with an outcome of its own.

        The messages are taken in the calling thread, so they may come from a query of
        Django or from a file.

        Args:
            stream: The stream's name.
            messages: Payloads, or `Outgoing` for a message with a key or headers. An
                exception that it raises is raised from here; the messages before it are
                sent all the same.
            **choices: Options for all these messages.

        Returns:
            The outcomes in the order of the messages: a receipt for each message, or
            its failure as a value.

        Raises:
            ConfigurationError: The messages are not an iterable, or are text or bytes;
                or the stream's name is invalid.
            ClosedError: The producer was closed.
            UsageError: The producer was used before this process was forked.
        """
        producer = self._opened()
        check_messages(messages, Iterable)
        outcomes: list[Outcome] = []
        for chunk in _chunks(messages):
            outcomes += self._call(partial(_all_of, producer, stream, chunk, choices))
        return outcomes

    def flush(self) -> None:
        """Wait until each message that was queued so far has an outcome.

        Raises:
            ClosedError: The producer was closed.
            UsageError: The producer was used before this process was forked.
        """
        self._call(self._opened().flush)

    def close(self) -> None:
        """Send what is queued, for at most `close_timeout` seconds, and close.

        It does nothing if the producer is closed, was never used, or was used before
        this process was forked.
        """
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and self._process == os.getpid():
                self._call(self._producer.aclose)

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> penstock.Producer:
        """Return the producer, which is opened if it is not open yet."""
        if self._process != os.getpid() or self._closed:
            with self._lock:
                self._open()
        return self._producer

    def _open(self) -> None:
        if self._closed:
            raise ClosedError("producer")
        if self._process is None:
            self._call(self._producer.start)
            self._process = os.getpid()
            _open_producers.add(self)
        elif self._process != os.getpid():
            raise UsageError(
                "this producer was used before the process was forked, and its thread "
                "is the parent's; create one in each process, or use it only there"
            )

    @staticmethod
    def _call(function: Callable[[], Awaitable[T]]) -> T:
        return loop_thread().call(function)

    def __repr__(self) -> str:
        return f"<penstock.sync.Producer of {self._producer!r}>"


def _pass_on(outcome: Future[Receipt], ticket: Any) -> None:
    error = ticket.exception()
    if error is None:
        outcome.set_result(ticket.result())
    else:
        outcome.set_exception(error)


async def _all_of(
    producer: penstock.Producer, stream: str, chunk: list[Any], choices: SendOptions
) -> list[Outcome]:
    return await producer.send_many(stream, chunk, **choices)


def _chunks(messages: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the messages in lists; those before an exception come before it."""
    chunk: list[Any] = []
    try:
        for message in messages:
            chunk.append(message)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
    except Exception:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


_open_producers: WeakSet[Producer] = WeakSet()


@atexit.register
def _close_all() -> None:
    for producer in list(_open_producers):
        producer.close()
