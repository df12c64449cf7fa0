"""Sentinels: what a URL says of them, and whom they are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from connection.fakes import Fake, Request, answering, closing, fake, free_port, silent
from connection.traces import all_told, nothing_left
from penstock._connection.reconnect import Connector, open_connector
from penstock._connection.sentinel import Sentinels, locate, names_sentinels, parse
from penstock.errors import AccessError, ConfigurationError, ConnectError
from support.events import Events


def refusal(url: str) -> str:
    """What the error says; all that it can tell is free of the usual secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert "hunter2" not in all_told(caught.value)
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
    ],
)
def test_the_name_says_what_is_watched_and_by_whom(url: str, name: str) -> None:
    assert names_sentinels(url)
    address, sentinels = parse(url)
    assert address.name == name
    assert (
        name == f"{sentinels.service}@{','.join(p.name for p in sentinels.addresses)}"
    )


def test_other_urls_name_no_sentinels() -> None:
    for url in ("redis://a/0", "rediss://a", "unix:///a+sentinel", "embedded://", ""):
        assert not names_sentinels(url)


def test_the_login_is_the_servers_and_sentinels_have_their_own() -> None:
    url = (
        "redis+sentinel://al:p%40ss@a:1,b/main/3?protocol=2&client_name=me"
        "&sentinel_username=watch&sentinel_password=h%26r"
    )
    address, sentinels = parse(url)
    server: Any = address.at("10.0.0.1", 6380).connection()
    assert (server.host, server.port) == ("10.0.0.1", 6380)
    assert (server.username, server.password, server.db) == ("al", "p@ss", 3)
    assert server.client_name == "me"
    for place in sentinels.addresses:
        there: Any = place.connection()
        assert (there.username, there.password, there.db) == ("watch", "h&r", 0)
        assert there.client_name is None
        assert str(there.protocol) == str(server.protocol) == "2"
    assert "h&r" not in repr(sentinels)
    assert "p@ss" not in repr(address)


def test_a_sentinel_has_a_second_to_answer_unless_there_is_less() -> None:
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
def test_a_url_that_can_not_be_is_refused_without_repeating_it(url: str) -> None:
    assert "URL" in refusal(url)


def test_a_url_without_a_name_says_how_one_looks() -> None:
    assert "redis+sentinel://host:26379,host:26379/service" in refusal(
        "redis+sentinel://a"
    )


# -- asking ------------------------------------------------------------------------


def says(host: str, port: int, *, role: bytes = b"master") -> Any:
    """A sentinel and a server in one: it tells where it is, and what."""

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
async def there(*serves: Any) -> AsyncIterator[list[Fake]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(fake(serve)) for serve in serves]


def watched(*ports: int, service: str = "main") -> tuple[Any, Sentinels]:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return parse(f"redis+sentinel://{hosts}/{service}?socket_timeout=0.3")


async def test_the_first_that_answers_is_believed_and_asked_first_from_then_on() -> (
    None
):
    async with (
        nothing_left(),
        there(silent, closing, says("10.0.0.1", 7), says("10.0.0.2", 8)) as fakes,
    ):
        nobody = free_port()
        address, sentinels = watched(nobody, *[each.port for each in fakes])
        assert (await locate(address, sentinels)).name == "10.0.0.1:7"
        before = fakes[0].accepted
        assert (await locate(address, sentinels)).name == "10.0.0.1:7"
        assert fakes[0].accepted == before
        assert fakes[3].accepted == 0
        # The list itself is kept, the one who answered in front.
        ports = [place.name.rpartition(":")[2] for place in sentinels.addresses]
        order = [fakes[2].port, nobody, fakes[0].port, fakes[1].port, fakes[3].port]
        assert ports == [str(port) for port in order]


async def test_a_name_that_nobody_watches_is_told() -> None:
    async with there(says("10.0.0.1", 7)) as [one]:
        with pytest.raises(ConnectError, match="monitors no service named 'other'"):
            await locate(*watched(one.port, service="other"))


async def test_if_none_answers_the_error_says_why() -> None:
    with pytest.raises(ConnectError, match="can't connect to 127"):
        await locate(*watched(free_port(), free_port()))


@pytest.mark.parametrize("code", [b"NOAUTH", b"NOPERM"])
async def test_a_refused_login_is_told_if_no_other_sentinel_answers(
    code: bytes,
) -> None:
    deny = answering(lambda _: b"-%b no\r\n" % code)
    async with there(deny, says("10.0.0.1", 7)) as [denying, other]:
        with pytest.raises(AccessError):
            await locate(*watched(denying.port, free_port()))
        found = await locate(*watched(denying.port, other.port))
        assert found.name == "10.0.0.1:7"


async def test_what_a_sentinel_says_that_makes_no_sense_is_no_answer() -> None:
    bent = answering(lambda _: b"*2\r\n$1\r\nh\r\n$1\r\nx\r\n")
    broken = answering(lambda _: b"-ERR broken\r\n")
    for serve in (bent, broken):
        async with there(serve, says("10.0.0.1", 7)) as [odd, good]:
            found = await locate(*watched(odd.port, good.port))
            assert found.name == "10.0.0.1:7"


async def test_a_replica_is_left_whatever_the_sentinels_say(events: Events) -> None:
    port = free_port()
    replica = fake(says("127.0.0.1", port, role=b"slave"), port=port)
    async with nothing_left(), replica as one:
        link = Connector(*_of(one.port, events))
        with pytest.raises(ConnectError, match="it is a replica now"):
            await link.connect()
        assert events.named("primary_moved") == []


def _of(port: int, events: Events) -> tuple[Any, Any, Sentinels]:
    address, sentinels = watched(port)
    return address, events, sentinels


async def test_that_the_primary_is_another_one_is_told_once(events: Events) -> None:
    ports = [free_port(), free_port()]
    lead = [ports[0]]

    def answer(request: Request) -> bytes:
        if request[0] == b"SENTINEL":
            port = str(lead[-1])
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
        async with open_connector(url, events) as link:
            for port in (ports[0], ports[0], ports[1], ports[1]):
                lead.append(port)
                wire = await link.connect()
                assert wire.address.name == f"127.0.0.1:{port}"
                await wire.aclose()
    [moved] = events.named("primary_moved")
    assert moved.facts == {
        "server": f"main@127.0.0.1:{one.port}",
        "from": f"127.0.0.1:{ports[0]}",
        "to": f"127.0.0.1:{ports[1]}",
    }
