"""Trimmed entries: only entries trimmed before their delivery are counted."""

from __future__ import annotations

import pytest

from penstock._core.protocol.replies import GroupInfo
from penstock._core.reading.trimmed_entries import TrimmedEntries
from penstock.message import EntryId


def group(last: int, read: int | None, consumers: int = 1) -> GroupInfo:
    return GroupInfo(b"g", consumers, 0, b"%d-0" % last, None, read)


def checked_once(received: int = 5) -> TrimmedEntries:
    """Return a counter after its first check, with so many entries received."""
    trimmed = TrimmedEntries()
    trimmed.received = received
    assert trimmed.look(group(5, 5), 0.0) == 0
    return trimmed


def test_entries_delivered_to_the_group_and_not_to_its_consumer_were_trimmed() -> None:
    trimmed = checked_once()
    trimmed.received += 2
    assert trimmed.look(group(50, 50), 1.0) == 43
    assert trimmed.since == EntryId(5)
    trimmed.received += 1
    assert trimmed.look(group(51, 51), 2.0) == 0, "each entry is counted once"


def test_a_new_group_has_no_delivered_entries() -> None:
    trimmed = TrimmedEntries()
    assert trimmed.look(group(0, None, consumers=0), 0.0) == 0
    trimmed.received = 2
    assert trimmed.look(group(9, 9), 1.0) == 7


@pytest.mark.parametrize(
    ("first", "then", "at"),
    [
        pytest.param(group(5, 5), group(50, None), 1.0, id="not known"),
        pytest.param(group(5, None), group(50, 50), 1.0, id="not known before"),
        pytest.param(group(5, 5), group(50, 50, 2), 1.0, id="two consumers"),
        pytest.param(group(5, 5, 2), group(50, 50), 1.0, id="two before"),
        pytest.param(group(5, 5), group(50, 50), 5.1, id="too long ago"),
        pytest.param(group(50, 50), group(5, 5), 1.0, id="rewound"),
    ],
)
def test_entries_that_other_consumers_may_have_read_are_not_counted(
    first: GroupInfo, then: GroupInfo, at: float
) -> None:
    trimmed = TrimmedEntries()
    trimmed.received = 5
    assert trimmed.look(first, 0.0) == 0
    assert trimmed.look(then, at) == 0


def test_a_consumer_without_deliveries_is_not_counted_as_a_consumer_of_the_group() -> (
    None
):
    trimmed = TrimmedEntries()
    assert trimmed.look(group(5, 5), 0.0) == 0
    trimmed.received = 1
    assert trimmed.look(group(9, 9), 1.0) == 0


def test_after_a_reset_counting_starts_again() -> None:
    trimmed = checked_once()
    trimmed.reset()
    assert trimmed.look(group(50, 50), 1.0) == 0
