"""Judgements of streams and their groups: from what a poll saw to findings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from penstock.events import printable
from penstock.monitor.doctor.findings import Finding, note, ok, warn
from penstock.monitor.model import GroupState, GroupStatus, Snapshot, StreamStatus

__all__ = ["check_streams"]

_LONG: Final = 10_000
"""The entries from which on a stream that nothing deletes from is reported."""


def check_streams(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield the findings about all streams of a poll: at least one."""
    found = [each for stream in snapshot.streams for each in _stream(stream)]
    found += [
        warn(
            "streams",
            f"there is no stream {_shown(name)}",
            "the first send creates it; otherwise the name is wrong",
            "penstock streams",
        )
        for name in snapshot.missing
    ]
    found += [
        note(
            "streams",
            f"{_shown(problem.stream)} is not known: {problem.text}",
            "its groups and dead letters can't be checked",
        )
        for problem in snapshot.problems
    ]
    yield from found
    if not found:
        yield _fine(snapshot.streams)


def _fine(streams: Sequence[StreamStatus]) -> Finding:
    groups = sum(len(stream.groups) for stream in streams)
    counts = f"streams: {len(streams):,}, groups: {groups:,}"
    return ok("streams", counts, "all groups are read, and there are no dead letters")


def _stream(stream: StreamStatus) -> Iterator[Finding]:
    name, word = _shown(stream.stream), shlex.quote(stream.stream)
    for group in stream.groups:
        yield from _group(group, name, word)
    if stream.dead_letters:
        yield warn(
            "streams",
            f"{name} has dead letters: {stream.dead_letters:,}",
            "these messages were given up, and nobody handles them",
            f"penstock dead summary {word}",
        )
    elif stream.dead_letters is None:
        yield note(
            "streams",
            f"the dead letters of {name} are not known",
            "this user may not count them (XLEN)",
        )
    if stream.length >= _LONG and stream.entries_added in {None, stream.length}:
        grows = "nothing has ever deleted any"
        unknown = "this server does not tell whether anything deletes some"
        yield (note if stream.entries_added is None else warn)(
            "streams",
            f"{name} has {stream.length:,} entries, and "
            f"{unknown if stream.entries_added is None else grows}",
            "it grows until the memory is full, unless its producers have retention= "
            "or it is trimmed; KEEP_ALL is for streams that are meant to",
            f"penstock trim {word} --acked",
        )
    if stream.first_id is not None and stream.first_age_seconds is None:
        yield warn(
            "streams",
            f"{name} has ids that are no times: {stream.first_id}",
            "ages are not known, and MaxAge deletes nothing or everything; let the "
            "server choose the ids, and trim by --max-len",
            f"penstock info {word}",
        )


def _group(group: GroupStatus, name: str, stream: str) -> Iterator[Finding]:
    shown, word = _shown(group.group), shlex.quote(group.group)
    if group.state in {GroupState.UNREAD, GroupState.NO_CONSUMERS}:
        number = f"{group.backlog:,}" if group.lag_exact else f"up to {group.backlog:,}"
        yield warn(
            "streams",
            f"nobody reads group {shown} of {name}",
            f"messages that wait: {number}; start its consumers, or delete the group "
            f"if it is not used",
            f"penstock delete group {stream} {word}",
        )
    if group.gone:
        consumers = "consumer" if group.gone == 1 else "consumers"
        yield warn(
            "streams",
            f"{group.gone:,} {consumers} of group {shown} of {name} are gone",
            "what they had pending waits until a live consumer claims it, after the "
            "lease; consumers without anything pending can be deleted",
            f"penstock consumers {stream} {word}",
        )


def _shown(name: str) -> str:
    return printable(name, 60)
