"""Sentinels: their URLs, and how they are asked for the primary."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from connection.fakes import Fake, Request, answering, closing, fake, free_port, silent
from connection.traces import full_text, nothing_left
from penstock._connection.endpoint import Endpoint, Login
from penstock._connection.reconnect import Connector, open_connector
from penstock._connection.sentinel import Sentinels, locate, names_sentinels, parse
from penstock.errors import AccessError, ConfigurationError, ConnectError
from support.events import Events


def refusal(url: str) -> str:
    """Return the message of the error; check that nothing in it has the secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert "hunter2" not in full_text(caught.value)
    return str(caught.value)


# -- URLs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis+sentinel://a/main", "main@a:26379"),
        ("redis+sentinel://a:7000/main/3", "main@a:7000"),
        ("REDIS+SENTINEL://u:hunter2@a,b:7/main/", "main@a:26379,b:7"),
        ("rediss+sentinel://[::1],[fe80::1]:5/main", "main@[::1]:26379,[fe80::1]:5"),
        ("redis+sentinel://a/my%20main", "my main@a:26379"),
        ("valkeys+sentinel://a,b:7/main", "main@a:26379,b:7"),
    ],
)
def test_the_name_contains_the_service_and_its_sentinels(url: str, name: str) -> None:
    assert names_sentinels(url)
    address, sentinels = parse(url)
    assert address.name == name
    assert (
        name == f"{sentinels.service}@{','.join(p.name for p in sentinels.addresses)}"
    )


def test_other_urls_name_no_sentinels() -> None:
    for url in ("redis://a/0", "rediss://a", "unix:///a+sentinel", "embedded://", ""):
        assert not names_sentinels(url)


def test_the_login_is_for_the_server_and_sentinels_have_their_own() -> None:
    url = (
        "redis+sentinel://al:p%40ss@a:1,b/main/3?protocol=2&client_name=me"
        "&sentinel_username=watch&sentinel_password=h%26r"
    )
    address, sentinels = parse(url)
    server = address.at("10.0.0.1", 6380)
    assert server.endpoint == Endpoint("10.0.0.1", 6380)
    assert server.login == Login("al", "p@ss", 3, "me", 2)
    for place in sentinels.addresses:
        assert place.login == Login("watch", "h&r", protocol=2)
    assert "h&r" not in repr(sentinels)
    assert "p@ss" not in repr(address)


def test_a_sentinel_has_a_second_to_answer_unless_the_timeout_is_shorter() -> None:
    url = "redis+sentinel://a/main?socket_timeout=0.5&socket_connect_timeout=20"
    address, (_, [place]) = parse(url)
    assert (address.reply_timeout, address.connect_timeout) == (0.5, 20)
    assert (place.reply_timeout, place.connect_timeout) == (0.5, 1.0)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a",
        "redis+sentinel://u:hunter2@a/",
        "redis+sentinel:///main",
        "redis+sentinel://a,/main",
        "redis+sentinel://a:x/main",
        "redis+sentinel://a:0/main",
        "redis+sentinel://a/main/hunter2",
        "redis+sentinel://a/main/0/1",
        "redis+sentinel://a/main?sentinel_pasword=hunter2",
        "redis+sentinel://a/main?nonsense=1",
        "redis+sentinel://a/ma%0ain",
        "unix+sentinel://a/main",
        "+sentinel://a/main",
    ],
)
def test_an_invalid_sentinel_url_is_refused_and_not_quoted(url: str) -> None:
    assert "URL" in refusal(url)


def test_the_error_about_a_missing_service_shows_an_example() -> None:
    assert "redis+sentinel://host:26379,host:26379/service" in refusal(
        "redis+sentinel://a"
    )


# -- asking sentinels --------------------------------------------------------------


def sentinel_of(host: str, port: int, *, role: bytes = b"master") -> Any:
    """Return a fake sentinel and server: it tells an address, and its own role."""

    def answer(request: Request) -> bytes:
        match request[0]:
            case b"SENTINEL" if request[2] == b"main":
                return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%d\r\n" % (
                    len(host),
                    host.encode(),
                    len(str(port)),
                    port,
                )
            case b"SENTINEL":
                return b"*-1\r\n"
            case b"CLIENT":
                return b":7\r\n"
            case b"ROLE":
                return b"*1\r\n$%d\r\n%b\r\n" % (len(role), role)
        return b"-ERR no\r\n"

    return answering(answer)


@asynccontextmanager
async def running(*serves: Any) -> AsyncIterator[list[Fake]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(fake(serve)) for serve in serves]


def parsed(*ports: int, service: str = "main") -> tuple[Any, Sentinels]:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return parse(f"redis+sentinel://{hosts}/{service}?socket_timeout=0.3")


async def test_the_first_sentinel_that_answers_is_trusted_and_asked_first_later() -> (
    None
):
    async with (
        nothing_left(),
        running(
            silent, closing, sentinel_of("10.0.0.1", 7), sentinel_of("10.0.0.2", 8)
        ) as fakes,
    ):
        closed_port = free_port()
        address, sentinels = parsed(closed_port, *[each.port for each in fakes])
        assert (await locate(address, sentinels)).name == "10.0.0.1:7"
        before = fakes[0].accepted
        assert (await locate(address, sentinels)).name == "10.0.0.1:7"
        assert fakes[0].accepted == before
        assert fakes[3].accepted == 0
        # The list is kept, with the one that answered in front.
        ports = [place.name.rpartition(":")[2] for place in sentinels.addresses]
        order = [
            fakes[2].port,
            closed_port,
            fakes[0].port,
            fakes[1].port,
            fakes[3].port,
        ]
        assert ports == [str(port) for port in order]


async def test_a_service_that_no_sentinel_watches_is_an_error() -> None:
    async with running(sentinel_of("10.0.0.1", 7)) as [one]:
        with pytest.raises(ConnectError, match="monitors no service named 'other'"):
            await locate(*parsed(one.port, service="other"))


async def test_if_no_sentinel_answers_the_error_says_why() -> None:
    with pytest.raises(ConnectError, match="can't connect to 127"):
        await locate(*parsed(free_port(), free_port()))


@pytest.mark.parametrize("code", [b"NOAUTH", b"NOPERM"])
async def test_a_refused_login_is_raised_if_no_other_sentinel_answers(
    code: bytes,
) -> None:
    deny = answering(lambda _: b"-%b no\r\n" % code)
    async with running(deny, sentinel_of("10.0.0.1", 7)) as [denying, other]:
        with pytest.raises(AccessError):
            await locate(*parsed(denying.port, free_port()))
        found = await locate(*parsed(denying.port, other.port))
        assert found.name == "10.0.0.1:7"


async def test_an_invalid_reply_of_a_sentinel_does_not_count_as_an_answer() -> None:
    invalid = answering(lambda _: b"*2\r\n$1\r\nh\r\n$1\r\nx\r\n")
    broken = answering(lambda _: b"-ERR broken\r\n")
    for serve in (invalid, broken):
        async with running(serve, sentinel_of("10.0.0.1", 7)) as [odd, good]:
            found = await locate(*parsed(odd.port, good.port))
            assert found.name == "10.0.0.1:7"


async def test_a_replica_is_refused_whatever_the_sentinels_say(events: Events) -> None:
    port = free_port()
    replica = fake(sentinel_of("127.0.0.1", port, role=b"slave"), port=port)
    async with nothing_left(), replica as one:
        connector = Connector(*_of(one.port, events))
        with pytest.raises(ConnectError, match="it is a replica now"):
            await connector.connect()
        assert events.named("primary_moved") == []


def _of(port: int, events: Events) -> tuple[Any, Any, Sentinels]:
    address, sentinels = parsed(port)
    return address, events, sentinels


async def test_a_change_of_the_primary_is_reported_once(events: Events) -> None:
    ports = [free_port(), free_port()]
    primaries = [ports[0]]

    def answer(request: Request) -> bytes:
        if request[0] == b"SENTINEL":
            port = str(primaries[-1])
            return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (
                len(port),
                port.encode(),
            )
        return b"*1\r\n$6\r\nmaster\r\n" if request[0] == b"ROLE" else b":1\r\n"

    serve = answering(answer)
    async with AsyncExitStack() as stack:
        one, _ = [
            await stack.enter_async_context(fake(serve, port=port)) for port in ports
        ]
        url = f"redis+sentinel://127.0.0.1:{one.port}/main"
        async with open_connector(url, events) as connector:
            for port in (ports[0], ports[0], ports[1], ports[1]):
                primaries.append(port)
                connection = await connector.connect()
                assert connection.address.name == f"127.0.0.1:{port}"
                await connection.aclose()
    [moved] = events.named("primary_moved")
    assert moved.facts == {
        "server": f"main@127.0.0.1:{one.port}",
        "from": f"127.0.0.1:{ports[0]}",
        "to": f"127.0.0.1:{ports[1]}",
    }
