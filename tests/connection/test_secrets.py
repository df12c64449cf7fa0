"""I11: no failure puts a password into logs, reprs, events or exceptions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

import pytest

from connection.fakes import Serve, closing, echo, fake, free_port, requests
from connection.traces import full_text
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

# With characters that URLs, logs and replies escape.
SECRET = "hunter2 canary/%\r\n\"'é"
CANARY = "canary"
LOGIN = f"user:{quote(SECRET, safe='')}"


@pytest.fixture
def texts(caplog: pytest.LogCaptureFixture, events: Events) -> Iterator[list[str]]:
    """Collect texts; in the end, check that no text, log or event has the secret."""
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
            texts.append(full_text(event.error))
    for record in caplog.records:
        texts += [record.getMessage(), repr(vars(record))]
    assert texts
    assert not [text for text in texts if CANARY in text]


async def collect_failures(connector: Connector, texts: list[str]) -> None:
    for attempt in (partial(connector.connect), partial(connector.first, 0)):
        with pytest.raises(ServerError) as caught:
            await attempt()
        texts.append(full_text(caught.value))
    connector._backoff = ReconnectBackoff(first=0.01)
    task = asyncio.create_task(connector.reconnect("cut"))
    while connector._backoff.failures < 4:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as given_up:
        await task
    texts.append(full_text(given_up.value))


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
async def test_errors_about_wrong_urls_contain_no_password(
    frame: str, events: Events, texts: list[str]
) -> None:
    for text in (quote(SECRET, safe=""), SECRET, f"12/{SECRET}", f"12#{SECRET}"):
        with pytest.raises(ConfigurationError) as caught:
            async with open_connector(frame.format(text), events):
                pass
        texts.append(full_text(caught.value))


async def test_reprs_of_open_objects_contain_no_password(
    events: Events, texts: list[str]
) -> None:
    with EmbeddedServer(config={"user": f'user on ">{CANARY}" +@all'}) as server:
        login = f"unix://user:{CANARY}@"
        async with open_connector(
            server.url.replace("unix://", login), events
        ) as connector:
            connection = await connector.first(1)
            command_connection = CommandConnection(connector, connection)
            things = [
                connector,
                command_connection,
                connection,
                connector.address,
                connector.address.login,
                connector.address.endpoint,
            ]
            future = connection.request(b"", 1)
            things += [
                future,
                connection._transport,
                connection._requests,
                asyncio.all_tasks(),
            ]
            texts += [repr(thing) for thing in things]
            await command_connection.aclose()
            with pytest.raises(ConnectionLost) as caught:
                await future
            texts.append(full_text(caught.value))


async def test_errors_about_missing_servers_contain_no_password(
    events: Events, texts: list[str]
) -> None:
    for url in (
        f"redis://{LOGIN}@nonexistent.invalid",
        f"redis://{LOGIN}@127.0.0.1:{free_port()}",
        f"rediss://{LOGIN}@127.0.0.1:{free_port()}",
        f"unix://{LOGIN}@/nonexistent/redis.sock",
    ):
        await collect_failures(Connector(parse(url), events), texts)


async def repeating(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse with an error that contains the password."""
    async for request in requests(reader):
        writer.write(b"-ERR no %b\r\n" % request[-1])


@pytest.mark.parametrize(
    "serve",
    [
        closing,
        # These repeat what they received.
        echo,
        repeating,
    ],
)
async def test_errors_about_other_kinds_of_servers_contain_no_password(
    serve: Serve, events: Events, texts: list[str]
) -> None:
    async with fake(serve) as server:
        # An error is one line, so this password is one, too.
        login = f"user:{CANARY}%2F%22" if serve is repeating else LOGIN
        url = server.url.replace("redis://", f"redis://{login}@")
        await collect_failures(
            Connector(parse(f"{url}?socket_connect_timeout=0.2"), events), texts
        )


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("unix", [False, True])
async def test_errors_about_refused_credentials_contain_no_password(
    protocol: int, events: Events, texts: list[str], *, unix: bool
) -> None:
    with EmbeddedServer(config={"requirepass": "x"}, port=free_port()) as server:
        base = server.url if unix else str(server.tcp_url)
        url = f"{base.replace('://', f'://{LOGIN}@')}?protocol={protocol}"
        connector = Connector(parse(url), events)
        await collect_failures(connector, texts)
    assert events.named("access_refused")


@pytest.mark.parametrize("password", [CANARY, f"{CANARY}, '{CANARY}'", CANARY * 50])
async def test_errors_about_servers_without_hello_contain_no_password(
    password: str, events: Events, texts: list[str]
) -> None:
    """They quote its arguments, shortened, and with their own quotation marks."""
    config = {"rename-command": "HELLO ''"}
    with EmbeddedServer(config=config, port=free_port()) as server:
        login = f"redis://user:{quote(password, safe='')}@"
        base = str(server.tcp_url).replace("redis://", login)
        await collect_failures(Connector(parse(base), events), texts)


async def test_errors_about_refused_commands_do_not_quote_their_arguments(
    url: str, texts: list[str]
) -> None:
    """The arguments may be payloads."""
    connection = await connect(parse(url))
    replies = await connection.calls(
        [(b"NONSENSE", CANARY, b"x"), (b"XADD", b"k", b"*", b"msg", CANARY, b"odd")]
    )
    await connection.aclose()
    for reply in replies:
        assert isinstance(reply, ErrorReply)
        texts += [reply.text, repr(reply)]
