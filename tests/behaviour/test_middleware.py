"""Middleware wraps handlers, and may call, skip or observe them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from penstock import Message, Router
from penstock.middleware import Call, Middleware, wrap
from support.events import Events
from support.waiting import eventually, pending, send

AnyMessage = Message[Any]


class Steps(list[str]):
    """Records the order of calls."""

    def around(self, name: str) -> Middleware[Any]:
        async def middleware(message: Any, call: Call[Any]) -> object:
            self.append(f"{name} in")
            try:
                return await call(message)
            finally:
                self.append(f"{name} out")

        return middleware

    async def handle(self, message: Message[bytes]) -> None:
        self.append(message.payload.decode())


@pytest.fixture
def steps() -> Steps:
    return Steps()


async def wait_for_steps(steps: list[str], count: int) -> None:
    async def enough() -> bool:
        return len(steps) >= count

    await eventually(enough)


def test_without_middleware_the_handler_is_not_wrapped(steps: Steps) -> None:
    handler = steps.handle
    assert wrap(handler, []) is handler


async def test_the_first_middleware_is_the_outermost() -> None:
    steps = Steps()

    async def handler(message: str) -> str:
        steps.append(message)
        return "result"

    wrapped = wrap(handler, [steps.around("a"), steps.around("b")])
    assert await wrapped("message") == "result"
    assert steps == ["a in", "b in", "message", "b out", "a out"]


async def test_middleware_of_a_batch_handler_gets_the_list() -> None:
    given: list[object] = []

    async def handler(messages: list[int]) -> None:
        given.append(messages)

    async def middleware(messages: list[int], call: Call[list[int]]) -> None:
        given.append(messages)
        await call(messages[1:])

    await wrap(handler, [middleware])([1, 2])
    assert given == [[1, 2], [2]]


async def test_middleware_of_the_router_is_outside_of_that_of_the_handler(
    url: str, stream: str, steps: Steps
) -> None:
    app = Router(url, middleware=[steps.around("app")])
    module = Router(middleware=[steps.around("module")])
    around = [steps.around("first"), steps.around("second")]
    module.handler(stream, group="g", middleware=around)(steps.handle)
    app.include(module)
    async with app.running():
        await send(url, stream, 7)
        await wait_for_steps(steps, 9)
    names = ["app", "module", "first", "second"]
    assert steps == [
        *(f"{name} in" for name in names),
        "7",
        *(f"{name} out" for name in reversed(names)),
    ]


async def test_middleware_gets_the_message_whatever_the_handler_takes(
    url: str, stream: str
) -> None:
    seen: list[object] = []

    async def middleware(message: AnyMessage, call: Call[AnyMessage]) -> None:
        seen.append(message.payload)
        await call(message)

    router = Router(url, middleware=[middleware])

    @router.handler(stream, group="g", event="number")
    async def _(number: int) -> None:
        seen.append(number)

    @router.handler(stream, group="g")
    async def _(body: bytes) -> None:
        seen.append(body)

    async with router.running():
        await send(url, stream, 7)
        await eventually(lambda: has_two(seen))
    assert seen == [b"7", b"7"]


async def has_two(seen: list[object]) -> bool:
    return len(seen) == 2


async def test_an_exception_of_middleware_is_a_failure_of_the_handler(
    url: str, stream: str, events: Events, redis: Any, steps: Steps
) -> None:
    async def middleware(message: AnyMessage, call: Call[AnyMessage]) -> None:
        await call(message)
        raise ValueError

    router = Router(url, on_event=events)
    router.handler(stream, group="g", middleware=[middleware])(steps.handle)
    async with router.running():
        await send(url, stream, 7)

        async def failed() -> bool:
            return any(e.facts.get("error") == "ValueError" for e in events)

        await eventually(failed)
        assert await pending(redis, stream, "g") == 1


async def test_middleware_may_catch_the_exception_of_the_handler(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    seen: list[str] = []

    async def middleware(message: AnyMessage, call: Call[AnyMessage]) -> None:
        try:
            await call(message)
        except ValueError as error:
            seen.append(str(error))

    router = Router(url, on_event=events)

    @router.handler(stream, group="g", middleware=[middleware])
    async def _(message: Message[bytes]) -> None:
        raise ValueError("well")

    async with router.running():
        await send(url, stream, 7)
        await wait_for_steps(seen, 1)
    assert seen == ["well"]
    assert await pending(redis, stream, "g") == 0
    assert [event for event in events if event.error] == []


async def test_a_message_counts_as_handled_if_middleware_does_not_call_the_handler(
    url: str, stream: str, redis: Any, steps: Steps
) -> None:
    async def even_only(message: AnyMessage, call: Call[AnyMessage]) -> None:
        if int(message.payload) % 2 == 0:
            await call(message)

    router = Router(url)
    router.handler(stream, group="g", middleware=[even_only])(steps.handle)
    async with router.running():
        await send(url, stream, 1, 2, 3, 4)
        await wait_for_steps(steps, 2)
    assert steps == ["2", "4"]
    assert await pending(redis, stream, "g") == 0


async def test_a_sync_handler_runs_in_a_thread_and_its_middleware_does_not(
    url: str, stream: str
) -> None:
    threads: list[str] = []

    async def middleware(message: AnyMessage, call: Call[AnyMessage]) -> None:
        threads.append(threading.current_thread().name)
        await call(message)

    router = Router(url, middleware=[middleware])

    @router.handler(stream, group="g")
    def _(number: int) -> None:
        assert number == 7
        threads.append(threading.current_thread().name)

    async with router.running():
        await send(url, stream, 7)
        await wait_for_steps(threads, 2)
    assert threads[0] == threading.main_thread().name != threads[1]
