"""Read budget: which readers are woken, and when."""

from __future__ import annotations

from typing import Any, cast

from penstock._tasks.reading.read_budget import ReadBudget, ReaderBudget


class FakeFlow:
    """A flow control whose budget is what a test says."""

    def __init__(self, budget: int, *, fits: int = 0) -> None:
        self.budget = budget
        self.fits = fits
        self.capacity = 2000

    def read_budget(self, _: float) -> int:
        return self.budget


class Readers:
    """Readers that share a budget, and note whether they were woken."""

    def __init__(self, number: int, budget: int, *, fits: int = 0) -> None:
        self.flow = FakeFlow(budget, fits=fits)
        self.suspended = False
        self.shared = ReadBudget(cast("Any", self.flow), lambda: self.suspended)
        self.woken: list[int] = []
        self.each = [self._join(index) for index in range(number)]

    def _join(self, index: int) -> ReaderBudget:
        return self.shared.join(lambda: self.woken.append(index))

    def read(self, *indexes: int) -> None:
        """Have readers receive as much as they requested."""
        for index in indexes:
            self.each[index].ask()
            self.each[index].used(full=True, left=0)
            self.each[index].give_back()
        self.woken.clear()


def test_readers_with_a_budget_of_0_are_woken_when_another_reader_has_a_budget() -> (
    None
):
    """The ledger wakes the reader that asked last, and that one had a budget."""
    readers = Readers(4, 0)
    assert [readers.each[index].ask() for index in (1, 3)] == [0, 0]
    readers.flow.budget = 10
    assert readers.each[0].ask() == 3
    assert readers.woken == [1, 3]


def test_readers_without_a_budget_are_woken_once_when_there_is_capacity() -> None:
    readers = Readers(3, 0)
    for each in readers.each:
        each.ask()
    readers.shared.resume()
    readers.shared.resume()
    assert readers.woken == [0, 1, 2]


def test_no_reader_is_woken_without_a_reason() -> None:
    readers = Readers(3, 10)
    for each in readers.each:
        each.ask()
    readers.shared.resume()
    assert readers.woken == []


def test_only_the_readers_whose_turn_it_is_are_woken_when_there_is_capacity() -> None:
    readers = Readers(64, 2000)
    readers.read(*range(64))
    readers.flow.budget = 0
    assert [each.ask() for each in readers.each] == [0] * 64
    readers.flow.budget = 1000
    readers.shared.resume()
    assert readers.woken == [0, 1]
    assert [each.ask() for each in readers.each[:2]] == [500, 500]
    assert readers.each[0].is_turn
    assert not readers.each[2].is_turn


def test_the_end_of_a_turn_wakes_the_next_reader() -> None:
    readers = Readers(3, 8)
    readers.read(0, 1, 2)
    assert [each.ask() for each in readers.each] == [4, 4, 0]
    readers.each[1].give_back()
    assert readers.woken == [2]
    assert readers.each[2].ask() == 4


def test_a_reader_without_a_turn_gives_nothing_back() -> None:
    readers = Readers(3, 8)
    readers.read(0, 1, 2)
    for each in readers.each:
        each.ask()
    readers.each[2].give_back()
    assert readers.woken == []


def test_a_reader_that_leaves_makes_room_for_the_next() -> None:
    readers = Readers(3, 8)
    readers.read(0, 1, 2)
    for each in readers.each:
        each.ask()
    readers.each[0].leave()
    assert readers.woken == [2]


def test_a_reader_that_waits_wakes_the_one_that_has_waited_longer() -> None:
    """There may be a budget by then that the ledger has told nobody of."""
    readers = Readers(3, 8)
    readers.read(0, 1)
    readers.flow.budget = 0
    readers.each[0].ask()
    readers.flow.budget = 1
    assert readers.each[1].ask() == 0
    assert readers.woken == [0]


def test_what_the_last_request_could_have_brought_is_read_although_it_is_little() -> (
    None
):
    readers = Readers(1, 100, fits=30)
    [reader] = readers.each
    assert reader.ask() == 100
    reader.used(full=True, left=60)
    readers.flow.budget = 0
    assert reader.ask() == 30
    assert reader.ask() == 0


def test_a_consumer_that_is_suspended_reads_nothing() -> None:
    readers = Readers(1, 100)
    readers.suspended = True
    assert readers.each[0].ask() == 0
