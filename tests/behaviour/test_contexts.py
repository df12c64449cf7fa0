"""What a handler leaves in context variables, the next one doesn't see."""

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
async def test_an_equal_list_of_its_own_doesn_t_stay(
    url: str, stream: str, redis: Any, batch: int | None
) -> None:
    ours: list[int] = []
    LIST.set(ours)
    seen: list[bool] = []

    async def handle(_: Any) -> None:
        seen.append(LIST.get() is ours)
        LIST.set([])

    await send(url, stream, *range(20))
    async with running(Consumer(stream, url=url, group="g"), handle, batch=batch):
        await eventually(lambda: handled(redis, stream, 20))
    assert len(seen) == 20
    assert all(seen)


class Array:
    """Compares as numpy's arrays do: to something that is no truth."""

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = object.__hash__


@pytest.mark.parametrize("given", [False, True])
async def test_a_value_that_can_t_be_compared_ends_nothing(
    url: str, stream: str, redis: Any, *, given: bool
) -> None:
    ours = Array()
    if given:
        ARRAY.set(ours)
    seen: list[Any] = []

    async def handle(_: Message[bytes]) -> None:
        seen.append(ARRAY.get(None))
        ARRAY.set(Array())

    async with running(Consumer(stream, url=url, group="g"), handle):
        await send(url, stream, *range(5))
        await eventually(lambda: handled(redis, stream, 5))
    assert len(seen) == 5
    assert all(each is (ours if given else None) for each in seen)


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
def test_a_change_is_a_value_that_is_another_one(
    given: bool,  # noqa: FBT001
    then: Any,
    changed: bool,  # noqa: FBT001
) -> None:
    assert changes(given=given, then=then) is changed


async def test_an_unchanged_context_is_known_without_looking_at_its_values() -> None:
    """Python tells the collector of the table; if not, each value is looked at."""
    LIST.set([])
    assert _table(copy_context()) is _table(copy_context()) is not None
    LIST.set([])
    before = _table(copy_context())
    await asyncio.sleep(0)
    assert before is _table(copy_context())
