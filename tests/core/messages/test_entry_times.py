"""Times of entries: which ids are times."""

from __future__ import annotations

import pytest

from penstock._core.messages.entry_times import milliseconds

NOW = 1_700_000_000_000
DAY = 86_400_000


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (NOW, NOW),
        (NOW + DAY, NOW + DAY),
        (NOW + DAY + 1, None),
        (10**11, 10**11),
        (10**11 - 1, None),
        (7, None),
        (NOW * 10**6 + 999_999, NOW),
        (10**17 - 1, None),
        (2**64 - 1, None),
    ],
)
def test_an_id_is_a_time_from_1973_to_a_day_ahead(
    number: int, expected: int | None
) -> None:
    assert milliseconds(number, NOW) == expected
