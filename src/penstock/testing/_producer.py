"""A producer that sends nothing, and records what it was asked to send."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from penstock import _clock
from penstock._core.sending.requests import SendRequest
from penstock._tasks.lifetime import Lifetime, Live
from penstock._tasks.loop_binding import LoopBinding
from penstock._tasks.sending.outcomes import Ticket, fail
from penstock._tasks.sending.send_defaults import SendDefaults
from penstock._tasks.sending.sender import Sender
from penstock.errors import BufferFull, ConfigurationError
from penstock.message import Receipt
from penstock.outgoing import ManyMessages, MessageOptions, chosen_id
from penstock.producer import Producer
from penstock.testing._transactions import Sent

__all__ = ["RecordingProducer", "RecordingSender"]


class RecordingSender(Sender):
    """A sender that records messages, and never has any to send.

    Attributes:
        sent: The messages, in the order of the calls.
        failures: The errors of the next messages.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sent: list[Sent] = []
        self.failures: deque[BaseException] = deque()
        # Whether it is opened and closed by its user. If not, it is always open.
        self._managed = False
        self._packed: dict[SendRequest[Ticket], tuple[Sent, bytes]] = {}
        # The requests whose outcome hooks are to hear.
        self._hooked: set[SendRequest[Ticket]] = set()
        self._numbers = count(1)

    @asynccontextmanager
    async def live(self, lifetime: Lifetime[Sender]) -> AsyncIterator[Sender]:
        """Accept messages until the block ends."""
        self._managed = True
        self.open(lifetime.binding)
        try:
            yield self
        finally:
            self.close()

    def check_open(self) -> None:
        """Check that messages are accepted, and from this event loop."""
        if not self._managed:
            self.open(LoopBinding("producer"))
        super().check_open()

    def pack(
        self,
        defaults: SendDefaults,
        stream: str,
        payload: Any,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        choices: MessageOptions | None = None,
        many: ManyMessages | None = None,
    ) -> SendRequest[Ticket]:
        """Pack a message, which checks it; it is recorded when it is queued."""
        request = super().pack(
            defaults, stream, payload, key, headers, choices=choices, many=many
        )
        if defaults.hooks is not None:
            # This method was called again meanwhile, with the headers of the hooks.
            self._hooked.add(request)
            return request
        chosen = choices or {}
        word, _ = chosen_id(chosen.get("id"), chosen.get("timestamp"))
        sent = Sent(stream, payload, key, dict(headers or {}))
        self._packed[request] = sent, word
        return request

    def put(self, request: SendRequest[Ticket]) -> Awaitable[None] | None:
        """Record a message and set its outcome; return what hooks need to hear it."""
        self._record(request)
        if request not in self._hooked:
            return None
        self._hooked.discard(request)
        return asyncio.sleep(0)

    def _record(self, request: SendRequest[Ticket]) -> None:
        sent, word = self._packed.pop(request)
        if self.failures:
            request.ticket.set_exception(self.failures.popleft())
            # The test may look at `sent` only.
            request.ticket.exception()
            return
        if word == b"*":
            word = b"%d-%d" % (int(_clock.wall() * 1000), next(self._numbers))
        elif word.endswith(b"*"):
            word = word[:-1] + b"%d" % next(self._numbers)
        receipt = Receipt(sent.stream, request.shard.number, word)
        request.ticket.set_result(receipt)
        self.sent.append(
            Sent(sent.stream, sent.payload, sent.key, sent.headers, receipt)
        )

    def put_now(self, request: SendRequest[Ticket]) -> None:
        """Record a message and set its outcome.

        Raises:
            BufferFull: This is the error that was chosen for the message.
        """
        if self.failures and isinstance(self.failures[0], BufferFull):
            del self._packed[request]
            self._hooked.discard(request)
            error = self.failures.popleft()
            fail(request.ticket, error)
            raise error
        self._hooked.discard(request)
        self._record(request)


class RecordingProducer(Producer):
    """A producer for tests: it needs no server, sends nothing, and records everything.

    It can be used wherever a `Producer` is, with all its methods and outlets. Messages
    are checked and encoded as a producer does, so what can't be sent is refused. All
    others are confirmed at once. It need not be opened. If it is, it can't be used any
    more once it is closed, like any producer.

    Args:
        url: Not used.
        **options: Those of `Producer`, for example `shards` or `codec`. `on_event` is
            by default a function that does nothing.

    Raises:
        ConfigurationError: An option is invalid.

    Example:
        ```python
        from penstock.testing import RecordingProducer, Sent

        producer = RecordingProducer()
        await producer.send("orders", Order(7), key="customer-7")
        assert producer.sent == [Sent("orders", Order(7), key="customer-7")]
        ```
    """

    _sender_class = RecordingSender

    def __init__(self, url: str | None = None, **options: Any) -> None:
        super().__init__(url, **{"on_event": lambda _: None, **options})

    @property
    def sent(self) -> list[Sent]:
        """The messages that were sent and did not fail, in the order of the calls."""
        return self._recording.sent

    def fail_next(self, error: BaseException) -> None:
        """Have the next message fail; called again, the one after it.

        The message is not in `sent`, whatever the error says about it.

        Args:
            error: The error that sending it raises, for example
                `SendFailed("orders", "OOM", "out of memory")`, or `BufferFull(1, 1)`
                for `enqueue_nowait`.

        Raises:
            ConfigurationError: It is not an exception.

        Example:
            ```python
            from penstock.testing import RecordingProducer

            producer = RecordingProducer()
            producer.fail_next(SendUnknown("orders", "the connection was lost"))
            ```
        """
        if not isinstance(error, BaseException):
            raise ConfigurationError(
                f"{error!r:.60} is not an exception; pass one, for example "
                f"SendFailed('orders', 'OOM', 'out of memory')"
            )
        self._recording.failures.append(error)

    @property
    def _recording(self) -> RecordingSender:
        assert isinstance(self._sender, RecordingSender)  # noqa: S101 - see the class
        return self._sender

    def _opener(self) -> Live[Sender]:
        return self._recording.live
