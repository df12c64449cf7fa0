"""`on_start` and `on_stop`: what a router calls before and after its handlers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import ConfigurationError, Message, Router, UsageError
from penstock._tasks import hooks
from support.waiting import eventually, send


def hooked(url: str, stream: str, seen: list[str]) -> Router:
    """Return a router that writes down what is called."""
    router = Router(url, close_timeout=1)

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        seen.append("handled")

    for name in ("one", "two"):
        add(router, name, seen)
    return router


def add(router: Router, name: str, seen: list[str]) -> None:
    @router.on_start
    async def _() -> None:
        seen.append(f"{name} starts")

    @router.on_stop
    async def _() -> None:
        seen.append(f"{name} stops")


async def test_hooks_are_called_in_order_around_all_handlers_of_each_run(
    url: str, stream: str
) -> None:
    seen: list[str] = []
    router = hooked(url, stream, seen)
    for run in range(2):
        await send(url, stream, 1)
        async with router.running():
            assert seen[:2] == ["one starts", "two starts"]
            await eventually(lambda: contains(seen, "handled"))
            assert len(seen) == 3, run
        assert seen[2:] == ["handled", "two stops", "one stops"]
        seen.clear()


async def contains(seen: list[str], word: str) -> bool:
    return word in seen


async def test_no_consumer_is_open_while_on_start_runs_nor_when_on_stop_does(
    url: str, stream: str
) -> None:
    router, gate, seen = hooked(url, stream, []), asyncio.Event(), []

    @router.on_start
    async def wait() -> None:
        seen.append(router.consumers)
        await gate.wait()

    @router.on_stop
    async def look() -> None:
        seen.append(router.consumers)

    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(router.run())
        await eventually(lambda: has(seen, 1))
        assert not router.ready
        router.stop()  # does not interrupt it
        await asyncio.sleep(0)
        assert not run.done()
        gate.set()
    assert seen == [(), ()]


async def has(seen: list[Any], number: int) -> bool:
    return len(seen) >= number


async def test_an_on_start_hook_that_raises_ends_the_run_and_all_stops_are_called(
    url: str, stream: str
) -> None:
    seen: list[str] = []
    router = hooked(url, stream, seen)

    @router.on_start
    async def fail() -> None:
        raise ValueError("no pool")

    add(router, "last", seen)
    stops = ["last stops", "two stops", "one stops"]
    with pytest.raises(ValueError, match="no pool"):
        await router.run()
    assert seen == ["one starts", "two starts", *stops]
    with pytest.raises(ValueError, match="no pool"):
        await router.start()
    with pytest.raises(ValueError, match="no pool"):
        async with router.running():
            pass
    assert not router.consumers


async def test_an_on_stop_hook_that_raises_keeps_no_other_from_being_called(
    url: str, stream: str
) -> None:
    seen: list[str] = []
    router = hooked(url, stream, seen)
    for word in ("second", "first"):
        fails(router, word)
    await router.start()
    with pytest.raises(ValueError, match="first") as caught:
        await router.aclose()
    assert caught.value.__notes__ == [
        "and then an on_stop hook raised ValueError('second')"
    ]
    assert seen[2:] == ["two stops", "one stops"]
    # As with the failure of a consumer, the error of the block is a note.
    with pytest.raises(ValueError, match="first") as caught:
        async with router.running():
            raise KeyError
    assert caught.value.__notes__[1:] == ["and then the block raised KeyError()"]


def fails(router: Router, word: str) -> None:
    @router.on_stop
    async def _() -> None:
        raise ValueError(word)


async def test_cancelling_a_run_cancels_on_start_and_calls_all_on_stop_hooks(
    url: str, stream: str
) -> None:
    seen: list[str] = []
    router = hooked(url, stream, seen)
    begun = asyncio.Event()

    @router.on_start
    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @router.on_stop
    async def slow() -> None:
        await asyncio.sleep(0.01)
        seen.append("slow stops")

    task = asyncio.ensure_future(router.run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[2:] == ["cancelled", "slow stops", "two stops", "one stops"]


async def test_on_stop_hooks_that_take_too_long_are_cancelled(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "STOP_TIMEOUT", 0.05)
    seen: list[str] = []
    router = hooked(url, stream, seen)

    @router.on_stop
    async def hang() -> None:
        await asyncio.Event().wait()

    await router.start()
    with pytest.raises(TimeoutError, match=r"have 0\.05 s together; .*hang was canc"):
        await router.aclose()
    assert seen[2:] == ["two stops", "one stops"]


async def test_hooks_of_an_included_router_are_called_once(
    url: str, stream: str
) -> None:
    seen: list[str] = []
    outer, inner = Router(url), hooked(url, stream, seen)
    add(outer, "outer", seen)
    outer.include(inner)
    async with outer.running():
        pass
    assert seen == [
        *("outer starts", "one starts", "two starts"),
        *("two stops", "one stops", "outer stops"),
    ]
    with pytest.raises(UsageError, match="add its hooks before that"):
        add(inner, "late", seen)


async def test_a_hook_that_could_not_be_called_is_refused(
    url: str, stream: str
) -> None:
    router = hooked(url, stream, [])

    async def needs(pool: object) -> None: ...

    def sync() -> None: ...

    wrong: Any = needs
    with pytest.raises(ConfigurationError, match="needs needs arguments"):
        router.on_start(wrong)
    wrong = sync
    with pytest.raises(ConfigurationError, match="sync is not async; write async def"):
        router.on_stop(wrong)
    async with router.running():
        with pytest.raises(UsageError, match="is running"):
            add(router, "late", [])
