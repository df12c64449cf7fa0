"""The producer: the class with which users send messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from penstock._core.handling.signature import UNSPECIFIED
from penstock._core.messages.envelope import FIELD, field_of
from penstock._core.messages.shard_keys import single
from penstock._core.sending.requests import SendRequest
from penstock._tasks.lifetime import Live
from penstock._tasks.openable import Openable
from penstock._tasks.send_hooks import SendHooks
from penstock._tasks.sending.delivery import Delivery
from penstock._tasks.sending.outcomes import Ticket
from penstock._tasks.sending.send_defaults import SendDefaults, flag, timeout_of
from penstock._tasks.sending.send_many import SendResults
from penstock._tasks.sending.send_meter import SendMeter
from penstock._tasks.sending.sender import BufferLimits, Sender
from penstock.codecs import Codec, codec_for, encode_any, encoding
from penstock.credentials import Credentials, credentials_of
from penstock.durations import Duration, count, seconds
from penstock.errors import ConfigurationError
from penstock.events import OnEvent, guarded, log_event
from penstock.message import Receipt
from penstock.options import MAX_MESSAGE_BYTES
from penstock.outgoing import (
    ManyMessages,
    MessageOptions,
    OnSend,
    Outgoing,
    SendOptions,
    hooks_of,
    own_choices,
)
from penstock.outlet import KeyOf, Outlet
from penstock.retention import Retention, retention_of
from penstock.sharding import Sharder, spread_of

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Producer"]

T = TypeVar("T")


class Producer(Openable[Sender]):
    """Sends messages to streams.

    Open it with `async with`, or with `start` and `aclose`, which any task of the event
    loop may call. All queued messages, of all streams, are sent in one write, and
    several writes are in flight at a time. So many senders share a round trip, and no
    message waits for others to fill a write, unless `linger` asks for it. Leaving the
    producer sends the queued messages first. Once that has begun, every call raises
    `ClosedError`.

    Calls from another event loop or thread than the one that opened the producer raise
    `UsageError`, and send nothing; see docs/how-to/shutting-down.md.

    The order within a stream is the order of the calls. After an outage, each message
    that was written and not confirmed raises `SendUnknown`: Penstock never sends it
    again without being asked to, see `resend` and `idempotent`. Messages that were only
    queued are sent when the connection is back.

    Args:
        url: `redis://`, `rediss://` or `unix://` with user, password and database, or
            `embedded://`; default: the environment's `REDIS_URL`.
        credentials: Returns user and password, for each new connection: a
            `CredentialProvider` of redis-py, or an async function that returns
            `(user, password)` or a password; default: those of the URL. See
            docs/how-to/security.md.
        shards: The number of keys over which each stream is spread, by `KeyHash`, or a
            sharder that spreads it in another way, like `sharder`; default: a stream is
            one key. The first producer of a stream records the number and the sharder
            beside the stream, where consumers find it, see `ShardRecord`. A producer
            that differs from the record raises `ShardsDiffer` for the messages.
        sharder: Spreads streams: `RoundRobin(n)`, `Random(n)` or any callable, see
            `penstock.sharding`. Pass `shards=` too if it has no attribute `shards` and
            the number is known; otherwise consumers look for the shards by name.
        codec: Encodes payloads, see `Codec`; default: `bytes` and `str` are sent
            unchanged, anything else as JSON by msgspec.
        field: The name of the entry's field that holds the payload; default `"msg"`,
            which Penstock and SeaStreamer read. Name another one for consumers of other
            programs.
        max_messages: Messages held at most until they are confirmed; default 10,000.
        max_bytes: Bytes of these messages at most; default 64 MiB.
        max_message_bytes: Bytes of one message at most, counting payload, key and
            headers; default 64 MiB. A larger message raises `MessageTooLarge` before
            anything is sent. The server accepts 512 MiB a field at most
            (`proto-max-bulk-len`), and closes the connection if a field is larger.
        send_timeout: Seconds from the call to a message's outcome at most, including
            the wait for buffer space; default: none. When the time is over, a message
            that has not been written yet is withdrawn and raises `SendFailed` with the
            code `TIMEOUT`; one that has been written raises `SendUnknown`. It matters
            where a server hangs or is gone: without it, queued messages wait until
            there is a server again. `timeout=` of a call overrides it.
        retention: How much of each stream is kept: `MaxLen(n)` or `MaxAge(age)`;
            default: everything, and `unbounded_stream` is reported for each stream that
            is sent to. `KEEP_ALL` says that everything is kept on purpose.
        resend: Whether messages that were written and never confirmed are written again
            on the next connection, before anything newer, so that they are stored at
            least once; default False. This includes messages that the server refuses
            only for the moment: it is loading its data, was demoted, lacks replicas, or
            is busy with a script. A message that was written raises `SendUnknown` only
            when its time is over, or on closing.
        idempotent: Like `resend`, but each message is stored only once, and in order;
            default False. Needs scripts (`EVAL`) and keeps a small hash beside each
            stream until it is closed, `{orders}.sent.<producer>`. The page
            docs/how-to/sending.md has its costs and limits.
        replicas: How many replicas must have a message before it counts as sent
            (`WAIT`); default 0. If fewer have it in time, `NotDurable` is raised.
            `replicas=` of a call overrides it.
        durable: Whether the append-only file of the server, and of that many replicas,
            must have a message before it counts as sent (`WAITAOF`); default False.
            Needs `appendonly yes`, and Redis 7.2 or Valkey with `appendfsync always`,
            or Redis 8.2. Opening raises `ConfigurationError` on a server that confirms
            what is not on its disk yet. `durable=` of a call overrides it.
        linger: Seconds for which a write that is not full waits for more messages;
            default 0: no write waits, but messages that are queued while
            `max_in_flight` writes are in flight still share the next one. It is useful
            if a trickle of messages should cost the server fewer, larger writes, and
            each message may take that much longer. Flushing, leaving and a full buffer
            end the wait early.
        max_batch: Messages in one write at most; default 500. It matters with `linger`,
            which ends when that many messages wait, and after a lost connection: up to
            `max_batch * max_in_flight` messages raise `SendUnknown` then, or are
            written again.
        max_in_flight: Writes that may wait for their replies; default 4. More of them
            help where round trips are long; with 1, each write waits for the reply to
            the one before. The order within a stream is that of the calls for any
            value.
        open_timeout: Seconds for which opening retries while no connection can be made;
            default 0: one try.
        close_timeout: Seconds that leaving may take to send the queued messages,
            cancelled or not; default 10. Messages that have not been written by then
            raise `SendFailed`, messages that have not been confirmed `SendUnknown`, and
            the connection is aborted within 0.1 seconds.
        on_event: Called with an `Event` for each thing that happens in the background;
            default: logs it to `penstock`.
        on_send: Functions that are called with each message before it is encoded, and
            may add headers and hear its outcome, see `OnSend` in `penstock.outgoing`;
            default: none.

    Raises:
        ConfigurationError: On construction: an option is invalid. On opening: the URL
            is wrong, or the server lacks a feature that `idempotent`, `replicas` or
            `durable` needs.
        ConnectError: On opening: the server can't be reached.
        AccessError: On opening: the server refuses this user.

    Example:
        ```python
        async with Producer("redis://localhost") as producer:
            receipt = await producer.send("orders", b"...", key="customer-7")
        ```
    """

    # A producer of `penstock.testing` has another one.
    _sender_class: type[Sender] = Sender

    def __init__(
        self,
        url: str | None = None,
        *,
        credentials: Credentials | None = None,
        shards: int | Sharder | None = None,
        sharder: Sharder | None = None,
        codec: Codec[Any] | None = None,
        field: str = FIELD,
        max_messages: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        send_timeout: Duration | None = None,
        retention: Retention | None = None,
        resend: bool = False,
        idempotent: bool = False,
        replicas: int = 0,
        durable: bool = False,
        linger: Duration = 0,
        max_batch: int = 500,
        max_in_flight: int = 4,
        open_timeout: Duration = 0,
        close_timeout: Duration = 10,
        on_event: OnEvent = log_event,
        on_send: Iterable[OnSend] = (),
    ) -> None:
        room = BufferLimits(
            count(max_messages, "max_messages"),
            count(max_bytes, "max_bytes"),
            count(max_batch, "max_batch"),
            count(max_message_bytes, "max_message_bytes"),
        )
        self._meter = meter = SendMeter()
        tell = meter.events.counting(guarded(on_event))
        hooks = hooks_of(on_send)
        self._sender = self._sender_class(
            spread_of(shards, sharder),
            room,
            tell,
            idempotent=flag(idempotent, "idempotent"),
            meter=meter,
        )
        self._defaults = SendDefaults.of(
            encode_any if codec is None else encoding(codec),
            timeout_of(send_timeout, "send_timeout"),
            retention_of(retention),
            replicas=replicas,
            durable=durable,
            field=field_of(field),
            hooks=SendHooks.of(hooks, tell),
        )
        self._on_send, self._on_event = hooks, tell
        self._delivery = Delivery(
            url=url,
            sender=self._sender,
            max_batch=room.max_batch,
            max_in_flight=count(max_in_flight, "max_in_flight"),
            linger=seconds(linger, "linger"),
            resend=flag(resend, "resend") or idempotent,
            idempotent=idempotent,
            replicas=self._defaults.replicas > 0,
            durable=self._defaults.durable,
            open_timeout=seconds(open_timeout, "open_timeout"),
            close_timeout=seconds(close_timeout, "close_timeout"),
            on_event=tell,
            credentials=credentials_of(credentials),
        )

    def _opener(self) -> Live[Sender]:
        return self._delivery.live

    def _shut(self) -> None:
        self._sender.shut()

    async def send(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> Receipt:
        """Send a message and wait until the server has it.

        Cancelling it ends the wait, but does not withdraw the message, which is stored
        once or not at all.

        Args:
            stream: The stream's name.
            payload: The payload; `bytes` and `str` are sent unchanged, see `codec`.
            key: The message's key, or None; with `ordering="key"`, consumers handle
                messages of one key in order.
            headers: Text by name; the name of the payload's field and `key` are
                reserved, and `content-type` is the codec's if it has one.
            **choices: Options for this message only, see `MessageOptions`.

        Raises:
            SendFailed: The server refused the message, or it was not written in time
                (the code is `TIMEOUT`); it is not stored.
            SendUnknown: The message was written, and the connection was lost, or its
                time was over, before the reply came.
            NotDurable: The message is stored, but not on as many replicas or disks as
                `replicas` or `durable` requires.
            ConfigurationError: The stream's name, the key, a header or the payload
                can't be sent; if the message is too large, this is a `MessageTooLarge`,
                and a `ShardsDiffer` if the stream is recorded with other shards.
            ClosedError: The producer is not open.
            UsageError: The producer was opened in another event loop or thread.
        """
        return await (
            await self.enqueue(stream, payload, key=key, headers=headers, **choices)
        )

    async def enqueue(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> asyncio.Future[Receipt]:
        """Queue a message; wait only until the buffer has space for it.

        Cancelling it during that wait withdraws the message, unless space had just
        become free for it: then it is sent.

        Args:
            stream: The stream's name.
            payload: The payload, as for `send`.
            key: As for `send`.
            headers: As for `send`.
            **choices: As for `send`.

        Returns:
            A future of the receipt. It need not be awaited: a failure that nobody waits
            for is reported as an event. The future raises what `send` raises.

        Raises:
            SendFailed: The buffer had no space in time; the code is `TIMEOUT`.
            ConfigurationError: As for `send`.
            ClosedError: The producer is not open.
        """
        sender = self._sender
        request = sender.pack(
            self._defaults, stream, payload, key, headers, choices=choices
        )
        if (wait := sender.put(request)) is not None:
            await wait
        return request.ticket

    def enqueue_nowait(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> asyncio.Future[Receipt]:
        """Queue a message if the buffer has space now; otherwise like `enqueue`.

        Raises:
            BufferFull: The buffer has no space; nothing was sent.
            ConfigurationError: As for `send`.
            ClosedError: The producer is not open.
        """
        request = self._sender.pack(
            self._defaults, stream, payload, key, headers, choices=choices
        )
        self._sender.put_now(request)
        return request.ticket

    def send_many(
        self,
        stream: str,
        messages: Iterable[Any | Outgoing[Any]] | AsyncIterable[Any | Outgoing[Any]],
        **choices: Unpack[SendOptions],
    ) -> SendResults:
        """Send messages one after the other, each with an outcome of its own.

        Each message waits until the buffer has space for it. Awaiting the result
        returns the list of outcomes, in the order of the messages: a receipt for each
        message, or its failure as a value. A failed message never makes the others
        fail. `async for` over the result yields the outcomes one by one, in the same
        order, and memory stays bounded for any number of messages. Outcomes are yielded
        while further messages are taken: if the source pauses, the outcomes of its last
        messages are yielded when it goes on or ends.

        Cancelling it, or leaving the loop, takes no more messages; those already taken
        are sent.

        Args:
            stream: The stream's name.
            messages: Payloads, or `Outgoing` for a message with a key or headers; any
                iterable or async iterable. An exception that it raises is raised from
                here; the messages that it yielded before are sent all the same.
            **choices: Options for all these messages, see `SendOptions`; the timeout of
                each message starts when the message is taken.

        Returns:
            An object to await or to iterate over; nothing is sent before that.

        Raises:
            ConfigurationError: The messages are not an iterable, or are text or bytes.
                When awaited: the stream's name is invalid. An error in a single message
                is that message's outcome.
            ClosedError: When awaited: the producer is not open, or was closed
                meanwhile.

        Example:
            ```python
            async with Producer("redis://localhost") as producer:
                for outcome in await producer.send_many("orders", [b"one", b"two"]):
                    if not isinstance(outcome, Receipt):
                        print("failed:", outcome)
            ```
        """
        route = (self._defaults, stream, choices)
        pack = partial(self._pack_one, stream, choices)
        return SendResults(self._sender, route, messages, pack)

    def _pack_one(
        self,
        stream: str,
        choices: SendOptions,
        message: Outgoing[Any],
        many: ManyMessages,
    ) -> SendRequest[Ticket]:
        return self._sender.pack(
            self._defaults,
            stream,
            message.payload,
            message.key,
            message.headers,
            choices=own_choices(message, choices),
            many=many,
        )

    @overload
    def to(
        self,
        stream: str,
        *,
        key: KeyOf[Any] | None = None,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        replicas: int | None = None,
        durable: bool | None = None,
        field: str | None = None,
        on_send: Iterable[OnSend] = (),
    ) -> Outlet[Any]: ...
    @overload
    def to(
        self,
        stream: str,
        *,
        payload: type[T],
        key: KeyOf[T] | None = None,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        replicas: int | None = None,
        durable: bool | None = None,
        field: str | None = None,
        on_send: Iterable[OnSend] = (),
    ) -> Outlet[T]: ...
    @overload
    def to(
        self,
        stream: str,
        *,
        payload: TypeForm[T],
        key: KeyOf[T] | None = None,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        replicas: int | None = None,
        durable: bool | None = None,
        field: str | None = None,
        on_send: Iterable[OnSend] = (),
    ) -> Outlet[T]: ...
    @overload
    def to(
        self,
        stream: str,
        *,
        codec: Codec[T],
        key: KeyOf[T] | None = None,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        replicas: int | None = None,
        durable: bool | None = None,
        field: str | None = None,
        on_send: Iterable[OnSend] = (),
    ) -> Outlet[T]: ...
    def to(
        self,
        stream: str,
        *,
        payload: Any = UNSPECIFIED,
        codec: Codec[Any] | None = None,
        key: KeyOf[Any] | None = None,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        replicas: int | None = None,
        durable: bool | None = None,
        field: str | None = None,
        on_send: Iterable[OnSend] = (),
    ) -> Outlet[Any]:
        """Bind a stream and options for sending to it; the producer need not be open.

        Args:
            stream: The stream's name.
            payload: The payloads' type, for type checkers and for the codec: `bytes`
                and `str` unchanged, any other type as JSON; default: as the producer.
            codec: Encodes the payloads in another way; it also defines their type.
            key: Returns a payload's key, for calls that pass none; default: no key.
            timeout: Overrides the producer's `send_timeout`.
            retention: Overrides the producer's.
            replicas: Overrides the producer's.
            durable: Overrides the producer's.
            field: Overrides the producer's.
            on_send: Called after the producer's own.

        Raises:
            ConfigurationError: The stream's name is invalid, messages of the type can't
                be decoded, both `payload` and `codec` are given, or one of the other
                options is invalid.

        Example:
            ```python
            producer = Producer("redis://localhost")
            orders = producer.to("orders", payload=Order, key=lambda it: str(it.id))
            async with producer:
                await orders.send(Order(7))
            ```
        """
        single(stream)
        if payload is not UNSPECIFIED and codec is not None:
            raise ConfigurationError(
                "payload= and codec= exclude each other; leave one of them out"
            )
        if payload is not UNSPECIFIED:
            codec = codec_for(payload)
        hooks = (*self._on_send, *hooks_of(on_send))
        defaults = self._defaults.override(
            None if codec is None else encoding(codec),
            timeout_of(timeout, "timeout"),
            retention_of(retention),
            replicas=replicas,
            durable=durable,
            field=None if field is None else field_of(field),
            hooks=SendHooks.of(hooks, self._on_event),
        )
        return Outlet(self, self._sender, stream, defaults, key)

    async def flush(self) -> None:
        """Wait until all messages queued before the call have an outcome, good or bad.

        Each message's future has its outcome. Cancelling it changes nothing.

        Raises:
            ClosedError: The producer is not open.
        """
        self._sender.check_open()
        await self._sender.drain()

    def __repr__(self) -> str:
        state = "open" if self._sender.opened else "closed"
        held = self._sender.accumulator.held
        return f"<Producer {state}, {held} messages without an outcome>"
