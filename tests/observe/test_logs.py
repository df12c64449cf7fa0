"""Logs as JSON: what each line holds."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import EntryId, Event
from penstock.events import log_event
from penstock.observe.logs import JsonFormatter


class Lines(logging.Handler):
    """Keeps what the formatter makes of records."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def last(self) -> dict[str, Any]:
        line = self.lines[-1]
        assert "\n" not in line
        found: dict[str, Any] = json.loads(line)
        return found


@pytest.fixture
def lines() -> Any:
    handler = Lines()
    logger = logging.getLogger("penstock")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def record(**attributes: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.INFO, "", 1, "sold %d", (3,), None)
    made.__dict__.update(attributes)
    return made


def test_a_record_of_an_event_has_its_facts_as_fields(lines: Lines) -> None:
    facts = {"stream": "orders", "messages": 2, "ids": ("1-0", "2-0"), "after": None}
    log_event(Event("lease_lost", logging.ERROR, facts))
    found = lines.last
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "ERROR",
        "logger": "penstock",
        "message": "lease_lost stream='orders' messages=2 ids=1-0,2-0 after=None",
        "event": "lease_lost",
        "pid": os.getpid(),
        "stream": "orders",
        "messages": 2,
        "ids": ["1-0", "2-0"],
        "after": None,
    }


def test_a_record_of_another_logger_has_its_message_and_its_traceback() -> None:
    empty: dict[str, int] = {}
    try:
        empty["x"] += 1
    except KeyError as error:
        info = (KeyError, error, error.__traceback__)
    found = json.loads(JsonFormatter().format(record(exc_info=info)))
    assert found["message"] == "sold 3"
    assert found["logger"] == "shop"
    assert found["traceback"].endswith("KeyError: 'x'")
    assert "event" not in found


def test_the_time_is_in_utc_to_the_millisecond() -> None:
    found = json.loads(JsonFormatter().format(record(created=1772358000.2519)))
    assert found["ts"] == "2026-03-01T09:40:00.251Z"


def test_a_worker_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_WORKER", "3")
    assert json.loads(JsonFormatter().format(record()))["worker"] == 3
    monkeypatch.setenv("PENSTOCK_WORKER", "x")
    assert "worker" not in json.loads(JsonFormatter().format(record()))


def test_a_fact_never_replaces_another_field() -> None:
    found = json.loads(JsonFormatter().format(record(facts={"level": 9, "pid": 8})))
    assert (found["level"], found["level_"], found["pid_"]) == ("INFO", 9, 8)


def test_values_of_other_types_are_written_as_their_text() -> None:
    found = json.loads(JsonFormatter().format(record(facts={"id": EntryId(7)})))
    assert found["id"] == "7-0"


FACTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(),
    lambda each: st.lists(each, max_size=3).map(tuple),
    max_leaves=4,
)


@given(facts=st.dictionaries(st.text(), FACTS, max_size=4), text=st.text())
def test_any_record_becomes_one_line_of_json(facts: dict[str, Any], text: str) -> None:
    line = JsonFormatter().format(record(msg=text, args=(), facts=facts))
    assert "\n" not in line
    assert set(json.loads(line)) >= {"ts", "level", "logger", "message", "pid"}


def test_a_record_in_a_span_has_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    format_ = JsonFormatter().format
    trace = pytest.importorskip("opentelemetry.trace")
    assert "trace_id" not in json.loads(format_(record()))
    context = trace.SpanContext(0xABC, 0xDEF, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        found = json.loads(format_(record()))
        assert (found["trace_id"], found["span_id"]) == (
            f"{'abc':0>32}",
            f"{'def':0>16}",
        )
        # Nothing is imported for it.
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert "trace_id" not in json.loads(format_(record()))
        assert "opentelemetry.trace" not in sys.modules
