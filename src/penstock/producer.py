"""The producer: what a user holds to send messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from functools import partial
from types import UnionType
from typing import Any, TypeVar, Unpack, overload

from penstock._core.messages.shard_keys import single
from penstock._core.sending.accumulator import Sending
from penstock._tasks.lifetime import Live, Openable
from penstock._tasks.sending.delivery import Delivery
from penstock._tasks.sending.flusher import Ticket
from penstock._tasks.sending.send_defaults import SendDefaults, flag, timeout_of
from penstock._tasks.sending.send_many import SendResults
from penstock._tasks.sending.sender import BufferLimits, Sender
from penstock.codecs import Codec, codec_for, encode_any, encoding
from penstock.errors import ConfigurationError
from penstock.events import OnEvent, guarded, log_event
from penstock.message import Receipt
from penstock.options import MAX_MESSAGE_BYTES, Duration, count, seconds
from penstock.outgoing import MessageOptions, Outgoing, SendOptions, own_choices
from penstock.outlet import KeyOf, Outlet
from penstock.retention import Retention, retention_of
from penstock.sharding import KeyHash, Sharder

__all__ = ["Producer"]

T = TypeVar("T")


class Producer(Openable[Sender]):
    """Sends messages to streams.

    Open it with `async with`, or with `start` and `aclose`, which any task of the
    event loop may call. Everything that is queued, over all streams, goes out
    in one write, and several writes are in flight, so many senders share a round trip
    without anybody waiting for company, unless `linger` asks for it. Leaving it sends
    what is queued first. Once that has begun, every call raises `ClosedError`.

    Calls from another event loop or thread than the one that opened it raise
    `UsageError`, and send nothing; see docs/shutting-down.md.

    The order within a stream is the order of the calls. After an outage, what was
    written and not confirmed raises `SendUnknown`: it is never sent again behind your
    back, unless you choose `resend` or `idempotent`. What was only queued is sent then.

    Args:
        url: `redis://`, `rediss://` or `unix://` with user, password and database,
            or `embedded://`; default: the environment's `REDIS_URL`.
        shards: Over how many keys each stream is spread, by `KeyHash`, or what spreads
            it in another way, as `sharder`; default: a stream is one key.
        sharder: Spreads streams: `RoundRobin(n)`, `Random(n)` or any callable, see
            `penstock.sharding`.
        codec: Encodes payloads, see `Codec`; default: `bytes` and `str` as they are,
            anything else as JSON by msgspec.
        max_messages: Messages held at most until they are confirmed; default 10,000.
        max_bytes: Their bytes at most; default 64 MiB.
        max_message_bytes: Bytes of one message at most, payload, key and headers;
            default 64 MiB. A larger one raises `MessageTooLarge` before anything is
            sent. The server takes 512 MiB a field at most (`proto-max-bulk-len`), and
            closes the connection for more.
        send_timeout: Seconds from the call to a message's outcome at most, the wait
            for room included; default: none. When they are over, what was not written
            yet is taken back and raises `SendFailed` with the code `TIMEOUT`; what was
            raises `SendUnknown`. It matters where a server hangs or is gone: without
            it, what is queued waits until there is one again. `timeout=` of a call
            goes before it.
        retention: How much of each stream is kept: `MaxLen(n)` or `MaxAge(age)`;
            default: everything, and `unbounded_stream` is reported for the streams
            that are sent to. `KEEP_ALL` says that this is meant.
        resend: Whether what was written and never answered is written again after the
            next connection, before anything newer, so that it is stored at least
            once; default False. So is what the server refuses for the moment only:
            it loads its data, was demoted, lacks replicas, is busy with a script. Only
            when its time is over, or on closing, does a message that was written raise
            `SendUnknown`.
        idempotent: The same, but each message is stored once all the same, in order;
            default False. Needs scripts (`EVAL`) and keeps a small hash beside each
            stream for a day, `{orders}.sent.<producer>`. See docs/sending.md for what
            it costs and what it can't do.
        replicas: How many replicas must have a message before it counts as sent
            (`WAIT`); default 0. Where fewer have it in time `NotDurable` is raised.
            `replicas=` of a call goes before it.
        durable: Whether the append-only file of the server, and of that many replicas,
            must have it (`WAITAOF`); default False. Needs Redis 7.2 or Valkey with
            `appendonly yes`. `durable=` of a call goes before it.
        linger: Seconds for which a write that is not full waits for more messages;
            default 0: none does, and still what queues while `max_in_flight` writes
            are in the air shares the next. It matters where a trickle of messages is
            to cost the server fewer, larger writes, and each may take that much
            longer. Flushing, leaving and a full buffer cut it short.
        max_batch: Messages in one write at most; default 500. It matters with
            `linger`, which ends when so many wait, and after a lost connection: up to
            `max_batch * max_in_flight` messages raise `SendUnknown` then, or are
            written again.
        max_in_flight: Writes that may wait for their replies; default 4. More help
            where round trips are long; 1 means that each write waits for the one
            before. The order within a stream is that of the calls whatever it is.
        open_timeout: Seconds for which opening goes on trying while no connection
            can be made; default 0: one try.
        close_timeout: Seconds that leaving may take to send what is queued, cancelled
            or not; default 10. What was not written by then raises `SendFailed`, what
            was not confirmed `SendUnknown`, and the connection is aborted within 0.1
            seconds.
        on_event: Told of what happens in the background, see `Event`; default:
            logged to `penstock`.

    Raises:
        ConfigurationError: On construction: an option makes no sense. On opening: a
            wrong URL, or the server can't do what `idempotent`, `replicas` or
            `durable` need.
        ConnectError: On opening: there is no way to the server.
        AccessError: On opening: the server refuses this user.

    Example:
        ```python
        async with Producer("redis://localhost") as producer:
            receipt = await producer.send("orders", b"...", key="customer-7")
        ```
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        shards: int | Sharder | None = None,
        sharder: Sharder | None = None,
        codec: Codec[Any] | None = None,
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
    ) -> None:
        if shards is not None and sharder is not None:
            raise ConfigurationError(
                "shards= and sharder= say the same twice; leave one of them out"
            )
        if shards is not None:
            sharder = shards if callable(shards) else KeyHash(shards)
        room = BufferLimits(
            count(max_messages, "max_messages"),
            count(max_bytes, "max_bytes"),
            count(max_batch, "max_batch"),
            count(max_message_bytes, "max_message_bytes"),
        )
        tell = guarded(on_event)
        self._sender = Sender(
            sharder, room, tell, idempotent=flag(idempotent, "idempotent")
        )
        self._defaults = SendDefaults.of(
            encode_any if codec is None else encoding(codec),
            timeout_of(send_timeout, "send_timeout"),
            retention_of(retention),
            replicas=replicas,
            durable=durable,
        )
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

        Cancelling it gives up the wait, not the message: it is in the stream once or
        not at all.

        Args:
            stream: Where to.
            payload: What; `bytes` and `str` go as they are, see `codec`.
            key: What it belongs to; `ordering="key"` keeps messages of one key in
                order.
            headers: Text by name; `msg` and `key` are reserved, and `content-type` is
                the codec's if it has one.
            **choices: What is chosen for this message only, see `MessageOptions`.

        Raises:
            SendFailed: The server refused it, or it was not written in time (its code
                is `TIMEOUT`); it is not stored.
            SendUnknown: It was written, and the connection was lost, or the time was
                over, before the reply.
            NotDurable: It is stored, but not where `replicas` or `durable` want it.
            ConfigurationError: The stream's name, the key, a header or the payload
                can't be sent; as `MessageTooLarge` if there is too much of it.
            ClosedError: The producer is not open.
            UsageError: It was opened in another event loop or thread.
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
        """Queue a message, waiting for room only.

        Cancelling it while it waits for room gives the message up, unless its turn
        had just come.

        Args:
            stream: Where to.
            payload: What, as for `send`.
            key: As for `send`.
            headers: As for `send`.
            **choices: As for `send`.

        Returns:
            A future of the receipt; it may be awaited, or left: a failure that nobody
            waits for is reported as an event. It raises what `send` raises.

        Raises:
            SendFailed: There was no room in time; its code is `TIMEOUT`.
            ConfigurationError: As for `send`.
            ClosedError: The producer is not open.
        """
        sender = self._sender
        sending = sender.pack(
            self._defaults, stream, payload, key, headers, choices=choices
        )
        if (wait := sender.put(sending)) is not None:
            await wait
        return sending.ticket

    def enqueue_nowait(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **choices: Unpack[MessageOptions],
    ) -> asyncio.Future[Receipt]:
        """Queue a message if there is room now; else like `enqueue`.

        Raises:
            BufferFull: There is no room; nothing was sent.
            ConfigurationError: As for `send`.
            ClosedError: The producer is not open.
        """
        sending = self._sender.pack(
            self._defaults, stream, payload, key, headers, choices=choices
        )
        self._sender.put_now(sending)
        return sending.ticket

    def send_many(
        self,
        stream: str,
        messages: Iterable[Any | Outgoing[Any]] | AsyncIterable[Any | Outgoing[Any]],
        **choices: Unpack[SendOptions],
    ) -> SendResults:
        """Send messages, one after the other as there is room, each for itself.

        Awaited, it gives the list of their outcomes, in the order of the messages: a
        receipt for each, or its failure as a value; one never fails the others. With
        `async for` the outcomes come one by one, in the same order, and what is held
        stays bounded however many there are; they come as further messages are
        taken, so what a slow source sends last it learns of when the next one is
        there, or when it ends.

        Cancelling it, or leaving the loop, takes no more messages; those it has taken
        are sent.

        Args:
            stream: Where to.
            messages: Payloads, or `Outgoing` where one has a key or headers; any
                iterable, an async one too. What it raises leaves `send_many`; what it
                gave before is sent all the same.
            **choices: What is chosen for all of them, see `SendOptions`; a timeout
                counts for each from when it is taken.

        Returns:
            What to await or to go through; nothing is sent before that.

        Raises:
            ConfigurationError: The messages are no iterable, or are text or bytes.
                When awaited: the stream's name can't be one. What is wrong with a
                message is that message's outcome.
            ClosedError: When awaited: the producer is not open, or closed meanwhile.

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
        self, stream: str, choices: SendOptions, message: Outgoing[Any]
    ) -> Sending[Ticket]:
        return self._sender.pack(
            self._defaults,
            stream,
            message.payload,
            message.key,
            message.headers,
            choices=own_choices(message, choices),
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
    ) -> Outlet[T]: ...
    @overload
    def to(
        self,
        stream: str,
        *,
        payload: UnionType | type[Any],
        timeout: Duration | None = None,
        retention: Retention | None = None,
    ) -> Outlet[Any]: ...
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
    ) -> Outlet[T]: ...
    def to(
        self,
        stream: str,
        *,
        payload: UnionType | type[Any] | None = None,
        codec: Codec[Any] | None = None,
        key: KeyOf[Any] | None = None,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        replicas: int | None = None,
        durable: bool | None = None,
    ) -> Outlet[Any]:
        """Bind a stream, and how messages go there; the producer need not be open.

        Args:
            stream: Where to.
            payload: The payloads' type, for type checkers and for the codec: `bytes`
                and `str` as they are, any other as JSON; default: as the producer.
            codec: Encodes them in another way; it says their type too.
            key: Gives a payload's key, where a call names none; default: no key.
            timeout: In place of the producer's `send_timeout`.
            retention: In place of the producer's.
            replicas: In place of the producer's.
            durable: In place of the producer's.

        Raises:
            ConfigurationError: The stream's name can't be one, the type is none that
                msgspec knows, both `payload` and `codec` are given, or one of the
                other options is none.

        Example:
            ```python
            producer = Producer("redis://localhost")
            orders = producer.to("orders", payload=Order, key=lambda it: str(it.id))
            async with producer:
                await orders.send(Order(7))
            ```
        """
        single(stream)
        if payload is not None and codec is not None:
            raise ConfigurationError(
                "payload= and codec= say the same twice; leave one of them out"
            )
        if payload is not None:
            codec = codec_for(payload)
        defaults = self._defaults.override(
            None if codec is None else encoding(codec),
            timeout_of(timeout, "timeout"),
            retention_of(retention),
            replicas=replicas,
            durable=durable,
        )
        return Outlet(self, self._sender, stream, defaults, key)

    async def flush(self) -> None:
        """Wait until all that was queued before has an outcome, good or bad.

        What became of each message its future tells. Cancelling it changes nothing.

        Raises:
            ClosedError: The producer is not open.
        """
        self._sender.check_open()
        await self._sender.drain()

    def __repr__(self) -> str:
        state = "open" if self._sender.opened else "closed"
        held = self._sender.accumulator.held
        return f"<Producer {state}, {held} messages without an outcome>"
