"""Events: their text, log records and hooks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events import Event, guarded, log_event, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("", ""),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("nul\x00", r"nul\x00"),
        ("tab\there", r"tab\there"),
        ("für", r"f\xfcr"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\U0001f600", r"\U0001f600"),
        ("\ud800", r"\ud800"),
        (r"back\n", r"back\\n"),
        (b"bytes\xff\n", r"bytes\\xff\n"),
        ("für".encode(), r"f\xfcr"),
        ("\x7f\x85\x9b", r"\x7f\x85\x9b"),
    ],
)
def test_characters_that_do_not_belong_in_a_log_line_are_escaped(
    text: str | bytes, shown: str
) -> None:
    assert printable(text) == shown


@given(st.text() | st.binary(), st.integers(3, 300))
@settings(max_examples=200, deadline=None)
def test_any_text_becomes_one_short_line_of_ascii(
    text: str | bytes, limit: int
) -> None:
    shown = printable(text, limit)
    assert shown.isascii()
    assert shown.isprintable() or not shown
    assert len(shown) <= limit


def test_a_text_that_is_too_long_is_cut_and_one_that_just_fits_is_not() -> None:
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 197 + "..."
    assert printable("\n" * 100) == r"\n" * 100
    assert printable("\n" * 101).endswith("...")
    assert printable("abcdef", 5) == "ab..."


class Huge(str):
    """Text that must not be escaped as a whole; its slices are plain text."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        pytest.fail(f"{len(self)} characters are encoded as {encoding}, {errors}")


@pytest.mark.parametrize("unit", ["x", "\x1b", "\U0001f600"])
def test_ten_megabytes_are_cut_before_they_are_escaped(unit: str) -> None:
    shown = printable(Huge(unit * 10_000_000))
    assert shown.endswith("...")
    assert len(shown) == 200


def test_an_event_is_shown_as_its_name_and_its_facts() -> None:
    assert str(Event("closed")) == "closed"
    event = Event("connection_lost", facts={"address": "host:1", "failures": 3})
    assert str(event) == "connection_lost address=host:1 failures=3"
    assert event.level == logging.WARNING
    assert event.error is None


def test_events_are_values() -> None:
    assert Event("a", facts={"n": 1}) == Event("a", facts={"n": 1})
    assert Event("a").facts == {}
    with pytest.raises(AttributeError):
        Event("a").name = "b"  # type: ignore[misc]


def test_an_event_is_one_log_record_without_the_text_of_the_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = ValueError("the payload")
    # The name is unique: records of one name are counted over the whole process.
    log_event(Event("logged_by_this_test", logging.ERROR, {"id": "1-1"}, error))
    [record] = caplog.records
    assert record.name == "penstock"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "logged_by_this_test id=1-1"
    assert record.exc_info is None


def test_a_hook_receives_the_events() -> None:
    received: list[Event] = []
    guarded(received.append)(Event("closed"))
    assert received == [Event("closed")]


def test_a_hook_that_raises_has_no_effect_and_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def hook(event: Event) -> None:
        raise ValueError(f"the payload of {event}")

    guarded(hook)(Event("handler_failed"))
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "on_event raised ValueError for handler_failed"
    assert record.exc_info is None


def test_a_hook_may_end_the_program() -> None:
    def hook(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(hook)(Event("closed"))


def test_repeated_events_are_logged_five_times_a_second(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    now, make = 1000.0, logging.getLogRecordFactory()

    def made(*args: Any, **more: Any) -> logging.LogRecord:
        record = make(*args, **more)
        record.created = now
        return record

    logging.setLogRecordFactory(made)
    request.addfinalizer(lambda: logging.setLogRecordFactory(make))
    for number in range(8):
        log_event(Event("flooding", facts={"n": number}))
    log_event(Event("another"))
    now = 1001.5
    log_event(Event("flooding", facts={"n": 8}))
    log_event(Event("flooding", facts={"n": 9}))
    now = 5.0  # the wall clock has jumped back
    log_event(Event("flooding", facts={"n": 10}))
    assert [record.getMessage() for record in caplog.records] == [
        *(f"flooding n={number}" for number in range(5)),
        "another",
        "flooding n=8 left_out=3",
        "flooding n=9",
        "flooding n=10",
    ]


def test_other_records_of_the_logger_are_left_unchanged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(20):
        logging.getLogger("penstock").warning("mine")
    assert len(caplog.records) == 20
