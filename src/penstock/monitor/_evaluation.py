"""Computes the status of streams and groups from what was seen of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from penstock.message import EntryId, Shard
from penstock.monitor._history import History, Sample, Trace
from penstock.monitor._observation import (
    GroupSeen,
    ShardSeen,
    StreamSeen,
    age,
    milliseconds,
    text,
)
from penstock.monitor._states import Limits, consumer_state, group_state
from penstock.monitor.model import ConsumerState, GroupStatus, StreamStatus

__all__ = ["Evaluator"]

_InShards: TypeAlias = Sequence[tuple[ShardSeen, GroupSeen, Trace]]


@dataclass(slots=True)
class Evaluator:
    """Turns what polls saw into statuses, and remembers what it needs of earlier ones.

    Attributes:
        limits: The times by which states are told apart.
    """

    limits: Limits
    _polls: int = 0
    _traces: dict[tuple[bytes, bytes], Trace] = field(default_factory=dict)
    # By stream, group, and key of the shard, or None for all shards.
    _histories: dict[tuple[str, bytes, bytes | None], History] = field(
        default_factory=dict
    )

    def begin(self) -> None:
        """Begin a poll, and forget what the last one did not see any more."""
        last, self._polls = self._polls, self._polls + 1
        for key in [key for key, one in self._traces.items() if one.seen < last]:
            del self._traces[key]
        for name in [name for name, one in self._histories.items() if one.seen < last]:
            del self._histories[name]

    def stream(self, seen: StreamSeen, *, now: int, clock: float) -> StreamStatus:
        """Return the status of a stream over all its shards.

        Args:
            seen: What the poll saw.
            now: The server's time, in milliseconds since 1970.
            clock: The time of this process, in seconds.
        """
        names = sorted({name for shard in seen.shards for name in shard.groups})
        groups = []
        for name in names:
            in_shards = [
                (shard, shard.groups[name], self._trace(shard, name, clock))
                for shard in seen.shards
                if name in shard.groups
            ]
            groups.append(
                self._group(seen.stream, name, None, in_shards, now=now, clock=clock)
            )
        return _stream(
            seen.stream,
            None,
            seen.shards,
            groups,
            dead_letters=seen.dead_letters,
            now=now,
        )

    def shards(self, seen: StreamSeen, *, now: int, clock: float) -> list[StreamStatus]:
        """Return the status of each shard of a stream, after `stream`."""
        statuses = []
        for shard in seen.shards:
            groups = [
                self._group(
                    seen.stream,
                    name,
                    shard.shard,
                    [(shard, group, self._traces[shard.shard.key, name])],
                    now=now,
                    clock=clock,
                )
                for name, group in sorted(shard.groups.items())
            ]
            statuses.append(
                _stream(
                    seen.stream,
                    shard.shard,
                    [shard],
                    groups,
                    dead_letters=None,
                    now=now,
                )
            )
        return statuses

    def lags(self, stream: str, group: str) -> list[int]:
        """Return the recent lags of a group over all shards, the oldest first."""
        name = group.encode("utf-8", "surrogateescape")
        history = self._histories.get((stream, name, None))
        return [sample.lag for sample in history.samples] if history else []

    def _trace(self, shard: ShardSeen, name: bytes, clock: float) -> Trace:
        """Note where a group is in a shard."""
        info = shard.groups[name].info
        position = (info.last_delivered, info.pending)
        trace = self._traces.get((shard.shard.key, name))
        if trace is None:
            trace = self._traces[shard.shard.key, name] = Trace(position, clock, clock)
        else:
            trace.note(position, clock)
        trace.seen = self._polls
        return trace

    def _group(
        self,
        stream: str,
        name: bytes,
        shard: Shard | None,
        in_shards: _InShards,
        *,
        now: int,
        clock: float,
    ) -> GroupStatus:
        key = stream, name, None if shard is None else shard.key
        history = self._histories.setdefault(key, History())
        history.seen = self._polls
        history.note(_sample(in_shards, now, clock))
        groups = [group for _, group, _ in in_shards]
        into, out = history.rates
        lag = sum(group.lag.number for group in groups)
        pending = sum(group.info.pending for group in groups)
        oldest = _oldest(groups, now)
        delivered = max(EntryId.parse(group.info.last_delivered) for group in groups)
        states = _consumer_states(groups, self.limits)
        state = group_state(
            [(group, trace) for _, group, trace in in_shards],
            history,
            oldest=oldest,
            last_added=_latest(age(one.info.last, now) for one, _, _ in in_shards),
            limits=self.limits,
        )
        return GroupStatus(
            stream=stream,
            group=text(name),
            shard=None if shard is None else shard.number,
            key=None if shard is None else text(shard.key),
            state=state,
            lag=lag,
            lag_exact=all(group.lag.exact for group in groups),
            pending=pending,
            backlog=lag + pending,
            oldest_age_seconds=oldest,
            oldest_idle_seconds=max(
                (one.idle / 1000 for one in groups if one.idle is not None),
                default=None,
            ),
            entries_read=_total(group.info.read for group in groups),
            consumers=len(states),
            live=states.count(ConsumerState.LIVE),
            silent=states.count(ConsumerState.SILENT),
            gone=states.count(ConsumerState.GONE),
            last_delivered_id=str(delivered),
            last_delivered_age_seconds=age(delivered, now),
            in_per_second=into,
            out_per_second=out,
            eta_seconds=_eta(lag, into, out),
        )


def _stream(
    stream: str,
    shard: Shard | None,
    shards: Sequence[ShardSeen],
    groups: list[GroupStatus],
    *,
    dead_letters: int | None,
    now: int,
) -> StreamStatus:
    firsts = [one.info.first for one in shards if one.info.first is not None]
    first = min(firsts, default=None)
    return StreamStatus(
        stream=stream,
        shard=None if shard is None else shard.number,
        key=None if shard is None else text(shard.key),
        shards=len(shards),
        length=sum(one.info.length for one in shards),
        groups=groups,
        dead_letters=dead_letters,
        first_id=None if first is None else str(first),
        last_id=str(max(one.info.last for one in shards)),
        first_age_seconds=age(first, now),
        entries_added=_total(one.info.added for one in shards),
    )


def _sample(in_shards: _InShards, now: int, clock: float) -> Sample:
    distances = [
        None
        if (last := milliseconds(shard.info.last, now)) is None
        or (at := milliseconds(EntryId.parse(group.info.last_delivered), now)) is None
        else last - at
        for shard, group, _ in in_shards
    ]
    return Sample(
        clock,
        sum(group.lag.number for _, group, _ in in_shards),
        all(group.lag.exact for _, group, _ in in_shards),
        _total(shard.info.added for shard, _, _ in in_shards),
        _total(group.info.read for _, group, _ in in_shards),
        _total(distances),
    )


def _oldest(groups: Sequence[GroupSeen], now: int) -> float | None:
    """Return the age of the oldest message not acknowledged; 0 if there is none."""
    if not any(group.has_work for group in groups):
        return 0.0
    ages = [age(group.oldest, now) for group in groups if group.has_work]
    known = [one for one in ages if one is not None]
    return max(known, default=None)


def _consumer_states(
    groups: Sequence[GroupSeen], limits: Limits
) -> list[ConsumerState]:
    """Return the states of a group's consumers, each by where it asked last."""
    idle: dict[bytes, int] = {}
    for group in groups:
        for one in group.consumers:
            idle[one.name] = min(one.idle, idle.get(one.name, one.idle))
    return [consumer_state(each / 1000, limits) for each in idle.values()]


def _latest(ages: Iterable[float | None]) -> float | None:
    return min((one for one in ages if one is not None), default=None)


def _total(numbers: Iterable[int | None]) -> int | None:
    """Return a sum; None if a part of it is not known."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _eta(lag: int, into: float | None, out: float | None) -> float | None:
    if not lag:
        return 0.0
    if into is None or out is None or out <= into:
        return None
    return lag / (out - into)
