"""Readers that share the room that there is."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._tasks.reading.reader_pool import ReaderPool


class Waits:
    """A reader that may wait for room."""

    def __init__(self, *, waits: bool) -> None:
        self.is_waiting = waits
        self.rings = 0

    def resume(self) -> None:
        self.rings += 1


def readers(budget: int, waiting: Sequence[bool]) -> tuple[ReaderPool, list[Waits]]:
    nothing = cast("Any", SimpleNamespace())
    made = ReaderPool(
        nothing, nothing, budget=lambda *_: budget, spawn=nothing, make=nothing
    )
    each = [Waits(waits=waits) for waits in waiting]
    made._readers = cast("Any", {id(one): one for one in each})
    return made, each


@pytest.mark.parametrize(
    ("budget", "number", "share"), [(100, 1, 100), (100, 4, 25), (3, 4, 1), (0, 4, 0)]
)
def test_each_has_its_share_and_one_at_least(
    budget: int, number: int, share: int
) -> None:
    made, _ = readers(budget, [False] * number)
    assert made.budget() == share


def test_who_found_no_room_is_told_when_another_finds_some() -> None:
    """The ledger rings for the one that asked last, and that one had some."""
    made, each = readers(10, [False, True, False, True])
    made.budget()
    assert [one.rings for one in each] == [0, 1, 0, 1]


@pytest.mark.parametrize("waiting", [(True,), (False, True)])
def test_nobody_is_told_for_nothing(*, waiting: tuple[bool, ...]) -> None:
    made, each = readers(10 if len(waiting) == 1 else 0, waiting)
    made.budget()
    assert sum(one.rings for one in each) == 0
