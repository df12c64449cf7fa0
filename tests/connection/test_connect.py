"""Connecting: each way in which it fails raises one clear error."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import anyio
import pytest
from redis.asyncio import Redis

from connection.fakes import (
    HELLO,
    Fake,
    Serve,
    answering,
    black_hole,
    closing,
    echo,
    fake,
    free_port,
    http,
    silent,
)
from connection.tls import Certificates, make_certificates, tls_server
from connection.traces import full_text, nothing_left
from penstock._connection.address import parse
from penstock._connection.connect import SettingRefused, connect
from penstock._connection.connection import Connection, pack
from penstock._connection.reconnect import Connector
from penstock.embedded import EmbeddedServer
from penstock.errors import AccessError, ConnectError, ServerError
from support.events import Events

SECRET = "hunter2-canary"


@pytest.fixture(scope="module")
def locked() -> Iterator[EmbeddedServer]:
    """Provide a server with a password, and with a user with few permissions."""
    config = {
        "requirepass": SECRET,
        "user": f"worker on >{SECRET}-w ~jobs* +ping +echo +select",
    }
    with EmbeddedServer(config=config, port=free_port()) as server:
        yield server


def address_of(server: EmbeddedServer) -> str:
    assert server.tcp_url is not None
    return server.tcp_url.removeprefix("redis://")


async def refusal(
    url: str, kind: type[ServerError] = ConnectError, *, of: Fake | None = None
) -> str:
    """Return the error of an attempt; check that it leaves nothing and no secret."""
    address = parse(url)
    async with nothing_left(of=of):
        with pytest.raises(ServerError) as caught:
            await connect(address)
        assert type(caught.value) is kind
        assert SECRET not in full_text(caught.value)
        assert address.name in str(caught.value)
        message = str(caught.value)
        del caught
    return message


async def echoes(url: str, word: str = "here") -> None:
    """Connect, and check that the server answers."""
    connection = await connect(parse(url))
    try:
        assert await connection.call((b"ECHO", word)) == word.encode()
    finally:
        await connection.aclose()


# --- connecting succeeds


async def test_a_closed_connection_leaves_nothing_behind(url: str) -> None:
    async with nothing_left():
        await echoes(url)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_password_and_database_are_used(
    protocol: int, locked: EmbeddedServer
) -> None:
    url = f"redis://:{SECRET}@{address_of(locked)}/3?protocol={protocol}&client_name=me"
    connection = await connect(parse(url))
    [message] = await connection.request(pack([(b"CLIENT", b"LIST")]), 1)
    await connection.aclose()
    assert re.search(rf"name=me .* db=3 .* resp={protocol}\b", message.decode())


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_user_of_the_acl_can_connect(
    protocol: int, locked: EmbeddedServer
) -> None:
    login = f"worker:{SECRET}-w"
    await echoes(f"redis://{login}@{address_of(locked)}/1?protocol={protocol}")


async def test_a_password_is_accepted_by_the_socket_too(locked: EmbeddedServer) -> None:
    await echoes(locked.url.replace("unix://", f"unix://:{SECRET}@"))


async def test_a_user_who_may_not_ask_for_its_client_id_can_connect(
    locked: EmbeddedServer, events: Events
) -> None:
    url = f"redis://worker:{SECRET}-w@{address_of(locked)}"
    connection = await Connector(parse(url), events).connect()
    assert connection.client_id is None
    await connection.aclose()


async def test_the_servers_id_of_the_connection_is_known(
    url: str, events: Events
) -> None:
    connection = await Connector(parse(url), events).connect()
    assert connection.client_id == await connection.call((b"CLIENT", b"ID"))
    await connection.aclose()


# --- there is no server


async def test_connecting_to_a_missing_host_fails() -> None:
    await refusal(f"redis://:{SECRET}@nonexistent.invalid:6379")


async def test_connecting_to_an_invalid_host_fails() -> None:
    await refusal(f"redis://:{SECRET}@{'x' * 100}..y")


async def test_connecting_to_a_port_without_a_server_fails() -> None:
    assert "111" in await refusal(f"redis://:{SECRET}@127.0.0.1:{free_port()}")


async def test_connecting_to_a_missing_socket_fails() -> None:
    await refusal(f"unix://:{SECRET}@/nonexistent/redis.sock")


async def test_connecting_to_a_server_that_accepts_no_connection_times_out() -> None:
    """The queue of the listener is full, so connecting hangs."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003
            with suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        message = await refusal(f"redis://127.0.0.1:{port}?socket_connect_timeout=0.2")
    assert "no answer within 0.2 s" in message


# --- the server is not a Redis server, or does not answer


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (silent, "no answer within 0.2 s"),
        (closing, ""),
        (http, ""),
        (echo, ""),
        (answering(lambda _: b"+OK\r\n+OK\r\n+more\r\n"), "not a Redis server"),
        (answering(lambda _: b"$-1\r\n"), ""),
        (answering(lambda _: b":1\r\n"), ""),
        (answering(lambda _: b"*0\r\n"), ""),
        (answering(lambda _: b"-ERR \xff\xfe\x1b[31m\r\n"), r"\x1b[31m"),
        (answering(lambda request: b"-ERR no " + request[-1] + b"\r\n"), ""),
    ],
)
@pytest.mark.parametrize("login", ["", f":{SECRET}@", f"al:{SECRET}@"])
async def test_a_server_that_is_not_a_redis_server_is_refused(
    serve: Serve, words: str, login: str
) -> None:
    async with fake(serve) as server:
        base = server.url.replace("redis://", f"redis://{login}")
        # Because of the database, another command follows HELLO.
        message = await refusal(f"{base}/1?socket_connect_timeout=0.2&client_name=me")
    assert words in message
    assert message.isprintable()


@pytest.mark.parametrize("serve", [http, closing])
async def test_with_resp2_another_kind_of_server_is_noticed_at_the_first_command(
    serve: Serve, events: Events
) -> None:
    async with fake(serve) as server, nothing_left():
        with pytest.raises(ServerError, match=str(server.port)):
            await Connector(parse(f"{server.url}?protocol=2"), events).connect()


async def test_connecting_to_a_server_with_too_many_clients_fails() -> None:
    with EmbeddedServer(config={"maxclients": "1"}, port=free_port()) as server:
        connection = await connect(parse(server.url))
        message = await refusal(f"redis://{address_of(server)}")
        await connection.aclose()
    assert "max number of clients" in message or "Connection" in message


async def test_connecting_to_a_frozen_server_times_out() -> None:
    with EmbeddedServer(port=free_port()) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            url = f"redis://{address_of(server)}?socket_connect_timeout=0.2"
            assert "no answer within 0.2 s" in await refusal(url)
        finally:
            os.kill(server.pid, signal.SIGCONT)


# --- the server refuses access


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "login", [f":{SECRET}-wrong", f"worker:{SECRET}-wrong", f"nobody:{SECRET}"]
)
async def test_wrong_credentials_are_refused(
    login: str, protocol: int, locked: EmbeddedServer
) -> None:
    url = f"redis://{login}@{address_of(locked)}?protocol={protocol}"
    assert "invalid username-password" in await refusal(url, AccessError)


async def test_wrong_credentials_are_refused_by_the_socket_too(
    locked: EmbeddedServer,
) -> None:
    await refusal(locked.url.replace("unix://", f"unix://:{SECRET}-no@"), AccessError)


async def test_a_missing_password_is_refused(locked: EmbeddedServer) -> None:
    await refusal(f"redis://{address_of(locked)}", AccessError)


async def test_a_missing_password_is_refused_with_resp2_too(
    locked: EmbeddedServer, events: Events
) -> None:
    """There is no HELLO, so the first command is refused."""
    address = parse(f"redis://{address_of(locked)}?protocol=2")
    async with nothing_left():
        with pytest.raises(AccessError, match=address.name):
            await Connector(address, events).connect()


async def test_a_password_for_a_server_without_one_is_refused() -> None:
    with EmbeddedServer() as server:
        login = server.url.replace("unix://", f"unix://al:{SECRET}@")
        await refusal(login, AccessError)


async def test_a_user_who_may_not_choose_a_database_is_refused_one(
    locked: EmbeddedServer,
) -> None:
    async with Redis.from_url(f"redis://:{SECRET}@{address_of(locked)}") as redis:
        await redis.acl_setuser(
            "narrow", enabled=True, passwords=[f"+{SECRET}"], commands=["+ping"]
        )
    login = f"narrow:{SECRET}"
    await refusal(f"redis://{login}@{address_of(locked)}/1", AccessError)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_database_that_the_server_does_not_have_is_refused(
    url: str, protocol: int
) -> None:
    """That is no matter of host, port and TLS."""
    message = await refusal(f"{url}?db=99&protocol={protocol}", SettingRefused)
    assert "out of range" in message
    assert "database number" in message
    assert "TLS" not in message


@pytest.mark.parametrize("length", [1, 20])
async def test_a_password_that_a_server_without_hello_quotes_is_removed(
    length: int,
) -> None:
    """Such a server quotes the arguments of unknown commands, long ones shortened."""
    password = SECRET * length
    config = {"rename-command": "HELLO ''", "user": f"al on >{password} +@all"}
    with EmbeddedServer(config=config, port=free_port()) as server:
        login = f"redis://al:{password}@{address_of(server)}"
        assert "unknown command 'HELLO'" in await refusal(
            f"{login}?protocol=3", SettingRefused
        )
        await echoes(login)
        await echoes(f"{login}?protocol=2")


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_port(certificates: Certificates) -> Iterator[tuple[int, int, int]]:
    with tls_server(certificates) as ports:
        yield ports


async def test_tls_works_with_the_right_authority(
    certificates: Certificates, tls_port: tuple[int, int, int]
) -> None:
    url = f"rediss://localhost:{tls_port[0]}?ssl_ca_certs={certificates.authority}"
    async with nothing_left():
        await echoes(url)
        await echoes(f"{url}&protocol=2")


async def test_tls_fails_with_an_unknown_authority(
    certificates: Certificates, tls_port: tuple[int, int, int]
) -> None:
    base = f"rediss://:{SECRET}@localhost:{tls_port[0]}"
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(base)
    message = await refusal(f"{base}?ssl_ca_certs={certificates.stranger}")
    assert "CERTIFICATE_VERIFY_FAILED" in message
    await echoes(f"rediss://localhost:{tls_port[0]}?ssl_cert_reqs=none")


async def test_tls_fails_with_the_certificate_of_another_host(
    certificates: Certificates, tls_port: tuple[int, int, int]
) -> None:
    query = f"ssl_ca_certs={certificates.authority}"
    message = await refusal(f"rediss://:{SECRET}@127.0.0.1:{tls_port[0]}?{query}")
    assert "127.0.0.1" in message
    assert "certificate" in message
    url = f"rediss://127.0.0.1:{tls_port[0]}?{query}&ssl_check_hostname=no"
    await echoes(url)


async def test_tls_fails_with_missing_files(
    tls_port: tuple[int, int, int],
) -> None:
    base = f"rediss://localhost:{tls_port[0]}"
    assert "No such file" in await refusal(f"{base}?ssl_ca_certs=/nonexistent.pem")
    await refusal(f"{base}?ssl_certfile=/nonexistent.pem&ssl_keyfile=/nonexistent.key")


async def test_a_plain_client_fails_at_a_tls_port(
    tls_port: tuple[int, int, int],
) -> None:
    await refusal(f"redis://:{SECRET}@localhost:{tls_port[0]}")


async def test_a_tls_client_fails_at_a_plain_port(
    tls_port: tuple[int, int, int],
) -> None:
    url = f"rediss://:{SECRET}@localhost:{tls_port[1]}?socket_connect_timeout=0.5"
    await refusal(url)


async def test_a_tls_client_times_out_at_a_silent_port() -> None:
    async with fake(silent) as server:
        url = server.url.replace("redis:", "rediss:")
        message = await refusal(f"{url}?socket_connect_timeout=0.2")
    assert "no answer within 0.2 s" in message


async def test_connecting_to_a_tls_server_that_is_silent_after_the_handshake_fails(
    certificates: Certificates,
) -> None:
    """Nothing of the connection is left, though the server does not close it either."""
    async with fake(black_hole, tls=certificates.context()) as server:
        query = f"ssl_ca_certs={certificates.authority}&socket_connect_timeout=0.2"
        message = await refusal(f"rediss://localhost:{server.port}?{query}", of=server)
    assert "no answer within 0.2 s" in message


# --- cancelling


async def cancelled_at_random(
    url: str, events: Events, *, attempts: int, spread: float
) -> None:
    """Cancel attempts as asyncio does, each at a random moment."""
    connector = Connector(parse(url), events)
    completed = 0
    async with nothing_left():
        for _ in range(attempts):
            task = asyncio.create_task(connector.connect())
            await asyncio.wait([task], timeout=random.random() * spread)
            task.cancel()
            with suppress(asyncio.CancelledError):
                connection = await task
                completed += 1
                await connection.aclose()
        del task
    assert completed < attempts


async def test_cancelling_at_any_moment_leaves_nothing_behind(
    url: str, events: Events
) -> None:
    await cancelled_at_random(url, events, attempts=150, spread=0.002)


async def test_cancelling_over_tcp_at_any_moment_leaves_nothing_behind(
    locked: EmbeddedServer, events: Events
) -> None:
    url = f"redis://:{SECRET}@{address_of(locked)}/1?client_name=me"
    await cancelled_at_random(url, events, attempts=150, spread=0.003)


async def test_cancelling_over_tls_at_any_moment_leaves_nothing_behind(
    certificates: Certificates, tls_port: tuple[int, int, int], events: Events
) -> None:
    query = f"ssl_ca_certs={certificates.authority}"
    url = f"rediss://localhost:{tls_port[0]}/1?{query}"
    await cancelled_at_random(url, events, attempts=60, spread=0.01)


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_cancelling_by_a_scope_leaves_nothing_behind(
    url: str, events: Events, turns: int
) -> None:
    """Such a scope also cancels what is awaited in the cleanup."""
    connector = Connector(parse(url), events)
    connection: Connection | None = None
    async with nothing_left():
        async with anyio.create_task_group() as group:

            async def connect_in_group() -> None:
                nonlocal connection
                connection = await connector.connect()

            group.start_soon(connect_in_group)
            for _ in range(turns):
                await asyncio.sleep(0)
            group.cancel_scope.cancel()
        if connection is not None:
            await connection.aclose()
            connection = None


@pytest.mark.parametrize(
    "serve",
    [
        silent,
        # Silent from the second or the third command on.
        answering(lambda _: b""),
        answering(lambda request: b"" if request[0] == b"SELECT" else b"+OK\r\n"),
        answering(lambda r: b"" if r == [b"CLIENT", b"ID"] else b"+OK\r\n"),
        black_hole,
    ],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_cancelling_while_the_server_is_silent_leaves_nothing_behind(
    serve: Serve, scheme: str, certificates: Certificates, events: Events
) -> None:
    tls = certificates.context() if scheme == "rediss" else None
    async with fake(serve, tls=tls) as server, nothing_left(of=server):
        query = f"ssl_ca_certs={certificates.authority}" if tls else ""
        url = f"{scheme}://localhost:{server.port}/1?{query}&client_name=me"
        task = asyncio.create_task(Connector(parse(url), events).connect())
        await asyncio.wait([task], timeout=0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task


def test_the_fakes_answer_hello_as_servers_do() -> None:
    assert HELLO.startswith(b"%1\r\n")
