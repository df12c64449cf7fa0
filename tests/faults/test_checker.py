"""The checker catches each kind of fault, and cries no wolf."""

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
    Buried,
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


class Story:
    """A history that is told step by step; each takes a second."""

    def __init__(self) -> None:
        self.history: History = []
        self.now = 0.0

    def tell(self, kind: Any, who: str = "w", **facts: Any) -> None:
        self.now += 1
        self.history.append(kind(at=self.now, who=who, **facts))

    def send(self, number: int, key: str = "k") -> None:
        self.attempt(number, key)
        self.tell(Receipt, "s", message=f"m{number}", shard=0, id=f"{number}-0")

    def attempt(self, number: int, key: str = "k") -> None:
        body = digest(b"%d" % number)
        self.tell(Attempt, "s", message=f"m{number}", key=key, digest=body)

    def start(self, number: int, who: str = "w", **changes: Any) -> None:
        facts = {"key": "k", "message": f"m{number}", "attempt": 1}
        facts |= {"digest": digest(b"%d" % number), "id": f"{number}-0", **changes}
        self.tell(Start, who, group="g", shard=0, **facts)

    def end(self, number: int, who: str = "w", **changes: Any) -> None:
        facts = {"ok": True, **changes}
        self.tell(End, who, group="g", shard=0, id=f"{number}-0", **facts)

    def handle(self, number: int, who: str = "w", **changes: Any) -> None:
        self.start(number, who, **changes)
        self.end(number, who)

    def ack(self, *numbers: int) -> None:
        self.tell(Acked, "o", group="g", shard=0, ids=[f"{n}-0" for n in numbers])

    def store(self, number: int, **changes: Any) -> None:
        facts = {"id": f"{number}-0", "message": f"m{number}", "key": "k"}
        facts |= {"digest": digest(b"%d" % number), **changes}
        self.tell(Stored, "o", shard=0, **facts)

    def bury(self, number: int) -> None:
        facts = {"message": f"m{number}", "digest": digest(b"%d" % number)}
        self.tell(Buried, "o", group="g", shard=0, id=f"{number}-0", **facts)

    def excuse(self, *what: str, ids: tuple[str, ...] = ()) -> None:
        self.tell(Excuse, "o", since=self.now, what=[*what], ids=[*ids])


def found(story: Story, **group: Any) -> dict[str, int]:
    """Count what the checker finds, by its kind."""
    findings = check(story.history, [Group("g", **group)]).findings
    counts = {each.name: len(getattr(findings, each.name)) for each in fields(findings)}
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_run_without_fault_is_one(story: Story) -> None:
    for number in (1, 2):
        story.send(number)
        story.handle(number)
    story.ack(1, 2)
    report = check(story.history, [Group("g", order="shard")])
    assert not report.findings
    assert str(report.findings) == "nothing"
    assert (report.attempted, report.confirmed, report.handled) == (2, 2, 2)


def test_what_was_confirmed_and_never_handled_is_lost(story: Story) -> None:
    story.send(1)
    assert found(story) == {"lost": 1}
    assert "lost: 1, first: g: m1 0 1-0" in str(check(story.history, [Group("g")]))


def test_what_is_stored_without_a_receipt_may_not_be_lost_either(story: Story) -> None:
    story.attempt(1)
    story.store(1)
    assert found(story) == {"lost": 1}


def test_what_was_started_only_is_lost(story: Story) -> None:
    story.send(1)
    story.start(1)
    assert found(story) == {"lost": 1}


def test_a_failed_handling_is_none(story: Story) -> None:
    story.send(1)
    story.start(1)
    story.end(1, ok=False)
    assert found(story) == {"lost": 1}


def test_what_waits_in_the_end_is_told_apart(story: Story) -> None:
    story.send(1)
    story.tell(Pending, "o", group="g", shard=0, id="1-0")
    assert found(story) == {"waiting": 1}


def test_dead_letters_are_not_lost(story: Story) -> None:
    story.send(1)
    story.bury(1)
    assert found(story) == {}


def test_what_was_sent_before_it_counts_is_not_missed(story: Story) -> None:
    story.send(1)
    assert found(story, since=5.0) == {}


@pytest.mark.parametrize(
    "changes", [{"message": "m2"}, {"digest": "other"}, {"key": "other"}]
)
def test_what_was_never_sent_like_that_is_a_phantom(
    story: Story, changes: dict[str, str]
) -> None:
    story.attempt(1)
    story.handle(1, **changes)
    assert found(story).pop("phantom") == 1


def test_a_changed_entry_or_letter_is_a_phantom(story: Story) -> None:
    story.send(1)
    story.handle(1)
    story.store(1, digest="other")
    story.bury(2)
    assert found(story) == {"phantom": 2}


def test_what_failed_may_not_be_there(story: Story) -> None:
    story.attempt(1)
    story.tell(Failed, "s", message="m1", code="OOM")
    assert found(story) == {}
    story.store(1)
    assert found(story) == {"phantom": 1, "lost": 1}


def test_what_is_unknown_may_not_have_a_receipt(story: Story) -> None:
    story.send(1)
    story.handle(1)
    story.tell(Unknown, "s", message="m1")
    assert found(story) == {"phantom": 1}


def test_one_attempt_may_not_be_stored_twice(story: Story) -> None:
    story.send(1)
    story.handle(1)
    story.store(1, id="9-0")
    assert found(story) == {"doubled": 1}


def test_an_ack_before_the_handler_s_end_is_early(story: Story) -> None:
    story.send(1)
    story.start(1)
    story.ack(1)
    story.end(1)
    assert found(story) == {"acked_early": 1}


def test_an_ack_of_a_dead_letter_is_not(story: Story) -> None:
    story.send(1)
    story.ack(1)
    story.bury(1)
    assert found(story) == {}


@pytest.mark.parametrize(("order", "other"), [("shard", "x"), ("key", "k")])
def test_what_starts_after_what_came_later_is_out_of_order(
    story: Story, order: str, other: str
) -> None:
    story.send(1)
    story.send(2, other)
    story.handle(2, key=other)
    story.handle(1)
    assert found(story, order=order) == {"reordered": 1}
    assert found(story) == {}


def test_other_keys_and_second_times_are_in_no_order(story: Story) -> None:
    for number, key in ((1, "k"), (2, "x"), (3, "k")):
        story.send(number, key)
    story.handle(2, key="x")
    story.handle(1)
    story.handle(3)
    story.handle(1, "other")
    assert found(story, order="key") == {}


def test_two_of_a_lane_may_not_run_at_a_time(story: Story) -> None:
    for number in (1, 2):
        story.send(number)
        story.start(number)
    for number in (1, 2):
        story.end(number)
    assert found(story, order="key within") == {"overlapped": 1}


def test_in_two_processes_they_may(story: Story) -> None:
    for number, who in ((1, "w1"), (2, "w2")):
        story.send(number)
        story.start(number, who)
    for number, who in ((1, "w1"), (2, "w2")):
        story.end(number, who)
    assert found(story, order="key within") == {}


def test_a_process_may_not_handle_again_what_it_has_done(story: Story) -> None:
    story.send(1)
    story.handle(1)
    story.handle(1)
    assert found(story) == {"rerun": 1}


def test_it_may_if_others_had_it_in_between(story: Story) -> None:
    """Its lease ended while its outcome could not be told."""
    story.send(1)
    story.handle(1, "w1")
    at = story.history[-1].at
    story.history.append(Note(at=at + 0.001, who="w2", text="event lease_lost x=1"))
    story.handle(1, "w1")
    assert found(story) == {"rerun": 1}
    story.history.append(Note(at=at + 0.001, who="w1", text="event lease_lost x=1"))
    assert found(story) == {}


def test_it_may_if_its_stream_was_recreated_in_between(story: Story) -> None:
    """Outcomes of the stream that was there before are dropped, and it says so."""
    story.send(1)
    story.handle(1, "w1")
    at = story.history[-1].at
    story.handle(1, "w1")
    assert found(story) == {"rerun": 1}
    text = "event stream_recreated x=1"
    story.history.append(Note(at=at + 0.001, who="w1", text=text))
    assert found(story) == {}


def test_another_one_may_and_it_is_counted(story: Story) -> None:
    story.send(1)
    story.handle(1, "w1")
    story.handle(1, "w2")
    assert found(story) == {}
    assert check(story.history, [Group("g")]).repeated == ["g: 0 1-0"]


def test_what_was_lost_to_others_does_not_count_as_done(story: Story) -> None:
    story.send(1)
    story.start(1)
    story.end(1, lost=True)
    story.handle(1)
    assert found(story) == {}


def test_without_a_group_nothing_may_come_again_at_all(story: Story) -> None:
    story.send(1)
    story.handle(1, "w1")
    story.handle(1, "w2")
    assert found(story, acks=False) == {"rerun": 1}


def test_two_letters_of_one_message_are_one_too_many(story: Story) -> None:
    story.send(1)
    story.bury(1)
    story.bury(1)
    assert found(story) == {"buried_twice": 1}


def test_what_was_done_to_the_server_excuses_what_was_there(story: Story) -> None:
    story.send(1)
    story.excuse("loss", "ack")
    story.ack(1)
    assert found(story) == {}
    assert check(story.history, [Group("g")]).excused == ["g: m1 0 1-0"]
    story.send(2)
    assert found(story) == {"lost": 1}


def test_an_excuse_may_be_of_some_entries_and_of_one_thing_only(story: Story) -> None:
    story.send(1)
    story.send(2)
    story.excuse("loss", ids=("0 1-0",))
    assert found(story) == {"lost": 1}
    story.handle(2)
    story.handle(2)
    assert found(story) == {"rerun": 1}


def test_a_group_set_back_excuses_what_comes_again_and_late(story: Story) -> None:
    for number in (1, 2):
        story.send(number)
    story.handle(2)
    story.excuse("again", "order")
    story.handle(1)
    story.handle(2)
    assert found(story, order="shard") == {}
    story.send(3)
    story.handle(3)
    story.handle(3)
    assert found(story, order="shard") == {"rerun": 1}


def test_too_many_events_in_a_second_are_noise(story: Story) -> None:
    for number in range(30):
        at, who = number / 12, f"w{number % 2}"
        story.history.append(Note(at=at, who=who, text="event connection_lost x=1"))
        story.history.append(Note(at=at, who="w0", text="event handler_failed x=1"))
    assert found(story) == {}
    for number in range(11):
        note = Note(at=9 + number / 12, who="w", text="event read_refused x=1")
        story.history.append(note)
    assert found(story) == {"noisy": 1}


def test_a_line_that_was_cut_off_says_nothing() -> None:
    lines = [dump(Note(at=float(n), who="w", text="x")) for n in (2, 1)]
    whole = load([lines[0], lines[1] + lines[0][:-5]])
    assert [record.at for record in whole] == [1.0, 2.0]


class Queue:
    """A queue without fault, and processes that die: all that may happen does."""

    def __init__(self, data: st.DataObject) -> None:
        self.story = Story()
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
                self.story.send(number)
                self._stored.append(number)
            case "failed":
                self.story.attempt(number)
                self.story.tell(Failed, "s", message=f"m{number}", code="OOM")
            case what:
                self.story.attempt(number)
                self.story.tell(Unknown, "s", message=f"m{number}")
                if what == "stored unknown":
                    self._stored.append(number)

    def work(self) -> None:
        """Handle the lowest one that is open; the process may die before its ack."""
        if not self._open and self._stored[self._read :]:
            self._open.append(self._stored[self._read])
            self._read += 1
        if not self._open:
            return
        number, who = self._open[0], f"w{self._process}"
        self.story.start(number, who)
        outcome = self.choose("acked", "killed", "killed when done", "failed", "buried")
        if outcome in {"acked", "killed when done"}:
            self.story.end(number, who)
        if outcome == "failed":
            self.story.end(number, who, ok=False)
        if outcome == "buried":
            self.story.end(number, who, ok=False)
            self.story.bury(number)
        if outcome.startswith("killed"):
            self._process += 1
        if outcome in {"acked", "buried"}:
            self._open.pop()
            self.story.ack(number)

    def finish(self) -> None:
        while self._open or self._stored[self._read :]:
            self.work()
        for number in self._stored:
            self.story.store(number)


def steps() -> st.SearchStrategy[list[Callable[[Queue, int], None]]]:
    def send(queue: Queue, number: int) -> None:
        queue.send(number)

    def work(queue: Queue, number: int) -> None:
        queue.work()

    return st.lists(st.sampled_from([send, work]), max_size=30)


@settings(max_examples=100, deadline=None)
@given(st.data(), steps())
def test_no_valid_history_is_found_fault_with(
    data: st.DataObject, does: list[Callable[[Queue, int], None]]
) -> None:
    queue = Queue(data)
    for number, step in enumerate(does, 1):
        step(queue, number)
    queue.finish()
    orders: tuple[Any, ...] = ("shard", "key", "key within", None)
    for order in orders:
        report = check(queue.story.history, [Group("g", order=order)])
        assert report.findings == Findings()
    again = load([b"".join(map(dump, queue.story.history))])
    assert again == queue.story.history
