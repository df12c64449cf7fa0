"""Options, positions, and the checks of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import options
from penstock.durations import count, seconds
from penstock.errors import ConfigurationError
from penstock.message import EntryId
from penstock.options import (
    AutoCommit,
    Batch,
    Claim,
    Commit,
    Mode,
    Ordering,
    Prefetch,
    Start,
    after,
    choice,
    place,
)


def test_the_defaults_are_those_of_the_docstrings() -> None:
    assert Prefetch() == Prefetch(2000, max_bytes=64 * 1024 * 1024, max_wait=1.0)
    assert Commit() == Commit(interval=0.1, max_pending=1000, delay=5.0)
    assert Claim() == Claim(idle=60.0, interval=30.0)
    assert Claim(idle=5) == Claim(idle=5.0, interval=2.5)
    assert Claim(idle=300) == Claim(idle=300.0, interval=30.0)
    assert Batch() == Batch(size=100, linger=1.0)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, 0.0),
        (2, 2.0),
        (0.25, 0.25),
        (timedelta(milliseconds=1500), 1.5),
        (timedelta(0), 0.0),
    ],
)
def test_durations_are_seconds_or_a_timedelta_and_kept_as_float(
    duration: Any, expected: float
) -> None:
    result = seconds(duration, "linger")
    assert result == expected
    assert type(result) is float
    kept = Commit(interval=duration).interval
    assert kept == expected
    assert type(kept) is float


@pytest.mark.parametrize(
    "duration",
    [
        -1,
        -0.001,
        timedelta(seconds=-1),
        math.nan,
        math.inf,
        -math.inf,
        True,
        False,
        "1",
        b"1",
        None,
        1j,
        [],
    ],
)
def test_an_invalid_duration_is_refused_with_the_name_of_its_option(
    duration: Any,
) -> None:
    with pytest.raises(ConfigurationError, match=r"^linger=.* \(0 or more\)"):
        seconds(duration, "linger")
    with pytest.raises(ConfigurationError, match=r"^Commit\(interval\)="):
        Commit(interval=duration)
    with pytest.raises(ConfigurationError, match=r"^Commit\(delay\)="):
        Commit(delay=duration)
    with pytest.raises(ConfigurationError, match=r"^Prefetch\(max_wait\)="):
        Prefetch(max_wait=duration)
    with pytest.raises(ConfigurationError, match=r"^Claim\(idle\)="):
        Claim(idle=duration)
    if duration is None:
        assert Claim(interval=None).interval is None
        return
    with pytest.raises(ConfigurationError, match=r"^Claim\(interval\)="):
        Claim(interval=duration)


@pytest.mark.parametrize("duration", [0, 0.0, -0.0, timedelta(0)])
def test_a_duration_of_0_is_allowed_only_for_commit_and_batch(
    duration: Any,
) -> None:
    with pytest.raises(ConfigurationError, match="more than 0"):
        Prefetch(max_wait=duration)
    with pytest.raises(ConfigurationError, match="more than 0"):
        Claim(idle=duration)
    with pytest.raises(ConfigurationError, match="more than 0"):
        Claim(interval=duration)
    assert Commit(interval=duration).interval == 0
    assert Commit(delay=duration).delay == 0
    assert Batch(linger=duration).linger == 0


@given(st.floats(0, 1e9))
@settings(max_examples=100, deadline=None)
def test_any_number_from_0_up_to_some_decades_is_a_duration(number: float) -> None:
    assert seconds(number, "linger") == number


@pytest.mark.parametrize("number", [0, -1, 1.0, "1", None, True, math.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda number: Prefetch(max_messages=number),
        lambda number: Prefetch(max_bytes=number),
        lambda number: Commit(max_pending=number),
        lambda number: Batch(size=number),
    ],
)
def test_a_number_that_is_not_a_positive_integer_is_refused(
    make: Callable[[Any], object], number: Any
) -> None:
    with pytest.raises(ConfigurationError, match="whole number of at least 1"):
        make(number)


def test_the_minimum_of_a_whole_number_is_allowed() -> None:
    assert count(1, "concurrency") == 1
    assert count(0, "retries", least=0) == 0
    with pytest.raises(ConfigurationError, match=r"^retries=-1 .* of at least 0$"):
        count(-1, "retries", least=0)


@pytest.mark.parametrize("kind", [Mode, AutoCommit, Start, Ordering])
def test_an_enum_is_chosen_by_member_or_by_value(kind: Any) -> None:
    for member in kind:
        assert choice(kind, member, "option") is member
        assert choice(kind, member.value, "option") is member


@pytest.mark.parametrize("value", ["KEY", "", None, 1, [], Mode.REALTIME])
def test_an_unknown_choice_is_refused_with_a_list_of_the_choices(
    value: Any,
) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"^ordering=.* is unknown; choose one of 'none', 'key', 'shard'$",
    ):
        choice(Ordering, value, "ordering")


def test_a_long_wrong_value_is_cut_in_the_error() -> None:
    for refused in (
        lambda: choice(Ordering, "x" * 10_000, "ordering"),
        lambda: seconds("x" * 10_000, "linger"),  # type: ignore[arg-type]
        lambda: count("x" * 10_000, "concurrency"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError) as caught:
            refused()
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("option", "attribute"),
    [
        (Prefetch(), "max_messages"),
        (Commit(), "interval"),
        (Claim(), "idle"),
        (Batch(), "size"),
    ],
)
def test_options_are_frozen(option: object, attribute: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(option, attribute, 5)


@pytest.mark.parametrize("kind", [Mode, AutoCommit, Start])
def test_every_choice_has_a_short_name(kind: Any) -> None:
    for member in kind:
        assert getattr(options, member.name) is member
        assert member.name in options.__all__
        assert member.value == member.name.lower()


@pytest.mark.parametrize("linger", [2, 2.0, timedelta(seconds=2)])
def test_the_linger_of_a_batch_is_kept_as_float(linger: Any) -> None:
    kept = Batch(linger=linger).linger
    assert kept == 2.0
    assert type(kept) is float
    with pytest.raises(ConfigurationError, match=r"^Batch\(linger\)="):
        Batch(linger=-linger)


def test_the_max_wait_of_prefetch_is_kept_as_float() -> None:
    kept = Prefetch(max_wait=timedelta(minutes=1)).max_wait
    assert kept == 60.0
    assert type(kept) is float


# -- positions ---------------------------------------------------------------------

ID = EntryId(1678280595282, 7)
MOMENT = datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)


def test_after_an_entry_comes_the_next_possible_id() -> None:
    assert after(ID) == after(str(ID)) == EntryId(1678280595282, 8)
    assert after("5") == EntryId(5, 1)
    assert after(EntryId(5, 2**64 - 1)) == EntryId(6, 0)


@pytest.mark.parametrize("wrong", ["", "$", "5-", b"5-0", 5, None, Start.LATEST])
def test_after_refuses_an_invalid_id(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        after(wrong)


def test_no_position_comes_after_the_last_id() -> None:
    with pytest.raises(ConfigurationError):
        after(EntryId.MAX)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (Start.EARLIEST, Start.EARLIEST),
        (Start.LATEST, Start.LATEST),
        ("earliest", Start.EARLIEST),
        ("latest", Start.LATEST),
        (ID, ID),
        (str(ID), ID),
        ("5", EntryId(5, 0)),
        (MOMENT, MOMENT),
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), EntryId.MIN),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), EntryId.MIN),
    ],
)
def test_a_position_is_an_end_an_id_or_a_moment(at: Any, expected: object) -> None:
    assert place(at, "start") == expected


@pytest.mark.parametrize("wrong", ["EARLIEST", "$", "", b"5-0", 5, 5.0, None, []])
def test_an_invalid_position_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        place(wrong, "start")


def test_a_position_of_a_wrong_type_is_refused_with_the_name_of_its_option() -> None:
    with pytest.raises(ConfigurationError, match=r"^seek\(to\)=5 is not a position"):
        place(5, "seek(to)")  # type: ignore[arg-type]


def test_a_naive_datetime_is_not_a_position() -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        place(datetime(2024, 1, 1), "start")  # noqa: DTZ001 - the test is of this
