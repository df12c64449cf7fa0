"""A connection: each request gets its own replies, whatever happens."""

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
import hiredis
import pytest

from connection.fakes import (
    Fake,
    Request,
    Serve,
    answering,
    closing,
    fake,
    greet,
    greeting,
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
    connection = await connect(parse(f"{url}?{query}"))
    try:
        yield connection
    finally:
        await connection.aclose()


@asynccontextmanager
async def connection_to(serve: Serve, query: str = "") -> AsyncIterator[Connection]:
    """Provide a connection to a fake."""
    async with fake(serve) as server, opened(server.url, query) as connection:
        yield connection


def echo(number: int) -> bytes:
    return pack([(b"ECHO", number)])


async def lost(waiting: Awaitable[object]) -> str:
    """Return the reason of the loss, as a waiting caller gets it."""
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLost) as caught:
            await waiting
    return caught.value.reason


# --- requests and replies


@PROTOCOLS
async def test_the_replies_of_a_batch_are_in_order(url: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as connection:
        assert await connection.calls(
            [(b"ECHO", b"a"), (b"ECHO", "b"), (b"ECHO", 3)]
        ) == [
            b"a",
            b"b",
            b"3",
        ]
        assert await connection.call((b"PING",)) == b"PONG"
        assert await connection.calls([]) == []


@PROTOCOLS
async def test_replies_are_raw_values(url: str, stream: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as connection:
        batch = [
            (b"HSET", stream, b"field", b"\xff\x00"),
            (b"HGETALL", stream),
            (b"GET", f"{stream}-no"),
            (b"STRLEN", f"{stream}-no"),
            (b"ECHO", b""),
            (b"XREAD", b"STREAMS", f"{stream}-no", b"0"),
            (b"DEL", stream),
        ]
        replies = await connection.request(pack(batch), len(batch))
    pairs = [b"field", b"\xff\x00"] if protocol == 2 else {b"field": b"\xff\x00"}
    assert replies == [1, pairs, None, 0, b"", None, 1]


@PROTOCOLS
async def test_errors_are_values_and_do_not_affect_other_replies(
    url: str, protocol: int
) -> None:
    async with opened(url, f"protocol={protocol}") as connection:
        first, error, last = await connection.calls(
            [(b"ECHO", b"1"), (b"NONSENSE",), (b"ECHO", b"2")]
        )
        assert (first, last) == (b"1", b"2")
        assert isinstance(error, ErrorReply)
        assert error.code == "ERR"
        assert isinstance(await connection.call((b"ECHO",)), ErrorReply)
        assert not connection.lost


@PROTOCOLS
async def test_errors_inside_a_transaction_are_values(
    url: str, stream: str, protocol: int
) -> None:
    async with opened(url, f"protocol={protocol}") as connection:
        *_, replies, after = await connection.calls(
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
async def test_many_requests_can_be_in_flight(url: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as connection:
        sizes = [1 + number % 5 for number in range(5000)]
        futures = [
            connection.request(echo(number) * size, size)
            for number, size in enumerate(sizes)
        ]
        assert await asyncio.gather(*futures) == [
            [b"%d" % number] * size for number, size in enumerate(sizes)
        ]


async def test_replies_that_arrive_in_pieces_over_a_real_socket_are_assembled() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            raw = greet(request) or b"$3\r\n%b\r\n" % request[1]
            for byte in raw:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)

    async with connection_to(serve) as connection:
        words = [b"%03d" % number for number in range(50)]
        assert await connection.calls([(b"ECHO", word) for word in words]) == words


@PROTOCOLS
async def test_requests_and_replies_may_be_large(url: str, protocol: int) -> None:
    async with opened(url, f"protocol={protocol}") as connection:
        large = random.randbytes(5_000_000)
        before = connection.received
        replies = await connection.calls(
            [(b"ECHO", large), (b"ECHO", b"1"), (b"ECHO", large)]
        )
        assert replies == [large, b"1", large]
        assert connection.received - before > 10_000_000


# --- push messages


async def test_push_messages_of_a_real_server_are_not_taken_for_replies(
    url: str, stream: str
) -> None:
    async with opened(url, "protocol=3") as connection:
        tracking = pack([(b"CLIENT", b"TRACKING", b"ON", b"BCAST")])
        assert await connection.request(tracking, 1) == [b"OK"]
        for number in range(50):
            assert await connection.call((b"SET", stream, number)) == b"OK"
            assert await connection.call((b"GET", stream)) == b"%d" % number
        await connection.call((b"DEL", stream))
        # 23 bytes and more for each reply; the rest were push messages.
        assert connection.received > 50 * 40


async def test_messages_on_channels_are_reported_between_replies(
    url: str, stream: str
) -> None:
    received: list[int] = []
    channels = [b"%b-%d" % (stream.encode(), number) for number in range(3)]
    async with opened(url) as connection, opened(url) as other:
        before = connection.request(echo(1), 1)
        subscribing = asyncio.create_task(
            connection.subscribe(channels, lambda: received.append(1))
        )
        await asyncio.sleep(0)
        behind = connection.request(echo(2), 1)
        assert await subscribing
        assert (await before, await behind) == ([b"1"], [b"2"])
        for number in range(60):
            publish = (b"PUBLISH", channels[number % 3], b"x")
            _, reply = await asyncio.gather(
                other.call(publish), connection.call((b"ECHO", number))
            )
            assert reply == b"%d" % number
        async with asyncio.timeout(5):
            while len(received) < 60:
                await connection.call((b"PING",))
        assert not connection.lost
    assert len(received) == 60


async def test_a_connection_with_resp2_does_not_subscribe(
    url: str, stream: str
) -> None:
    async with opened(url, "protocol=2") as connection:
        assert not await connection.subscribe([stream.encode()], lambda: None)
        assert await connection.call((b"ECHO", b"still")) == b"still"


async def test_a_refused_subscription_is_reported_and_does_not_affect_others() -> None:
    with EmbeddedServer(config={"user": "al on >secret +@all &yes-*"}) as server:
        async with opened(
            server.url.replace("unix://", "unix://al:secret@")
        ) as connection:
            assert await connection.subscribe([b"yes-1"], lambda: None)
            assert not await connection.subscribe(
                [b"yes-2", b"no", b"yes-3"], lambda: None
            )
            assert await connection.calls([(b"ECHO", b"a"), (b"ECHO", b"b")]) == [
                b"a",
                b"b",
            ]


# --- cancelling callers that wait


@PROTOCOLS
async def test_cancelling_callers_that_wait_does_not_mix_up_replies(
    url: str, protocol: int
) -> None:
    chance = random.Random(7)
    answered = cancelled = 0

    async def ask(connection: Connection, number: int) -> None:
        nonlocal answered
        reply = await connection.calls([(b"ECHO", number), (b"ECHO", -number)])
        assert reply == [b"%d" % number, b"%d" % -number]
        answered += 1

    async with opened(url, f"protocol={protocol}") as connection:
        running: set[asyncio.Task[None]] = set()
        for number in range(6000):
            running.add(asyncio.create_task(ask(connection, number)))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice((0, 0, 0, 0.0003)))
            for task in chance.sample(sorted(running, key=id), len(running) // 3):
                cancelled += task.cancel()
            running = {task for task in running if not task.done()}
        await asyncio.gather(*running, return_exceptions=True)
        assert await connection.call((b"ECHO", b"in step")) == b"in step"
    # How many of each there are depends on the machine.
    assert cancelled > 1000
    assert answered > 50


async def test_the_replies_of_a_cancelled_future_go_to_no_other_future(
    url: str,
) -> None:
    async with opened(url) as connection:
        futures = [connection.request(echo(number), 1) for number in range(2000)]
        for future in futures[::2]:
            future.cancel()
        assert await asyncio.gather(*futures[1::2]) == [
            [b"%d" % number] for number in range(1, 2000, 2)
        ]


async def test_abandoned_futures_cause_no_warning_when_the_connection_ends() -> None:
    async with nothing_left(), connection_to(answering(lambda _: b"")) as connection:
        connection.request(echo(1), 1)
        connection.request(echo(2), 1).cancel()
        connection.abort("enough")


# --- the end of a connection


def cutting(after: int, extra: bytes = b"") -> Serve:
    """Return a server that cuts the connection at a command, after some last bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = after
        async for request in requests(reader):
            if said := greet(request):
                writer.write(said)
                continue
            left -= 1
            if left == 0:
                writer.write(extra)
                await writer.drain()
                writer.close()
                return

    return serve


async def test_all_waiting_callers_get_an_error_when_the_connection_is_cut() -> None:
    async with nothing_left(), connection_to(cutting(100)) as connection:
        futures = [connection.request(echo(number), 1) for number in range(100)]
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert {type(one) for one in done} == {ConnectionLost}
        assert connection.lost
        assert connection.address.name in str(done[0])
        del done, futures


async def test_a_batch_that_was_answered_only_in_part_is_lost() -> None:
    async with connection_to(cutting(3, b"+1\r\n+2\r\n+3")) as connection:
        first = connection.request(echo(1), 1)
        batch = connection.request(echo(2) * 2, 2)
        assert await first == [b"1"]
        await lost(batch)


async def test_a_killed_connection_is_lost_with_a_reason(url: str) -> None:
    async with opened(url) as connection, opened(url) as other:
        number = await connection.call((b"CLIENT", b"ID"))
        blocked = connection.request(pack([(b"BLPOP", b"nothing-here", 5)]), 1, 5)
        await other.call((b"CLIENT", b"KILL", b"ID", number))
        assert await lost(blocked)


async def test_a_request_on_a_lost_connection_fails_at_once_and_writes_nothing() -> (
    None
):
    seen: list[Request] = []

    def answer(request: Request) -> bytes:
        seen.append(request)
        return b"+OK\r\n"

    async with connection_to(answering(answer)) as connection:
        connection.check()
        await connection.call((b"FIRST",))
        # The transport is still open, so a write would reach the server.
        connection._fail("found wanting")
        assert connection.lost
        with pytest.raises(ConnectionLost, match="found wanting"):
            connection.request(echo(1), 1)
        with pytest.raises(ConnectionLost, match="found wanting"):
            await connection.call((b"SECOND",))
        with pytest.raises(ConnectionLost, match="found wanting"):
            await connection.calls([(b"SECOND",)])
        with pytest.raises(ConnectionLost, match="found wanting"):
            connection.check()
    assert seen == [[b"FIRST"]]


async def test_nothing_is_written_once_a_write_has_failed(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Asyncio reports it a turn later, and logs the writes until then."""
    connection = await connect(parse(url))
    try:
        # A failed write does the same to the transport.
        connection._transport.abort()
        for _ in range(10):
            assert connection.lost
            with pytest.raises(ConnectionLost, match="broke during a write"):
                connection.request(pack([(b"PING",)]), 1)
    finally:
        await connection.aclose()
    assert not caplog.records


async def test_the_first_reason_is_kept() -> None:
    async with connection_to(answering(lambda _: b"")) as connection:
        connection.abort("the first")
        connection.abort("the second")
        await connection.aclose()
        with pytest.raises(ConnectionLost, match="the first"):
            connection.check()


# --- timeouts


@asynccontextmanager
async def taking(least: float, most: float) -> AsyncIterator[None]:
    start = time.monotonic()
    yield
    assert least <= time.monotonic() - start <= most


async def test_a_request_to_a_server_that_never_answers_times_out() -> None:
    async with nothing_left():
        async with connection_to(
            answering(lambda _: b""), "socket_timeout=0.2"
        ) as connection:
            async with taking(0.19, 1.5):
                futures = [connection.request(echo(number), 1) for number in range(3)]
                assert await lost(futures[0]) == "no reply in time"
            assert all(future.done() for future in futures)
            assert connection.lost
            del futures


async def test_the_timeout_counts_from_the_request() -> None:
    """The idle time of the connection before the request does not count."""
    loop = asyncio.get_running_loop()
    answer = answering(lambda r: b"" if r[0] == b"NEVER" else b"+OK\r\n")
    async with connection_to(answer, "socket_timeout=0.2") as connection:
        assert await connection.call((b"FINE",)) == b"OK"
        idle = loop.create_future()
        loop.call_later(0.3, idle.set_result, None)
        await idle
        assert await connection.call((b"FINE",)) == b"OK"
        async with taking(0.19, 1.5):
            assert await lost(connection.call((b"NEVER",))) == "no reply in time"


def delayed(delays: dict[bytes, float]) -> Serve:
    """Return a server that answers commands after their delays, and others never."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            if said := greet(request):
                writer.write(said)
            elif (delay := delays.get(request[0])) is not None:
                await asyncio.sleep(delay)
                writer.write(b"+%b\r\n" % request[0])

    return serve


async def test_the_time_of_a_blocking_read_is_added_to_the_timeout() -> None:
    async with connection_to(
        delayed({b"BLOCK": 0.4}), "socket_timeout=0.2"
    ) as connection:
        assert await connection.request(pack([(b"BLOCK",)]), 1, 0.4) == [b"BLOCK"]
        async with taking(0.49, 2.0):
            assert await lost(connection.request(pack([(b"NEVER",)]), 1, 0.3))


async def test_a_request_after_a_blocking_one_has_the_usual_timeout() -> None:
    """The later deadline of the blocking read ended with its reply."""
    async with connection_to(
        delayed({b"BLOCK": 0}), "socket_timeout=0.2"
    ) as connection:
        assert await connection.request(pack([(b"BLOCK",)]), 1, 60.0) == [b"BLOCK"]
        async with taking(0.19, 1.5):
            assert await lost(connection.call((b"NEVER",))) == "no reply in time"


async def test_a_request_behind_a_blocking_one_has_the_timeout_after_its_reply() -> (
    None
):
    delays = {b"BLOCK": 0.6, b"NEXT": 0.15}
    async with connection_to(delayed(delays), "socket_timeout=0.2") as connection:
        blocking = connection.request(pack([(b"BLOCK",)]), 1, 0.5)
        assert await connection.call((b"NEXT",)) == b"NEXT"
        assert await blocking == [b"BLOCK"]


async def test_a_long_reply_does_not_time_out_while_bytes_arrive() -> None:
    """Otherwise a reply that takes longer would be requested again and again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            writer.write(greet(request) or b"$8\r\n")
            for _ in range(8 if request[0] == b"SLOW" else 0):
                await asyncio.sleep(0.05)
                writer.write(b"x")
            writer.write(b"\r\n" if request[0] == b"SLOW" else b"")

    async with connection_to(serve, "socket_timeout=0.2") as connection:
        assert await connection.call((b"SLOW",)) == b"x" * 8
        # A reply that stops halfway times out.
        assert await lost(connection.call((b"STUCK",))) == "no reply in time"


# --- invalid replies


@pytest.mark.parametrize(
    "invalid",
    [
        b"garbage\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"$five\r\nhello\r\n",
        b"*x\r\n",
        b":1x\r\n",
        b"\x00\x00\x00\x00",
        pytest.param(
            b"*1\r\n" * 5000,
            marks=pytest.mark.skipif(
                hiredis.__version__.split(".") < ["3", "5"],
                reason="older parsers accept any depth, and wait for more",
            ),
        ),
    ],
)
async def test_an_invalid_reply_ends_the_connection_and_is_returned_to_no_caller(
    invalid: bytes,
) -> None:
    def answer(request: Request) -> bytes:
        return invalid if request[0] == b"ODD" else b"+%b\r\n" % request[0]

    async with nothing_left(), connection_to(answering(answer)) as connection:
        assert await connection.call((b"FINE",)) == b"FINE"
        assert "malformed reply" in await lost(connection.call((b"ODD",)))
        assert connection.lost


@pytest.mark.parametrize(
    "invalid",
    [b"+EXTRA\r\n", b"%1\r\n*0\r\n+a\r\n", b">0\r\n", b">1\r\n:1\r\n", b"$x\r\n"],
)
async def test_replies_that_arrived_with_an_invalid_one_are_discarded(
    invalid: bytes,
) -> None:
    """A list that a corrupted byte has shortened is followed by its other elements."""
    async with (
        nothing_left(),
        connection_to(answering(lambda _: b"+OK\r\n" + invalid)) as connection,
    ):
        several = [connection.request(echo(number), 1) for number in range(3)]
        for each in several:
            assert "malformed reply" in await lost(each)
        assert connection.lost
        del several, each


@PROTOCOLS
async def test_a_reply_that_does_not_fit_its_command_ends_the_connection(
    protocol: int,
) -> None:
    def answer(request: Request) -> bytes:
        return b"+OK\r\n" if request[0] == b"XACK" else b":1\r\n"

    query = f"protocol={protocol}"
    async with nothing_left(), connection_to(answering(answer), query) as connection:
        assert await connection.call(commands.xdel(b"s", [b"1-1"])) == 1
        acks = [commands.xdel(b"s", [b"1-1"]), commands.xack(b"s", "g", [b"1-1"])]
        assert "malformed reply" in await lost(connection.calls(acks))
        assert connection.lost


async def test_a_defect_of_a_parser_is_reported_and_no_caller_waits_forever() -> None:
    def defective(_: list[Any]) -> list[Any]:
        raise ZeroDivisionError

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, what: reported.append(what)
    )
    async with connection_to(answering(lambda _: b"+OK\r\n")) as connection:
        assert "malformed reply" in await lost(
            connection.request(echo(1), 1, 0.0, defective)
        )
        assert connection.lost
    assert [type(what["exception"]) for what in reported] == [ZeroDivisionError]


async def test_a_reply_that_no_caller_waits_for_is_checked_too() -> None:
    async with connection_to(answering(lambda _: b"+OK\r\n")) as connection:
        connection.ask([commands.xack(b"s", "g", [b"1-1"])]).cancel()
        async with asyncio.timeout(5):
            while not connection.lost:
                await asyncio.sleep(0.01)


async def test_the_connection_to_a_demoted_server_is_ended_when_it_has_answered() -> (
    None
):
    """Such a server keeps its connections, but they accept no more writes."""
    parts = [b"+OK\r\n-READONLY no\r\n", b"-READONLY no\r\n+OK\r\n"]
    resume = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        async for request in requests(reader):
            if said := greet(request):
                writer.write(said)
                continue
            count += 1
            if count == 4:
                writer.write(parts[0])
                await resume.wait()
                writer.write(parts[1])

    async with nothing_left(), connection_to(serve) as connection:
        one, two, three, four = [
            connection.request(echo(number), 1) for number in range(4)
        ]
        assert await one == [b"OK"]
        [refused] = await two
        assert refused.code == "READONLY"
        assert not connection.lost
        resume.set()
        assert [*await three, *await four][1] == b"OK"
        assert "READONLY no" in await lost(connection.call((b"PING",)))
        del one, two, three, four


async def test_one_reply_too_many_ends_the_connection() -> None:
    def answer(request: Request) -> bytes:
        extra = b"+EXTRA\r\n" if request[0] == b"LAST" else b""
        return b"+%b\r\n%b" % (request[0], extra)

    async with connection_to(answering(answer)) as connection:
        assert await connection.call((b"FIRST",)) == b"FIRST"
        async with asyncio.timeout(5):
            with suppress(ConnectionLost):
                assert await connection.call((b"LAST",)) == b"LAST"
                while True:
                    assert await connection.call((b"NEXT",)) != b"EXTRA"
        assert connection.lost


async def test_a_reply_without_a_request_ends_the_connection() -> None:
    resume = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for request in requests(reader):
            writer.write(greet(request) or b"")
            await resume.wait()
            writer.write(b"+unasked\r\n")
            await writer.drain()

    async with nothing_left(), connection_to(serve) as connection:
        assert not connection.lost
        resume.set()
        async with asyncio.timeout(5):
            await asyncio.shield(connection._closed)
        with pytest.raises(ConnectionLost, match="malformed reply"):
            connection.request(echo(1), 1)


# --- closing


async def test_closing_leaves_nothing_behind_and_ends_the_waiting_of_callers(
    url: str,
) -> None:
    async with nothing_left():
        connection = await connect(parse(url))
        blocked = connection.request(pack([(b"BLPOP", b"nothing-here", 5)]), 1, 5)
        await connection.aclose()
        assert await lost(blocked) == "closed"
        assert connection.lost
        del blocked, connection


async def test_closing_again_does_nothing(url: str) -> None:
    async with nothing_left():
        connection = await connect(parse(url))
        await asyncio.gather(connection.aclose(), connection.aclose())
        await connection.aclose()
        connection.abort("too late")
        await connection.aclose()
        with pytest.raises(ConnectionLost, match="closed"):
            connection.check()
        del connection


async def test_closing_a_lost_connection_leaves_nothing_behind() -> None:
    async with nothing_left(), fake(cutting(1)) as server:
        connection = await connect(parse(server.url))
        await lost(connection.request(echo(1), 1))
        await connection.aclose()
        del connection


async def test_closing_with_much_unwritten_data_does_not_wait_forever() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greeting(reader, writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.get_running_loop().create_future()

    async with fake(serve) as server, nothing_left(of=server):
        connection = await connect(parse(server.url))
        waiting = connection.call((b"ECHO", bytes(20_000_000)))
        task = asyncio.create_task(lost(waiting))
        await asyncio.sleep(0)
        async with taking(0, 2.0):
            await connection.aclose()
        assert await task == "closed"
        del connection, waiting, task


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_connection(
    certificates: Certificates, *, falls_silent: bool = True
) -> AsyncIterator[tuple[Connection, Fake]]:
    """Connect by TLS to a server that receives nothing after the handshake."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greeting(reader, writer)
        if falls_silent:
            await writer.drain()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        else:
            await answering(lambda request: b"+%b\r\n" % request[1])(reader, writer)
        await asyncio.get_running_loop().create_future()

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            fake(serve, tls=certificates.context())
        )
        await stack.enter_async_context(nothing_left(of=server))
        query = f"ssl_ca_certs={certificates.authority}"
        url = f"rediss://localhost:{server.port}?{query}"
        connection = await connect(parse(url))
        yield connection, server
        del connection


async def test_requests_over_tls_are_answered(certificates: Certificates) -> None:
    async with tls_connection(certificates, falls_silent=False) as (connection, _):
        assert await connection.calls([(b"ECHO", b"a"), (b"ECHO", b"b")]) == [
            b"a",
            b"b",
        ]
        await connection.aclose()
        del connection


async def test_closing_tls_to_a_black_hole_takes_no_longer_than_two_seconds(
    certificates: Certificates,
) -> None:
    async with tls_connection(certificates) as (connection, _):
        async with taking(0, 2.0):
            await connection.aclose()
        del connection


async def test_aborting_tls_to_a_black_hole_leaves_nothing_behind(
    certificates: Certificates,
) -> None:
    async with tls_connection(certificates) as (connection, _):
        waiting = connection.request(echo(1), 1)
        connection.abort("enough")
        assert await lost(waiting) == "enough"
        async with taking(0, 0.5):
            await connection.aclose()
        del connection, waiting


@pytest.mark.parametrize("turns", range(4))
async def test_cancelling_the_closing_leaves_nothing_behind(
    turns: int, certificates: Certificates
) -> None:
    async with tls_connection(certificates) as (connection, _):
        task = asyncio.create_task(connection.aclose())
        for _turn in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if turns == 0:
            # The closing had not begun.
            await connection.aclose()
        assert connection.lost
        del connection, task


@pytest.mark.parametrize("tls", [False, True])
async def test_closing_in_a_cancelled_scope_leaves_nothing_behind(
    url: str, certificates: Certificates, *, tls: bool
) -> None:
    """Such a scope cancels every single await in it."""

    async def close(connection: Connection) -> None:
        with anyio.CancelScope() as scope:
            try:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            finally:
                await connection.aclose()

    if tls:
        async with tls_connection(certificates) as (connection, _):
            await close(connection)
            del connection
    else:
        async with nothing_left():
            await close(await connect(parse(url)))


# --- another event loop


async def uvloop_scenario(url: str) -> None:
    async with opened(url) as connection:
        assert await connection.calls([(b"ECHO", b"a"), (b"ECHO", 2)]) == [b"a", b"2"]
        large = bytes(5_000_000)
        assert await connection.call((b"ECHO", large)) == large
        futures = [connection.request(echo(number), 1) for number in range(1000)]
        for future in futures[::2]:
            future.cancel()
        assert await asyncio.gather(*futures[1::2]) == [
            [b"%d" % number] for number in range(1, 1000, 2)
        ]
    with pytest.raises(ConnectionLost):
        connection.check()
    async with connection_to(
        answering(lambda _: b""), "socket_timeout=0.2"
    ) as connection:
        assert await lost(connection.request(echo(1), 1, 0.1)) == "no reply in time"
    async with connection_to(answering(lambda _: b"nonsense\r\n")) as connection:
        assert "malformed reply" in await lost(connection.request(echo(1), 1))
    async with connection_to(cutting(1)) as connection:
        assert await lost(connection.request(echo(1), 1))
    async with fake(closing) as server:
        with pytest.raises(Exception, match="can't connect"):
            await connect(parse(server.url))


async def uvloop_tls_scenario(certificates: Certificates) -> None:
    async with tls_connection(certificates, falls_silent=False) as (connection, _):
        assert await connection.call((b"ECHO", b"a")) == b"a"
        await connection.aclose()
        del connection
    async with tls_connection(certificates) as (connection, _):
        async with taking(0, 2.0):
            await connection.aclose()
        del connection


def under_uvloop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in a thread, since this thread may have an event loop."""
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


def test_connections_work_under_uvloop(url: str) -> None:
    under_uvloop(lambda: uvloop_scenario(url))


def test_tls_connections_work_under_uvloop(certificates: Certificates) -> None:
    under_uvloop(lambda: uvloop_tls_scenario(certificates))
