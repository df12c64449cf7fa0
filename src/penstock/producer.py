"""The producer: what a user holds to send messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from penstock._core import commands, envelope, sharding
from penstock._core.accumulator import Accumulator, Sending
from penstock._link.link import open_link
from penstock._tasks.bells import Bell, Rounds
from penstock._tasks.flusher import Flusher, Ticket
from penstock._tasks.lifetime import Openable, task_group
from penstock.codecs import Codec, encode_any
from penstock.errors import BufferFull, ClosedError, ConfigurationError
from penstock.events import OnEvent, guarded, log_event
from penstock.message import Receipt, Shard
from penstock.options import Duration, count, seconds
from penstock.sharding import KeyHash, Sharder

__all__ = ["Producer"]

# What an XADD costs on the wire and in memory besides its fields, roughly.
_OVERHEAD = 64


class Producer(Openable):
    """Sends messages to streams.

    Open it with `async with`. Everything that is queued, over all streams, goes out
    in one write, and several writes are in flight, so many senders share a round trip
    without anybody waiting for company. Leaving it sends what is queued first.

    The order within a stream is the order of the calls. After an outage, what was
    written and not confirmed raises `SendUnknown`: it is never sent again behind your
    back. What was only queued is sent then.

    Args:
        url: `redis://`, `rediss://` or `unix://` with user, password and database,
            or `embedded://`; default: the environment's `REDIS_URL`.
        shards: Over how many keys each stream is spread, by `KeyHash`, or what spreads
            it in another way, as `sharder`; default: a stream is one key.
        sharder: Spreads streams: `RoundRobin(n)`, `Random(n)` or any callable, see
            `penstock.sharding`.
        codec: Encodes payloads; default: `bytes` and `str` as they are, anything else
            as JSON by msgspec.
        max_messages: Messages held at most until they are confirmed; default 10,000.
        max_bytes: Their bytes at most; default 64 MiB.
        max_batch: Messages in one write at most; default 500.
        max_in_flight: Writes that may wait for their replies; default 4.
        open_timeout: Seconds for which opening goes on trying while no connection
            can be made; default 0: one try.
        close_timeout: Seconds that leaving may take to send what is queued; default
            10. What was not written by then raises `SendFailed`, what was not
            confirmed `SendUnknown`.
        on_event: Told of what happens in the background, see `Event`; default:
            logged to `penstock`.

    Raises:
        ConfigurationError: On construction: an option makes no sense. On opening: a
            wrong URL.
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
        max_batch: int = 500,
        max_in_flight: int = 4,
        open_timeout: Duration = 0,
        close_timeout: Duration = 10,
        on_event: OnEvent = log_event,
    ) -> None:
        self._url = url
        if shards is not None and sharder is not None:
            raise ConfigurationError(
                "shards= and sharder= say the same twice; leave one of them out"
            )
        if shards is not None:
            sharder = shards if callable(shards) else KeyHash(shards)
        self._sharder = sharder
        self._encode = encode_any if codec is None else codec.encode
        self._max_messages = count(max_messages, "max_messages")
        self._max_bytes = count(max_bytes, "max_bytes")
        self._max_batch = count(max_batch, "max_batch")
        self._max_in_flight = count(max_in_flight, "max_in_flight")
        self._open_timeout = seconds(open_timeout, "open_timeout")
        self._close_timeout = seconds(close_timeout, "close_timeout")
        self._on_event = guarded(on_event)
        # Shards that were sent to, checked once; by the stream alone where it is one
        # key.
        self._shards: dict[str | tuple[str, int], Shard] = {}
        self._open = False
        self._reset()

    def _reset(self) -> None:
        # Messages until their outcome is known.
        self._accumulator: Accumulator[Ticket] = Accumulator(
            self._max_messages, self._max_bytes
        )
        # Senders that found no room, in the order of their calls; each message goes
        # into the accumulator in its turn, and then the future is done.
        self._waiting: deque[tuple[Sending[Ticket], asyncio.Future[None]]] = deque()
        self._queued = Bell()
        self._settled = Rounds()

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        self._reset()
        self._loop = asyncio.get_running_loop()
        async with open_link(self._url, self._on_event) as link, task_group() as group:
            flusher = Flusher(
                await link.first(self._open_timeout),
                link,
                accumulator=self._accumulator,
                max_batch=self._max_batch,
                max_in_flight=self._max_in_flight,
                queued=self._queued,
                on_settled=self._on_settled,
                on_event=self._on_event,
            )
            group.start_soon(flusher.run)
            self._open = True
            try:
                yield
            finally:
                self._open = False
                with anyio.move_on_after(self._close_timeout, shield=True):
                    await self._drain()
                self._refuse_waiting()
                flusher.stop()

    async def send(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Send a message and wait until the server has it.

        Cancelling it gives up the wait, not the message: it is in the stream once or
        not at all.

        Args:
            stream: Where to.
            payload: What; `bytes` and `str` go as they are, see `codec`.
            key: What it belongs to; `ordering="key"` keeps messages of one key in
                order.
            headers: Text by name; `msg` and `key` are reserved.

        Raises:
            SendFailed: The server refused it; it is not stored.
            SendUnknown: The connection was lost before the reply.
            ConfigurationError: The stream's name, the key, a header or the payload
                can't be sent.
            ClosedError: The producer is not open.
        """
        return await (await self.enqueue(stream, payload, key=key, headers=headers))

    async def enqueue(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> asyncio.Future[Receipt]:
        """Queue a message, waiting for room only.

        Cancelling it while it waits for room gives the message up, unless its turn
        had just come.

        Returns:
            A future of the receipt; it may be awaited, or left: a failure that nobody
            waits for is reported as an event. It raises what `send` raises.

        Raises:
            ConfigurationError: As for `send`.
            ClosedError: The producer is not open.
        """
        sending = self._sending(stream, payload, key, headers)
        accumulator = self._accumulator
        if self._waiting or not accumulator.fits(sending.size):
            await self._wait_for_room(sending)
        else:
            accumulator.add(sending)
            self._queued.ring()
        if accumulator.queued >= self._max_batch:
            # A sender that never awaits anything else would fill the buffer before
            # the flusher gets a turn.
            await asyncio.sleep(0)
        return sending.ticket

    def enqueue_nowait(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> asyncio.Future[Receipt]:
        """Queue a message if there is room now; else like `enqueue`.

        Raises:
            BufferFull: There is no room; nothing was sent.
            ConfigurationError: As for `send`.
            ClosedError: The producer is not open.
        """
        sending = self._sending(stream, payload, key, headers)
        accumulator = self._accumulator
        if self._waiting or not accumulator.fits(sending.size):
            raise BufferFull(accumulator.held, accumulator.size)
        accumulator.add(sending)
        self._queued.ring()
        return sending.ticket

    async def flush(self) -> None:
        """Wait until all that was queued before has an outcome, good or bad.

        What became of each message its future tells. Cancelling it changes nothing.

        Raises:
            ClosedError: The producer is not open.
        """
        if not self._open:
            raise ClosedError("producer")
        await self._drain()

    async def _drain(self) -> None:
        # Those who wait for room are queued too, as far as their caller can tell.
        turns = [turn for _, turn in self._waiting]
        while not all(turn.done() for turn in turns):
            await self._settled.wait()
        target = self._accumulator.added
        while self._accumulator.settled < target:
            await self._settled.wait()

    def _sending(
        self,
        stream: str,
        payload: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
    ) -> Sending[Ticket]:
        if not self._open:
            raise ClosedError("producer")
        body = self._encode(payload)
        size = _OVERHEAD + len(body)
        if key is None and not headers:
            fields: tuple[bytes, ...] = (envelope.PAYLOAD, body)
        else:
            fields = envelope.pack(body, key, headers)
            size += sum(map(len, fields))
        shard = self._shards.get(stream) if self._sharder is None else None
        if shard is None:
            shard = self._shard(stream, key, body)
        command = commands.xadd(shard.key, fields)
        return Sending(shard, command, size, self._loop.create_future())

    def _shard(self, stream: str, key: str | None, body: bytes) -> Shard:
        shard: Shard | None
        if self._sharder is None:
            shard = self._shards[stream] = sharding.single(stream)
            return shard
        number = self._sharder(stream, key, body)
        shard = self._shards.get((stream, number))
        if shard is None:
            shard = self._shards[stream, number] = sharding.numbered(stream, number)
        return shard

    async def _wait_for_room(self, sending: Sending[Ticket]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sending, turn))
        await turn

    def _on_settled(self) -> None:
        """Let those in who wait, and tell those who flush."""
        waiting, accumulator = self._waiting, self._accumulator
        while waiting and (
            waiting[0][1].done() or accumulator.fits(waiting[0][0].size)
        ):
            sending, turn = waiting.popleft()
            if not turn.done():  # else its caller was cancelled
                accumulator.add(sending)
                turn.set_result(None)
                self._queued.ring()
        self._settled.over()

    def _refuse_waiting(self) -> None:
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(ClosedError("producer"))

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        held = self._accumulator.held
        return f"<Producer {state}, {held} messages without an outcome>"
