"""The way back to a server after an outage."""

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


class Counting(Connector):
    """A link that notes its tries; where the pace does not matter a faster one."""

    def __init__(self, url: str, events: Events, *, first: float = 0.01) -> None:
        super().__init__(parse(url), events)
        self._backoff = ReconnectBackoff(first=first)
        self.tries: list[float] = []
        self.at_once = 0
        self.most_at_once = 0
        self._tried = asyncio.Event()

    async def connect(self, *, first: bool = False) -> Connection:
        self.tries.append(time.monotonic())
        self._tried.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await super().connect(first=first)
        finally:
            self.at_once -= 1

    async def tried(self, times: int) -> None:
        """Wait for so many tries in all."""
        async with asyncio.timeout(15):
            while len(self.tries) < times:
                self._tried.clear()
                await self._tried.wait()


def nowhere() -> str:
    return f"redis://127.0.0.1:{free_port()}"


def names(events: Events) -> list[str]:
    return [event.name for event in events]


async def cancelled(task: asyncio.Task[Connection]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def knocking(link: Connector) -> AsyncIterator[asyncio.Task[Connection]]:
    """A reconnect in the background, cancelled or closed in the end."""
    task = asyncio.create_task(link.reconnect("cut"))
    try:
        yield task
    finally:
        if task.done() and not task.cancelled() and not task.exception():
            await task.result().aclose()
        await cancelled(task)


# --- the pace

PACE = ReconnectBackoff().first


async def tries_in_a_second(link: Counting) -> int:
    async with knocking(link), asyncio.timeout(10):
        start = time.monotonic()
        while time.monotonic() < start + 1.0:
            before = len(link.tries)
            with suppress(TimeoutError):
                async with asyncio.timeout(start + 1.0 - time.monotonic()):
                    await link.tried(before + 1)
    return len(link.tries)


async def test_a_port_that_refuses_is_tried_five_times_in_the_first_second_at_most(
    events: Events,
) -> None:
    assert 2 <= await tries_in_a_second(Counting(nowhere(), events, first=PACE)) <= 5


async def test_a_server_that_closes_at_once_is_tried_five_times_in_a_second_at_most(
    events: Events,
) -> None:
    async with fake(closing) as there:
        link = Counting(there.url, events, first=PACE)
        assert 2 <= await tries_in_a_second(link) <= 5
        assert there.accepted <= 5


async def test_many_callers_try_five_times_in_the_first_second_at_most(
    events: Events,
) -> None:
    link = Counting(nowhere(), events, first=PACE)
    others = [asyncio.create_task(link.reconnect("cut")) for _ in range(10)]
    assert 2 <= await tries_in_a_second(link) <= 5
    for other in others:
        await cancelled(other)
    assert names(events) == ["connection_lost"]


async def test_the_first_try_comes_soon_and_the_further_ones_ever_later(
    events: Events,
) -> None:
    link = Counting(nowhere(), events, first=PACE)
    start = time.monotonic()
    async with knocking(link):
        await link.tried(5)
    times = [start, *link.tries[:5]]
    gaps = [late - early for early, late in pairwise(times)]
    # 50 ms, doubled each time up to 0.6 s, moved by a quarter either way.
    for gap, nominal in zip(gaps, (0.05, 0.1, 0.2, 0.4, 0.6), strict=True):
        assert nominal * 0.74 < gap < nominal * 1.25 + 0.15


async def test_only_real_work_starts_the_pace_over(events: Events) -> None:
    async with fake(GOOD) as there:
        link = Counting(there.url, events, first=PACE)
        for _ in range(4):
            await (await link.reconnect("cut")).aclose()
        start = time.monotonic()
        await (await link.reconnect("cut")).aclose()
        # The fifth in a row, though all of them connected.
        assert time.monotonic() - start > 0.4
        link.progress()
        start = time.monotonic()
        await (await link.reconnect("cut")).aclose()
        assert time.monotonic() - start < 0.3


async def test_pauses_grow_too(events: Events) -> None:
    link = Connector(parse(nowhere()), events)
    start = time.monotonic()
    for _ in range(3):
        await link.pause()
    assert 0.25 < time.monotonic() - start < 1.0
    assert events == []


async def test_it_goes_on_until_the_server_is_there(events: Events) -> None:
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    async with knocking(link) as task:
        await link.tried(4)
        assert not task.done()
        async with fake(GOOD, port=port), asyncio.timeout(5):
            wire = await task
            assert await wire.call((b"PING",)) == b"OK"


async def test_whatever_goes_wrong_it_goes_on(events: Events) -> None:
    """Refused, closed at once, silent, and what is no Redis server."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}?socket_connect_timeout=0.1"
    link = Counting(url, events)
    async with knocking(link) as task:
        await link.tried(1)
        for serve in (closing, silent, answering(lambda _: b"nonsense\r\n")):
            async with fake(serve, port=port) as there:
                tried = len(link.tries)
                link.progress()
                await link.tried(tried + 2)
                assert there.accepted
            assert not task.done()
        link.progress()
        async with fake(GOOD, port=port), asyncio.timeout(5):
            await task


async def test_one_try_at_a_time_is_shared_by_all_who_ask(events: Events) -> None:
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    tasks = [asyncio.create_task(link.reconnect("cut")) for _ in range(3)]
    await link.tried(2)
    async with fake(GOOD, port=port), asyncio.timeout(10):
        wires = await asyncio.gather(*tasks)
        assert len(set(wires)) == 3
        for wire in wires:
            assert await wire.call((b"PING",)) == b"OK"
            await wire.aclose()
    assert link.most_at_once == 1


async def test_a_caller_who_gives_up_leaves_the_turn_to_the_next(
    events: Events,
) -> None:
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    first = asyncio.create_task(link.reconnect("cut"))
    second = asyncio.create_task(link.reconnect("cut"))
    await link.tried(1)
    await cancelled(first)
    async with fake(GOOD, port=port), asyncio.timeout(10):
        await (await second).aclose()
    assert names(events) == ["connection_lost", "reconnected"]


# --- events


async def test_an_outage_is_told_of_once_and_its_end_once(events: Events) -> None:
    """However many connections it cuts."""
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    for outage in (1, 2):
        link.progress()
        tried = len(link.tries)
        tasks = [asyncio.create_task(link.reconnect("cut")) for _ in range(3)]
        await link.tried(tried + 2)
        async with fake(GOOD, port=port), asyncio.timeout(10):
            for wire in await asyncio.gather(*tasks):
                await wire.aclose()
        assert names(events) == ["connection_lost", "reconnected"] * outage
    lost, found = events[:2]
    assert lost.facts == {"server": link.address.name, "reason": "cut"}
    assert found.facts["server"] == link.address.name
    assert isinstance(found.facts["seconds"], float)
    assert 0 < found.facts["seconds"] < 5


async def test_an_outage_that_begins_while_others_reconnect_is_told_of(
    events: Events,
) -> None:
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    served = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        if served == 1:
            await GOOD(reader, writer)

    async with asyncio.timeout(10):
        async with fake(once, port=port):
            first = asyncio.create_task(link.reconnect("cut"))
            second = asyncio.create_task(link.reconnect("cut"))
            await (await first).aclose()
            await link.tried(3)
        assert names(events) == ["connection_lost", "reconnected", "connection_lost"]
        async with fake(GOOD, port=port):
            await (await second).aclose()
    assert names(events) == ["connection_lost", "reconnected"] * 2


async def test_who_waits_behind_another_comes_through_with_it(events: Events) -> None:
    """The pace has slowed down by then; to wait for it again would be of no use."""
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events, first=0.5)
    async with asyncio.timeout(10):
        tasks = [asyncio.create_task(link.reconnect("cut")) for _ in range(4)]
        await link.tried(2)
        async with fake(GOOD, port=port):
            wires = [await task for task in tasks]
            for wire in wires:
                await wire.aclose()
    assert link.tries[-1] - link.tries[-4] < 0.2
    assert link.most_at_once == 1


@pytest.fixture
def port() -> int:
    return free_port()


async def set_password(server: EmbeddedServer, before: str, after: str) -> None:
    login = f"unix://:{before}@" if before else "unix://"
    async with Redis.from_url(server.url.replace("unix://", login)) as redis:
        await redis.config_set("requirepass", after)


async def test_refused_credentials_are_told_of_once_and_tried_again(
    events: Events, port: int
) -> None:
    """They may be in rotation."""
    url = f"redis://:{SECRET}@127.0.0.1:{port}"
    with EmbeddedServer(config={"requirepass": "old"}, port=port) as server:
        link = Counting(url, events)
        async with knocking(link) as task:
            await link.tried(4)
            assert names(events) == ["connection_lost", "access_refused"]
            await set_password(server, "old", SECRET)
            async with asyncio.timeout(10):
                await task
    assert names(events) == ["connection_lost", "access_refused", "reconnected"]
    assert "refused access" in str(events[1].facts["reason"])


async def test_credentials_refused_after_an_outage_of_another_kind_are_told_of(
    events: Events, port: int
) -> None:
    """The server was down first, and came back with another password."""
    link = Counting(f"redis://:{SECRET}@127.0.0.1:{port}", events)
    async with knocking(link) as task:
        await link.tried(2)
        with EmbeddedServer(config={"requirepass": "new"}, port=port) as server:
            await link.tried(len(link.tries) + 3)
            assert names(events) == ["connection_lost", "access_refused"]
            await set_password(server, "new", SECRET)
            async with asyncio.timeout(10):
                await task


async def test_credentials_refused_in_the_next_outage_are_told_of_again(
    events: Events, port: int
) -> None:
    with EmbeddedServer(config={"requirepass": "old"}, port=port) as server:
        link = Counting(f"redis://:{SECRET}@127.0.0.1:{port}", events)
        password = "old"
        for _ in range(2):
            tried = len(link.tries)
            async with knocking(link) as task, asyncio.timeout(15):
                await link.tried(tried + 2)
                await set_password(server, password, SECRET)
                await task
            await set_password(server, SECRET, password)
            link.progress()
    once = ["connection_lost", "access_refused", "reconnected"]
    assert names(events) == once * 2


# --- the first connection


async def test_the_first_connection_waits_for_a_late_server(events: Events) -> None:
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    task = asyncio.create_task(link.first(10))
    await link.tried(3)
    async with fake(GOOD, port=port), asyncio.timeout(5):
        wire = await task
        assert wire.client_id == 7
        await wire.aclose()
    assert names(events) == ["connection_lost", "reconnected"]


async def test_an_outage_after_a_late_start_is_told_of(events: Events) -> None:
    """The wait for the server was an outage, and it is over."""
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    task = asyncio.create_task(link.first(10))
    await link.tried(2)
    async with fake(GOOD, port=port), asyncio.timeout(5):
        await (await task).aclose()
        await (await link.reconnect("cut")).aclose()
    assert names(events) == ["connection_lost", "reconnected"] * 2


async def test_the_first_connection_to_a_server_that_is_there_tells_nothing(
    url: str, events: Events
) -> None:
    await (await Connector(parse(url), events).first(0)).aclose()
    assert events == []


@pytest.mark.parametrize("patience", [0, 0.5])
async def test_the_first_connection_is_given_up_after_the_patience(
    patience: float, events: Events
) -> None:
    link = Counting(nowhere(), events)
    start = time.monotonic()
    async with nothing_left():
        with pytest.raises(ConnectError, match=link.address.name):
            await link.first(patience)
    assert time.monotonic() - start < patience + 0.3
    assert (len(link.tries) == 1) is (patience == 0)


async def test_the_first_connection_does_not_insist_on_refused_credentials(
    events: Events, port: int
) -> None:
    with EmbeddedServer(config={"requirepass": "other"}, port=port) as server:
        for url in (f"redis://:{SECRET}@127.0.0.1:{port}", server.url):
            link = Counting(url, events)
            with pytest.raises(AccessError):
                await link.first(10)
            assert len(link.tries) == 1
    assert events == []


# --- finding the server


async def test_an_embedded_server_is_there_while_the_link_is_open(
    events: Events,
) -> None:
    async with open_connector("embedded://", events) as link:
        wire = await link.connect()
        assert await wire.call((b"PING",)) == b"PONG"
        await wire.aclose()
        server = embedded.acquire()
        embedded.release(server)
        async with open_connector("embedded://", events) as other:
            assert other.address == link.address
        assert server.alive
    # Somebody else in this process, such as a fixture, may still use it.
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
    """The thread that starts it can't be stopped; what it brings must not stay."""
    users = dict(embedded._users)
    began, released = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    acquire, release = embedded.acquire, embedded.release

    def slow_acquire() -> EmbeddedServer:
        loop.call_soon_threadsafe(began.set)
        return acquire()

    def noted_release(server: EmbeddedServer) -> None:
        release(server)
        loop.call_soon_threadsafe(released.set)

    monkeypatch.setattr(embedded, "acquire", slow_acquire)
    monkeypatch.setattr(embedded, "release", noted_release)

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


async def test_a_link_goes_where_the_url_or_the_environment_says(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://environment:1")
    async with open_connector(None, events) as link:
        assert link.address.name == "environment:1"
    async with open_connector("redis://given:2", events) as link:
        assert link.address.name == "given:2"


@pytest.mark.parametrize("url", [None, "http://h", "redis://h:port"])
async def test_a_url_that_is_wrong_or_missing_is_an_error_on_opening(
    url: str | None, events: Events
) -> None:
    with pytest.raises(ConfigurationError):
        async with open_connector(url, events):
            pass


# --- the shared connection for commands


async def test_a_line_is_restored_after_it_was_cut(url: str, events: Events) -> None:
    async with proxy(url) as between, nothing_left():
        link = Connector(parse(between.url), events)
        line = CommandConnection(link, await link.first(5))
        assert line.server == link.address.name
        assert await line.calls([(b"ECHO", b"1")]) == [b"1"]
        between.cut()
        with pytest.raises(ConnectionLost) as caught:
            await line.calls([(b"ECHO", b"2")])
        async with asyncio.timeout(5):
            await line.restore(caught.value.reason)
        assert await line.calls([(b"ECHO", b"3")]) == [b"3"]
        await line.aclose()
        del caught
        # The proxy's own end of it.
        between.cut()
    assert names(events) == ["connection_lost", "reconnected"]


async def test_a_line_whose_restoring_was_cancelled_leaves_nothing(
    events: Events,
) -> None:
    port = free_port()
    link = Counting(f"redis://127.0.0.1:{port}", events)
    async with nothing_left():
        async with fake(GOOD, port=port):
            line = CommandConnection(link, await link.first(5))
        with pytest.raises(ConnectionLost):
            await line.calls([(b"ECHO", b"1")])
        task = asyncio.create_task(line.restore("cut"))
        await link.tried(3)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionLost):
            await line.calls([(b"ECHO", b"2")])
        await line.aclose()
        del task


async def test_a_line_that_many_find_cut_is_restored_once(
    url: str, events: Events
) -> None:
    async with proxy(url) as between:
        link = Counting(between.url, events)
        line = CommandConnection(link, await link.first(5))
        between.cut()
        with pytest.raises(ConnectionLost):
            await line.calls([(b"ECHO", b"1")])
        async with asyncio.timeout(5):
            await asyncio.gather(*(line.restore("cut") for _ in range(5)))
        assert await line.calls([(b"ECHO", b"2")]) == [b"2"]
        # Nor does it do anything to a connection that is whole.
        await line.restore("not at all")
        await line.aclose()
    assert len(link.tries) == 2
    assert names(events) == ["connection_lost", "reconnected"]


async def test_a_line_listens_on_the_connection_that_it_has(
    url: str, stream: str, events: Events
) -> None:
    link = Connector(parse(url), events)
    line = CommandConnection(link, await link.first(5))
    rang, number = asyncio.Event(), line.number
    assert await line.listen([stream.encode()], rang.set)
    assert await line.calls([(b"PUBLISH", stream, b"x"), (b"ECHO", b"1")]) == [1, b"1"]
    async with asyncio.timeout(5):
        await rang.wait()
    assert line.number == number
    await line.aclose()
    await line.restore("closed")
    assert line.number != number
    # The new one does not listen.
    assert await line.calls([(b"PUBLISH", stream, b"x")]) == [0]
    await line.aclose()
