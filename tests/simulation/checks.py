"""Checks: what the options of a plan promise, beyond what the checker knows.

`complete` adds records that only the whole history can give. `findings` returns what
must not be, by its kind. `allow` removes what the checker has found and may be.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from math import inf
from typing import Final

from faults.checker import Findings
from faults.history import (
    Acked,
    Attempt,
    DeadLettered,
    End,
    Excuse,
    History,
    Note,
    Receipt,
    Start,
    Stored,
    digest,
)
from simulation.plan import REOPENING, ConsumerPlan, Plan

__all__ = ["allow", "complete", "findings"]

# Seconds within which one report stands for all refusals of a kind.
_REPORT: Final = 1.01
_DROPPED: Final = re.compile(r"event gave_up stream='orders' id=(\S+) .*then=dropped")


def complete(plan: Plan, history: History) -> None:
    """Add records of dropped messages, and excuses for what retention has trimmed.

    The history is sorted by time: a handler that holds up its loop records ahead of it.
    """
    end = max((record.at for record in history), default=0.0)
    history += _dropped(plan, history)
    if any({"max_len", "max_age"} & {*each.options} for each in plan.producers):
        history += _trimmed(plan, history, end)
    history += _namesakes(history)
    history += _without_payload(plan, history, end)
    history.sort(key=lambda record: record.at)


def _dropped(plan: Plan, history: History) -> Iterator[DeadLettered]:
    """Yield a record for each message that was given up and dropped, as was reported.

    A dropped message is not lost: it ends as one that is dead-lettered.
    """
    drops = [c for c in plan.consumers if c.options.get("dead_letters") == "drop"]
    if not drops:
        return
    sent = {each.message: each for each in history if isinstance(each, Attempt)}
    entries: defaultdict[str, set[tuple[int, str]]] = defaultdict(set)
    for each in history:
        if isinstance(each, Receipt | Start | Stored):
            entries[each.id].add((each.shard, each.message))
    seen = set()
    for note in [each for each in history if isinstance(each, Note)]:
        found = _DROPPED.match(note.text)
        if found is None:
            continue
        groups = next(
            (c.groups for c in drops if c.name == note.who.partition(".")[0]), ()
        )
        for shard, message in sorted(entries[found[1]]):
            for group in groups:
                entry = (group, shard, found[1])
                if entry in seen or message not in sent:
                    continue
                seen.add(entry)
                yield DeadLettered(
                    note.at,
                    note.who,
                    group=group,
                    shard=shard,
                    id=found[1],
                    message=message,
                    digest=sent[message].digest,
                )


def _trimmed(plan: Plan, history: History, end: float) -> Iterator[Excuse]:
    """Yield an excuse for all entries that retention may have trimmed by the end.

    By age those are trimmed that another program has given a low id.
    """
    any_age = any("max_len" in each.options for each in plan.producers)
    there = {(each.shard, each.id) for each in history if isinstance(each, Stored)}
    gone = {
        f"{each.shard} {each.id}"
        for each in history
        if isinstance(each, Receipt | Start)
        and (each.shard, each.id) not in there
        and (any_age or each.id.startswith("0-"))
    }
    if gone:
        what = ["loss", "ack"]
        yield Excuse(end, "retention", since=0.0, what=what, ids=sorted(gone))


def _namesakes(history: History) -> Iterator[Excuse]:
    """Yield an excuse for the order where two consumers had one name, as was reported.

    The other one may be a machine that has vanished: the server still gives an entry to
    its last read, and only the end of the lease brings it back.
    """
    for note in history:
        if isinstance(note, Note) and note.text.startswith("event name_in_use"):
            group = note.text.partition("group='")[2].partition("'")[0]
            what = ["order"]
            yield Excuse(note.at, note.who, since=note.at, what=what, group=group)


def _without_payload(plan: Plan, history: History, end: float) -> Iterator[Excuse]:
    """Yield excuses for what is passed over since it can't be decoded.

    Consumers that have no dead letters do that: in REALTIME, or those that acknowledge
    by time or on delivery. It may have been redriven by others.
    """
    empty = digest(b"")
    names = {
        each.message
        for each in history
        if isinstance(each, Attempt) and each.digest == empty
    }
    found = {
        f"{each.shard} {each.id}"
        for each in history
        if isinstance(each, Receipt | Stored) and each.message in names
    }
    if not found:
        return
    passing = {
        group
        for each in plan.consumers
        if each.options.get("auto_commit") in {"delayed", "immediate"}
        for group in each.groups
    }
    for group in sorted({"realtime", *passing}):
        what, ids = ["loss", "ack"], sorted(found)
        yield Excuse(end, "stranger", since=0.0, what=what, ids=ids, group=group)


def allow(plan: Plan, found: Findings) -> None:
    """Remove findings that the options of a plan, or its faults, allow."""
    if any(c.style in REOPENING or "consumers" in c.run for c in plan.consumers):
        # Each of several consumers of a process, and each opening, has its events.
        found.noisy.clear()
    kinds = {fault.kind for fault in plan.faults}
    # Resending may store a message twice. Where the server has lost what it knew of
    # idempotent sends, a copy that was long under way is stored.
    flushed = "flush_all" in kinds
    resent = tuple(
        "" if flushed else f"{producer.name}."
        for producer in plan.producers
        if flushed or producer.options.get("resend")
    )
    found.doubled[:] = [each for each in found.doubled if not each.startswith(resent)]
    if kinds & {"no_scripts", "no_permission"}:
        # A dead letter is written before its message is acknowledged, and redriven
        # before it is deleted (docs/explanation/design.md). What ends in between comes
        # twice.
        found.dead_lettered_twice.clear()
        if any(step.what == "redrive" for op in plan.operators for step in op.steps):
            found.doubled.clear()


def findings(plan: Plan, history: History) -> Iterator[tuple[str, str]]:
    """Yield what must not be: its kind, and what it is."""
    again = {
        group
        for each in history
        if isinstance(each, Excuse) and "again" in each.what
        for group in ([each.group] if each.group else _groups(plan))
    }
    for consumer in plan.consumers:
        for group in set(consumer.groups) - again:
            yield from _deadly(consumer, group, history)
            if consumer.style == "jobs":
                yield from _unfinished(consumer, group, history)
    yield from _replays(plan, history)
    yield from _exits(history)


def _groups(plan: Plan) -> set[str]:
    return {group for each in plan.consumers for group in each.groups}


def _deadly(
    consumer: ConsumerPlan, group: str, history: History
) -> Iterator[tuple[str, str]]:
    """Check that messages which kill their process are given up in time.

    The first start of a message may be forgotten, the others may not, unless the
    server refuses to count them, as was reported.
    """
    retry = consumer.options.get("retry", {})
    most = retry.get("max_attempts", 5) + (retry.get("max_attempts", 5) > 1)
    ended = {
        (e.shard, e.id) for e in history if isinstance(e, End) and e.group == group
    }
    refused: defaultdict[str, list[float]] = defaultdict(list)
    for note in history:
        if isinstance(note, Note) and note.text.startswith("event count_refused"):
            refused[note.who].append(note.at)
    starts = Counter(
        (each.shard, each.id)
        for each in history
        if isinstance(each, Start)
        and each.group == group
        and not any(0 <= each.at - at < _REPORT for at in refused[each.who])
    )
    for entry, count in starts.items():
        if count > most and entry not in ended:
            yield "deadly", f"{group}: {entry[0]} {entry[1]} started {count} times"


def _unfinished(
    consumer: ConsumerPlan, group: str, history: History
) -> Iterator[tuple[str, str]]:
    """Check that a job which ends has done all that was there when it began."""
    excused = any(isinstance(e, Excuse) and "loss" in e.what for e in history)
    if excused:
        return
    done: dict[tuple[int, str], float] = {}
    policy = consumer.options.get("auto_commit")
    if policy == "immediate":
        return  # a lost reply loses messages
    for each in history:
        if isinstance(each, Acked) and policy == "delayed" and each.group == group:
            # By time alone, also while its handler runs.
            for id_ in each.ids:
                done.setdefault((each.shard, id_), each.at)
        if not isinstance(each, End | DeadLettered) or each.group != group:
            continue
        if isinstance(each, DeadLettered) or each.ok or policy == "delayed":
            done.setdefault((each.shard, each.id), each.at)
    for began, note in _spans(history, "job begins", "job ends"):
        if note.who.partition(".")[0] != consumer.name:
            continue
        # Shards that it had not found when it began are not waited for.
        known = {
            each.shard
            for each in history
            if isinstance(each, Start) and each.who == note.who and each.at < began
        }
        for one in _stored_before(history, began):
            if (
                one.shard in known
                and done.get((one.shard, one.id), note.at + 1) > note.at
            ):
                yield "unfinished", f"{group}: {one.shard} {one.id} at {note.at}"


def _spans(history: History, begin: str, end: str) -> Iterator[tuple[float, Note]]:
    """Yield when something began, and the note of its end."""
    began: dict[str, float] = {}
    for note in history:
        if not isinstance(note, Note):
            continue
        if note.text == begin:
            began[note.who] = note.at
        elif note.text.startswith(end):
            yield began[note.who], note


def _stored_before(history: History, at: float) -> Iterator[Receipt]:
    """Yield the receipts before a moment."""
    for each in history:
        if each.at >= at:
            return
        if isinstance(each, Receipt):
            yield each


def _exits(history: History) -> Iterator[tuple[str, str]]:
    """Check that what a handler ends a program with ends it, the first one if several.

    A process that was killed, or asked to end meanwhile, need not get that far.
    """
    raised: dict[str, Note] = {}
    for note in history:
        if not isinstance(note, Note):
            continue
        word, _, name = note.text.partition(" by ")
        if word == "exits":
            raised.setdefault(note.who, note)
        elif word == "ended":
            cause = raised.pop(note.who, None)
            if name == "GeneratorExit":
                continue  # of a handler beside it, which ended first
            if cause is None or not cause.text.endswith(name):
                yield "exits", f"{note.who} at {note.at}: {note.text}, not {cause}"
        elif note.text == "ready" and note.who in raised:
            yield "exits", f"{note.who} went on after {raised[note.who]}"


def _replays(plan: Plan, history: History) -> Iterator[tuple[str, str]]:
    """Check that a replay has found all that was there, unless anything was deleted."""
    hidden = any(each.kind == "wrong_type" for each in plan.faults)
    if hidden or any(isinstance(e, Excuse) and "loss" in e.what for e in history):
        return
    # Before a producer has recorded how many shards there are, none is looked for.
    sent = (e.at for e in history if isinstance(e, Receipt) and e.who != "operator")
    recorded = min(sent, default=inf)
    for began, note in _spans(history, "replay begins", "replayed"):
        if began < recorded:
            continue
        found = set(note.text.split()[1:])
        for one in _stored_before(history, began):
            if f"{one.shard}:{one.id}" not in found:
                yield "not_replayed", f"{one.shard} {one.id} at {note.at}"
