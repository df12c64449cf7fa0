"""Credentials from a provider: asked for each connection, and renewed in time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis import CredentialProvider
from redis.asyncio import Redis

from connection.fakes import free_port
from connection.traces import full_text
from penstock import (
    AccessError,
    ConfigurationError,
    ConnectError,
    Consumer,
    Producer,
    Router,
    admin,
    replay,
)
from penstock.admin import Admin
from penstock.credentials import Credentials
from penstock.embedded import EmbeddedServer
from support.events import Events
from support.waiting import eventually

SECRET = "hunter2-canary"


class Server:
    """A server whose user `al` has one password at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.admin = Redis.from_url(url.replace("://", f"://:{SECRET}-admin@"))

    async def rotate(self, password: str) -> None:
        await self.command(
            *("ACL", "SETUSER", "al", "reset", "on", f">{password}"),
            *("~*", "&*", "+@all"),
        )

    async def command(self, *words: str) -> None:
        await self.admin.execute_command(*words)  # type: ignore[no-untyped-call]

    async def users(self) -> list[str]:
        """Return the users of the connections, but for that of the test."""
        own = await self.admin.client_id()
        clients = await self.admin.client_list()
        return [each["user"] for each in clients if int(each["id"]) != own]

    async def cut(self) -> None:
        await self.command("CLIENT", "KILL", "USER", "al")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    config = {"requirepass": f"{SECRET}-admin"}
    with EmbeddedServer(config=config, port=free_port()) as running:
        made = Server(str(running.tcp_url))
        await made.rotate(f"{SECRET}-0")
        yield made
        await made.admin.aclose()


class Tokens:
    """An async function that returns the present token, and counts its calls."""

    def __init__(self) -> None:
        self.token = f"{SECRET}-0"
        self.calls = 0

    async def __call__(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        self.calls += 1
        return "al", self.token


class Blocking(CredentialProvider):
    """A provider of redis-py that has the blocking method only."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def get_credentials(self) -> tuple[str, str]:
        self.threads.add(threading.get_ident())
        return "al", f"{SECRET}-0"


class Asynchronous(CredentialProvider):
    """A provider of redis-py with a method of its own for asyncio."""

    def get_credentials(self) -> tuple[str, str]:
        raise AssertionError("it would block")

    async def get_credentials_async(self) -> tuple[str, str]:
        return "al", f"{SECRET}-0"


class Token:
    """A token as redis-py's `TokenInterface` has it."""

    def __init__(self, value: str) -> None:
        self.value = value

    def try_get(self, key: str) -> str | None:
        return "al" if key == "oid" else None

    def get_value(self) -> str:
        return self.value


class Streaming(Asynchronous):
    """A provider of redis-py that tells of new tokens, from wherever it is called."""

    def on_next(self, callback: Callable[[Any], Any]) -> None:
        self.next = callback

    def on_error(self, callback: Callable[[Exception], Any]) -> None:
        self.error = callback

    def is_streaming(self) -> bool:
        return True


async def password_only() -> str:
    return f"{SECRET}-0"


async def exchange(url: str, stream: str, given: Credentials) -> None:
    """Send and receive messages with all that takes a URL."""
    async with Producer(url, credentials=given) as producer:
        await producer.send(stream, 1)
    async with Consumer(
        stream, url=url, group="g", payload=int, credentials=given
    ) as consumer:
        message = await consumer.next(timeout=10)
        assert message is not None
        assert message.payload == 1
    async for past in replay(stream, payload=int, url=url, credentials=given):
        assert past.payload == 1
    async with Admin(url, credentials=given) as client:
        assert (await client.group_state(stream, "g")).pending == 0
    state = await admin.group_state(stream, "g", url=url, credentials=given)
    assert state.pending == 0
    assert await admin.dead.list(stream, url=url, credentials=given) == []
    router, handled = Router(url, credentials=given), asyncio.Event()

    @router.handler(stream, group="h", payload=int)
    async def handle(_: int) -> None:
        handled.set()

    async with router.running():
        await asyncio.wait_for(handled.wait(), 10)


@pytest.mark.parametrize("kind", [Tokens, Blocking, Asynchronous, Streaming])
async def test_whatever_takes_a_url_takes_credentials(
    kind: Callable[[], Any], server: Server, stream: str
) -> None:
    given = kind()
    await exchange(server.url, stream, given)
    if isinstance(given, Blocking):
        assert threading.get_ident() not in given.threads


async def test_a_password_alone_belongs_to_the_user_of_the_url(
    server: Server, stream: str
) -> None:
    url = server.url.replace("://", "://al@")
    async with Producer(url, credentials=password_only) as producer:
        await producer.send(stream, 1)
        assert await server.users() == ["al"]


async def test_each_new_connection_asks_for_a_new_token(
    server: Server, stream: str, events: Events
) -> None:
    tokens = Tokens()
    async with (
        Producer(server.url, credentials=tokens, on_event=events) as producer,
        Consumer(
            stream,
            url=server.url,
            group="g",
            payload=int,
            credentials=tokens,
            on_event=events,
        ) as consumer,
    ):
        for number in range(3):
            await producer.send(stream, number)
            message = await consumer.next(timeout=10)
            assert message is not None
            assert message.payload == number
            before = tokens.calls
            tokens.token = f"{SECRET}-{number + 1}"
            await server.rotate(tokens.token)
            await server.cut()

            # The two of the consumer; a producer reconnects when it sends.
            async def all_are_back(before: int = before) -> bool:
                return tokens.calls >= before + 2

            await eventually(all_are_back)
    assert SECRET not in repr(list(events))


async def test_open_connections_log_in_again_with_a_new_token(
    server: Server, stream: str, events: Events
) -> None:
    """Nothing is interrupted: no connection is lost."""
    provider = Streaming()
    async with (
        Producer(server.url, credentials=provider, on_event=events) as producer,
        Consumer(
            stream,
            url=server.url,
            group="g",
            payload=int,
            credentials=provider,
            on_event=events,
        ) as consumer,
    ):
        await server.command(
            *("ACL", "SETUSER", "bo", "on", f">{SECRET}-bo", "~*", "&*", "+@all")
        )

        class Bo(Token):
            def try_get(self, key: str) -> str | None:
                return "bo"

        # As it is called by a provider for asyncio, and by one with threads.
        assert await provider.next(Bo(f"{SECRET}-bo")) is None

        async def all_are_bo() -> bool:
            return await server.users() == ["bo"] * 3

        await eventually(all_are_bo)
        await asyncio.to_thread(provider.next, Token(f"{SECRET}-0"))

        async def all_are_al() -> bool:
            return await server.users() == ["al"] * 3

        await eventually(all_are_al)
        await producer.send(stream, 1)
        assert await consumer.next(timeout=10) is not None
    assert not events.named("connection_lost")
    # Nobody is told any more.
    await provider.next(Token(f"{SECRET}-0"))


async def test_a_renewal_that_fails_is_reported_and_disturbs_nothing(
    server: Server, stream: str, events: Events
) -> None:
    provider = Streaming()
    async with Producer(server.url, credentials=provider, on_event=events) as producer:
        await provider.error(ValueError(SECRET))
        await provider.next(Token(f"{SECRET}-wrong"))

        async def reported() -> bool:
            return bool(events.named("access_refused"))

        await eventually(reported)
        await producer.send(stream, 1)
    [failed] = events.named("credentials_failed")
    assert failed.facts["error"] == "ValueError"
    assert "AUTH: WRONGPASS" in str(events.named("access_refused")[0])
    assert SECRET not in repr(list(events))


# --- providers that fail


async def fails() -> str:
    raise ValueError(f"no token beside {SECRET}")


async def never() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def nothing() -> Any:
    return None


async def three() -> Any:
    return "al", SECRET, 3


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (fails, ConnectError, r"raised ValueError at test_credentials\.py:\d+"),
        (never, ConnectError, "did not answer within 0.2 s"),
        (nothing, AccessError, "returned a NoneType"),
        (three, AccessError, "returned a tuple"),
    ],
)
async def test_a_provider_that_fails_is_named_without_its_text(
    given: Any, kind: type[Exception], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"redis://127.0.0.1:{free_port()}?socket_connect_timeout=0.2"
    with pytest.raises(kind, match=words) as caught:
        async with Producer(url, credentials=given):
            pass
    assert SECRET not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is caught.value.__context__ is None


async def test_a_wrong_token_is_refused_and_not_quoted(server: Server) -> None:
    tokens = Tokens()
    tokens.token = f"{SECRET}-wrong"
    with pytest.raises(AccessError, match="WRONGPASS") as caught:
        async with Producer(server.url, credentials=tokens):
            pass
    assert SECRET not in full_text(caught.value)


def test_what_is_no_provider_is_refused_at_once() -> None:
    makers: list[Any] = [Producer, Admin, Router, replay]
    for make in makers:
        with pytest.raises(ConfigurationError, match="CredentialProvider") as caught:
            make("s", credentials=("al", SECRET))
        assert SECRET not in str(caught.value)
    with pytest.raises(ConfigurationError, match="credentials= is a type"):
        Producer(credentials=Blocking)  # type: ignore[arg-type]


async def test_two_passwords_are_refused_and_so_is_the_embedded_server() -> None:
    for url, words in (
        (f"redis://:{SECRET}@h", "a password"),
        (f"redis+sentinel://:{SECRET}@h/main", "a password"),
        ("embedded://", "has no users"),
    ):
        with pytest.raises(ConfigurationError, match=words) as caught:
            async with Producer(url, credentials=Tokens()):
                pass
        assert SECRET not in full_text(caught.value)


def test_no_repr_shows_a_provider() -> None:
    class Talkative(Blocking):
        def __repr__(self) -> str:
            return SECRET

    given = Talkative()
    producer = Producer("redis://h", credentials=given)
    consumer = Consumer("s", url="redis://h", credentials=given)
    shown = [producer, consumer, producer._delivery, consumer._config]
    assert SECRET not in repr(shown)
