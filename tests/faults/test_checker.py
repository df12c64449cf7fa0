"""The checker: it finds each kind of error, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.checker import Findings, Group, check
from faults.history import (
    Acked,
    Attempt,
    DeadLettered,
    End,
    Excuse,
    Failed,
    History,
    Note,
    Pending,
    Receipt,
    Start,
    Stored,
    Unknown,
    digest,
    dump,
    load,
)


class Scenario:
    """A history that is built step by step; each step takes a second."""

    def __init__(self) -> None:
        self.history: History = []
        self.now = 0.0

    def add(self, kind: Any, who: str = "w", **facts: Any) -> None:
        self.now += 1
        self.history.append(kind(at=self.now, who=who, **facts))

    def send(self, number: int, key: str = "k") -> None:
        self.attempt(number, key)
        self.add(Receipt, "s", message=f"m{number}", shard=0, id=f"{number}-0")

    def attempt(self, number: int, key: str = "k") -> None:
        body = digest(b"%d" % number)
        self.add(Attempt, "s", message=f"m{number}", key=key, digest=body)

    def start(self, number: int, who: str = "w", **changes: Any) -> None:
        facts = {"key": "k", "message": f"m{number}", "attempt": 1}
        facts |= {"digest": digest(b"%d" % number), "id": f"{number}-0", **changes}
        self.add(Start, who, group="g", shard=0, **facts)

    def end(self, number: int, who: str = "w", **changes: Any) -> None:
        facts = {"ok": True, **changes}
        self.add(End, who, group="g", shard=0, id=f"{number}-0", **facts)

    def handle(self, number: int, who: str = "w", **changes: Any) -> None:
        self.start(number, who, **changes)
        self.end(number, who)

    def ack(self, *numbers: int) -> None:
        self.add(Acked, "o", group="g", shard=0, ids=[f"{n}-0" for n in numbers])

    def store(self, number: int, **changes: Any) -> None:
        facts = {"id": f"{number}-0", "message": f"m{number}", "key": "k"}
        facts |= {"digest": digest(b"%d" % number), **changes}
        self.add(Stored, "o", shard=0, **facts)

    def dead_letter(self, number: int, **changes: Any) -> None:
        facts = {"message": f"m{number}", "digest": digest(b"%d" % number), **changes}
        self.add(DeadLettered, "o", group="g", shard=0, id=f"{number}-0", **facts)

    def excuse(self, *what: str, ids: tuple[str, ...] = ()) -> None:
        self.add(Excuse, "o", since=self.now, what=[*what], ids=[*ids])


def found(scenario: Scenario, **group: Any) -> dict[str, int]:
    """Return the numbers of findings by their kind."""
    findings = check(scenario.history, [Group("g", **group)]).findings
    counts = {each.name: len(getattr(findings, each.name)) for each in fields(findings)}
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def scenario() -> Scenario:
    return Scenario()


def test_a_run_without_errors_has_no_findings(scenario: Scenario) -> None:
    for number in (1, 2):
        scenario.send(number)
        scenario.handle(number)
    scenario.ack(1, 2)
    report = check(scenario.history, [Group("g", order="shard")])
    assert not report.findings
    assert str(report.findings) == "nothing"
    assert (report.attempted, report.confirmed, report.handled) == (2, 2, 2)


def test_a_message_that_was_confirmed_and_never_handled_is_lost(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    assert found(scenario) == {"lost": 1}
    assert "lost: 1, first: g: m1 0 1-0" in str(check(scenario.history, [Group("g")]))


def test_a_message_that_is_stored_without_a_receipt_may_not_be_lost_either(
    scenario: Scenario,
) -> None:
    scenario.attempt(1)
    scenario.store(1)
    assert found(scenario) == {"lost": 1}


def test_a_message_whose_handler_only_started_is_lost(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.start(1)
    assert found(scenario) == {"lost": 1}


def test_a_message_whose_handler_only_failed_is_lost(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.start(1)
    scenario.end(1, ok=False)
    assert found(scenario) == {"lost": 1}


def test_a_message_that_waits_at_the_end_is_not_reported_as_lost(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.add(Pending, "o", group="g", shard=0, id="1-0")
    assert found(scenario) == {"waiting": 1}


def test_dead_letters_are_not_lost(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.dead_letter(1)
    assert found(scenario) == {}


def test_a_message_that_was_sent_before_the_group_need_not_be_handled(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    assert found(scenario, since=5.0) == {}


@pytest.mark.parametrize(
    "changes", [{"message": "m2"}, {"digest": "other"}, {"key": "other"}]
)
def test_a_message_that_was_never_sent_like_that_is_a_phantom(
    scenario: Scenario, changes: dict[str, str]
) -> None:
    scenario.attempt(1)
    scenario.handle(1, **changes)
    assert found(scenario).pop("phantom") == 1


def test_a_changed_entry_or_dead_letter_is_a_phantom(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.handle(1)
    scenario.store(1, digest="other")
    scenario.dead_letter(2)
    assert found(scenario) == {"phantom": 2}


def test_a_failed_message_may_not_be_stored(scenario: Scenario) -> None:
    scenario.attempt(1)
    scenario.add(Failed, "s", message="m1", code="OOM")
    assert found(scenario) == {}
    scenario.store(1)
    assert found(scenario) == {"phantom": 1, "lost": 1}


def test_an_unknown_message_may_not_have_a_receipt(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.handle(1)
    scenario.add(Unknown, "s", message="m1")
    assert found(scenario) == {"phantom": 1}


def test_one_attempt_may_not_be_stored_twice(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.handle(1)
    scenario.store(1, id="9-0")
    # And nobody has handled the second one.
    assert found(scenario) == {"doubled": 1, "lost": 1}


def test_an_ack_before_the_handler_s_end_is_early(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.start(1)
    scenario.ack(1)
    scenario.end(1)
    assert found(scenario) == {"acked_early": 1}


def test_an_ack_of_a_dead_letter_is_not_early(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.ack(1)
    scenario.dead_letter(1)
    assert found(scenario) == {}


@pytest.mark.parametrize(("order", "other"), [("shard", "x"), ("key", "k")])
def test_a_message_that_starts_after_a_later_one_is_out_of_order(
    scenario: Scenario, order: str, other: str
) -> None:
    scenario.send(1)
    scenario.send(2, other)
    scenario.handle(2, key=other)
    scenario.handle(1)
    assert found(scenario, order=order) == {"reordered": 1}
    assert found(scenario) == {}


def test_other_keys_and_second_starts_need_not_be_in_order(scenario: Scenario) -> None:
    for number, key in ((1, "k"), (2, "x"), (3, "k")):
        scenario.send(number, key)
    scenario.handle(2, key="x")
    scenario.handle(1)
    scenario.handle(3)
    scenario.handle(1, "other")
    assert found(scenario, order="key") == {}


def test_two_messages_of_a_lane_may_not_run_at_a_time(scenario: Scenario) -> None:
    for number in (1, 2):
        scenario.send(number)
        scenario.start(number)
    for number in (1, 2):
        scenario.end(number)
    assert found(scenario, order="key within") == {"overlapped": 1}


def test_two_messages_of_a_lane_may_run_in_two_processes(scenario: Scenario) -> None:
    for number, who in ((1, "w1"), (2, "w2")):
        scenario.send(number)
        scenario.start(number, who)
    for number, who in ((1, "w1"), (2, "w2")):
        scenario.end(number, who)
    assert found(scenario, order="key within") == {}


def test_a_process_may_not_handle_a_message_again(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.handle(1)
    scenario.handle(1)
    assert found(scenario) == {"rerun": 1}


def test_a_process_may_handle_a_message_again_that_others_had_in_between(
    scenario: Scenario,
) -> None:
    """The lease ended while the outcome could not be sent."""
    scenario.send(1)
    scenario.handle(1, "w1")
    at = scenario.history[-1].at
    scenario.history.append(Note(at=at + 0.001, who="w2", text="event lease_lost x=1"))
    scenario.handle(1, "w1")
    assert found(scenario) == {"rerun": 1}
    scenario.history.append(Note(at=at + 0.001, who="w1", text="event lease_lost x=1"))
    assert found(scenario) == {}


def test_a_process_may_handle_a_message_again_that_another_of_its_consumers_claims(
    scenario: Scenario,
) -> None:
    """The first one could not acknowledge it during its lease."""
    scenario.send(1)
    scenario.handle(1)
    at = scenario.history[-1].at
    scenario.handle(1)
    assert found(scenario, several=True) == {"rerun": 1}
    scenario.history.append(Note(at=at + 0.001, who="w", text="event claimed x=1"))
    assert found(scenario, several=True) == {}
    assert found(scenario) == {"rerun": 1}


def test_a_process_may_handle_a_message_again_of_a_stream_that_was_recreated(
    scenario: Scenario,
) -> None:
    """Outcomes of the previous stream are dropped, which is reported."""
    scenario.send(1)
    scenario.handle(1, "w1")
    at = scenario.history[-1].at
    scenario.handle(1, "w1")
    assert found(scenario) == {"rerun": 1}
    text = "event stream_recreated x=1"
    scenario.history.append(Note(at=at + 0.001, who="w1", text=text))
    assert found(scenario) == {}


def test_an_excuse_holds_though_another_message_gets_the_same_id_later(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.handle(1)
    scenario.excuse("again")
    scenario.handle(1)
    scenario.add(Note, text="event stream_recreated x=1")
    scenario.add(Attempt, "s", message="other", key="k", digest=digest(b"1"))
    scenario.add(Receipt, "s", message="other", shard=0, id="1-0")
    scenario.handle(1, message="other")
    assert found(scenario) == {}
    scenario.handle(1, message="other")
    assert found(scenario) == {"rerun": 1}


def test_what_was_interrupted_may_come_again_unless_it_is_promised_only_once(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.start(1)
    scenario.end(1, ok=False)
    scenario.handle(1)
    assert found(scenario, early=True) == {}
    assert found(scenario, early=True, once=True) == {"rerun": 1}


def test_another_process_may_handle_a_message_again_and_that_is_counted(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.handle(1, "w1")
    scenario.handle(1, "w2")
    assert found(scenario) == {}
    assert check(scenario.history, [Group("g")]).repeated == ["g: 0 1-0"]


def test_a_message_that_others_had_claimed_does_not_count_as_handled(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.start(1)
    scenario.end(1, lost=True)
    scenario.handle(1)
    assert found(scenario) == {}


def test_without_a_group_no_message_may_be_handled_again(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.handle(1, "w1")
    scenario.handle(1, "w2")
    assert found(scenario, acks=False) == {"rerun": 1}


def test_a_message_may_not_have_two_dead_letters(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.dead_letter(1)
    scenario.dead_letter(1)
    assert found(scenario) == {"dead_lettered_twice": 1}


def test_two_messages_that_had_one_id_may_both_be_handled_and_have_dead_letters(
    scenario: Scenario,
) -> None:
    """The stream was recreated in between."""
    scenario.send(1)
    scenario.handle(1)
    scenario.dead_letter(1)
    scenario.add(Attempt, "s", message="other", key="k", digest=digest(b"1"))
    scenario.add(Receipt, "s", message="other", shard=0, id="1-0")
    scenario.handle(1, message="other")
    scenario.dead_letter(1, message="other")
    assert found(scenario) == {}
    scenario.dead_letter(1, message="other")
    assert found(scenario) == {"dead_lettered_twice": 1}


def test_a_fault_of_the_server_excuses_the_loss_of_earlier_messages(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.excuse("loss", "ack")
    scenario.ack(1)
    assert found(scenario) == {}
    assert check(scenario.history, [Group("g")]).excused == ["g: m1 0 1-0"]
    scenario.send(2)
    assert found(scenario) == {"lost": 1}


def test_a_lost_message_is_excused_though_a_later_one_has_its_id(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.excuse("loss", ids=("0 1-0",))
    scenario.attempt(2)
    scenario.add(Receipt, "s", message="m2", shard=0, id="1-0")
    # The later one was lost by no fault.
    report = check(scenario.history, [Group("g")])
    assert report.excused == ["g: m1 0 1-0"]
    assert report.findings.lost == ["g: m2 0 1-0"]


def test_an_excuse_may_be_limited_to_some_entries_and_one_effect(
    scenario: Scenario,
) -> None:
    scenario.send(1)
    scenario.send(2)
    scenario.excuse("loss", ids=("0 1-0",))
    assert found(scenario) == {"lost": 1}
    scenario.handle(2)
    scenario.handle(2)
    assert found(scenario) == {"rerun": 1}


def test_a_rewound_group_excuses_repetitions_and_late_starts(
    scenario: Scenario,
) -> None:
    for number in (1, 2):
        scenario.send(number)
    scenario.handle(2)
    scenario.excuse("again", "order")
    scenario.handle(1)
    scenario.handle(2)
    assert found(scenario, order="shard") == {}
    scenario.send(3)
    scenario.handle(3)
    scenario.handle(3)
    assert found(scenario, order="shard") == {"rerun": 1}


def test_too_many_events_in_a_second_are_noise(scenario: Scenario) -> None:
    for number in range(30):
        at, who = number / 12, f"w{number % 2}"
        scenario.history.append(Note(at=at, who=who, text="event connection_lost x=1"))
        for name in ("handler_failed", "transaction_broken"):
            note = Note(at=at, who="w0", text=f"event {name} x=1")
            scenario.history.append(note)
    assert found(scenario) == {}
    for number in range(11):
        note = Note(at=9 + number / 12, who="w", text="event read_refused x=1")
        scenario.history.append(note)
    assert found(scenario) == {"noisy": 1}


def test_the_events_of_reconnects_are_no_noise_but_those_beyond_are(
    scenario: Scenario,
) -> None:
    names = ("connection_lost", "send_repeated", "reconnected")
    for number in range(60):
        text = f"event {names[number % 3]} x=1"
        scenario.history.append(Note(at=number / 60, who="w", text=text))
    assert found(scenario) == {}
    for number in range(31):
        text = "event connection_lost x=1"
        scenario.history.append(Note(at=1 + number / 60, who="w", text=text))
    assert "noisy" in found(scenario)


@pytest.mark.parametrize(("reported_at", "found_"), [(0.5, {"rerun": 1}), (3.5, {})])
def test_without_a_group_what_was_read_before_a_set_back_may_come_twice(
    scenario: Scenario, reported_at: float, found_: dict[str, int]
) -> None:
    """However long it has waited by then."""
    scenario.send(1)
    scenario.now = 20.0
    scenario.handle(1)
    scenario.handle(1)
    note = Note(at=reported_at, who="w", text="event set_back stream='orders'")
    scenario.history.append(note)
    scenario.history.sort(key=lambda record: record.at)
    assert found(scenario, acks=False) == found_


def test_an_excuse_is_for_the_message_that_had_the_id_then(scenario: Scenario) -> None:
    scenario.send(1)
    scenario.ack(1)
    scenario.excuse("ack", "loss", ids=("0 1-0",))
    assert found(scenario) == {}
    # The same id once more, after the server has lost everything.
    scenario.add(Attempt, "s", message="again", key="k", digest=digest(b"1"))
    scenario.add(Receipt, "s", message="again", shard=0, id="1-0")
    scenario.handle(1, message="again")
    assert found(scenario) == {}
    scenario.history.clear()
    scenario.send(1)
    scenario.excuse("ack", "loss", ids=("0 1-0",))
    scenario.add(Attempt, "s", message="again", key="k", digest=digest(b"1"))
    scenario.add(Receipt, "s", message="again", shard=0, id="1-0")
    scenario.ack(1)
    assert found(scenario)["acked_early"] == 1


def test_an_excuse_of_the_order_is_for_its_entries_only(scenario: Scenario) -> None:
    for number in (1, 2, 3):
        scenario.send(number)
    scenario.excuse("order", ids=("0 1-0",))
    scenario.handle(3)
    scenario.handle(1)
    assert found(scenario, order="shard") == {"lost": 1}
    scenario.handle(2)
    assert found(scenario, order="shard") == {"reordered": 1}


def test_a_line_that_was_cut_off_is_ignored() -> None:
    lines = [dump(Note(at=float(n), who="w", text="x")) for n in (2, 1)]
    whole = load([lines[0], lines[1] + lines[0][:-5]])
    assert [record.at for record in whole] == [1.0, 2.0]


class Queue:
    """A correct queue with processes that die; everything that may happen does."""

    def __init__(self, data: st.DataObject) -> None:
        self.scenario = Scenario()
        self._data = data
        self._process = 0
        self._read = 0
        self._stored: list[int] = []
        self._open: list[int] = []

    def choose(self, *options: Any) -> Any:
        return self._data.draw(st.sampled_from(options))

    def send(self, number: int) -> None:
        match self.choose("receipt", "unknown", "stored unknown", "failed"):
            case "receipt":
                self.scenario.send(number)
                self._stored.append(number)
            case "failed":
                self.scenario.attempt(number)
                self.scenario.add(Failed, "s", message=f"m{number}", code="OOM")
            case what:
                self.scenario.attempt(number)
                self.scenario.add(Unknown, "s", message=f"m{number}")
                if what == "stored unknown":
                    self._stored.append(number)

    def work(self) -> None:
        """Handle the first open message; the process may die before the ack."""
        if not self._open and self._stored[self._read :]:
            self._open.append(self._stored[self._read])
            self._read += 1
        if not self._open:
            return
        number, who = self._open[0], f"w{self._process}"
        self.scenario.start(number, who)
        outcome = self.choose(
            "acked", "killed", "killed when done", "failed", "dead-lettered"
        )
        if outcome in {"acked", "killed when done"}:
            self.scenario.end(number, who)
        if outcome == "failed":
            self.scenario.end(number, who, ok=False)
        if outcome == "dead-lettered":
            self.scenario.end(number, who, ok=False)
            self.scenario.dead_letter(number)
        if outcome.startswith("killed"):
            self._process += 1
        if outcome in {"acked", "dead-lettered"}:
            self._open.pop()
            self.scenario.ack(number)

    def finish(self) -> None:
        while self._open or self._stored[self._read :]:
            self.work()
        for number in self._stored:
            self.scenario.store(number)


def steps() -> st.SearchStrategy[list[Callable[[Queue, int], None]]]:
    def send(queue: Queue, number: int) -> None:
        queue.send(number)

    def work(queue: Queue, number: int) -> None:
        queue.work()

    return st.lists(st.sampled_from([send, work]), max_size=30)


@settings(max_examples=100, deadline=None)
@given(st.data(), steps())
def test_no_valid_history_has_findings(
    data: st.DataObject, steps_to_do: list[Callable[[Queue, int], None]]
) -> None:
    queue = Queue(data)
    for number, step in enumerate(steps_to_do, 1):
        step(queue, number)
    queue.finish()
    orders: tuple[Any, ...] = ("shard", "key", "key within", None)
    for order in orders:
        report = check(queue.scenario.history, [Group("g", order=order)])
        assert report.findings == Findings()
    again = load([b"".join(map(dump, queue.scenario.history))])
    assert again == queue.scenario.history
