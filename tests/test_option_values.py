"""The values of options: one grammar for durations, ids, times and positions."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from penstock import ConfigurationError, EntryId, Start
from penstock.cli._values import bound, duration, entry_id, position
from penstock.cli.app import app


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("250ms", 0.25),
        ("90s", 90),
        ("15m", 900),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1d12h0.5s", 129_600.5),
    ],
)
def test_a_duration_is_a_number_with_a_unit_or_several(
    text: str, seconds: float
) -> None:
    assert duration(text, "--max-age") == seconds


@pytest.mark.parametrize("text", ["7", "30", "0.5", "00", "900"])
def test_a_number_without_a_unit_is_answered_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        duration(text, "--max-age")
    assert str(caught.value) == (
        f"--max-age {text} has no unit; write {text}s, {text}m, {text}h or {text}d"
    )


@pytest.mark.parametrize(
    "text", ["", "d", "-1s", "1 d", "1y", "٣d", "1e5s", "7 days", "1h30", "inf", "1H"]
)
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--max-age .* is not a duration"):
        duration(text, "--max-age")


def test_a_duration_has_a_bound() -> None:
    assert duration("1d", "--grace", most=86_400) == 86_400
    with pytest.raises(ConfigurationError, match="86400s"):
        duration("25h", "--grace", most=86_400)
    with pytest.raises(ConfigurationError, match="too long"):
        duration("999999999999w", "--max-age")


@pytest.mark.parametrize("text", ["20260301", "5", "1772366400", "2026-03", "1999-12"])
@pytest.mark.parametrize("read", [entry_id, position, bound])
def test_what_may_be_a_date_is_no_id(
    read: Callable[[str, str], Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"--id .* could be a date or an id"):
        read(text, "--id")


def test_an_id_may_lack_its_sequence_number() -> None:
    assert entry_id("1772366400250", "--id") == EntryId(1772366400250)
    assert entry_id("5-1", "--id") == EntryId(5, 1)
    for text in ("", "1-2-3", "yesterday", "-1", "1772366400250-", "9" * 21):
        with pytest.raises(ConfigurationError, match="is not an id"):
            entry_id(text, "--id")


def test_a_position_is_an_end_an_id_a_time_or_an_age() -> None:
    assert position("earliest", "--from") is Start.EARLIEST
    assert position("latest", "--from") is Start.LATEST
    assert position("1772366400250-3", "--from") == EntryId(1772366400250, 3)
    assert position("after:1772366400250-3", "--from") == EntryId(1772366400250, 4)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for text in ("2026-03-01T12:00Z", "2026-03-01T13:00+01:00"):
        assert position(text, "--from") == noon
    before = datetime.now(UTC)
    ago = position("1h30m", "--from")
    assert isinstance(ago, datetime)
    after = datetime.now(UTC)
    assert before <= ago + timedelta(minutes=90) <= after


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("2026-03-01T12:00", "2026-03-01T12:00Z"),
        ("2026-03-01 12:00:05", "2026-03-01T12:00:05Z"),
        ("2026-03-01", "2026-03-01T00:00Z"),
    ],
)
def test_a_time_without_a_zone_is_answered_with_what_to_write(
    text: str, right: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        position(text, "--before")
    message = str(caught.value)
    assert message == f"--before {text} has no time zone; write {right} if it is UTC"
    assert "datetime" not in message


@given(st.one_of(st.datetimes(), st.dates()))
def test_the_advice_of_any_naive_time_can_be_pasted(moment: date) -> None:
    with pytest.raises(ConfigurationError) as caught:
        position(moment.isoformat(), "--before")
    advice = re.search(r"write (\S+) if", str(caught.value))
    assert advice is not None
    found = position(advice[1], "--before")
    assert isinstance(found, datetime)
    expected = (
        moment
        if isinstance(moment, datetime)
        else datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    )
    assert found == expected.replace(tzinfo=UTC)


@given(st.text())
def test_any_text_is_a_position_or_refused_with_the_name_of_the_option(
    text: str,
) -> None:
    refusal = ""
    try:
        position(text, "--before")
    except ConfigurationError as error:
        refusal = str(error)
    assert not refusal or refusal.startswith("--before ")


@pytest.mark.parametrize("text", ["earliest", "latest"])
def test_a_bound_must_not_select_everything_or_nothing(text: str) -> None:
    with pytest.raises(ConfigurationError, match="selects all or nothing"):
        bound(text, "--before")


OPTIONS = [
    (["trim", "orders", "--max-age"], "7", "7d"),
    (["trim", "orders", "--acked", "--ignore-idle"], "3", "3d"),
    (["trim", "orders", "--before"], "2026-03-01T12:00", "2026-03-01T12:00Z"),
    (["trim", "orders", "--before"], "20260301", "2026-03-01T12:00Z"),
    (["run", "app", "--grace"], "30", "30s"),
    (["dead", "purge", "orders", "--before"], "2026-03-01", "2026-03-01T00:00Z"),
    (["dead", "purge", "orders", "--id"], "20260301", "1772366400250-0"),
    (["dead", "redrive", "orders", "--id"], "20260301", "1772366400250-0"),
    (["dead", "list", "orders", "--after"], "20260301", "1772366400250-0"),
    (["dead", "show", "orders"], "20260301", "1772366400250-0"),
]


@pytest.mark.parametrize(("command", "wrong", "right"), OPTIONS)
def test_every_option_of_every_command_is_read_alike(
    command: list[str], wrong: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is connected to."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    result = CliRunner().invoke(app, [*command, wrong])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert f"{wrong} " in line
    assert right in line
