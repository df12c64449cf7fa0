"""The producer for synchronous code."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import pytest

from penstock import (
    ClosedError,
    ConfigurationError,
    ConnectError,
    MaxLen,
    MessageTooLarge,
    Outgoing,
    Receipt,
    SendFailed,
    UsageError,
)
from penstock.sync import Producer
from support.proxy import proxy


async def stored(redis: Any, stream: str) -> list[bytes]:
    return [fields[b"msg"] for _, fields in await redis.xrange(stream)]


async def in_thread(function: Any, *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


async def test_a_message_is_sent_and_its_receipt_returned(
    url: str, stream: str, redis: Any
) -> None:
    def work() -> Receipt:
        with Producer(url, retention=MaxLen(100)) as producer:
            return producer.send(stream, {"id": 7}, key="k", headers={"source": "web"})

    receipt = await in_thread(work)
    [(id_, fields)] = await redis.xrange(stream)
    assert bytes(receipt.id) == id_
    assert fields[b"msg"] == b'{"id":7}'
    assert (fields[b"key"], fields[b"source"]) == (b"k", b"web")


def test_it_is_created_without_a_server_and_opens_when_it_is_used() -> None:
    producer = Producer("redis://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(ConnectError):
            producer.send("orders", b"")
    producer.close()


def test_options_are_checked_when_it_is_created() -> None:
    with pytest.raises(ConfigurationError, match="max_batch"):
        Producer("redis://localhost", max_batch=0)


async def test_after_the_server_has_come_back_the_same_producer_opens(
    url: str, stream: str, redis: Any
) -> None:
    async with proxy(url) as link:
        await link.stop()
        producer = Producer(link.url)
        with pytest.raises(ConnectError):
            await in_thread(producer.send, stream, b"1")
        await link.start()
        await in_thread(producer.send, stream, b"2")
        await in_thread(producer.close)
    assert await stored(redis, stream) == [b"2"]


async def test_queued_messages_are_sent_in_order_and_closing_waits_for_them(
    url: str, stream: str, redis: Any
) -> None:
    def work() -> list[Receipt]:
        with Producer(url) as producer:
            pending = [producer.enqueue(stream, b"%d" % n) for n in range(300)]
            producer.flush()
            assert all(each.done() for each in pending)
            pending.append(producer.enqueue(stream, b"300"))
        return [each.result(timeout=0) for each in pending]

    receipts = await in_thread(work)
    assert await stored(redis, stream) == [b"%d" % n for n in range(301)]
    assert len({receipt.id for receipt in receipts}) == 301


async def test_a_queued_message_that_is_refused_gives_its_error(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(stream, "other")

    def work() -> None:
        with Producer(url) as producer:
            outcome = producer.enqueue(stream, b"1")
            with pytest.raises(SendFailed):
                outcome.result(timeout=10)
            with pytest.raises(SendFailed):
                producer.send(stream, b"2")

    await in_thread(work)


async def test_many_messages_have_outcomes_in_their_order(
    url: str, stream: str, redis: Any
) -> None:
    """They are taken in the thread of the caller."""
    threads = set()

    def messages() -> Iterator[Any]:
        for number in range(1200):
            threads.add(threading.current_thread())
            big = b"x" * 2000 if number == 700 else b"%d" % number
            yield Outgoing(big, key="k")

    def work() -> tuple[list[Any], threading.Thread]:
        with Producer(url, max_message_bytes=1000) as producer:
            return producer.send_many(stream, messages()), threading.current_thread()

    outcomes, thread = await in_thread(work)
    assert threads == {thread}
    assert [n for n, each in enumerate(outcomes) if not isinstance(each, Receipt)] == [
        700
    ]
    assert isinstance(outcomes[700], MessageTooLarge)
    assert await stored(redis, stream) == [
        b"%d" % number for number in range(1200) if number != 700
    ]


async def test_messages_before_an_error_of_their_source_are_sent(
    url: str, stream: str, redis: Any
) -> None:
    def messages() -> Iterator[bytes]:
        yield from (b"%d" % number for number in range(3))
        raise LookupError("no more")

    def work() -> None:
        with Producer(url) as producer, pytest.raises(LookupError):
            producer.send_many(stream, messages())

    await in_thread(work)
    assert await stored(redis, stream) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("messages", [b"abc", "abc", {"a": 1}, 7])
async def test_what_are_no_messages_is_refused(
    url: str, stream: str, messages: Any
) -> None:
    def work() -> None:
        with Producer(url) as producer, pytest.raises(ConfigurationError):
            producer.send_many(stream, messages)

    await in_thread(work)


async def test_many_threads_share_a_producer_and_a_thread(
    url: str, stream: str, redis: Any
) -> None:
    before = threading.active_count()

    def work() -> None:
        one, other = Producer(url), Producer(url)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: one.send(stream, b"%d" % n), range(100)))
            list(pool.map(lambda n: other.send(stream, b"%d" % n), range(100, 200)))
        one.close()
        other.close()

    await in_thread(work)
    assert sorted(map(int, await stored(redis, stream))) == list(range(200))
    # That of `in_thread`, and that of the loop.
    assert threading.active_count() <= before + 2


async def test_after_closing_nothing_is_sent(url: str, stream: str) -> None:
    def work() -> None:
        producer = Producer(url)
        producer.close()
        with Producer(url) as other:
            other.send(stream, b"1")
        other.close()
        for closed in (producer, other):
            for call in (closed.send, closed.enqueue, closed.send_many):
                with pytest.raises(ClosedError):
                    call(stream, [b"2"])
            with pytest.raises(ClosedError):
                closed.flush()

    await in_thread(work)


PROGRAM = """
import sys
from penstock.sync import Producer

producer = Producer(sys.argv[1])
for number in range(50):
    producer.enqueue(sys.argv[2], b"%d" % number)
"""


async def test_a_program_that_ends_without_closing_sends_what_it_has_queued(
    url: str, stream: str, redis: Any
) -> None:
    def work() -> float:
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, url, stream],
            check=True,
            timeout=30,
        )
        return time.monotonic() - start

    await in_thread(work)
    assert await stored(redis, stream) == [b"%d" % number for number in range(50)]


FORKING = """
import os, sys
from penstock import UsageError
from penstock.sync import Producer

url, stream, used_before = sys.argv[1:]
producer, other = Producer(url), Producer(url)
other.send(stream, b"parent")
if used_before == "used":
    producer.send(stream, b"parent")
pid = os.fork()
try:
    producer.send(stream, b"child" if pid == 0 else b"parent")
except UsageError as error:
    assert pid == 0 and "forked" in str(error), error
    with Producer(url) as own:
        own.send(stream, b"refused")
if pid == 0:
    producer.close()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ("used", [b"parent", b"parent", b"parent", b"refused"]),
        ("unused", [b"child", b"parent", b"parent"]),
    ],
)
async def test_a_producer_is_used_in_the_process_that_used_it_first(
    url: str, stream: str, redis: Any, used: str, expected: list[bytes]
) -> None:
    """One that was only created is one of the forked process's own."""

    def work() -> None:
        subprocess.run(
            [sys.executable, "-c", FORKING, url, stream, used], check=True, timeout=30
        )

    await in_thread(work)
    assert sorted(await stored(redis, stream)) == expected


async def test_a_flask_application_sends_from_its_views(
    url: str, stream: str, redis: Any
) -> None:
    app, producer = flask.Flask("shop"), Producer(url)

    def create() -> Any:
        receipt = producer.send(stream, flask.request.get_json())
        return {"id": str(receipt.id)}, 202

    app.add_url_rule("/orders", view_func=create, methods=["POST"])

    def work() -> str:
        answer = app.test_client().post("/orders", json={"id": "o-1"})
        assert answer.status_code == 202
        producer.close()
        return str(answer.get_json()["id"])

    id_ = await in_thread(work)
    [(found, fields)] = await redis.xrange(stream)
    assert (found.decode(), fields[b"msg"]) == (id_, b'{"id":"o-1"}')


def test_its_options_are_those_of_the_producer_and_it_says_which() -> None:
    assert "penstock.sync.Producer of <Producer" in repr(Producer("redis://localhost"))
    with pytest.raises(TypeError):
        Producer(no_option=1)  # type: ignore[call-arg]
    assert issubclass(ClosedError, UsageError)
