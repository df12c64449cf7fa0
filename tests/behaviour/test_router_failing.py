"""Failures in a router: retries, dead letters, batches and threads of its handlers."""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from penstock import ROLLING, Message, Producer, Retry, Router, admin
from penstock.middleware import Call
from support.failing import Boom, handled
from support.waiting import eventually, send

QUICK = Retry(max_attempts=3, backoff=[0.01])


class Order(msgspec.Struct):
    id: int


class Refund(msgspec.Struct):
    of: int


async def test_retries_and_dead_letters_are_options_of_the_decorator(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(retry=QUICK)
    tried: list[int] = []

    @router.handler(stream, group="g", dead_letters=f"{stream}-failed")
    async def fails(body: bytes) -> None:
        tried.append(int(body))
        raise Boom

    await send(url, stream, 1)
    async with router.running(url):
        await eventually(lambda: handled(redis, stream, 1))
    assert tried == [1, 1, 1]
    assert await redis.xlen(f"{stream}-failed") == 1


async def test_a_handler_may_take_batches_of_payloads(
    url: str, stream: str, redis: Any
) -> None:
    router = Router()
    seen: list[list[int]] = []

    @router.handler(stream, group="g", batch=5)
    async def store(orders: list[Order]) -> None:
        seen.append([order.id for order in orders])

    async with Producer(url) as producer:
        for number in range(12):
            await producer.enqueue(stream, Order(number))
    async with router.running(url):
        await eventually(lambda: handled(redis, stream, 12))
    assert [number for batch in seen for number in batch] == list(range(12))
    assert max(map(len, seen)) == 5


async def test_an_event_that_can_t_be_decoded_is_dead_lettered_at_once(
    url: str, stream: str, redis: Any
) -> None:
    router = Router(retry=QUICK)
    seen: list[object] = []

    @router.handler(stream, group="g", event="order")
    async def order(body: Order) -> None:
        seen.append(body)

    @router.handler(stream, group="g", event="refund")
    async def refund(body: Refund) -> None:
        seen.append(body)

    async with Producer(url) as producer:
        for kind in ("order", "refund"):
            await producer.send(stream, Order(7), headers={"type": kind})
    async with router.running(url):
        await eventually(lambda: handled(redis, stream, 2))
    assert seen == [Order(7)]
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert (dead_letter.attempts, dead_letter.error) == (0, "DecodeError")
    assert dead_letter.headers == {"type": "refund", "content-type": "application/json"}


async def test_sync_functions_may_settle_messages_even_with_middleware(
    url: str, stream: str, redis: Any
) -> None:
    async def around(message: Message[Any], call: Call[Message[Any]]) -> object:
        return await call(message)

    router = Router(auto_commit=ROLLING, retry=QUICK)
    attempts: list[int] = []

    def handle(message: Message[bytes]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        attempts.append(message.attempt)
        if message.attempt == 1:
            message.nack()
        else:
            message.ack()

    router.handler(stream, group="g", middleware=[around])(handle)
    router.handler(stream, group="h", event="x")(handle)

    @router.handler(stream, group="h", event="y")
    async def other(message: Message[bytes]) -> None:
        message.ack()

    async with Producer(url) as producer:
        await producer.send(stream, b"1", headers={"type": "x"})

    async def both_done() -> bool:
        groups = await redis.xinfo_groups(stream)
        return [group["pending"] for group in groups] == [0, 0] and len(attempts) == 4

    async with router.running(url):
        await eventually(both_done)
    assert sorted(attempts) == [1, 1, 2, 2]
