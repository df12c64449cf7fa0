"""What a consumer makes of replies about its group that a spoilt byte has bent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.test_ledger import A
from penstock._link.link import Line
from penstock._tasks.membership import Membership, floors

GROUPS = [{b"name": b"g", b"consumers": 1, b"pending": 0, b"last-delivered-id": b"7-0"}]
MEMBER = cast("Membership", SimpleNamespace(group="g", name="c"))


async def floor(groups: Any, summary: Any) -> bytes | None:
    async def calls(_: Any) -> list[Any]:
        return [groups, summary]

    line = cast("Line", SimpleNamespace(calls=calls))
    [found] = await floors(line, MEMBER, [A])
    return found


async def test_a_floor_is_below_the_lowest_pending_or_the_last_delivered() -> None:
    assert await floor(GROUPS, [2, b"5-3", b"6-0", []]) == b"5-2"
    assert await floor(GROUPS, [0, None, None, None]) == b"7-0"


@pytest.mark.parametrize(
    ("groups", "summary"),
    [
        (GROUPS, [2, {b"5-3": b"6-0"}, []]),
        (GROUPS, [2, b"5-x", b"6-0", []]),
        (GROUPS, [2]),
        (GROUPS, 7),
        (GROUPS, b"OK"),
        ([{b"name": b"g"}], [0, None, None, None]),
        ([b"name"], [0, None, None, None]),
        (None, [0, None, None, None]),
    ],
)
async def test_what_makes_no_sense_tells_no_floor_and_ends_nothing(
    groups: Any, summary: Any
) -> None:
    assert await floor(groups, summary) is None
