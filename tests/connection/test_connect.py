"""Making a connection: every way in which it fails gives one clear error."""

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
from connection.traces import all_told, nothing_left
from penstock._connection.address import parse
from penstock._connection.connect import connect
from penstock._connection.connection import Connection, pack
from penstock._connection.reconnect import Connector
from penstock.embedded import EmbeddedServer
from penstock.errors import AccessError, ConnectError, ServerError
from support.events import Events

SECRET = "hunter2-canary"


@pytest.fixture(scope="module")
def locked() -> Iterator[EmbeddedServer]:
    """A server with a password, and with a user who may do little."""
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
    """What the error of a try says; nothing is left of it, and it tells no secret."""
    address = parse(url)
    async with nothing_left(of=of):
        with pytest.raises(ServerError) as caught:
            await connect(address)
        assert type(caught.value) is kind
        assert SECRET not in all_told(caught.value)
        assert address.name in str(caught.value)
        said = str(caught.value)
        del caught
    return said


async def echoes(url: str, word: str = "here") -> None:
    """Connect, and see that the server answers."""
    wire = await connect(parse(url))
    try:
        assert await wire.call((b"ECHO", word)) == word.encode()
    finally:
        await wire.aclose()


# --- it works


async def test_a_connection_leaves_nothing_when_it_is_closed(url: str) -> None:
    async with nothing_left():
        await echoes(url)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_password_and_database_are_used(
    protocol: int, locked: EmbeddedServer
) -> None:
    url = f"redis://:{SECRET}@{address_of(locked)}/3?protocol={protocol}&client_name=me"
    wire = await connect(parse(url))
    [said] = await wire.request(pack([(b"CLIENT", b"LIST")]), 1)
    await wire.aclose()
    assert re.search(rf"name=me .* db=3 .* resp={protocol}\b", said.decode())


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_user_of_the_acl_gets_in(protocol: int, locked: EmbeddedServer) -> None:
    login = f"worker:{SECRET}-w"
    await echoes(f"redis://{login}@{address_of(locked)}/1?protocol={protocol}")


async def test_a_password_gets_in_by_the_socket_too(locked: EmbeddedServer) -> None:
    await echoes(locked.url.replace("unix://", f"unix://:{SECRET}@"))


async def test_a_user_who_may_not_ask_for_its_client_id_gets_in(
    locked: EmbeddedServer, events: Events
) -> None:
    url = f"redis://worker:{SECRET}-w@{address_of(locked)}"
    wire = await Connector(parse(url), events).connect()
    assert wire.client_id is None
    await wire.aclose()


async def test_the_servers_id_of_the_connection_is_known(
    url: str, events: Events
) -> None:
    wire = await Connector(parse(url), events).connect()
    assert wire.client_id == await wire.call((b"CLIENT", b"ID"))
    await wire.aclose()


# --- nobody is there


async def test_a_host_that_there_is_not() -> None:
    await refusal(f"redis://:{SECRET}@nonexistent.invalid:6379")


async def test_a_host_that_can_be_none() -> None:
    await refusal(f"redis://:{SECRET}@{'x' * 100}..y")


async def test_a_port_on_which_nobody_listens() -> None:
    assert "111" in await refusal(f"redis://:{SECRET}@127.0.0.1:{free_port()}")


async def test_a_socket_that_there_is_not() -> None:
    await refusal(f"unix://:{SECRET}@/nonexistent/redis.sock")


async def test_a_connection_that_the_other_side_does_not_accept() -> None:
    """A listener whose queue is full: connecting hangs."""
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
        said = await refusal(f"redis://127.0.0.1:{port}?socket_connect_timeout=0.2")
    assert "no answer within 0.2 s" in said


# --- somebody else is there


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (silent, "no answer within 0.2 s"),
        (closing, ""),
        (http, ""),
        (echo, ""),
        (answering(lambda _: b"+OK\r\n+OK\r\n+more\r\n"), "data before any request"),
        (answering(lambda _: b"$-1\r\n"), ""),
        (answering(lambda _: b":1\r\n"), ""),
        (answering(lambda _: b"*0\r\n"), ""),
        (answering(lambda _: b"-ERR \xff\xfe\x1b[31m\r\n"), r"\x1b[31m"),
        (answering(lambda request: b"-ERR no " + request[-1] + b"\r\n"), ""),
    ],
)
@pytest.mark.parametrize("login", ["", f":{SECRET}@", f"al:{SECRET}@"])
async def test_whoever_is_no_redis_server_is_refused(
    serve: Serve, words: str, login: str
) -> None:
    async with fake(serve) as there:
        base = there.url.replace("redis://", f"redis://{login}")
        # The database makes sure that something is asked after HELLO.
        said = await refusal(f"{base}/1?socket_connect_timeout=0.2&client_name=me")
    assert words in said
    assert said.isprintable()


@pytest.mark.parametrize("serve", [http, closing])
async def test_with_resp2_it_is_noticed_at_the_first_command(
    serve: Serve, events: Events
) -> None:
    async with fake(serve) as there, nothing_left():
        with pytest.raises(ServerError, match=str(there.port)):
            await Connector(parse(f"{there.url}?protocol=2"), events).connect()


async def test_a_server_with_all_places_taken() -> None:
    with EmbeddedServer(config={"maxclients": "1"}, port=free_port()) as server:
        wire = await connect(parse(server.url))
        said = await refusal(f"redis://{address_of(server)}")
        await wire.aclose()
    assert "max number of clients" in said or "Connection" in said


async def test_a_server_that_is_frozen() -> None:
    with EmbeddedServer(port=free_port()) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            where = f"redis://{address_of(server)}?socket_connect_timeout=0.2"
            assert "no answer within 0.2 s" in await refusal(where)
        finally:
            os.kill(server.pid, signal.SIGCONT)


# --- it does not let us in


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "login", [f":{SECRET}-wrong", f"worker:{SECRET}-wrong", f"nobody:{SECRET}"]
)
async def test_wrong_credentials(
    login: str, protocol: int, locked: EmbeddedServer
) -> None:
    url = f"redis://{login}@{address_of(locked)}?protocol={protocol}"
    assert "invalid username-password" in await refusal(url, AccessError)


async def test_wrong_credentials_by_the_socket(locked: EmbeddedServer) -> None:
    await refusal(locked.url.replace("unix://", f"unix://:{SECRET}-no@"), AccessError)


async def test_a_missing_password(locked: EmbeddedServer) -> None:
    await refusal(f"redis://{address_of(locked)}", AccessError)


async def test_a_missing_password_with_resp2(
    locked: EmbeddedServer, events: Events
) -> None:
    """No hands are shaken, so it takes the first command."""
    address = parse(f"redis://{address_of(locked)}?protocol=2")
    async with nothing_left():
        with pytest.raises(AccessError, match=address.name):
            await Connector(address, events).connect()


async def test_a_password_that_the_server_does_not_want() -> None:
    with EmbeddedServer() as server:
        login = server.url.replace("unix://", f"unix://al:{SECRET}@")
        await refusal(login, AccessError)


async def test_a_user_who_may_not_choose_a_database(locked: EmbeddedServer) -> None:
    async with Redis.from_url(f"redis://:{SECRET}@{address_of(locked)}") as redis:
        await redis.acl_setuser(
            "narrow", enabled=True, passwords=[f"+{SECRET}"], commands=["+ping"]
        )
    login = f"narrow:{SECRET}"
    await refusal(f"redis://{login}@{address_of(locked)}/1", AccessError)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_database_that_the_server_has_not(url: str, protocol: int) -> None:
    said = await refusal(f"{url}?db=99&protocol={protocol}")
    assert "out of range" in said


@pytest.mark.parametrize("length", [1, 20])
async def test_a_server_without_hello_has_its_quoting_of_the_password_cut_out(
    length: int,
) -> None:
    """It repeats the arguments of unknown commands, long ones cut."""
    password = SECRET * length
    config = {"rename-command": "HELLO ''", "user": f"al on >{password} +@all"}
    with EmbeddedServer(config=config, port=free_port()) as server:
        login = f"redis://al:{password}@{address_of(server)}"
        assert "unknown command 'HELLO'" in await refusal(login)
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


async def test_tls_with_an_unknown_authority(
    certificates: Certificates, tls_port: tuple[int, int, int]
) -> None:
    base = f"rediss://:{SECRET}@localhost:{tls_port[0]}"
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(base)
    said = await refusal(f"{base}?ssl_ca_certs={certificates.stranger}")
    assert "CERTIFICATE_VERIFY_FAILED" in said
    await echoes(f"rediss://localhost:{tls_port[0]}?ssl_cert_reqs=none")


async def test_tls_with_another_hosts_certificate(
    certificates: Certificates, tls_port: tuple[int, int, int]
) -> None:
    query = f"ssl_ca_certs={certificates.authority}"
    said = await refusal(f"rediss://:{SECRET}@127.0.0.1:{tls_port[0]}?{query}")
    assert "127.0.0.1" in said
    assert "certificate" in said
    url = f"rediss://127.0.0.1:{tls_port[0]}?{query}&ssl_check_hostname=no"
    await echoes(url)


async def test_tls_with_files_that_there_are_not(
    tls_port: tuple[int, int, int],
) -> None:
    base = f"rediss://localhost:{tls_port[0]}"
    assert "No such file" in await refusal(f"{base}?ssl_ca_certs=/nonexistent.pem")
    await refusal(f"{base}?ssl_certfile=/nonexistent.pem&ssl_keyfile=/nonexistent.key")


async def test_a_plain_client_at_a_tls_port(tls_port: tuple[int, int, int]) -> None:
    await refusal(f"redis://:{SECRET}@localhost:{tls_port[0]}")


async def test_a_tls_client_at_a_plain_port(tls_port: tuple[int, int, int]) -> None:
    url = f"rediss://:{SECRET}@localhost:{tls_port[1]}?socket_connect_timeout=0.5"
    await refusal(url)


async def test_a_tls_client_at_a_port_where_nobody_speaks() -> None:
    async with fake(silent) as there:
        url = there.url.replace("redis:", "rediss:")
        said = await refusal(f"{url}?socket_connect_timeout=0.2")
    assert "no answer within 0.2 s" in said


async def test_a_tls_server_that_falls_silent_after_the_handshake(
    certificates: Certificates,
) -> None:
    """Nothing of the connection is left, though it does not say goodbye either."""
    async with fake(black_hole, tls=certificates.context()) as there:
        query = f"ssl_ca_certs={certificates.authority}&socket_connect_timeout=0.2"
        said = await refusal(f"rediss://localhost:{there.port}?{query}", of=there)
    assert "no answer within 0.2 s" in said


# --- cancelling


async def cancelled_at_random(
    url: str, events: Events, *, tries: int, spread: float
) -> None:
    """Cancel so many tries, each at a moment of its own, by the way of asyncio."""
    link = Connector(parse(url), events)
    made = 0
    async with nothing_left():
        for _ in range(tries):
            task = asyncio.create_task(link.connect())
            await asyncio.wait([task], timeout=random.random() * spread)
            task.cancel()
            with suppress(asyncio.CancelledError):
                wire = await task
                made += 1
                await wire.aclose()
        del task
    assert made < tries


async def test_cancelling_at_any_moment_leaves_nothing(
    url: str, events: Events
) -> None:
    await cancelled_at_random(url, events, tries=150, spread=0.002)


async def test_cancelling_over_tcp_at_any_moment_leaves_nothing(
    locked: EmbeddedServer, events: Events
) -> None:
    url = f"redis://:{SECRET}@{address_of(locked)}/1?client_name=me"
    await cancelled_at_random(url, events, tries=150, spread=0.003)


async def test_cancelling_over_tls_at_any_moment_leaves_nothing(
    certificates: Certificates, tls_port: tuple[int, int, int], events: Events
) -> None:
    query = f"ssl_ca_certs={certificates.authority}"
    url = f"rediss://localhost:{tls_port[0]}/1?{query}"
    await cancelled_at_random(url, events, tries=60, spread=0.01)


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_cancelling_by_a_scope_leaves_nothing(
    url: str, events: Events, turns: int
) -> None:
    """Such a scope strikes again at whatever is awaited while cleaning up."""
    link = Connector(parse(url), events)
    wire: Connection | None = None
    async with nothing_left():
        async with anyio.create_task_group() as group:

            async def dial() -> None:
                nonlocal wire
                wire = await link.connect()

            group.start_soon(dial)
            for _ in range(turns):
                await asyncio.sleep(0)
            group.cancel_scope.cancel()
        if wire is not None:
            await wire.aclose()
            wire = None


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
async def test_cancelling_while_the_server_is_silent_leaves_nothing(
    serve: Serve, scheme: str, certificates: Certificates, events: Events
) -> None:
    tls = certificates.context() if scheme == "rediss" else None
    async with fake(serve, tls=tls) as there, nothing_left(of=there):
        query = f"ssl_ca_certs={certificates.authority}" if tls else ""
        url = f"{scheme}://localhost:{there.port}/1?{query}&client_name=me"
        task = asyncio.create_task(Connector(parse(url), events).connect())
        await asyncio.wait([task], timeout=0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task


def test_the_fakes_shake_hands_as_servers_do() -> None:
    assert HELLO.startswith(b"%1\r\n")
