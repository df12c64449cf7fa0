"""I11: no password in logs, reprs, events or exceptions, on any way of failing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

import pytest

from connection.fakes import Serve, closing, echo, fake, free_port, requests
from connection.traces import all_told
from penstock._connection.address import parse
from penstock._connection.command_connection import CommandConnection
from penstock._connection.connect import connect
from penstock._connection.reconnect import Connector, open_connector
from penstock._core.backoff import ReconnectBackoff
from penstock._core.protocol.replies import ErrorReply
from penstock.embedded import EmbeddedServer
from penstock.errors import ConfigurationError, ConnectionLost, ServerError
from penstock.events import log_event
from support.events import Events

# With what URLs, logs and replies write in another way.
SECRET = "hunter2 canary/%\r\n\"'é"
CANARY = "canary"
LOGIN = f"user:{quote(SECRET, safe='')}"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, events: Events) -> Iterator[list[str]]:
    """Collects texts; in the end neither they nor any log nor event has the secret."""
    caplog.set_level(logging.DEBUG)
    asyncio_logger = logging.getLogger("asyncio")
    before = asyncio_logger.level
    asyncio_logger.setLevel(logging.DEBUG)
    texts: list[str] = []
    yield texts
    asyncio_logger.setLevel(before)
    for event in events:
        log_event(event)
        texts += [str(event), repr(event)]
        if event.error is not None:
            texts.append(all_told(event.error))
    for record in caplog.records:
        texts += [record.getMessage(), repr(vars(record))]
    assert texts
    assert not [text for text in texts if CANARY in text]


async def failing(link: Connector, told: list[str]) -> None:
    for attempt in (partial(link.connect), partial(link.first, 0)):
        with pytest.raises(ServerError) as caught:
            await attempt()
        told.append(all_told(caught.value))
    link._backoff = ReconnectBackoff(first=0.01)
    task = asyncio.create_task(link.reconnect("cut"))
    while link._backoff.failures < 4:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as given_up:
        await task
    told.append(all_told(given_up.value))


@pytest.mark.parametrize(
    "frame",
    [
        "redis://user:{}@h:port",
        "redis://user:{}@h:99999",
        "redis://user:{}@h/zero",
        "redis://user:{}@h?nonsense=1",
        "redis://user:{}@h?db=zero",
        "redis://user:{}@h?protocol=9",
        "redis://user:{}@h?socket_timeout=0",
        "rediss://user:{}@h?ssl_cert_reqs=perhaps",
        "redis://user:{}@",
        "http://user:{}@h",
        "unix://user:{}@run/redis.sock",
    ],
)
async def test_urls_that_are_wrong(frame: str, events: Events, told: list[str]) -> None:
    for text in (quote(SECRET, safe=""), SECRET, f"12/{SECRET}", f"12#{SECRET}"):
        with pytest.raises(ConfigurationError) as caught:
            async with open_connector(frame.format(text), events):
                pass
        told.append(all_told(caught.value))


async def test_reprs_of_what_is_open(events: Events, told: list[str]) -> None:
    with EmbeddedServer(config={"user": f'user on ">{CANARY}" +@all'}) as server:
        login = f"unix://user:{CANARY}@"
        async with open_connector(server.url.replace("unix://", login), events) as link:
            wire = await link.first(1)
            line = CommandConnection(link, wire)
            things = [link, line, wire, link.address, link.address.connection()]
            future = wire.request(b"", 1)
            things += [future, wire._transport, wire._connection, asyncio.all_tasks()]
            told += [repr(thing) for thing in things]
            await line.aclose()
            with pytest.raises(ConnectionLost) as caught:
                await future
            told.append(all_told(caught.value))


async def test_servers_that_are_not_there(events: Events, told: list[str]) -> None:
    for url in (
        f"redis://{LOGIN}@nonexistent.invalid",
        f"redis://{LOGIN}@127.0.0.1:{free_port()}",
        f"rediss://{LOGIN}@127.0.0.1:{free_port()}",
        f"unix://{LOGIN}@/nonexistent/redis.sock",
    ):
        await failing(Connector(parse(url), events), told)


async def repeating(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse with an error that has the password in it."""
    async for request in requests(reader):
        writer.write(b"-ERR no %b\r\n" % request[-1])


@pytest.mark.parametrize(
    "serve",
    [
        closing,
        # They repeat what they were sent.
        echo,
        repeating,
    ],
)
async def test_servers_that_are_none(
    serve: Serve, events: Events, told: list[str]
) -> None:
    async with fake(serve) as there:
        # An error is one line, so this password is one, too.
        login = f"user:{CANARY}%2F%22" if serve is repeating else LOGIN
        url = there.url.replace("redis://", f"redis://{login}@")
        await failing(
            Connector(parse(f"{url}?socket_connect_timeout=0.2"), events), told
        )


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("unix", [False, True])
async def test_refused_credentials(
    protocol: int, events: Events, told: list[str], *, unix: bool
) -> None:
    with EmbeddedServer(config={"requirepass": "x"}, port=free_port()) as server:
        base = server.url if unix else str(server.tcp_url)
        url = f"{base.replace('://', f'://{LOGIN}@')}?protocol={protocol}"
        link = Connector(parse(url), events)
        await failing(link, told)
    assert events.named("access_refused")


@pytest.mark.parametrize("password", [CANARY, f"{CANARY}, '{CANARY}'", CANARY * 50])
async def test_servers_that_do_not_know_hello(
    password: str, events: Events, told: list[str]
) -> None:
    """They quote its arguments, cut and with quotes of their own."""
    config = {"rename-command": "HELLO ''"}
    with EmbeddedServer(config=config, port=free_port()) as server:
        login = f"redis://user:{quote(password, safe='')}@"
        base = str(server.tcp_url).replace("redis://", login)
        await failing(Connector(parse(base), events), told)


async def test_refused_commands_do_not_repeat_their_arguments(
    url: str, told: list[str]
) -> None:
    """They may be payloads."""
    wire = await connect(parse(url))
    replies = await wire.calls(
        [(b"NONSENSE", CANARY, b"x"), (b"XADD", b"k", b"*", b"msg", CANARY, b"odd")]
    )
    await wire.aclose()
    for reply in replies:
        assert isinstance(reply, ErrorReply)
        told += [reply.text, repr(reply)]
