"""Reconnecting to a server after an outage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import anyio
import pytest
from redis.asyncio import Redis

from connection.fakes import Serve, answering, closing, fake, free_port, silent
from connection.traces import nothing_left
from penstock import embedded
from penstock._connection.address import parse
from penstock._connection.command_connection import CommandConnection
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector, open_connector
from penstock._core.backoff import ReconnectBackoff
from penstock.embedded import EmbeddedServer
from penstock.errors import (
    AccessError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
)
from support.events import Events
from support.proxy import proxy

SECRET = "hunter2-canary"
GOOD: Serve = answering(lambda request: b":7\r\n" if b"ID" in request else b"+OK\r\n")


class CountingConnector(Connector):
    """A connector that records its attempts, at a quick pace unless one is given."""

    def __init__(self, url: str, events: Events, *, first: float = 0.01) -> None:
        super().__init__(parse(url), events)
        self._backoff = ReconnectBackoff(first=first)
        self.attempts: list[float] = []
        self.concurrent = 0
        self.most_concurrent = 0
        self._attempted = asyncio.Event()

    async def connect(self, *, first: bool = False) -> Connection:
        self.attempts.append(time.monotonic())
        self._attempted.set()
        self.concurrent += 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent)
        try:
            return await super().connect(first=first)
        finally:
            self.concurrent -= 1

    async def attempted(self, times: int) -> None:
        """Wait until so many attempts were made in total."""
        async with asyncio.timeout(15):
            while len(self.attempts) < times:
                self._attempted.clear()
                await self._attempted.wait()


def unreachable() -> str:
    return f"redis://127.0.0.1:{free_port()}"


def names(events: Events) -> list[str]:
    return [event.name for event in events]


async def cancelled(task: asyncio.Task[Connection]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def reconnecting(connector: Connector) -> AsyncIterator[asyncio.Task[Connection]]:
    """Reconnect in the background; cancel that or close the connection in the end."""
    task = asyncio.create_task(connector.reconnect("cut"))
    try:
        yield task
    finally:
        if task.done() and not task.cancelled() and not task.exception():
            await task.result().aclose()
        await cancelled(task)


# --- the pace

PACE = ReconnectBackoff().first


async def attempts_in_a_second(connector: CountingConnector) -> int:
    async with reconnecting(connector), asyncio.timeout(10):
        start = time.monotonic()
        while time.monotonic() < start + 1.0:
            before = len(connector.attempts)
            with suppress(TimeoutError):
                async with asyncio.timeout(start + 1.0 - time.monotonic()):
                    await connector.attempted(before + 1)
    return len(connector.attempts)


async def test_a_port_that_refuses_is_tried_five_times_in_the_first_second_at_most(
    events: Events,
) -> None:
    assert (
        2
        <= await attempts_in_a_second(
            CountingConnector(unreachable(), events, first=PACE)
        )
        <= 5
    )


async def test_a_server_that_closes_at_once_is_tried_five_times_in_a_second_at_most(
    events: Events,
) -> None:
    async with fake(closing) as server:
        connector = CountingConnector(server.url, events, first=PACE)
        assert 2 <= await attempts_in_a_second(connector) <= 5
        assert server.accepted <= 5


async def test_many_callers_try_five_times_in_the_first_second_at_most(
    events: Events,
) -> None:
    connector = CountingConnector(unreachable(), events, first=PACE)
    others = [asyncio.create_task(connector.reconnect("cut")) for _ in range(10)]
    assert 2 <= await attempts_in_a_second(connector) <= 5
    for other in others:
        await cancelled(other)
    assert names(events) == ["connection_lost"]


async def test_the_first_attempt_is_made_soon_and_the_pauses_after_it_grow(
    events: Events,
) -> None:
    connector = CountingConnector(unreachable(), events, first=PACE)
    start = time.monotonic()
    async with reconnecting(connector):
        await connector.attempted(5)
    times = [start, *connector.attempts[:5]]
    gaps = [late - early for early, late in pairwise(times)]
    # 50 ms, doubled each time up to 0.6 s, with a jitter of a quarter either way.
    for gap, nominal in zip(gaps, (0.05, 0.1, 0.2, 0.4, 0.6), strict=True):
        assert nominal * 0.74 < gap < nominal * 1.25 + 0.15


async def test_only_progress_resets_the_pace(events: Events) -> None:
    async with fake(GOOD) as server:
        connector = CountingConnector(server.url, events, first=PACE)
        for _ in range(4):
            await (await connector.reconnect("cut")).aclose()
        start = time.monotonic()
        await (await connector.reconnect("cut")).aclose()
        # The fifth in a row, although all of them connected.
        assert time.monotonic() - start > 0.4
        connector.progress()
        start = time.monotonic()
        await (await connector.reconnect("cut")).aclose()
        assert time.monotonic() - start < 0.3


async def test_the_pauses_of_pause_grow_too(events: Events) -> None:
    connector = Connector(parse(unreachable()), events)
    start = time.monotonic()
    for _ in range(3):
        await connector.pause()
    assert 0.25 < time.monotonic() - start < 1.0
    assert events == []


async def test_attempts_continue_until_the_server_is_available(events: Events) -> None:
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    async with reconnecting(connector) as task:
        await connector.attempted(4)
        assert not task.done()
        async with fake(GOOD, port=port), asyncio.timeout(5):
            connection = await task
            assert await connection.call((b"PING",)) == b"OK"


async def test_attempts_continue_whatever_goes_wrong(events: Events) -> None:
    """Refused, closed at once, silent, and another kind of server."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}?socket_connect_timeout=0.1"
    connector = CountingConnector(url, events)
    async with reconnecting(connector) as task:
        await connector.attempted(1)
        for serve in (closing, silent, answering(lambda _: b"nonsense\r\n")):
            async with fake(serve, port=port) as server:
                attempted = len(connector.attempts)
                connector.progress()
                await connector.attempted(attempted + 2)
                assert server.accepted
            assert not task.done()
        connector.progress()
        async with fake(GOOD, port=port), asyncio.timeout(5):
            await task


async def test_callers_share_one_attempt_at_a_time(events: Events) -> None:
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    tasks = [asyncio.create_task(connector.reconnect("cut")) for _ in range(3)]
    await connector.attempted(2)
    async with fake(GOOD, port=port), asyncio.timeout(10):
        connections = await asyncio.gather(*tasks)
        assert len(set(connections)) == 3
        for connection in connections:
            assert await connection.call((b"PING",)) == b"OK"
            await connection.aclose()
    assert connector.most_concurrent == 1


async def test_a_cancelled_caller_lets_the_next_one_try(
    events: Events,
) -> None:
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    first = asyncio.create_task(connector.reconnect("cut"))
    second = asyncio.create_task(connector.reconnect("cut"))
    await connector.attempted(1)
    await cancelled(first)
    async with fake(GOOD, port=port), asyncio.timeout(10):
        await (await second).aclose()
    assert names(events) == ["connection_lost", "reconnected"]


# --- events


async def test_an_outage_is_reported_once_and_so_is_its_end(events: Events) -> None:
    """However many connections it cuts."""
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    for outage in (1, 2):
        connector.progress()
        attempted = len(connector.attempts)
        tasks = [asyncio.create_task(connector.reconnect("cut")) for _ in range(3)]
        await connector.attempted(attempted + 2)
        async with fake(GOOD, port=port), asyncio.timeout(10):
            for connection in await asyncio.gather(*tasks):
                await connection.aclose()
        assert names(events) == ["connection_lost", "reconnected"] * outage
    lost, found = events[:2]
    assert lost.facts == {"server": connector.address.name, "reason": "cut"}
    assert found.facts["server"] == connector.address.name
    assert isinstance(found.facts["seconds"], float)
    assert 0 < found.facts["seconds"] < 5


async def test_an_outage_that_begins_while_others_reconnect_is_reported(
    events: Events,
) -> None:
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served == 1:
            await GOOD(reader, writer)

    async with asyncio.timeout(10):
        async with fake(once, port=port):
            first = asyncio.create_task(connector.reconnect("cut"))
            second = asyncio.create_task(connector.reconnect("cut"))
            await (await first).aclose()
            await connector.attempted(3)
        assert names(events) == ["connection_lost", "reconnected", "connection_lost"]
        async with fake(GOOD, port=port):
            await (await second).aclose()
    assert names(events) == ["connection_lost", "reconnected"] * 2


async def test_callers_that_wait_for_another_one_connect_right_after_it(
    events: Events,
) -> None:
    """The pauses are long by then, and waiting for another one would be useless."""
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events, first=0.5)
    async with asyncio.timeout(10):
        tasks = [asyncio.create_task(connector.reconnect("cut")) for _ in range(4)]
        await connector.attempted(2)
        async with fake(GOOD, port=port):
            connections = [await task for task in tasks]
            for connection in connections:
                await connection.aclose()
    assert connector.attempts[-1] - connector.attempts[-4] < 0.2
    assert connector.most_concurrent == 1


@pytest.fixture
def port() -> int:
    return free_port()


async def set_password(server: EmbeddedServer, before: str, after: str) -> None:
    login = f"unix://:{before}@" if before else "unix://"
    async with Redis.from_url(server.url.replace("unix://", login)) as redis:
        await redis.config_set("requirepass", after)


async def test_refused_credentials_are_reported_once_and_tried_again(
    events: Events, port: int
) -> None:
    """They may be in the middle of a rotation."""
    url = f"redis://:{SECRET}@127.0.0.1:{port}"
    with EmbeddedServer(config={"requirepass": "old"}, port=port) as server:
        connector = CountingConnector(url, events)
        async with reconnecting(connector) as task:
            await connector.attempted(4)
            assert names(events) == ["connection_lost", "access_refused"]
            await set_password(server, "old", SECRET)
            async with asyncio.timeout(10):
                await task
    assert names(events) == ["connection_lost", "access_refused", "reconnected"]
    assert "refused access" in str(events[1].facts["reason"])


async def test_credentials_refused_after_an_outage_of_another_kind_are_reported(
    events: Events, port: int
) -> None:
    """The server was down first, and came back with another password."""
    connector = CountingConnector(f"redis://:{SECRET}@127.0.0.1:{port}", events)
    async with reconnecting(connector) as task:
        await connector.attempted(2)
        with EmbeddedServer(config={"requirepass": "new"}, port=port) as server:
            await connector.attempted(len(connector.attempts) + 3)
            assert names(events) == ["connection_lost", "access_refused"]
            await set_password(server, "new", SECRET)
            async with asyncio.timeout(10):
                await task


async def test_credentials_refused_in_the_next_outage_are_reported_again(
    events: Events, port: int
) -> None:
    with EmbeddedServer(config={"requirepass": "old"}, port=port) as server:
        connector = CountingConnector(f"redis://:{SECRET}@127.0.0.1:{port}", events)
        password = "old"
        for _ in range(2):
            attempted = len(connector.attempts)
            async with reconnecting(connector) as task, asyncio.timeout(15):
                await connector.attempted(attempted + 2)
                await set_password(server, password, SECRET)
                await task
            await set_password(server, SECRET, password)
            connector.progress()
    once = ["connection_lost", "access_refused", "reconnected"]
    assert names(events) == once * 2


# --- the first connection


async def test_the_first_connection_waits_for_a_late_server(events: Events) -> None:
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    task = asyncio.create_task(connector.first(10))
    await connector.attempted(3)
    async with fake(GOOD, port=port), asyncio.timeout(5):
        connection = await task
        assert connection.client_id == 7
        await connection.aclose()
    assert names(events) == ["connection_lost", "reconnected"]


async def test_an_outage_after_a_late_start_is_reported(events: Events) -> None:
    """Waiting for the server counted as an outage, which has ended."""
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    task = asyncio.create_task(connector.first(10))
    await connector.attempted(2)
    async with fake(GOOD, port=port), asyncio.timeout(5):
        await (await task).aclose()
        await (await connector.reconnect("cut")).aclose()
    assert names(events) == ["connection_lost", "reconnected"] * 2


async def test_the_first_connection_to_an_available_server_is_not_reported(
    url: str, events: Events
) -> None:
    await (await Connector(parse(url), events).first(0)).aclose()
    assert events == []


@pytest.mark.parametrize("patience", [0, 0.5])
async def test_the_first_connection_is_tried_only_for_a_limited_time(
    patience: float, events: Events
) -> None:
    connector = CountingConnector(unreachable(), events)
    start = time.monotonic()
    async with nothing_left():
        with pytest.raises(ConnectError, match=connector.address.name):
            await connector.first(patience)
    assert time.monotonic() - start < patience + 0.3
    assert (len(connector.attempts) == 1) is (patience == 0)


async def test_the_first_connection_does_not_retry_refused_credentials(
    events: Events, port: int
) -> None:
    with EmbeddedServer(config={"requirepass": "other"}, port=port) as server:
        for url in (f"redis://:{SECRET}@127.0.0.1:{port}", server.url):
            connector = CountingConnector(url, events)
            with pytest.raises(AccessError):
                await connector.first(10)
            assert len(connector.attempts) == 1
    assert events == []


async def test_the_first_connection_does_not_retry_a_database_that_does_not_exist(
    url: str, events: Events
) -> None:
    connector = CountingConnector(f"{url}?db=99", events)
    with pytest.raises(ConnectError, match="database number"):
        await connector.first(10)
    assert len(connector.attempts) == 1
    assert events == []


# --- finding the server


async def test_an_embedded_server_runs_while_the_connector_is_open(
    events: Events,
) -> None:
    async with open_connector("embedded://", events) as connector:
        connection = await connector.connect()
        assert await connection.call((b"PING",)) == b"PONG"
        await connection.aclose()
        server = embedded.acquire()
        embedded.release(server)
        async with open_connector("embedded://", events) as other:
            assert other.address == connector.address
        assert server.alive
    # Another user in this process, such as a fixture, may still use it.
    assert server.alive is (server in embedded._users)


async def test_an_embedded_server_is_released_when_the_body_fails(
    events: Events,
) -> None:
    users = dict(embedded._users)
    with pytest.raises(ZeroDivisionError):
        async with open_connector("embedded://", events):
            raise ZeroDivisionError
    assert embedded._users == users


@pytest.mark.parametrize("scope", [True, False])
async def test_cancelling_the_start_of_an_embedded_server_releases_it(
    events: Events, monkeypatch: pytest.MonkeyPatch, *, scope: bool
) -> None:
    """The thread that starts it can't be stopped; the started server must not stay."""
    users = dict(embedded._users)
    began, released = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    acquire, release = embedded.acquire, embedded.release

    def slow_acquire() -> EmbeddedServer:
        loop.call_soon_threadsafe(began.set)
        return acquire()

    def recorded_release(server: EmbeddedServer) -> None:
        release(server)
        loop.call_soon_threadsafe(released.set)

    monkeypatch.setattr(embedded, "acquire", slow_acquire)
    monkeypatch.setattr(embedded, "release", recorded_release)

    async def opening() -> None:
        async with open_connector("embedded://", events):
            await anyio.sleep_forever()

    if scope:
        async with anyio.create_task_group() as group:
            group.start_soon(opening)
            await began.wait()
            group.cancel_scope.cancel()
    else:
        task = asyncio.create_task(opening())
        await began.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    async with asyncio.timeout(10):
        await released.wait()
    assert embedded._users == users


async def test_a_connector_takes_its_address_from_the_url_or_the_environment(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://environment:1")
    async with open_connector(None, events) as connector:
        assert connector.address.name == "environment:1"
    async with open_connector("redis://given:2", events) as connector:
        assert connector.address.name == "given:2"


@pytest.mark.parametrize("url", [None, "http://h", "redis://h:port"])
async def test_a_url_that_is_wrong_or_missing_is_an_error_on_opening(
    url: str | None, events: Events
) -> None:
    with pytest.raises(ConfigurationError):
        async with open_connector(url, events):
            pass


# --- the command connection


async def test_a_command_connection_is_restored_after_it_was_cut(
    url: str, events: Events
) -> None:
    async with proxy(url) as between, nothing_left():
        connector = Connector(parse(between.url), events)
        command_connection = CommandConnection(connector, await connector.first(5))
        assert command_connection.server == connector.address.name
        assert await command_connection.calls([(b"ECHO", b"1")]) == [b"1"]
        between.cut()
        with pytest.raises(ConnectionLost) as caught:
            await command_connection.calls([(b"ECHO", b"2")])
        async with asyncio.timeout(5):
            await command_connection.restore(caught.value.reason)
        assert await command_connection.calls([(b"ECHO", b"3")]) == [b"3"]
        await command_connection.aclose()
        del caught
        # The proxy's own end of the connection.
        between.cut()
    assert names(events) == ["connection_lost", "reconnected"]


async def test_cancelling_the_restoring_of_a_command_connection_leaves_nothing_behind(
    events: Events,
) -> None:
    port = free_port()
    connector = CountingConnector(f"redis://127.0.0.1:{port}", events)
    async with nothing_left():
        async with fake(GOOD, port=port):
            command_connection = CommandConnection(connector, await connector.first(5))
        with pytest.raises(ConnectionLost):
            await command_connection.calls([(b"ECHO", b"1")])
        task = asyncio.create_task(command_connection.restore("cut"))
        await connector.attempted(3)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionLost):
            await command_connection.calls([(b"ECHO", b"2")])
        await command_connection.aclose()
        del task


async def test_a_command_connection_that_many_callers_find_cut_is_restored_once(
    url: str, events: Events
) -> None:
    async with proxy(url) as between:
        connector = CountingConnector(between.url, events)
        command_connection = CommandConnection(connector, await connector.first(5))
        between.cut()
        with pytest.raises(ConnectionLost):
            await command_connection.calls([(b"ECHO", b"1")])
        async with asyncio.timeout(5):
            await asyncio.gather(*(command_connection.restore("cut") for _ in range(5)))
        assert await command_connection.calls([(b"ECHO", b"2")]) == [b"2"]
        # A connection that is not lost is not restored.
        await command_connection.restore("not at all")
        await command_connection.aclose()
    assert len(connector.attempts) == 2
    assert names(events) == ["connection_lost", "reconnected"]


async def test_a_command_connection_listens_on_its_current_connection(
    url: str, stream: str, events: Events
) -> None:
    connector = Connector(parse(url), events)
    command_connection = CommandConnection(connector, await connector.first(5))
    notified, number = asyncio.Event(), command_connection.number
    assert await command_connection.listen([stream.encode()], notified.set)
    assert await command_connection.calls(
        [(b"PUBLISH", stream, b"x"), (b"ECHO", b"1")]
    ) == [1, b"1"]
    async with asyncio.timeout(5):
        await notified.wait()
    assert command_connection.number == number
    await command_connection.aclose()
    await command_connection.restore("closed")
    assert command_connection.number != number
    # The new connection does not listen.
    assert await command_connection.calls([(b"PUBLISH", stream, b"x")]) == [0]
    await command_connection.aclose()
