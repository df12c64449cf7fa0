"""Context variables: what a handler sets is not seen by the next one."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from penstock import Consumer, Message
from penstock._tasks.handling.context_variables import Snapshot, _table
from support.failing import handled, running
from support.waiting import eventually, send

LIST: ContextVar[list[int]] = ContextVar("LIST")
ARRAY: ContextVar[Any] = ContextVar("ARRAY")


@pytest.mark.parametrize("batch", [None, 1])
async def test_an_equal_list_that_a_handler_has_set_does_not_remain(
    url: str, stream: str, redis: Any, batch: int | None
) -> None:
    original: list[int] = []
    LIST.set(original)
    seen: list[bool] = []

    async def handle(_: Any) -> None:
        seen.append(LIST.get() is original)
        LIST.set([])

    await send(url, stream, *range(20))
    async with running(Consumer(stream, url=url, group="g"), handle, batch=batch):
        await eventually(lambda: handled(redis, stream, 20))
    assert len(seen) == 20
    assert all(seen)


class Array:
    """Compares like numpy's arrays, with a result that has no truth value."""

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = object.__hash__


@pytest.mark.parametrize("given", [False, True])
async def test_a_value_that_can_t_be_compared_does_not_stop_the_consumer(
    url: str, stream: str, redis: Any, *, given: bool
) -> None:
    original = Array()
    if given:
        ARRAY.set(original)
    seen: list[Any] = []

    async def handle(_: Message[bytes]) -> None:
        seen.append(ARRAY.get(None))
        ARRAY.set(Array())

    async with running(Consumer(stream, url=url, group="g"), handle):
        await send(url, stream, *range(5))
        await eventually(lambda: handled(redis, stream, 5))
    assert len(seen) == 5
    assert all(each is (original if given else None) for each in seen)


def changes(*, given: bool, then: Any) -> bool:
    def look() -> bool:
        if given:
            LIST.set([])
        snapshot = Snapshot()
        then()
        return snapshot.changed()

    return copy_context().run(look)


def sets_and_resets() -> None:
    LIST.reset(LIST.set([]))


def sets_the_same() -> None:
    LIST.set(LIST.get([]))


def sets_another() -> None:
    LIST.set([])


def sets_more() -> None:
    ARRAY.set(1)


@pytest.mark.parametrize(
    ("given", "then", "changed"),
    [
        (False, lambda: None, False),
        (True, lambda: None, False),
        (False, sets_and_resets, False),
        (True, sets_and_resets, False),
        (True, sets_the_same, False),
        (False, sets_another, True),
        (True, sets_another, True),
        (True, sets_more, True),
    ],
)
def test_a_context_has_changed_if_a_variable_has_another_object(
    given: bool,  # noqa: FBT001
    then: Any,
    changed: bool,  # noqa: FBT001
) -> None:
    assert changes(given=given, then=then) is changed


async def test_an_unchanged_context_is_recognized_without_comparing_values() -> None:
    """The garbage collector knows the table; without it, each value is compared."""
    LIST.set([])
    assert _table(copy_context()) is _table(copy_context()) is not None
    LIST.set([])
    before = _table(copy_context())
    await asyncio.sleep(0)
    assert before is _table(copy_context())
