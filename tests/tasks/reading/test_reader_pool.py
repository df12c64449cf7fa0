"""Reader pool: readers that share one read budget."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._tasks.reading.reader_pool import ReaderPool


class FakeReader:
    """A reader that may wait for a read budget."""

    def __init__(self, *, waits: bool) -> None:
        self.is_waiting = waits
        self.signals = 0

    def resume(self) -> None:
        self.signals += 1


def readers(
    budget: int, waiting: Sequence[bool]
) -> tuple[ReaderPool, list[FakeReader]]:
    nothing = cast("Any", SimpleNamespace())
    made = ReaderPool(
        nothing, nothing, budget=lambda *_: budget, spawn=nothing, make=nothing
    )
    each = [FakeReader(waits=waits) for waits in waiting]
    made._readers = cast("Any", {id(one): one for one in each})
    return made, each


@pytest.mark.parametrize(
    ("budget", "number", "share"), [(100, 1, 100), (100, 4, 25), (3, 4, 1), (0, 4, 0)]
)
def test_each_reader_has_an_equal_share_and_at_least_one_entry(
    budget: int, number: int, share: int
) -> None:
    made, _ = readers(budget, [False] * number)
    assert made.budget() == share


def test_readers_with_a_budget_of_0_are_woken_when_another_reader_has_a_budget() -> (
    None
):
    """The ledger wakes the reader that asked last, and that one had a budget."""
    made, each = readers(10, [False, True, False, True])
    made.budget()
    assert [one.signals for one in each] == [0, 1, 0, 1]


@pytest.mark.parametrize("waiting", [(True,), (False, True)])
def test_no_reader_is_woken_without_a_reason(*, waiting: tuple[bool, ...]) -> None:
    made, each = readers(10 if len(waiting) == 1 else 0, waiting)
    made.budget()
    assert sum(one.signals for one in each) == 0
