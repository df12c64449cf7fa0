"""The handshake: what is said first, and servers and users that lack some of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from connection.fakes import HELLO, Request, answering, answering_all, fake, free_port
from connection.traces import full_text, nothing_left
from penstock._connection.address import parse
from penstock._connection.connect import connect
from penstock._connection.connection import Connection
from penstock._connection.reconnect import Connector
from penstock.embedded import EmbeddedServer
from penstock.errors import AccessError, ConnectError, ServerError
from support.events import Events

SECRET = "hunter2-canary"
USERS = {"requirepass": SECRET, "user": f"al on >{SECRET}-al ~* +@all -client"}


@asynccontextmanager
async def server(**config: str) -> AsyncIterator[str]:
    with EmbeddedServer(config=config, port=free_port()) as running:
        yield str(running.tcp_url)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    async with nothing_left():
        connection = await connect(parse(url))
        yield connection
        await connection.aclose()
        del connection


async def client_line(connection: Connection, url: str) -> str:
    """Return the line of a connection in CLIENT LIST, which another one asks for."""
    number = await connection.call((b"CLIENT", b"ID"))
    async with Redis.from_url(f"{url}?protocol=2") as redis:
        return next(
            f"name={line['name']} db={line['db']} resp={line['resp']}"
            for line in await redis.client_list()
            if int(line["id"]) == number
        )


# --- all that a connection says


@pytest.mark.parametrize("protocol", [2, 3])
async def test_database_name_and_protocol_are_those_of_the_url(
    url: str, protocol: int
) -> None:
    query = f"protocol={protocol}&db=3&client_name=me"
    async with connected(f"{url}?{query}") as connection:
        line = await client_line(connection, url)
    assert line == f"name=me db=3 resp={protocol}"


@pytest.mark.parametrize("login", ["", f"al:{SECRET}@"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_all_of_it_is_sent_before_the_first_reply(
    login: str, protocol: int
) -> None:
    """A connection costs one round trip, whatever it says."""
    got: list[Request] = []

    def answer(request: Request) -> bytes:
        got.append(request)
        if request[:2] != [b"CLIENT", b"SETNAME"]:
            return b""
        replies = [HELLO] if protocol == 3 else []
        return b"".join(replies) + b"+OK\r\n" * (len(got) - len(replies))

    async with fake(answering_all(answer)) as server:
        url = server.url.replace("://", f"://{login}")
        query = f"protocol={protocol}&client_name=me"
        connection = await connect(parse(f"{url}/1?{query}"))
        await connection.aclose()
    heads = [request[0] for request in got]
    first = [b"HELLO"] if protocol == 3 else [b"AUTH"] if login else []
    assert heads == [*first, b"SELECT", b"CLIENT"]


# --- a server without HELLO


async def test_a_server_without_hello_is_talked_to_in_resp2(events: Events) -> None:
    config = {"rename-command": "HELLO ''", **USERS}
    async with server(**config) as url:
        full = url.replace("://", f"://:{SECRET}@")
        async with connected(f"{full}/3?client_name=me") as connection:
            assert connection.protocol == 2
            assert not await connection.subscribe([b"c"], lambda: None)
            line = await client_line(connection, full)
            assert line == "name=me db=3 resp=2"
        connection = await Connector(parse(full), events).connect()
        assert connection.client_id is not None
        await connection.aclose()


async def test_a_wrong_password_is_refused_by_a_server_without_hello_too() -> None:
    async with server(**{"rename-command": "HELLO ''", **USERS}) as url:
        for login in ("", f":{SECRET}-wrong@", f"nobody:{SECRET}@"):
            with pytest.raises(AccessError) as caught:
                await connect(parse(url.replace("://", f"://{login}")))
            assert SECRET not in full_text(caught.value)
            assert re.search("AUTH: WRONGPASS|NOAUTH", str(caught.value))


@pytest.mark.parametrize(
    "refusal",
    [
        b"-ERR unknown command 'HELLO'\r\n",
        b"-ERR unsupported command\r\n",
        b"-NOPROTO unsupported protocol version\r\n",
    ],
)
async def test_a_proxy_that_refuses_hello_is_talked_to_in_resp2(refusal: bytes) -> None:
    def answer(request: Request) -> bytes:
        known = {b"HELLO": refusal, b"CLIENT": b":1\r\n"}
        return known.get(request[0], b"+OK\r\n")

    async with fake(answering_all(answer)) as place:
        connection = await connect(parse(f"{place.url}/1"))
        assert connection.protocol == 2
        await connection.aclose()
        with pytest.raises(ConnectError, match="HELLO"):
            await connect(parse(f"{place.url}?protocol=3"))


@pytest.mark.parametrize("code", ["LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS"])
async def test_other_refusals_of_hello_are_not_tried_again_in_resp2(code: str) -> None:
    got: list[bytes] = []

    def answer(request: Request) -> bytes:
        got.append(request[0])
        return b"-%b not now\r\n" % code.encode()

    async with fake(answering_all(answer)) as place:
        with pytest.raises(ServerError, match=f"HELLO: {code} not now"):
            await connect(parse(place.url))
    assert got == [b"HELLO"]


async def test_the_reason_why_a_server_hangs_up_is_told() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        await writer.drain()

    async with fake(serve) as place:
        with pytest.raises(ConnectError, match="max number of clients reached"):
            await connect(parse(f"{place.url}/1?client_name=me"))


# --- a server without CLIENT, and users who may not use it


@pytest.mark.parametrize("protocol", [2, 3])
async def test_without_client_a_connection_has_no_name(
    protocol: int, events: Events
) -> None:
    query = f"client_name=me&protocol={protocol}"
    async with server(**{"rename-command": "CLIENT ''"}) as url:
        connection = await Connector(parse(f"{url}/2?{query}"), events).connect()
        assert await connection.call((b"ECHO", b"x")) == b"x"
        assert connection.client_id is None
        await connection.aclose()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_user_who_may_not_use_client_has_no_name(protocol: int) -> None:
    async with server(**USERS) as url:
        login = url.replace("://", f"://al:{SECRET}-al@")
        query = f"client_name=me&protocol={protocol}"
        async with connected(f"{login}?{query}") as connection:
            assert await connection.call((b"ECHO", b"x")) == b"x"


async def test_a_database_that_is_refused_is_told_as_select() -> None:
    async with server() as url:
        with pytest.raises(ConnectError, match="SELECT: ERR DB index is out of range"):
            await connect(parse(f"{url}/999"))


# --- secrets


@pytest.mark.parametrize("password", ["hunter2", "x", "ERR", "a b"])
async def test_an_error_reply_does_not_quote_the_password(password: str) -> None:
    def answer(request: Request) -> bytes:
        return b"-ERR no " + b" ".join(request[1:]) + b"\r\n"

    async with fake(answering_all(answer)) as place:
        url = place.url.replace("://", f"://:{password.replace(' ', '%20')}@")
        with pytest.raises(ConnectError) as caught:
            await connect(parse(f"{url}?protocol=3"))
        assert "AUTH default ***" in str(caught.value)
    async with fake(answering(answer)) as place:
        url = place.url.replace("://", f"://:{password.replace(' ', '%20')}@")
        connection = await connect(parse(url))
        # Later replies are not touched, however short the password is.
        reply = await connection.call((b"ECHO", password))
        assert reply.text == f"ERR no {password}"
        await connection.aclose()
