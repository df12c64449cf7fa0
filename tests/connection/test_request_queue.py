"""The request queue: each reply belongs to the oldest request that waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock._connection.request_queue import Read, Request, RequestQueue
from penstock._core.protocol.replies import ErrorReply, ProtocolError

PUSH = b">2\r\n+invalidate\r\n*1\r\n+key\r\n"


def ask(
    queue: RequestQueue, count: int = 1, read: Read | None = None
) -> asyncio.Future[list[Any]]:
    future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    queue.waiting.append(Request(count, 0.0, future, read))
    return future


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"#t\r\n", True),
        (b",1.5\r\n", 1.5),
        (b"(123456789012345678901234567890\r\n", b"123456789012345678901234567890"),
        (b"=7\r\ntxt:one\r\n", b"one"),
        (b"_\r\n", None),
        (b"*-1\r\n", None),
        (b"*2\r\n%1\r\n+k\r\n*1\r\n:1\r\n_\r\n", [{b"k": [1]}, None]),
        (b"$4\r\n\r\n+x\r\n", b"\r\n+x"),
    ],
)
async def test_all_kinds_of_resp3_count_as_one_reply(raw: bytes, value: object) -> None:
    queue = RequestQueue()
    replies = ask(queue, 3)
    queue.received(b"+even\r\n" + raw + b"+even\r\n")
    assert await replies == [b"even", value, b"even"]


async def test_an_errors_text_is_made_printable() -> None:
    queue = RequestQueue()
    reply = ask(queue)
    queue.received(b"-ERR \xff\x1b[31m\r\n")
    [error] = await reply
    assert isinstance(error, ErrorReply)
    assert error.code == "ERR"
    assert error.text.isprintable()


async def test_replies_in_single_bytes_are_put_together() -> None:
    raw = b"*2\r\n$5\r\nhello\r\n:7\r\n-ERR no\r\n%1\r\n+a\r\n_\r\n+OK\r\n"
    queue = RequestQueue()
    pair, rest = ask(queue, 2), ask(queue, 2)
    for number in range(len(raw)):
        assert not rest.done()
        queue.received(raw[number : number + 1])
        # Each is told as soon as it has all, and not before.
        assert pair.done() is (number >= raw.index(b"%1") - 1)
    [array, error] = await pair
    assert array == [b"hello", 7]
    assert isinstance(error, ErrorReply)
    assert await rest == [{b"a": None}, b"OK"]


async def test_push_messages_are_nobodys_reply() -> None:
    queue = RequestQueue()
    three, last = ask(queue, 3), ask(queue)
    queue.received(PUSH + b"+a\r\n" + PUSH + PUSH + b"+bc\r\n+def\r\n" + PUSH)
    assert await three == [b"a", b"bc", b"def"]
    queue.received(PUSH + b"+last\r\n" + PUSH)
    assert await last == [b"last"]


async def test_the_reply_of_a_cancelled_request_goes_to_nobody() -> None:
    queue = RequestQueue()
    first, second = ask(queue), ask(queue)
    first.cancel()
    queue.received(b"+first\r\n+second\r\n")
    assert await second == [b"second"]


@pytest.mark.parametrize(
    "nonsense", [b"garbage\r\n", b"+EXTRA\r\n", b":7\r\n+wrong\r\n"]
)
async def test_after_nonsense_all_requests_wait_in_their_order(nonsense: bytes) -> None:
    queue = RequestQueue()
    futures = [ask(queue), ask(queue)]
    with pytest.raises(ProtocolError):
        queue.received(b"+OK\r\n+OK\r\n" + nonsense)
    assert [request.future for request in queue.waiting] == futures
    assert not any(future.done() for future in futures)


async def test_after_a_reply_of_another_shape_all_requests_wait() -> None:
    def read(_: list[Any]) -> list[Any]:
        raise ProtocolError

    queue = RequestQueue()
    futures = [ask(queue), ask(queue, read=read), ask(queue)]
    with pytest.raises(ProtocolError):
        queue.received(b"+OK\r\n+OK\r\n")
    assert [request.future for request in queue.waiting] == futures
    assert not any(future.done() for future in futures)


async def test_a_demoted_server_is_left_after_the_replies_to_earlier_requests() -> None:
    queue = RequestQueue()
    futures = [ask(queue) for _ in range(3)]
    queue.received(b"+OK\r\n-READONLY no\r\n")
    assert queue.demotion is None
    # A later request is not waited for.
    futures.append(ask(queue))
    queue.received(b"+OK\r\n")
    assert queue.demotion == "READONLY no"
    assert [future.done() for future in futures] == [True, True, True, False]
