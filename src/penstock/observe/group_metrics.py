"""Metrics of streams and groups, as `penstock exporter` serves them.

They are made of what `penstock.monitor` has polled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from penstock.monitor import GroupStatus, Snapshot, StreamStatus
from penstock.observe import prometheus
from penstock.observe._families import Family, Kind, Labels, Sample

__all__ = ["ExporterState", "Selection", "text"]

_OWN: Final = 4  # series about the exporter itself
# The kind and the meaning by name, in the order in which they are shown; a counter's
# series end in `_total`.
_FAMILIES: Final[dict[str, tuple[Kind, str]]] = {
    "penstock_stream_length": ("gauge", "Entries of a stream."),
    "penstock_stream_shards": ("gauge", "Shards of a stream that exist."),
    "penstock_stream_entries_added": (
        "counter",
        "Entries that were ever added to a stream.",
    ),
    "penstock_dead_letters": ("gauge", "Dead letters of a stream."),
    "penstock_group_lag": ("gauge", "Entries that were not delivered to a group yet."),
    "penstock_group_lag_exact": (
        "gauge",
        "1 if the lag is exact, 0 if it is an upper bound.",
    ),
    "penstock_group_pending": (
        "gauge",
        "Entries that were delivered to a group and are not acknowledged.",
    ),
    "penstock_group_backlog": ("gauge", "Lag and pending together."),
    "penstock_group_oldest_age_seconds": (
        "gauge",
        "Age of the oldest message that is not acknowledged; 0 without one.",
    ),
    "penstock_group_oldest_idle_seconds": (
        "gauge",
        "Time since the oldest pending entry was delivered or renewed.",
    ),
    "penstock_group_entries_read": (
        "counter",
        "The server's number of entries up to a group's position.",
    ),
    "penstock_group_consumers": ("gauge", "Consumers of a group by state."),
    "penstock_shard_length": ("gauge", "Entries of a shard."),
    "penstock_group_shard_lag": (
        "gauge",
        "Entries of a shard that were not delivered to a group yet.",
    ),
    "penstock_group_shard_pending": (
        "gauge",
        "Entries of a shard that a group has not acknowledged.",
    ),
    "penstock_group_shard_oldest_age_seconds": (
        "gauge",
        "Age of the oldest message of a shard that is not acknowledged.",
    ),
    "penstock_exporter_up": ("gauge", "1 if the last poll succeeded."),
    "penstock_exporter_poll_seconds": ("gauge", "Duration of the last poll."),
    "penstock_exporter_last_success_timestamp_seconds": (
        "gauge",
        "When a poll succeeded for the last time, since 1970; 0: never.",
    ),
    "penstock_exporter_streams_left_out": (
        "gauge",
        "Streams that are left out because of --max-series.",
    ),
}


class ExporterState(NamedTuple):
    """The state of an exporter.

    Attributes:
        up: Whether the last poll succeeded.
        poll_seconds: How long it took; None if there was none yet.
        last_success: When a poll succeeded for the last time, in seconds since 1970; 0
            if none has.
        left_out: The number of streams that are left out.
    """

    up: bool
    poll_seconds: float | None
    last_success: float
    left_out: int


class Selection:
    """Chooses the series of snapshots, no more than a maximum.

    A stream is exported whole or not at all. Those that were exported before stay, so
    that series do not come and go; new ones are added by name, as long as they fit.

    Args:
        max_series: The most series, those about the exporter itself included.
        consumers: Whether consumers are counted.

    Attributes:
        left_out: The streams that did not fit in the last snapshot.
    """

    def __init__(self, max_series: int, *, consumers: bool = True) -> None:
        self._most = max_series - _OWN
        self._consumers = consumers
        # The streams that are exported, in the order in which they came.
        self._exported: dict[str, None] = {}
        self.left_out: list[str] = []

    def samples(self, snapshot: Snapshot) -> list[Sample]:
        """Return the samples of a snapshot that fit."""
        shards: dict[str, list[StreamStatus]] = {}
        for shard in snapshot.shards:
            shards.setdefault(shard.stream, []).append(shard)
        streams = {one.stream: one for one in snapshot.streams}
        order = [*(name for name in self._exported if name in streams)]
        order += [name for name in sorted(streams) if name not in self._exported]
        self._exported.clear()
        self.left_out = []
        chosen: list[Sample] = []
        for name in order:
            mine = list(self._of_stream(streams[name], shards.get(name, ())))
            if len(chosen) + len(mine) > self._most:
                self.left_out.append(name)
                continue
            self._exported[name] = None
            chosen += mine
        return chosen

    def _of_stream(
        self, stream: StreamStatus, shards: Sequence[StreamStatus]
    ) -> Iterator[Sample]:
        labels: Labels = (("stream", _label(stream.stream)),)
        numbers: dict[str, float | None] = {
            "penstock_stream_length": stream.length,
            "penstock_stream_shards": stream.shards,
            "penstock_stream_entries_added_total": stream.entries_added,
            "penstock_dead_letters": stream.dead_letters,
        }
        yield from _known(numbers, labels)
        for group in stream.groups:
            yield from self._of_group(group, labels)
        for shard in shards:
            yield from _of_shard(shard, labels)

    def _of_group(self, group: GroupStatus, stream: Labels) -> Iterator[Sample]:
        labels = (*stream, ("group", _label(group.group)))
        numbers: dict[str, float | None] = {
            "penstock_group_lag": group.lag,
            "penstock_group_lag_exact": group.lag_exact,
            "penstock_group_pending": group.pending,
            "penstock_group_backlog": group.backlog,
            "penstock_group_oldest_age_seconds": group.oldest_age_seconds,
            "penstock_group_oldest_idle_seconds": group.oldest_idle_seconds,
            "penstock_group_entries_read_total": group.entries_read,
        }
        yield from _known(numbers, labels)
        if not self._consumers:
            return
        states = {"live": group.live, "silent": group.silent, "gone": group.gone}
        for state, number in states.items():
            states_of = (*labels, ("state", state))
            yield Sample("penstock_group_consumers", states_of, number)


def _of_shard(shard: StreamStatus, stream: Labels) -> Iterator[Sample]:
    labels = (*stream, ("shard", _label(shard.key or "")))
    yield Sample("penstock_shard_length", labels, shard.length)
    for group in shard.groups:
        numbers: dict[str, float | None] = {
            "penstock_group_shard_lag": group.lag,
            "penstock_group_shard_pending": group.pending,
            "penstock_group_shard_oldest_age_seconds": group.oldest_age_seconds,
        }
        yield from _known(numbers, (*labels, ("group", _label(group.group))))


def _known(numbers: dict[str, float | None], labels: Labels) -> Iterator[Sample]:
    """Yield what is known; what is not would be taken for 0."""
    for name, number in numbers.items():
        if number is not None:
            yield Sample(name, labels, float(number))


def _label(name: str) -> str:
    """Return a name as the value of a label, which has to be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def text(samples: Iterable[Sample], state: ExporterState) -> bytes:
    """Return samples and the state of the exporter in the format of Prometheus."""
    own: dict[str, float | None] = {
        "penstock_exporter_up": state.up,
        "penstock_exporter_poll_seconds": state.poll_seconds,
        "penstock_exporter_last_success_timestamp_seconds": state.last_success,
        "penstock_exporter_streams_left_out": state.left_out,
    }
    by_family: dict[str, list[Sample]] = {name: [] for name in _FAMILIES}
    for sample in (*samples, *_known(own, ())):
        by_family[sample.name.removesuffix("_total")].append(sample)
    return prometheus.text(
        Family(name, *_FAMILIES[name], tuple(found))
        for name, found in by_family.items()
        if found
    )
