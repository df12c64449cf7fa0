"""The checks of what the options of plans promise."""

from __future__ import annotations

from typing import Any

import pytest

from faults.checker import Group, check
from faults.history import Attempt, History, Note, Receipt, Start, digest
from simulation.checks import complete, findings
from simulation.plan import ConsumerPlan, Plan, ProducerPlan


def _plan(retry: dict[str, Any]) -> Plan:
    consumer = ConsumerPlan("c", "g", options={"dead_letters": "drop", "retry": retry})
    producer = ProducerPlan("p", options={"max_len": 30})
    return Plan(seed=1, consumers=(consumer,), producers=(producer,))


def _sent(at: float, message: str, id_: str) -> History:
    attempt = Attempt(at, "p.1", message=message, key="k", digest=digest(b"x"))
    return [attempt, Receipt(at, "p.1", message=message, shard=0, id=id_)]


def _start(at: float, who: str) -> Start:
    facts: dict[str, Any] = {"message": "m", "key": "k", "digest": "", "attempt": 1}
    return Start(at, who, group="g", shard=0, id="1-0", **facts)


def test_what_is_trimmed_is_excused_also_after_a_message_was_dropped() -> None:
    text = "event gave_up stream='orders' id=1-0 attempt=1 reason=x then=dropped"
    dropped, trimmed = _sent(1.0, "one", "1-0"), _sent(3.0, "two", "2-0")
    history = [*dropped, Note(2.0, "c.1", text=text), *trimmed]
    complete(_plan({}), history)
    report = check(history, [Group("g")])
    assert not report.findings, report
    assert report.excused == ["g: two 0 2-0"]


@pytest.mark.parametrize(("refused_at", "found"), [(0.0, 1), (1.0, 0), (1.4, 0)])
def test_starts_that_the_server_refused_to_count_are_no_attempts(
    refused_at: float, found: int
) -> None:
    refused = Note(refused_at, "c.1", text="event count_refused stream='orders'")
    history: History = [refused, _start(1.5, "c.1"), _start(9.0, "c.2")]
    assert len([*findings(_plan({"max_attempts": 1}), history)]) == found
