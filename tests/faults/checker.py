"""What became of each message of a run, and which promises were broken.

Pure functions of a history. Each finding is a list of what it befell; an empty report
is a run without fault of ours.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeAlias, TypeVar

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
    Record,
    Start,
    Stored,
    Unknown,
)
from penstock import EntryId

__all__ = ["Findings", "Group", "Report", "check"]

Entry: TypeAlias = tuple[int, str]
"""An entry's shard and id."""

R = TypeVar("R", bound=Record)

# In a second, by one process.
_MOST_EVENTS = 10
# As often as a handler fails, a send is refused, or a connection is lost and made;
# once for each shard that something becomes of; and with counts that add up. (Of all
# these the log has five a second at most.)
_AS_OFTEN = {"handler_failed", "gave_up", "send_failed", "send_unknown", "reconnected"}
_AS_OFTEN |= {"group_missing", "group_recreated", "stream_recreated", "set_back"}
_AS_OFTEN |= {"shard_found", "shard_broken", "shard_healed"}
_AS_OFTEN |= {"commit_mismatch", "commit_dropped", "claimed", "outcome_late"}
_AS_OFTEN |= {"deleted_while_pending", "lease_lost"}


@dataclass(frozen=True)
class Group:
    """What was promised to a group of consumers, or to one without a group.

    Attributes:
        name: As the records have it.
        order: Of what the handlers start in the order of the stream, where one process
            at a time reads it: "shard" or "key"; "key within" a process, if several
            do: there one message of a key is handled at a time; None: of nothing.
        since: From when on messages are for it.
        acks: Whether it acknowledges; else nothing comes twice, and what fails is not
            tried again.
    """

    name: str
    order: Literal["shard", "key", "key within"] | None = None
    since: float = 0.0
    acks: bool = True


@dataclass
class Findings:
    """What must not be.

    Attributes:
        lost: Stored for certain, and neither handled nor dead nor waiting.
        waiting: Not handled when everything should have been.
        phantom: Handled or kept, and never sent like that; or said not to be stored.
        doubled: Stored more than once by one attempt.
        acked_early: Done with for the server before any handler was done.
        reordered: Started after what came later.
        overlapped: Started while another one of its lane was running.
        rerun: Handled again by the process that was done with it.
        buried_twice: Given up more than once.
        noisy: More was told by a process in a second than anybody can read.
    """

    lost: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    acked_early: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    overlapped: list[str] = field(default_factory=list)
    rerun: list[str] = field(default_factory=list)
    buried_twice: list[str] = field(default_factory=list)
    noisy: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = ((each.name, getattr(self, each.name)) for each in fields(self))
        lines = [
            f"{name}: {len(what)}, first: {'; '.join(what[:5])}"
            for name, what in found
            if what
        ]
        return "\n".join(lines) or "nothing"

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))


@dataclass
class Report:
    """What became of all messages.

    Attributes:
        attempted: Messages that were to be sent.
        confirmed: Of which the sender had a receipt.
        unknown: Of which it was told nothing, or that nothing is known.
        failed: Of which it was told that they are not stored.
        handled: Handlings that ended well, over all groups.
        repeated: Of those, how many more than one a message; the entries.
        buried: Dead letters.
        excused: Messages that are missing by what was done to the server.
        findings: What must not be.
    """

    attempted: int = 0
    confirmed: int = 0
    unknown: int = 0
    failed: int = 0
    handled: int = 0
    repeated: list[str] = field(default_factory=list)
    buried: int = 0
    excused: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def __str__(self) -> str:
        return (
            f"sent {self.attempted} (confirmed {self.confirmed}, unknown "
            f"{self.unknown}, failed {self.failed}), handled {self.handled}, again "
            f"{len(self.repeated)}, dead letters {self.buried}, lost by what was done "
            f"to the server {len(self.excused)}; wrong: {self.findings}"
        )


def check(history: History, groups: Iterable[Group]) -> Report:
    """Compare what went in with what came out.

    Args:
        history: Of all processes, in the order of time.
        groups: What was promised to whom.
    """
    books = _Books(history)
    report = books.count()
    _check_sending(books, report.findings)
    _check_noise(books, report.findings)
    for group in groups:
        _GroupCheck(books, group, report).run()
    return report


class _Books:
    """A history, by kinds and by messages."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._by_kind: defaultdict[type, list[Record]] = defaultdict(list)
        for record in history:
            self._by_kind[type(record)].append(record)
        self.attempts = {each.message: each for each in self.of(Attempt)}
        # Which entries a message was seen as, and which message an entry is.
        self.entries: defaultdict[str, set[Entry]] = defaultdict(set)
        self._messages: dict[Entry, str] = {}
        there: list[Receipt | Start | Stored] = [*self.of(Receipt), *self.of(Start)]
        for seen in [*there, *self.of(Stored)]:
            self.entries[seen.message].add((seen.shard, seen.id))
            self._messages[seen.shard, seen.id] = seen.message
        self.confirmed = {each.message for each in self.of(Receipt)}

    def of(self, kind: type[R]) -> list[R]:
        """Give the records of a kind."""
        return self._by_kind[kind]  # type: ignore[return-value]

    def count(self) -> Report:
        failed = {each.message for each in self.of(Failed)}
        return Report(
            attempted=len(self.attempts),
            confirmed=len(self.confirmed),
            unknown=len(self.attempts.keys() - failed - self.confirmed),
            failed=len(failed),
            buried=len(self.of(Buried)),
        )

    @cached_property
    def certain(self) -> dict[str, Entry]:
        """The messages that are stored for certain: by a receipt, or seen."""
        there: list[Receipt | Stored] = [*self.of(Stored), *self.of(Receipt)]
        return {each.message: (each.shard, each.id) for each in there}

    def _stored_at(self, entry: Entry) -> float:
        """Tell when an entry was there at the earliest."""
        attempt = self.attempts.get(self._messages.get(entry, ""))
        return attempt.at if attempt else 0.0

    def excused(self, what: str, entry: Entry) -> bool:
        """Whether what was done to the server may be why."""
        at, name = self._stored_at(entry), f"{entry[0]} {entry[1]}"
        return any(
            what in excuse.what
            and at <= excuse.at
            and (not excuse.ids or name in excuse.ids)
            for excuse in self.of(Excuse)
        )

    def disordered(self, start: Start) -> bool:
        """Whether what was done to the server may be why a message comes late."""
        return any(
            "order" in excuse.what and start.at >= excuse.since
            for excuse in self.of(Excuse)
        )


def _check_sending(books: _Books, findings: Findings) -> None:
    there: list[Start | Stored] = [*books.of(Start), *books.of(Stored)]
    for seen in there:
        sent = books.attempts.get(seen.message)
        if sent is None or (sent.digest, sent.key) != (seen.digest, seen.key):
            findings.phantom.append(f"{seen.shard} {seen.id} {seen.message}")
    for dead in books.of(Buried):
        sent = books.attempts.get(dead.message)
        if sent is None or sent.digest != dead.digest:
            findings.phantom.append(f"dead {dead.shard} {dead.id} {dead.message}")
    for failed in books.of(Failed):
        if books.entries[failed.message]:
            findings.phantom.append(f"{failed.message} failed ({failed.code})")
    for told in books.of(Unknown):
        # It may not have an outcome and a receipt.
        if told.message in books.confirmed:
            findings.phantom.append(f"{told.message} unknown and confirmed")
    for message, entries in books.entries.items():
        if len(entries) > 1:
            findings.doubled.append(f"{message} {sorted(entries)}")


def _check_noise(books: _Books, findings: Findings) -> None:
    """In a second a process tells of few things, but for what it tells of messages."""
    latest: defaultdict[str, deque[float]] = defaultdict(deque)
    for note in books.of(Note):
        word, _, what = note.text.partition(" ")
        if word != "event" or what.partition(" ")[0] in _AS_OFTEN:
            continue
        times = latest[note.who]
        times.append(note.at)
        while times[0] < note.at - 1:
            times.popleft()
        if len(times) > _MOST_EVENTS:
            findings.noisy.append(f"{note.who} at {note.at}: {what}")


class _GroupCheck:
    """What one group made of the messages."""

    def __init__(self, books: _Books, group: Group, report: Report) -> None:
        self._books = books
        self._group = group
        self._report = report
        self._findings = report.findings
        name = group.name
        self._starts = [each for each in books.of(Start) if each.group == name]
        self._done: defaultdict[Entry, list[End]] = defaultdict(list)
        for end in books.of(End):
            if end.group == name and (end.ok or not group.acks):
                self._done[end.shard, end.id].append(end)
        self._dead = {
            (each.shard, each.id) for each in books.of(Buried) if each.group == name
        }

    def run(self) -> None:
        self._check_loss()
        self._check_acks()
        self._check_repetitions()
        self._check_letters()
        if self._group.order is not None:
            self._check_overlaps()
        if self._group.order in {"shard", "key"}:
            self._check_order()

    def _name(self, what: object) -> str:
        return f"{self._group.name}: {what}"

    def _check_loss(self) -> None:
        waiting = {
            (each.shard, each.id)
            for each in self._books.of(Pending)
            if each.group == self._group.name
        }
        for message, entry in self._books.certain.items():
            attempt = self._books.attempts.get(message)
            if attempt is None or attempt.at < self._group.since:
                continue
            if entry in self._done or entry in self._dead:
                continue
            what = self._name(f"{message} {entry[0]} {entry[1]}")
            if entry in waiting:
                self._findings.waiting.append(what)
            elif self._books.excused("loss", entry):
                self._report.excused.append(what)
            else:
                self._findings.lost.append(what)

    def _check_acks(self) -> None:
        for seen in self._books.of(Acked):
            if seen.group != self._group.name:
                continue
            for id_ in seen.ids:
                entry = (seen.shard, id_)
                by = min((end.at for end in self._done.get(entry, ())), default=None)
                if (by is not None and by <= seen.at) or entry in self._dead:
                    continue
                if not self._books.excused("ack", entry):
                    self._findings.acked_early.append(self._name(entry))

    def _check_repetitions(self) -> None:
        for entry, ends in self._done.items():
            # What was somebody else's by then does not count, and may come again.
            ours = [end for end in ends if not end.lost]
            self._report.handled += len(ours)
            for one, next_ in pairwise(ours):
                what = self._name(f"{entry[0]} {entry[1]}")
                self._report.repeated.append(what)
                if self._group.acks:
                    # What others have had in between is theirs.
                    expected = one.who != next_.who
                    expected = expected or self._was_told("lease_lost", one, next_)
                    # The outcomes of a stream that was recreated, or moved back, are
                    # dropped when that is noticed, which may be after the fault.
                    expected = expected or self._was_told(
                        "stream_recreated", one, next_
                    )
                else:
                    # A recreated stream is noticed within a second, and read whole;
                    # what had been read of it by then may still have been waiting.
                    expected = self._was_told("set_back", one, next_, before=2.0)
                excused = self._books.excused("again", entry)
                if not (expected or excused):
                    self._findings.rerun.append(what)

    def _was_told(self, event: str, one: End, next_: End, before: float = 0.0) -> bool:
        """Whether the process reported an event in between, or a bit `before`."""
        return any(
            note.who == one.who
            and one.at - before < note.at < next_.at
            and note.text.startswith(f"event {event}")
            for note in self._books.of(Note)
        )

    def _check_letters(self) -> None:
        seen = set()
        for each in self._books.of(Buried):
            if each.group != self._group.name:
                continue
            entry = (each.shard, each.id)
            if entry in seen and not self._books.excused("again", entry):
                self._findings.buried_twice.append(self._name(entry))
            seen.add(entry)

    def _lane(self, start: Start) -> tuple[object, ...]:
        if self._group.order == "shard":
            return (start.shard,)
        return (start.shard, start.key)

    def _check_overlaps(self) -> None:
        """In each process one message of a lane is handled at a time."""
        running: dict[tuple[object, ...], Start] = {}
        lanes: dict[Entry, tuple[object, ...]] = {}
        for step in self._books.history:
            if not isinstance(step, Start | End) or step.group != self._group.name:
                continue
            entry = (step.shard, step.id)
            if isinstance(step, End):
                running.pop((step.who, *lanes.get(entry, ())), None)
                continue
            lanes[entry] = self._lane(step)
            lane = (step.who, *lanes[entry])
            if lane in running:
                what = f"{step.shard} {step.id} during {running[lane].id}"
                self._findings.overlapped.append(self._name(what))
            running[lane] = step

    def _check_order(self) -> None:
        """What starts for the first time comes after what did before it."""
        latest: dict[tuple[object, ...], EntryId] = {}
        seen: set[Entry] = set()
        for start in self._starts:
            entry = (start.shard, start.id)
            if entry in seen:
                continue
            seen.add(entry)
            lane, id_ = self._lane(start), EntryId.parse(start.id)
            if id_ < latest.get(lane, id_):
                if not self._books.disordered(start):
                    what = f"{start.shard} {start.id} after {latest[lane]}"
                    self._findings.reordered.append(self._name(what))
            else:
                latest[lane] = id_
