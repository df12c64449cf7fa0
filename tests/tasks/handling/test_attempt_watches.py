"""Attempt watches: each is told once what has become of its entry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock._core.ledger.entry import Entry, ShardState
from penstock._core.ledger.failure_policy import DeadLettered, RetryAt
from penstock._tasks.handling import attempt_watches
from penstock._tasks.handling.attempt_watches import AttemptWatches
from penstock.message import Shard

LETTER = DeadLettered("why")
RETRY = RetryAt(1.0, 2.0)
ERROR = ValueError()


class Told(list[tuple[Any, ...]]):
    def __call__(self, *facts: Any) -> None:
        self.append(facts)


@pytest.fixture
def entry() -> Entry:
    return Entry(ShardState(Shard("s", 0, b"s")), b"1-1", (), 0, 1, 0.0)


@pytest.fixture
def told() -> Told:
    return Told()


async def test_a_retry_is_told_at_once(entry: Entry, told: Told) -> None:
    watches = AttemptWatches()
    watches.watch(entry, told)
    watches.decided(entry, RETRY, ERROR)
    watches.decided(entry, RETRY, ERROR)
    assert told == [(RETRY, ERROR, b"")]


async def test_a_dead_letter_is_told_with_its_id(entry: Entry, told: Told) -> None:
    watches = AttemptWatches()
    watches.watch(entry, told)
    watches.decided(entry, LETTER, ERROR)
    assert told == []
    watches.written(entry, b"8-1")
    watches.written(entry, b"9-1")
    assert told == [(LETTER, ERROR, b"8-1")]


async def test_where_no_letters_are_written_none_is_waited_for(
    entry: Entry, told: Told
) -> None:
    watches = AttemptWatches(letters=False)
    watches.watch(entry, told)
    watches.decided(entry, LETTER, ERROR)
    assert told == [(LETTER, ERROR, b"")]


async def test_what_was_decided_before_is_told(entry: Entry, told: Told) -> None:
    entry.disposition = RETRY
    AttemptWatches().watch(entry, told)
    assert told == [(RETRY, None, b"")]


async def test_a_watch_ends_with_what_is_known(
    entry: Entry, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_watches, "_PATIENCE", 0)
    watches = AttemptWatches()
    watches.watch(entry, told)
    await asyncio.sleep(0.01)
    assert told == [(None, None, b"")]
    watches.watch(entry, told)
    watches.decided(entry, LETTER, ERROR)
    await asyncio.sleep(0.01)
    assert told[1:] == [(LETTER, ERROR, b"")]


async def test_a_later_attempt_ends_the_watch_of_an_earlier_one(
    entry: Entry, told: Told
) -> None:
    watches, later = AttemptWatches(), Told()
    watches.watch(entry, told)
    watches.watch(entry, later)
    watches.decided(entry, RETRY, None)
    assert told == [(None, None, b"")]
    assert later == [(RETRY, None, b"")]


async def test_entries_that_nobody_watches_cost_nothing(entry: Entry) -> None:
    watches = AttemptWatches()
    watches.decided(entry, RETRY, None)
    watches.written(entry, b"8-1")
    assert not watches._watches
    assert not watches._decided
