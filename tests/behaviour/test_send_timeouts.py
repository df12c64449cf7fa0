"""Send timeouts and backpressure: how long a send may take, and what it leaves."""

from __future__ import annotations

import asyncio
import random
import signal
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    BufferFull,
    ConfigurationError,
    Producer,
    Receipt,
    SendFailed,
    SendUnknown,
)
from support.events import Events
from support.proxy import proxy
from support.server import server
from support.waiting import eventually


async def test_a_message_in_flight_when_its_timeout_is_over_is_unknown(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, send_timeout=0.1, close_timeout=0, on_event=events
        ) as producer:
            await producer.send(stream, b"first")
            between.drop_replies = True
            start = time.monotonic()
            with pytest.raises(SendUnknown, match="timeout"):
                await producer.send(stream, b"second")
            assert 0.1 <= time.monotonic() - start < 5
    # It is reported once, and not again when the connection ends.
    [event] = events.named("send_unknown")
    assert event.facts["messages"] == 1
    assert await redis.xlen(stream) == 2


async def test_messages_that_were_not_written_in_time_are_withdrawn(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_batch=1, max_in_flight=1, on_event=events
        ) as producer:
            await producer.send(stream, b"first")
            await between.stop()
            unknown = await producer.enqueue(stream, b"second", timeout=30)
            late = [await producer.enqueue(stream, b"late", timeout=0.1) for _ in "ab"]
            kept = await producer.enqueue(stream, b"kept")
            for future in late:
                with pytest.raises(SendFailed, match="timeout") as caught:
                    await future
                assert caught.value.code == "TIMEOUT"
            assert not kept.done()
            await between.start()
            await kept
            await asyncio.gather(unknown, return_exceptions=True)
    bodies = [fields[b"msg"] for _, fields in await redis.xrange(stream)]
    assert bodies in ([b"first", b"kept"], [b"first", b"second", b"kept"])
    facts = [event.facts for event in events.named("send_failed")]
    assert sum(fact["messages"] for fact in facts) == 2


async def test_waiting_for_buffer_space_counts_towards_the_timeout(
    url: str, stream: str
) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_messages=2, send_timeout=0.1, close_timeout=0
        ) as producer:
            between.drop_replies = True
            for _ in range(2):
                await producer.enqueue(stream, b"x", timeout=60)
            for send in (producer.enqueue, producer.send):
                start = time.monotonic()
                with pytest.raises(SendFailed) as caught:
                    await send(stream, b"x")
                assert caught.value.code == "TIMEOUT"
                assert 0.1 <= time.monotonic() - start < 5
            with pytest.raises(BufferFull):
                producer.enqueue_nowait(stream, b"x")


async def test_a_sender_that_gives_up_waiting_lets_the_next_one_pass(
    url: str, stream: str, redis: Any
) -> None:
    """A large message at the front of the queue must not block small ones forever."""
    async with proxy(url) as between:
        async with Producer(between.url, max_bytes=10_000, close_timeout=0) as producer:
            between.drop_replies = True
            await producer.enqueue(stream, b"x" * 5000)
            large = asyncio.create_task(
                producer.enqueue(stream, b"x" * 9000, timeout=0.05)
            )
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await producer.enqueue(stream, b"small")
            with pytest.raises(SendFailed):
                await large
            cancelled = asyncio.create_task(producer.enqueue(stream, b"x" * 9000))
            await asyncio.sleep(0)
            waits = asyncio.create_task(producer.enqueue(stream, b"small"))
            await asyncio.sleep(0)
            cancelled.cancel()
            async with asyncio.timeout(5):
                await waits


async def test_a_timed_out_message_in_flight_frees_its_space_when_the_connection_ends(
    url: str, stream: str
) -> None:
    async with proxy(url) as between:
        async with Producer(between.url, max_messages=1) as producer:
            await producer.send(stream, b"warm")
            between.drop_replies = True
            with pytest.raises(SendUnknown):
                await producer.send(stream, b"1", timeout=0.05)
            waits = asyncio.create_task(producer.send(stream, b"2"))
            await asyncio.sleep(0)
            assert producer._sender._waiting
            between.drop_replies = False
            between.cut()
            async with asyncio.timeout(5):
                await waits
                await producer.flush()


async def test_each_message_of_send_many_has_its_own_timeout(
    url: str, stream: str
) -> None:
    async with proxy(url) as between:
        async with Producer(between.url, max_messages=5, close_timeout=0) as producer:
            await producer.send(stream, b"warm")
            between.drop_replies = True
            outcomes = await producer.send_many(stream, [b"x"] * 7, timeout=0.05)
    assert [type(outcome) for outcome in outcomes] == [SendUnknown] * 5 + [
        SendFailed
    ] * 2


async def test_an_outlet_may_have_its_own_timeout(url: str, stream: str) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, send_timeout=3600, close_timeout=0
        ) as producer:
            between.drop_replies = True
            with pytest.raises(SendUnknown):
                await producer.to(stream, timeout=0.05).send(b"x")
            with pytest.raises(SendUnknown):
                await producer.to(stream).send(b"x", timeout=0.05)


async def test_a_timeout_that_is_not_reached_changes_nothing(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, send_timeout=0.5, max_messages=50) as producer:
        until = time.monotonic() + 1.2
        sent = 0
        while time.monotonic() < until:
            assert isinstance(await producer.send(stream, b"x"), Receipt)
            sent += 1
    assert await redis.xlen(stream) == sent


@pytest.mark.parametrize("timeout", [0, -1, "1", float("nan"), True])
async def test_an_invalid_timeout_is_refused(
    url: str, stream: str, timeout: Any
) -> None:
    async with Producer(url) as producer:
        with pytest.raises(ConfigurationError, match="timeout="):
            await producer.send(stream, b"x", timeout=timeout)
        with pytest.raises(ConfigurationError, match="timeout="):
            await producer.send_many(stream, [b"x"], timeout=timeout)
        with pytest.raises(ConfigurationError, match="timeout="):
            producer.to(stream, timeout=timeout)


async def test_an_unknown_option_is_a_type_error(url: str, stream: str) -> None:
    async with Producer(url) as producer:
        with pytest.raises(TypeError, match="colour"):
            await producer.send(stream, b"x", colour="red")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="colour"):
            await producer.send_many(stream, [], colour="red")  # type: ignore[call-arg]


async def test_a_frozen_server_neither_blocks_forever_nor_uses_memory(
    tmp_path: Path, stream: str
) -> None:
    async with server(tmp_path) as own:
        async with Producer(
            own.url, max_bytes=200_000, send_timeout=0.3, close_timeout=5
        ) as producer:
            await producer.send(stream, b"first")
            own.send_signal(signal.SIGSTOP)
            sizes = []
            tracemalloc.start()
            try:
                for _ in range(3):
                    start = time.monotonic()
                    outcomes = await asyncio.gather(
                        *[producer.send(stream, b"%d" % n * 3000) for n in range(1000)],
                        return_exceptions=True,
                    )
                    assert time.monotonic() - start < 10
                    kinds = {type(outcome) for outcome in outcomes}
                    assert kinds <= {SendUnknown, SendFailed}
                    del outcomes
                    sizes.append(tracemalloc.get_traced_memory()[0])
            finally:
                tracemalloc.stop()
            # The last round's messages may still be referenced.
            assert sizes[-1] - sizes[0] < 2_000_000
            own.send_signal(signal.SIGCONT)
            await producer.send(stream, b"last", timeout=20)
        client = own.client()
        bodies = [fields[b"msg"] for _, fields in await client.xrange(stream)]
        await client.aclose()
    # Failed messages were never written.
    assert bodies[0] == b"first"
    assert bodies[-1] == b"last"
    assert sum(map(len, bodies)) < 200_000


async def test_thousands_of_cancelled_sends_keep_the_order_and_the_connection(
    url: str, stream: str, redis: Any
) -> None:
    """Cancelled at any moment: waiting for space, queued, in flight, confirmed."""
    kept: dict[int, str] = {}

    async def send(producer: Producer, number: int) -> None:
        receipt = await producer.send(stream, b"%d" % number)
        kept[number] = str(receipt.id)

    async with proxy(url) as between:
        async with Producer(between.url, max_messages=50, max_batch=20) as producer:
            running: list[asyncio.Task[None]] = []
            for number in range(5000):
                running.append(asyncio.create_task(send(producer, number)))
                if random.random() < 0.2:
                    await asyncio.sleep(random.choice([0, 0, 0.0005]))
                if random.random() < 0.6:
                    random.choice(running[-100:]).cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await producer.send(stream, b"5000")
        assert between.accepted == 1
    entries = [(i.decode(), int(f[b"msg"])) for i, f in await redis.xrange(stream)]
    numbers = [number for _, number in entries]
    assert numbers == sorted(set(numbers))
    ids = {number: id_ for id_, number in entries}
    assert 100 < len(kept) < 4900
    assert all(ids[number] == id_ for number, id_ in kept.items())


async def test_senders_that_gave_up_waiting_for_space_leave_nothing_behind(
    url: str, stream: str
) -> None:
    async def full() -> bool:
        return producer._sender.accumulator.held == 1

    async with proxy(url) as between:
        async with Producer(between.url, max_messages=1, close_timeout=0) as producer:
            between.drop_replies = True
            producer.enqueue_nowait(stream, b"x")
            await eventually(full)
            tasks = [
                asyncio.create_task(producer.send(stream, b"x" * 1000))
                for _ in range(2000)
            ]
            await asyncio.sleep(0)
            assert len(producer._sender._waiting) == 2000
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not producer._sender._waiting
