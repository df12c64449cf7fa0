"""Servers that lack commands, or answer them differently, as proxies do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from connection.fakes import free_port
from penstock import CommandError, Consumer, Mode, Producer
from penstock._core.reading.blocking import POLL
from penstock.embedded import EmbeddedServer
from support.events import Events
from support.rewriting import Words, rewriting
from support.waiting import eventually


@asynccontextmanager
async def server(*without: str) -> AsyncIterator[str]:
    """Start a server that lacks some commands."""
    config = {f"rename-command {name}": "''" for name in without}
    with EmbeddedServer(config=config, port=free_port()) as running:
        yield str(running.tcp_url)


async def test_messages_are_sent_and_handled_without_hello_and_client(
    stream: str,
) -> None:
    async with server("HELLO", "CLIENT") as url:
        async with Producer(f"{url}/3?client_name=me") as producer:
            for number in range(20):
                await producer.send(stream, number)
        got: list[int] = []
        async with Consumer(
            stream, url=f"{url}/3?client_name=me", group="g", payload=int
        ) as consumer:
            async for message in consumer:
                got.append(message.payload)
                if len(got) == 20:
                    break
    assert got == list(range(20))


@pytest.mark.parametrize("name", ["XPENDING", "XREADGROUP"])
async def test_the_command_that_is_missing_is_the_one_that_is_named(
    name: str, stream: str
) -> None:
    async with server(name) as url:
        async with Producer(url) as producer:
            await producer.send(stream, 1)
        with pytest.raises(CommandError, match=f"^{name} ") as caught:
            async with Consumer(stream, url=url, group="g") as consumer:
                await consumer.next(timeout=10)
    assert caught.value.command.partition(" ")[0] == name


# --- a server that does not let a reader wait

READS = {b"XREADGROUP", b"XREAD"}


def ignores_block(words: Words) -> Words:
    """Remove BLOCK: the read is answered at once."""
    if words[0] not in READS or b"BLOCK" not in words:
        return words
    place = words.index(b"BLOCK")
    return words[:place] + words[place + 2 :]


def refuses_block(words: Words) -> Words:
    """Send an unknown command in place of a blocking read."""
    blocks = words[0] in READS and b"BLOCK" in words
    return [b"BLOCKED-READ"] if blocks else words


@pytest.fixture
async def tcp_url() -> AsyncIterator[str]:
    async with server() as url:
        yield url


@pytest.mark.parametrize("group", ["g", None])
@pytest.mark.parametrize("rewrite", [ignores_block, refuses_block])
async def test_reads_are_paced_where_the_server_does_not_let_them_wait(
    rewrite: Callable[[Words], Words],
    group: str | None,
    stream: str,
    events: Events,
    tcp_url: str,
) -> None:
    async with rewriting(tcp_url, rewrite) as proxy, Producer(tcp_url) as producer:
        mode = Mode.REALTIME if group is None else Mode.LOAD_BALANCED
        read = b"XREAD" if group is None else b"XREADGROUP"
        consumer = Consumer(
            stream, url=proxy.url, mode=mode, group=group, payload=int, on_event=events
        )
        async with consumer:
            begun = time.monotonic()
            assert await consumer.next(timeout=1.0) is None
            # Reads until the pacing begins, with and without BLOCK, and then polls.
            polls = (time.monotonic() - begun) / POLL
            assert proxy.count(read) <= polls + 6
            for number in range(5):
                await producer.send(stream, number)
                message = await consumer.next(timeout=10)
                assert message is not None
                assert message.payload == number
    [event] = events.named("polling")
    assert event.facts["interval"] == POLL
    assert ("BLOCKED-READ" in str(event)) is (rewrite is refuses_block)


async def test_a_paced_reader_can_be_sought(
    stream: str, events: Events, tcp_url: str
) -> None:
    async with (
        rewriting(tcp_url, refuses_block) as proxy,
        Producer(tcp_url) as producer,
    ):
        await producer.send(stream, 1)
        async with Consumer(
            stream, url=proxy.url, mode=Mode.REALTIME, payload=int, on_event=events
        ) as consumer:
            for _ in range(3):
                await consumer.seek("earliest")
                message = await consumer.next(timeout=10)
                assert message is not None
    assert events.named("polling")


async def test_a_server_that_lets_readers_wait_again_is_not_polled(
    stream: str, events: Events, tcp_url: str
) -> None:
    async with rewriting(tcp_url, ignores_block) as proxy:
        async with Consumer(
            stream, url=proxy.url, group="g", on_event=events
        ) as consumer:

            async def polls() -> bool:
                return len(events.named("polling")) == 1

            await eventually(polls)
            proxy.rewrite = lambda words: words
            before = proxy.count(b"XREADGROUP")
            assert await consumer.next(timeout=2.5) is None
            # One may have been on its way, and each of the others lasts two seconds.
            assert proxy.count(b"XREADGROUP") - before <= 4


async def test_a_refusal_that_is_not_about_block_is_told_as_it_is(stream: str) -> None:
    async with server("XREADGROUP") as url:
        async with Consumer(stream, url=url, group="g") as consumer:
            with pytest.raises(CommandError, match="unknown command 'XREADGROUP'"):
                await consumer.next(timeout=10)
