"""Checker: the fate of each message of a run, and the promises that were broken.

The functions are pure functions of a history. Each kind of finding is a list of the
affected messages; without findings, the run has shown no error of Penstock.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeAlias, TypeVar

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

# The most events of a process in a second.
_MOST_EVENTS = 10
# Events of which each reconnect may have one.
_OF_RECONNECTS = ("connection_lost", "send_repeated")
# Events that may be more frequent: those of each failed handler, refused send or
# reconnect; those of each affected shard; and those whose counts add up. (The log has
# five a second of each at most.)
_MAY_BE_FREQUENT = {
    "handler_failed",
    "transaction_broken",
    "gave_up",
    "send_failed",
    "send_unknown",
    "reconnected",
}
_MAY_BE_FREQUENT |= {"group_missing", "group_recreated", "stream_recreated", "set_back"}
_MAY_BE_FREQUENT |= {"shard_found", "shard_broken", "shard_healed"}
_MAY_BE_FREQUENT |= {"commit_mismatch", "commit_dropped", "claimed", "outcome_late"}
_MAY_BE_FREQUENT |= {"deleted_while_pending", "lease_lost"}
_MAY_BE_FREQUENT |= {"shard_taken", "shard_freed", "shard_lost", "drain_incomplete"}


@dataclass(frozen=True)
class Group:
    """The promises to a group of consumers, or to a consumer without a group.

    Attributes:
        name: The name in the records.
        order: What is handled in the order of the stream if one process at a time reads
            it: "shard" or "key". "key within": several processes read it, and in each
            one message of a key is handled at a time. None: there is no order.
        since: The time from which messages are for it.
        acks: Whether it acknowledges. If not, no message is delivered twice, and failed
            messages are not tried again.
        early: Whether messages are acknowledged by time or on delivery, whatever their
            handlers do. Then failed messages are not tried again, either.
        once: Whether they are acknowledged on delivery, so that a lost reply loses
            them.
        stale: Starts by members of a group with owned shards that the shard had been
            taken from by then. They have no place in the order.
        several: Whether a process has several of the group's consumers. Then one of
            them may claim what another one has handled and could not acknowledge.
    """

    name: str
    order: Literal["shard", "key", "key within"] | None = None
    since: float = 0.0
    acks: bool = True
    early: bool = False
    once: bool = False
    stale: frozenset[Start] = frozenset()
    several: bool = False


@dataclass
class Findings:
    """Errors, as lists of the affected messages.

    Attributes:
        lost: Certainly stored, but neither handled nor dead-lettered nor waiting.
        waiting: Not handled when everything should have been.
        phantom: Handled or stored, but never sent like that, or reported as not stored.
        doubled: Stored more than once by one attempt.
        acked_early: Acknowledged on the server before a handler had finished.
        reordered: Started after later messages.
        overlapped: Started while another message of its lane was running.
        rerun: Handled again by the process that had handled it.
        dead_lettered_twice: Dead-lettered more than once.
        noisy: A process reported more events in a second than anyone can read.
    """

    lost: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    acked_early: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    overlapped: list[str] = field(default_factory=list)
    rerun: list[str] = field(default_factory=list)
    dead_lettered_twice: list[str] = field(default_factory=list)
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
    """The numbers of messages by their fate.

    Attributes:
        attempted: Messages that were to be sent.
        confirmed: Messages with a receipt.
        unknown: Messages without an outcome, or with `SendUnknown`.
        failed: Messages with `SendFailed`.
        handled: Successful handlings, in all groups.
        repeated: The entries of further successful handlings of the same message.
        dead_letters: Dead letters.
        excused: Messages that are missing because of a fault.
        findings: The errors.
    """

    attempted: int = 0
    confirmed: int = 0
    unknown: int = 0
    failed: int = 0
    handled: int = 0
    repeated: list[str] = field(default_factory=list)
    dead_letters: int = 0
    excused: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def __str__(self) -> str:
        return (
            f"sent {self.attempted} (confirmed {self.confirmed}, unknown "
            f"{self.unknown}, failed {self.failed}), handled {self.handled}, again "
            f"{len(self.repeated)}, dead letters {self.dead_letters}, lost by faults "
            f"{len(self.excused)}; errors: {self.findings}"
        )


def check(history: History, groups: Iterable[Group]) -> Report:
    """Compare the sent messages with the handled ones.

    Args:
        history: The history of all processes, in the order of time.
        groups: The promises to each group.
    """
    index = _Index(history)
    report = index.new_report()
    _check_sending(index, report.findings)
    _check_noise(index, report.findings)
    for group in groups:
        _GroupCheck(index, group, report).run()
    return report


class _Index:
    """A history by kinds of records and by messages."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._by_kind: defaultdict[type, list[Record]] = defaultdict(list)
        for record in history:
            self._by_kind[type(record)].append(record)
        self.attempts = {each.message: each for each in self.of(Attempt)}
        # The entries that were seen of a message, and the message of an entry.
        self.entries: defaultdict[str, set[Entry]] = defaultdict(set)
        self._messages: dict[Entry, str] = {}
        self._all_messages: defaultdict[Entry, set[str]] = defaultdict(set)
        seen_in: list[Receipt | Start | Stored] = [*self.of(Receipt), *self.of(Start)]
        for seen in [*seen_in, *self.of(Stored)]:
            self.entries[seen.message].add((seen.shard, seen.id))
            self._messages[seen.shard, seen.id] = seen.message
            self._all_messages[seen.shard, seen.id].add(seen.message)
        self.confirmed = {each.message for each in self.of(Receipt)}

    def of(self, kind: type[R]) -> list[R]:
        """Return the records of a kind."""
        return self._by_kind[kind]  # type: ignore[return-value]

    def new_report(self) -> Report:
        failed = {each.message for each in self.of(Failed)}
        return Report(
            attempted=len(self.attempts),
            confirmed=len(self.confirmed),
            unknown=len(self.attempts.keys() - failed - self.confirmed),
            failed=len(failed),
            dead_letters=len(self.of(DeadLettered)),
        )

    @cached_property
    def certain(self) -> list[tuple[str, Entry]]:
        """The messages that are certainly stored, with a receipt or seen, and where."""
        seen_in: list[Receipt | Stored] = [*self.of(Stored), *self.of(Receipt)]
        found = ((each.message, (each.shard, each.id)) for each in seen_in)
        return list(dict.fromkeys(found))

    def excused(
        self, what: str, entry: Entry, group: str, message: str | None = None
    ) -> bool:
        """Return whether a fault may be the cause of an effect on an entry.

        Args:
            what: The effect.
            entry: The shard and the id.
            group: The group that saw the effect.
            message: The message of the entry, where it is known. A server that has
                lost entries may give their ids to later messages.
        """
        attempt = self.attempts.get(message or self._messages.get(entry, ""))
        # Before its attempt the entry cannot have existed.
        at, name = attempt.at if attempt else 0.0, f"{entry[0]} {entry[1]}"
        return any(
            what in excuse.what
            and at <= excuse.at
            and excuse.group in {"", group}
            and (not excuse.ids or name in excuse.ids)
            for excuse in self.of(Excuse)
        )

    def message_at(self, entry: Entry, at: float) -> str | None:
        """Return the message that an entry was at a moment: an id may come again."""
        sent = [
            (attempt.at, message)
            for message in self._all_messages[entry]
            if (attempt := self.attempts.get(message)) and attempt.at <= at
        ]
        return max(sent)[1] if sent else None

    def stored_at(self, entry: Entry, default: float) -> float:
        """Return when the sending of an entry's message began."""
        attempt = self.attempts.get(self._messages.get(entry, ""))
        return attempt.at if attempt else default

    def excused_order(self, start: Start) -> bool:
        """Return whether a fault may be the reason that a message starts late."""
        name = f"{start.shard} {start.id}"
        return any(
            "order" in excuse.what
            and start.at >= excuse.since
            and excuse.group in {"", start.group}
            and (not excuse.ids or name in excuse.ids)
            for excuse in self.of(Excuse)
        )


def _check_sending(index: _Index, findings: Findings) -> None:
    seen_in: list[Start | Stored] = [*index.of(Start), *index.of(Stored)]
    for seen in seen_in:
        sent = index.attempts.get(seen.message)
        if sent is None or (sent.digest, sent.key) != (seen.digest, seen.key):
            findings.phantom.append(f"{seen.shard} {seen.id} {seen.message}")
    for dead in index.of(DeadLettered):
        sent = index.attempts.get(dead.message)
        if sent is None or sent.digest != dead.digest:
            findings.phantom.append(f"dead {dead.shard} {dead.id} {dead.message}")
    for failed in index.of(Failed):
        if index.entries[failed.message]:
            findings.phantom.append(f"{failed.message} failed ({failed.code})")
    for unknown in index.of(Unknown):
        # A message can't have both an unknown outcome and a receipt.
        if unknown.message in index.confirmed:
            findings.phantom.append(f"{unknown.message} unknown and confirmed")
    # Each dead letter may have been sent back once.
    letters = Counter(dead.message for dead in index.of(DeadLettered))
    gone = {
        id_
        for excuse in index.of(Excuse)
        if "gone" in excuse.what
        for id_ in excuse.ids
    }
    for message, entries in index.entries.items():
        # What a server has lost without a trace may be stored again.
        there = [one for one in entries if f"{one[0]} {one[1]}" not in gone]
        if len(there) > 1 + letters[message]:
            findings.doubled.append(f"{message} {sorted(entries)}")


def _check_noise(index: _Index, findings: Findings) -> None:
    """Check that a process reports few events a second, except for frequent ones."""
    latest: defaultdict[str, deque[tuple[float, str]]] = defaultdict(deque)
    for note in index.of(Note):
        word, _, what = note.text.partition(" ")
        if word != "event":
            continue
        counted = latest[note.who]
        counted.append((note.at, what.partition(" ")[0]))
        while counted[0][0] < note.at - 1:
            counted.popleft()
        names = Counter(name for _, name in counted)
        for name in _OF_RECONNECTS:
            names[name] = max(0, names[name] - names["reconnected"])
        if sum(names[name] for name in names.keys() - _MAY_BE_FREQUENT) > _MOST_EVENTS:
            findings.noisy.append(f"{note.who} at {note.at}: {what}")


class _GroupCheck:
    """The check of one group."""

    def __init__(self, index: _Index, group: Group, report: Report) -> None:
        self._index = index
        self._group = group
        self._report = report
        self._findings = report.findings
        name = group.name
        self._starts = [each for each in index.of(Start) if each.group == name]
        self._done: defaultdict[Entry, list[End]] = defaultdict(list)
        for end in index.of(End):
            if end.group == name and (end.ok or not group.acks or group.early):
                self._done[end.shard, end.id].append(end)
        self._starts_of: defaultdict[Entry, list[Start]] = defaultdict(list)
        for start in self._starts:
            self._starts_of[start.shard, start.id].append(start)
        # When each dead letter was there first.
        self._dead: dict[Entry, float] = {}
        for each in index.of(DeadLettered):
            if each.group == name:
                self._dead.setdefault((each.shard, each.id), each.at)

    def run(self) -> None:
        self._check_loss()
        self._check_acks()
        self._check_repetitions()
        self._check_dead_letters()
        if self._group.order is not None:
            self._check_overlaps()
        if self._group.order in {"shard", "key"}:
            self._check_order()

    def _excused(self, what: str, entry: Entry, message: str | None = None) -> bool:
        return self._index.excused(what, entry, self._group.name, message)

    def _name(self, what: object) -> str:
        return f"{self._group.name}: {what}"

    def _check_loss(self) -> None:
        waiting = {
            (each.shard, each.id)
            for each in self._index.of(Pending)
            if each.group == self._group.name
        }
        started = {start.message for start in self._starts}
        for message, entry in self._index.certain:
            attempt = self._index.attempts.get(message)
            if attempt is None or attempt.at < self._group.since:
                continue
            # Where a stream was recreated, an earlier message had the same id.
            handled = entry in self._done and message in started
            if handled or entry in self._dead:
                continue
            what = self._name(f"{message} {entry[0]} {entry[1]}")
            if entry in waiting:
                self._findings.waiting.append(what)
            elif self._group.once or self._excused("loss", entry, message):
                self._report.excused.append(what)
            else:
                self._findings.lost.append(what)

    def _check_acks(self) -> None:
        if self._group.early:
            return
        for seen in self._index.of(Acked):
            if seen.group != self._group.name:
                continue
            for id_ in seen.ids:
                entry = (seen.shard, id_)
                by = min((end.at for end in self._done.get(entry, ())), default=None)
                if (by is not None and by <= seen.at) or entry in self._dead:
                    continue
                message = self._index.message_at(entry, seen.at)
                if not self._excused("ack", entry, message):
                    self._findings.acked_early.append(self._name(entry))

    def _check_repetitions(self) -> None:
        for entry, ends in self._done.items():
            # Messages that others had claimed by then do not count, and may be
            # redelivered.
            own = [end for end in ends if not end.lost]
            if self._group.early and not self._group.once:
                # What was interrupted is handed out again while the consumer is open.
                own = [end for end in own if end.ok]
            self._report.handled += len(own)
            for one, next_ in pairwise(own):
                message = self._message(entry, next_)
                if self._message(entry, one) != message:
                    continue  # the stream was recreated, with another message there
                what = self._name(f"{entry[0]} {entry[1]}")
                self._report.repeated.append(what)
                if self._group.acks:
                    # Others may have had the message in between.
                    expected = one.who != next_.who and not self._group.once
                    # What comes after the handler, a transaction for example, failed.
                    failed = f"handler_failed stream='orders' id={entry[1]} "
                    expected = expected or self._was_reported(failed, one, next_)
                    events = ["lease_lost", "shard_lost", "drain_incomplete"]
                    if self._group.several:
                        events.append("claimed")
                    for event in events:
                        expected = expected or self._was_reported(event, one, next_)
                    # A consumer that had no time to send its outcomes may be opened
                    # again in the same process.
                    expected = expected or self._was_reported(
                        "close_incomplete", one, next_
                    )
                    # When a consumer notices that a stream was recreated, or moved
                    # back, it drops its outcomes. That may be after the fault.
                    expected = expected or self._was_reported(
                        "stream_recreated", one, next_
                    )
                else:
                    # A recreated stream is noticed within a second, and read
                    # completely. Entries that were read before that may still have been
                    # waiting, for as long as handlers took.
                    stored_at = self._index.stored_at(entry, one.at)
                    before = one.at - stored_at
                    expected = self._was_reported("set_back", one, next_, before)
                excused = self._excused("again", entry, message)
                excused = excused or self._excused("leases", entry, message)
                if not (expected or excused):
                    self._findings.rerun.append(what)

    def _message(self, entry: Entry, end: End) -> str | None:
        """Return the message that was handled: another one may get the same id."""
        starts = self._starts_of[entry]
        return next((s.message for s in reversed(starts) if s.at <= end.at), None)

    def _was_reported(
        self, event: str, one: End, next_: End, before: float = 0.0
    ) -> bool:
        """Return whether the process reported an event in between, or a bit earlier."""
        return any(
            note.who == one.who
            and one.at - before < note.at < next_.at
            and note.text.startswith(f"event {event}")
            for note in self._index.of(Note)
        )

    def _check_dead_letters(self) -> None:
        seen = set()
        for each in self._index.of(DeadLettered):
            if each.group != self._group.name:
                continue
            # Where a stream was recreated, another message may have the same id.
            entry = (each.shard, each.id)
            again = (entry, each.message) in seen
            if again and not self._excused("again", entry, each.message):
                self._findings.dead_lettered_twice.append(self._name(entry))
            seen.add((entry, each.message))

    def _lane(self, start: Start) -> tuple[object, ...]:
        if self._group.order == "shard":
            return (start.shard,)
        return (start.shard, start.key)

    def _check_overlaps(self) -> None:
        """Check that a process handles one message of a lane at a time.

        It may have lost a shard and own it again while a handler still runs.
        """
        running: dict[tuple[object, ...], Start] = {}
        lanes: dict[Entry, tuple[object, ...]] = {}
        for step in self._index.history:
            if not isinstance(step, Start | End) or step.group != self._group.name:
                continue
            entry = (step.shard, step.id)
            owner = step.who, step.epoch
            if isinstance(step, End):
                running.pop((*owner, *lanes.get(entry, ())), None)
                continue
            lanes[entry] = self._lane(step)
            lane = (*owner, *lanes[entry])
            if lane in running:
                what = f"{step.shard} {step.id} during {running[lane].id}"
                self._findings.overlapped.append(self._name(what))
            running[lane] = step

    def _check_order(self) -> None:
        """Check that the first starts of messages are in the order of the stream."""
        latest: dict[tuple[object, ...], EntryId] = {}
        seen: set[Entry] = set()
        for start in self._starts:
            entry = (start.shard, start.id)
            # A dead letter may have been given up before it was ever started, because
            # its process died at its last attempt; after a rewind it starts late. So
            # does an entry that a fault had taken from the group.
            lost = self._excused("loss", entry, start.message)
            stale = start in self._group.stale
            if entry in seen or entry in self._dead or lost or stale:
                continue
            seen.add(entry)
            lane, id_ = self._lane(start), EntryId.parse(start.id)
            if id_ < latest.get(lane, id_):
                if not self._index.excused_order(start):
                    what = f"{start.shard} {start.id} after {latest[lane]}"
                    self._findings.reordered.append(self._name(what))
            else:
                latest[lane] = id_
