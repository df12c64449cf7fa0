"""One connection: replies get to whoever asked, whatever happens."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from connection.fakes import (
    HELLO,
    Fake,
    Request,
    Serve,
    answering,
    closing,
    fake,
    requests,
)
from connection.tls import Certificates, make_certificates
from connection.traces import nothing_left
from penstock._connection.address import parse
from penstock._connection.connect import connect
from penstock._connection.connection import Connection, pack
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply
from penstock.embedded import EmbeddedServer
from penstock.errors import ConnectionLost

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])


@asynccontextmanager
async def opened(url: str, query: str = "") -> AsyncIterator[Connection]:
    wire = await connect(parse(f"{url}?{query}"))
    try:
        yield wire
    finally:
        await wire.aclose()


@asynccontextmanager
async def wire_to(serve: Serve, query: str = "") -> AsyncIterator[Connection]:
    """A wire to a fake."""
    async with fake(serve) as there, opened(there.url, query) as wire:
        yield wire


def echo(number: int) -> bytes:
    return pack([(b"ECHO", number)])


async def lost(waiting: Awaitable[object]) -> str:
    """Why the connection was lost, as whoever waits is told."""
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLost) as caught:
            await waiting
    return caught.value.reason


# --- pairing


@PROTOCOLS
async def test_a_batch_brings_its_replies_in_order(url: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as wire:
        assert await wire.calls([(b"ECHO", b"a"), (b"ECHO", "b"), (b"ECHO", 3)]) == [
            b"a",
            b"b",
            b"3",
        ]
        assert await wire.call((b"PING",)) == b"PONG"
        assert await wire.calls([]) == []


@PROTOCOLS
async def test_replies_are_raw_values(url: str, stream: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as wire:
        batch = [
            (b"HSET", stream, b"field", b"\xff\x00"),
            (b"HGETALL", stream),
            (b"GET", f"{stream}-no"),
            (b"STRLEN", f"{stream}-no"),
            (b"ECHO", b""),
            (b"XREAD", b"STREAMS", f"{stream}-no", b"0"),
            (b"DEL", stream),
        ]
        replies = await wire.request(pack(batch), len(batch))
    pairs = [b"field", b"\xff\x00"] if protocol == 2 else {b"field": b"\xff\x00"}
    assert replies == [1, pairs, None, 0, b"", None, 1]


@PROTOCOLS
async def test_errors_come_as_values_and_leave_the_others_alone(
    url: str, protocol: int
) -> None:
    async with opened(url, f"protocol={protocol}") as wire:
        first, error, last = await wire.calls(
            [(b"ECHO", b"1"), (b"NONSENSE",), (b"ECHO", b"2")]
        )
        assert (first, last) == (b"1", b"2")
        assert isinstance(error, ErrorReply)
        assert error.code == "ERR"
        assert isinstance(await wire.call((b"ECHO",)), ErrorReply)
        assert not wire.lost


@PROTOCOLS
async def test_errors_inside_a_transaction_come_as_values(
    url: str, stream: str, protocol: int
) -> None:
    async with opened(url, f"protocol={protocol}") as wire:
        *_, replies, after = await wire.calls(
            [
                (b"MULTI",),
                (b"SET", stream, b"v"),
                (b"LPUSH", stream, b"x"),
                (b"GET", stream),
                (b"DEL", stream),
                (b"EXEC",),
                (b"ECHO", b"after"),
            ]
        )
    done, error, value, deleted = replies
    assert (done, value, deleted, after) == (b"OK", b"v", 1, b"after")
    assert isinstance(error, ErrorReply)
    assert error.code == "WRONGTYPE"


@PROTOCOLS
async def test_many_requests_are_in_flight(url: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as wire:
        sizes = [1 + number % 5 for number in range(5000)]
        futures = [
            wire.request(echo(number) * size, size) for number, size in enumerate(sizes)
        ]
        assert await asyncio.gather(*futures) == [
            [b"%d" % number] * size for number, size in enumerate(sizes)
        ]


async def test_replies_in_small_pieces_over_a_real_socket_are_put_together() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            raw = HELLO if request[0] == b"HELLO" else b"$3\r\n%b\r\n" % request[1]
            for byte in raw:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)

    async with wire_to(serve) as wire:
        words = [b"%03d" % number for number in range(50)]
        assert await wire.calls([(b"ECHO", word) for word in words]) == words


@PROTOCOLS
async def test_large_requests_and_replies(url: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as wire:
        large = random.randbytes(5_000_000)
        before = wire.received
        replies = await wire.calls(
            [(b"ECHO", large), (b"ECHO", b"1"), (b"ECHO", large)]
        )
        assert replies == [large, b"1", large]
        assert wire.received - before > 10_000_000


# --- push messages


async def test_a_real_servers_push_messages_are_nobodys_reply(
    url: str, stream: str
) -> None:
    async with opened(url, "protocol=3") as wire:
        tracking = pack([(b"CLIENT", b"TRACKING", b"ON", b"BCAST")])
        assert await wire.request(tracking, 1) == [b"OK"]
        for number in range(50):
            assert await wire.call((b"SET", stream, number)) == b"OK"
            assert await wire.call((b"GET", stream)) == b"%d" % number
        await wire.call((b"DEL", stream))
        # 23 bytes and more for each reply; the rest were push messages.
        assert wire.received > 50 * 40


async def test_messages_on_channels_ring_among_the_replies(
    url: str, stream: str
) -> None:
    rings: list[int] = []
    channels = [b"%b-%d" % (stream.encode(), number) for number in range(3)]
    async with opened(url) as wire, opened(url) as other:
        before = wire.request(echo(1), 1)
        subscribing = asyncio.create_task(
            wire.subscribe(channels, lambda: rings.append(1))
        )
        await asyncio.sleep(0)
        behind = wire.request(echo(2), 1)
        assert await subscribing
        assert (await before, await behind) == ([b"1"], [b"2"])
        for number in range(60):
            ring = (b"PUBLISH", channels[number % 3], b"x")
            _, reply = await asyncio.gather(
                other.call(ring), wire.call((b"ECHO", number))
            )
            assert reply == b"%d" % number
        async with asyncio.timeout(5):
            while len(rings) < 60:
                await wire.call((b"PING",))
        assert not wire.lost
    assert len(rings) == 60


async def test_a_connection_with_resp2_does_not_subscribe(
    url: str, stream: str
) -> None:
    async with opened(url, "protocol=2") as wire:
        assert not await wire.subscribe([stream.encode()], lambda: None)
        assert await wire.call((b"ECHO", b"still")) == b"still"


async def test_a_refused_subscription_is_told_and_leaves_the_others_alone() -> None:
    with EmbeddedServer(config={"user": "al on >secret +@all &yes-*"}) as server:
        async with opened(server.url.replace("unix://", "unix://al:secret@")) as wire:
            assert await wire.subscribe([b"yes-1"], lambda: None)
            assert not await wire.subscribe([b"yes-2", b"no", b"yes-3"], lambda: None)
            assert await wire.calls([(b"ECHO", b"a"), (b"ECHO", b"b")]) == [b"a", b"b"]


# --- cancelling whoever waits


@PROTOCOLS
async def test_cancelling_those_who_wait_mixes_up_nothing(
    url: str, protocol: int
) -> None:
    chance = random.Random(7)
    answered = cancelled = 0

    async def ask(wire: Connection, number: int) -> None:
        nonlocal answered
        reply = await wire.calls([(b"ECHO", number), (b"ECHO", -number)])
        assert reply == [b"%d" % number, b"%d" % -number]
        answered += 1

    async with opened(url, f"protocol={protocol}") as wire:
        running: set[asyncio.Task[None]] = set()
        for number in range(6000):
            running.add(asyncio.create_task(ask(wire, number)))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice((0, 0, 0, 0.0003)))
            for task in chance.sample(sorted(running, key=id), len(running) // 3):
                cancelled += task.cancel()
            running = {task for task in running if not task.done()}
        await asyncio.gather(*running, return_exceptions=True)
        assert await wire.call((b"ECHO", b"in step")) == b"in step"
    assert cancelled > 1500
    assert answered > 500


async def test_a_cancelled_future_leaves_its_replies_to_nobody(url: str) -> None:
    async with opened(url) as wire:
        futures = [wire.request(echo(number), 1) for number in range(2000)]
        for future in futures[::2]:
            future.cancel()
        assert await asyncio.gather(*futures[1::2]) == [
            [b"%d" % number] for number in range(1, 2000, 2)
        ]


async def test_one_who_gave_up_is_not_reproached_when_the_connection_ends() -> None:
    async with nothing_left(), wire_to(answering(lambda _: b"")) as wire:
        wire.request(echo(1), 1)
        wire.request(echo(2), 1).cancel()
        wire.abort("enough")


# --- the end of a connection


def cutting(after: int, extra: bytes = b"") -> Serve:
    """Cut the connection when so many commands have come, after some last words."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = after
        async for request in requests(reader):
            if request[0] == b"HELLO":
                writer.write(HELLO)
                continue
            left -= 1
            if left == 0:
                writer.write(extra)
                await writer.drain()
                writer.close()
                return

    return serve


async def test_everybody_who_waits_learns_that_the_connection_was_cut() -> None:
    async with nothing_left(), wire_to(cutting(100)) as wire:
        futures = [wire.request(echo(number), 1) for number in range(100)]
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert {type(one) for one in done} == {ConnectionLost}
        assert wire.lost
        assert wire.address.name in str(done[0])
        del done, futures


async def test_a_batch_that_was_answered_in_part_is_lost() -> None:
    async with wire_to(cutting(3, b"+1\r\n+2\r\n+3")) as wire:
        first = wire.request(echo(1), 1)
        batch = wire.request(echo(2) * 2, 2)
        assert await first == [b"1"]
        await lost(batch)


async def test_a_killed_connection_is_lost_with_a_reason(url: str) -> None:
    async with opened(url) as wire, opened(url) as other:
        number = await wire.call((b"CLIENT", b"ID"))
        blocked = wire.request(pack([(b"BLPOP", b"nothing-here", 5)]), 1, 5)
        await other.call((b"CLIENT", b"KILL", b"ID", number))
        assert await lost(blocked)


async def test_a_request_on_a_lost_connection_fails_at_once_and_writes_nothing() -> (
    None
):
    seen: list[Request] = []

    def answer(request: Request) -> bytes:
        seen.append(request)
        return b"+OK\r\n"

    async with wire_to(answering(answer)) as wire:
        wire.check()
        await wire.call((b"FIRST",))
        # The transport still stands, so a write would get through.
        wire._fail("found wanting")
        assert wire.lost
        with pytest.raises(ConnectionLost, match="found wanting"):
            wire.request(echo(1), 1)
        with pytest.raises(ConnectionLost, match="found wanting"):
            await wire.call((b"SECOND",))
        with pytest.raises(ConnectionLost, match="found wanting"):
            await wire.calls([(b"SECOND",)])
        with pytest.raises(ConnectionLost, match="found wanting"):
            wire.check()
    assert seen == [[b"FIRST"]]


async def test_nothing_is_written_once_a_write_has_failed(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Asyncio tells of it a turn later, and of writes until then in its own log."""
    wire = await connect(parse(url))
    try:
        # What a failed write does to the transport.
        wire._transport.abort()
        for _ in range(10):
            assert wire.lost
            with pytest.raises(ConnectionLost, match="broke during a write"):
                wire.request(pack([(b"PING",)]), 1)
    finally:
        await wire.aclose()
    assert not caplog.records


async def test_the_first_reason_is_kept() -> None:
    async with wire_to(answering(lambda _: b"")) as wire:
        wire.abort("the first")
        wire.abort("the second")
        await wire.aclose()
        with pytest.raises(ConnectionLost, match="the first"):
            wire.check()


# --- deadlines


@asynccontextmanager
async def taking(least: float, most: float) -> AsyncIterator[None]:
    start = time.monotonic()
    yield
    assert least <= time.monotonic() - start <= most


async def test_a_server_that_never_answers_is_given_up() -> None:
    async with nothing_left():
        async with wire_to(answering(lambda _: b""), "socket_timeout=0.2") as wire:
            async with taking(0.19, 1.5):
                futures = [wire.request(echo(number), 1) for number in range(3)]
                assert await lost(futures[0]) == "no reply in time"
            assert all(future.done() for future in futures)
            assert wire.lost
            del futures


async def test_the_time_counts_from_the_request() -> None:
    """A connection that was idle for long is no older than its request."""
    loop = asyncio.get_running_loop()
    answer = answering(lambda r: b"" if r[0] == b"NEVER" else b"+OK\r\n")
    async with wire_to(answer, "socket_timeout=0.2") as wire:
        assert await wire.call((b"FINE",)) == b"OK"
        idle = loop.create_future()
        loop.call_later(0.3, idle.set_result, None)
        await idle
        assert await wire.call((b"FINE",)) == b"OK"
        async with taking(0.19, 1.5):
            assert await lost(wire.call((b"NEVER",))) == "no reply in time"


def late(delays: dict[bytes, float]) -> Serve:
    """Answer each command after its delay; those without one never."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            if request[0] == b"HELLO":
                writer.write(HELLO)
            elif (delay := delays.get(request[0])) is not None:
                await asyncio.sleep(delay)
                writer.write(b"+%b\r\n" % request[0])

    return serve


async def test_a_blocking_read_has_its_own_time_besides() -> None:
    async with wire_to(late({b"BLOCK": 0.4}), "socket_timeout=0.2") as wire:
        assert await wire.request(pack([(b"BLOCK",)]), 1, 0.4) == [b"BLOCK"]
        async with taking(0.49, 2.0):
            assert await lost(wire.request(pack([(b"NEVER",)]), 1, 0.3))


async def test_a_request_after_a_blocking_one_has_its_usual_time() -> None:
    """The blocking read's far deadline went with its reply."""
    async with wire_to(late({b"BLOCK": 0}), "socket_timeout=0.2") as wire:
        assert await wire.request(pack([(b"BLOCK",)]), 1, 60.0) == [b"BLOCK"]
        async with taking(0.19, 1.5):
            assert await lost(wire.call((b"NEVER",))) == "no reply in time"


async def test_a_request_behind_a_blocking_one_has_its_time_after_it() -> None:
    delays = {b"BLOCK": 0.6, b"NEXT": 0.15}
    async with wire_to(late(delays), "socket_timeout=0.2") as wire:
        blocking = wire.request(pack([(b"BLOCK",)]), 1, 0.5)
        assert await wire.call((b"NEXT",)) == b"NEXT"
        assert await blocking == [b"BLOCK"]


async def test_a_long_reply_that_keeps_coming_is_not_given_up() -> None:
    """Else a reply that takes longer would be asked for again and again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            writer.write(HELLO if request[0] == b"HELLO" else b"$8\r\n")
            for _ in range(8 if request[0] == b"SLOW" else 0):
                await asyncio.sleep(0.05)
                writer.write(b"x")
            writer.write(b"\r\n" if request[0] == b"SLOW" else b"")

    async with wire_to(serve, "socket_timeout=0.2") as wire:
        assert await wire.call((b"SLOW",)) == b"x" * 8
        # One that stops half way is.
        assert await lost(wire.call((b"STUCK",))) == "no reply in time"


# --- replies that nobody can attribute


@pytest.mark.parametrize(
    "nonsense",
    [
        b"garbage\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"$five\r\nhello\r\n",
        b"*x\r\n",
        b":1x\r\n",
        b"\x00\x00\x00\x00",
        b"*1\r\n" * 5000,
    ],
)
async def test_nonsense_ends_the_connection_and_is_nobodys_reply(
    nonsense: bytes,
) -> None:
    def answer(request: Request) -> bytes:
        return nonsense if request[0] == b"ODD" else b"+%b\r\n" % request[0]

    async with nothing_left(), wire_to(answering(answer)) as wire:
        assert await wire.call((b"FINE",)) == b"FINE"
        assert "malformed reply" in await lost(wire.call((b"ODD",)))
        assert wire.lost


@pytest.mark.parametrize(
    "nonsense",
    [b"+EXTRA\r\n", b"%1\r\n*0\r\n+a\r\n", b">0\r\n", b">1\r\n:1\r\n", b"$x\r\n"],
)
async def test_what_came_with_nonsense_is_not_believed(nonsense: bytes) -> None:
    """A list cut short by a spoilt byte is followed by what was cut off."""
    async with (
        nothing_left(),
        wire_to(answering(lambda _: b"+OK\r\n" + nonsense)) as wire,
    ):
        several = [wire.request(echo(number), 1) for number in range(3)]
        for each in several:
            assert "malformed reply" in await lost(each)
        assert wire.lost
        del several, each


@PROTOCOLS
async def test_a_reply_of_another_shape_than_its_commands_ends_the_connection(
    protocol: int,
) -> None:
    def answer(request: Request) -> bytes:
        return b"+OK\r\n" if request[0] == b"XACK" else b":1\r\n"

    query = f"protocol={protocol}"
    async with nothing_left(), wire_to(answering(answer), query) as wire:
        assert await wire.call(commands.xdel(b"s", [b"1-1"])) == 1
        acks = [commands.xdel(b"s", [b"1-1"]), commands.xack(b"s", "g", [b"1-1"])]
        assert "malformed reply" in await lost(wire.calls(acks))
        assert wire.lost


async def test_a_mistake_of_our_own_is_reported_and_nobody_waits_for_ever() -> None:
    def mistaken(_: list[Any]) -> list[Any]:
        raise ZeroDivisionError

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
    async with wire_to(answering(lambda _: b"+OK\r\n")) as wire:
        assert "malformed reply" in await lost(wire.request(echo(1), 1, 0.0, mistaken))
        assert wire.lost
    assert [type(what["exception"]) for what in told] == [ZeroDivisionError]


async def test_a_reply_that_nobody_waits_for_is_looked_at_too() -> None:
    async with wire_to(answering(lambda _: b"+OK\r\n")) as wire:
        wire.ask([commands.xack(b"s", "g", [b"1-1"])]).cancel()
        async with asyncio.timeout(5):
            while not wire.lost:
                await asyncio.sleep(0.01)


async def test_a_server_that_was_demoted_is_left_once_it_has_answered() -> None:
    """It keeps its connections, where nothing can be written any more."""
    parts = [b"+OK\r\n-READONLY no\r\n", b"-READONLY no\r\n+OK\r\n"]
    ring = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = 0
        async for request in requests(reader):
            if request[0] == b"HELLO":
                writer.write(HELLO)
                continue
            asked += 1
            if asked == 4:
                writer.write(parts[0])
                await ring.wait()
                writer.write(parts[1])

    async with nothing_left(), wire_to(serve) as wire:
        one, two, three, four = [wire.request(echo(number), 1) for number in range(4)]
        assert await one == [b"OK"]
        [refused] = await two
        assert refused.code == "READONLY"
        assert not wire.lost
        ring.set()
        assert [*await three, *await four][1] == b"OK"
        assert "READONLY no" in await lost(wire.call((b"PING",)))
        del one, two, three, four


async def test_a_reply_too_many_ends_the_connection() -> None:
    def answer(request: Request) -> bytes:
        extra = b"+EXTRA\r\n" if request[0] == b"LAST" else b""
        return b"+%b\r\n%b" % (request[0], extra)

    async with wire_to(answering(answer)) as wire:
        assert await wire.call((b"FIRST",)) == b"FIRST"
        async with asyncio.timeout(5):
            with suppress(ConnectionLost):
                assert await wire.call((b"LAST",)) == b"LAST"
                while True:
                    assert await wire.call((b"NEXT",)) != b"EXTRA"
        assert wire.lost


async def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    ring = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for _ in requests(reader):
            writer.write(HELLO)
            await ring.wait()
            writer.write(b"+unasked\r\n")
            await writer.drain()

    async with nothing_left(), wire_to(serve) as wire:
        assert not wire.lost
        ring.set()
        async with asyncio.timeout(5):
            await asyncio.shield(wire._closed)
        with pytest.raises(ConnectionLost, match="malformed reply"):
            wire.request(echo(1), 1)


# --- closing


async def test_closing_leaves_nothing_and_tells_those_who_wait(url: str) -> None:
    async with nothing_left():
        wire = await connect(parse(url))
        blocked = wire.request(pack([(b"BLPOP", b"nothing-here", 5)]), 1, 5)
        await wire.aclose()
        assert await lost(blocked) == "closed"
        assert wire.lost
        del blocked, wire


async def test_closing_again_does_nothing(url: str) -> None:
    async with nothing_left():
        wire = await connect(parse(url))
        await asyncio.gather(wire.aclose(), wire.aclose())
        await wire.aclose()
        wire.abort("too late")
        await wire.aclose()
        with pytest.raises(ConnectionLost, match="closed"):
            wire.check()
        del wire


async def test_closing_what_was_lost_leaves_nothing() -> None:
    async with nothing_left(), fake(cutting(1)) as there:
        wire = await connect(parse(there.url))
        await lost(wire.request(echo(1), 1))
        await wire.aclose()
        del wire


async def test_closing_with_much_unwritten_does_not_wait_for_ever() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(HELLO)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.get_running_loop().create_future()

    async with fake(serve) as there, nothing_left(of=there):
        wire = await connect(parse(there.url))
        waiting = wire.call((b"ECHO", bytes(20_000_000)))
        task = asyncio.create_task(lost(waiting))
        await asyncio.sleep(0)
        async with taking(0, 2.0):
            await wire.aclose()
        assert await task == "closed"
        del wire, waiting, task


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_wire(
    certificates: Certificates, *, falls_silent: bool = True
) -> AsyncIterator[tuple[Connection, Fake]]:
    """A wire over TLS to a server which, once connected to, takes nothing more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(HELLO)
        if falls_silent:
            await writer.drain()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        else:
            await answering(lambda request: b"+%b\r\n" % request[1])(reader, writer)
        await asyncio.get_running_loop().create_future()

    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(fake(serve, tls=certificates.context()))
        await stack.enter_async_context(nothing_left(of=there))
        query = f"ssl_ca_certs={certificates.authority}"
        url = f"rediss://localhost:{there.port}?{query}"
        wire = await connect(parse(url))
        yield wire, there
        del wire


async def test_requests_over_tls_are_answered(certificates: Certificates) -> None:
    async with tls_wire(certificates, falls_silent=False) as (wire, _):
        assert await wire.calls([(b"ECHO", b"a"), (b"ECHO", b"b")]) == [b"a", b"b"]
        await wire.aclose()
        del wire


async def test_closing_tls_to_a_black_hole_takes_no_longer_than_two_seconds(
    certificates: Certificates,
) -> None:
    async with tls_wire(certificates) as (wire, _):
        async with taking(0, 2.0):
            await wire.aclose()
        del wire


async def test_aborting_tls_to_a_black_hole_leaves_nothing(
    certificates: Certificates,
) -> None:
    async with tls_wire(certificates) as (wire, _):
        waiting = wire.request(echo(1), 1)
        wire.abort("enough")
        assert await lost(waiting) == "enough"
        async with taking(0, 0.5):
            await wire.aclose()
        del wire, waiting


@pytest.mark.parametrize("turns", range(4))
async def test_cancelling_the_closing_leaves_nothing(
    turns: int, certificates: Certificates
) -> None:
    async with tls_wire(certificates) as (wire, _):
        task = asyncio.create_task(wire.aclose())
        for _turn in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if turns == 0:
            # It had not begun.
            await wire.aclose()
        assert wire.lost
        del wire, task


@pytest.mark.parametrize("tls", [False, True])
async def test_closing_in_a_cancelled_scope_leaves_nothing(
    url: str, certificates: Certificates, *, tls: bool
) -> None:
    """Such a scope cancels every single await in it."""

    async def close(wire: Connection) -> None:
        with anyio.CancelScope() as scope:
            try:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            finally:
                await wire.aclose()

    if tls:
        async with tls_wire(certificates) as (wire, _):
            await close(wire)
            del wire
    else:
        async with nothing_left():
            await close(await connect(parse(url)))


# --- another event loop


async def uvloop_scenario(url: str) -> None:
    async with opened(url) as wire:
        assert await wire.calls([(b"ECHO", b"a"), (b"ECHO", 2)]) == [b"a", b"2"]
        large = bytes(5_000_000)
        assert await wire.call((b"ECHO", large)) == large
        futures = [wire.request(echo(number), 1) for number in range(1000)]
        for future in futures[::2]:
            future.cancel()
        assert await asyncio.gather(*futures[1::2]) == [
            [b"%d" % number] for number in range(1, 1000, 2)
        ]
    with pytest.raises(ConnectionLost):
        wire.check()
    async with wire_to(answering(lambda _: b""), "socket_timeout=0.2") as wire:
        assert await lost(wire.request(echo(1), 1, 0.1)) == "no reply in time"
    async with wire_to(answering(lambda _: b"nonsense\r\n")) as wire:
        assert "malformed reply" in await lost(wire.request(echo(1), 1))
    async with wire_to(cutting(1)) as wire:
        assert await lost(wire.request(echo(1), 1))
    async with fake(closing) as there:
        with pytest.raises(Exception, match="can't connect"):
            await connect(parse(there.url))


async def uvloop_tls_scenario(certificates: Certificates) -> None:
    async with tls_wire(certificates, falls_silent=False) as (wire, _):
        assert await wire.call((b"ECHO", b"a")) == b"a"
        await wire.aclose()
        del wire
    async with tls_wire(certificates) as (wire, _):
        async with taking(0, 2.0):
            await wire.aclose()
        del wire


def under_uvloop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in a thread, since this one may have a loop of its own."""
    uvloop = pytest.importorskip("uvloop", reason="needs uvloop")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            uvloop.run(main())
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    for failure in failures:
        raise failure


def test_all_of_it_works_under_uvloop(url: str) -> None:
    under_uvloop(lambda: uvloop_scenario(url))


def test_tls_works_under_uvloop(certificates: Certificates) -> None:
    under_uvloop(lambda: uvloop_tls_scenario(certificates))
