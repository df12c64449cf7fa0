"""Numbers: what consumers and producers have counted, as samples of families."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from penstock import _clock
from penstock._core.ledger.counters import Counters
from penstock._core.metrics.attempts import OUTCOMES
from penstock._core.metrics.backlog import backlog_of
from penstock._tasks.attempt_meter import AttemptMeter
from penstock._tasks.consumer_set import LONGEST_SILENCE
from penstock._tasks.event_counts import EventCounts
from penstock._version import __version__
from penstock.consumer import Consumer
from penstock.observe._builder import Builder
from penstock.observe._families import Labels
from penstock.producer import Producer

__all__ = [
    "Admit",
    "add_consumer",
    "add_producer",
    "describe_process",
    "server_version_of",
]

Admit: TypeAlias = Callable[..., tuple[str, str]]
"""Returns the stream and the group under which those of a thing are counted."""

# The counters of a stream, by the families that they are in.
_COUNTED: Final = {
    "penstock_messages_received": "received",
    "penstock_messages_acknowledged": "acked",
    "penstock_messages_dropped": "dropped",
    "penstock_deleted_pending": "deleted",
    "penstock_claimed": "claimed",
    "penstock_leases_lost": "lost",
    "penstock_outcomes_late": "late",
}


def describe_process(builder: Builder, server_versions: Iterable[str]) -> None:
    """Add what is known of this process.

    Args:
        builder: The families.
        server_versions: The versions of the servers that it is connected to.
    """
    for server_version in sorted(set(server_versions)) or [""]:
        labels = ("version", __version__), ("server_version", server_version)
        builder.add("penstock_info", labels, 1)


def server_version_of(thing: Consumer[Any] | Producer) -> str:
    """Return the version of the server; empty if it is closed, or not known."""
    if isinstance(thing, Consumer):
        return "" if thing._session is None else thing._session.server_version  # noqa: SLF001
    return thing._meter.server_version() if thing._sender.opened else ""  # noqa: SLF001


def add_consumer(builder: Builder, consumer: Consumer[Any], admit: Admit) -> None:
    """Add the numbers of a consumer."""
    meter, group = consumer._config.meter, consumer.group or ""  # noqa: SLF001
    counted = meter.counters()
    for stream in dict.fromkeys((*consumer._config.streams, *counted)):  # noqa: SLF001
        labels = _labels(*admit(stream, group))
        _add_counters(builder, counted.get(stream, Counters()), labels)
    for (stream, handler), totals in list(meter.attempts.items()):
        labels = (*_labels(*admit(stream, group)), ("handler", handler))
        for outcome in OUTCOMES:
            number = totals.number(outcome)
            outcomes = (*labels, ("outcome", outcome))
            builder.add("penstock_messages_handled", outcomes, number)
        builder.add_histogram("penstock_handler_seconds", labels, totals.seconds)
        builder.add_histogram("penstock_message_age_seconds", labels, totals.ages)
        builder.add("penstock_retries", labels, 0)
        for reason in ("attempts", "rejected"):
            builder.add("penstock_dead_lettered", (*labels, ("reason", reason)), 0)
    if consumer._session is not None:  # noqa: SLF001
        _add_gauges(builder, meter, group, admit)
        answers = consumer.silent_for <= LONGEST_SILENCE
        builder.add("penstock_connected", (("role", "consumer"),), answers)
    _add_events(builder, meter.events, "consumer")


def _add_counters(builder: Builder, counted: Counters, labels: Labels) -> None:
    for family, name in _COUNTED.items():
        builder.add(family, labels, getattr(counted, name))
    for handler, number in counted.retries.items():
        builder.add("penstock_retries", (*labels, ("handler", handler)), number)
    for (handler, reason), number in counted.dead_letters.items():
        letters = (*labels, ("handler", handler), ("reason", reason))
        builder.add("penstock_dead_lettered", letters, number)


def _add_gauges(
    builder: Builder, meter: AttemptMeter, group: str, admit: Admit
) -> None:
    if meter.ledger is None:
        return
    for stream, backlog in backlog_of(meter.ledger).items():
        labels = _labels(*admit(stream, group))
        builder.add("penstock_messages_queued", labels, backlog.queued)
        builder.add("penstock_messages_uncommitted", labels, backlog.uncommitted)
        builder.add("penstock_handlers_running", labels, 0)
        builder.raise_to("penstock_oldest_running_seconds", labels, 0.0)
    now = _clock.boottime()
    for stream, began in meter.running():
        labels = _labels(*admit(stream, group))
        builder.add("penstock_handlers_running", labels, 1)
        builder.raise_to("penstock_oldest_running_seconds", labels, now - began)


def add_producer(builder: Builder, producer: Producer, admit: Admit) -> None:
    """Add the numbers of a producer."""
    meter, sender = producer._meter, producer._sender  # noqa: SLF001
    for stream, totals in list(meter.sends.items()):
        labels: Labels = (("stream", admit(stream)[0]),)
        for outcome, number in totals.outcomes.items():
            builder.add("penstock_sent", (*labels, ("outcome", outcome)), number)
        builder.add_histogram("penstock_send_seconds", labels, totals.seconds)
    if sender.opened:
        held = sender.accumulator
        builder.add("penstock_send_queue_messages", (), held.held)
        builder.add("penstock_send_queue_bytes", (), held.size)
        answers = meter.lost_for() <= LONGEST_SILENCE
        builder.add("penstock_connected", (("role", "producer"),), answers)
    _add_events(builder, meter.events, "producer")


def _add_events(builder: Builder, events: EventCounts, role: str) -> None:
    builder.add("penstock_reconnects", (("role", role),), 0)
    for (name, level), number in events.all().items():
        builder.add("penstock_events", (("event", name), ("level", level)), number)
        if name == "reconnected":
            builder.add("penstock_reconnects", (("role", role),), number)


def _labels(stream: str, group: str) -> Labels:
    return ("stream", stream), ("group", group)
