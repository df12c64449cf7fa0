"""Events that several tasks report, and a limit on how often refusals are reported."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from penstock import _clock
from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.ledger.ledger import Ledger
from penstock._core.sending.requests import SendRequest
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = [
    "ShardReporter",
    "id_list",
    "number_list",
    "rate_limited",
    "report_blocked",
    "report_deleted",
    "report_sends",
    "stream_list",
]

# Seconds in which each kind of refusal is reported once.
_INTERVAL: Final = 1.0
# The most ids or streams that an event lists; it also has the number of messages.
_MAX_LISTED: Final = 10


def rate_limited(on_event: OnEvent) -> OnEvent:
    """Return a hook that reports each kind of refusal at most once a second.

    Requests that were refused (events named `*_refused`) are repeated until they
    succeed: by the reader, the committer and the claimer, each at its own pace, and by
    some of them for each shard.
    """
    reported_at: dict[str, float] = {}
    counts: dict[str, int] = {}

    def report(event: Event) -> None:
        name = event.name
        if name.endswith("_refused"):
            now = _clock.monotonic()
            counts[name] = counts.get(name, 0) + 1
            if now - reported_at.get(name, -_INTERVAL) < _INTERVAL:
                return
            reported_at[name] = now
            # This event, and those before it that were not reported.
            if (number := counts.pop(name)) > 1:
                event = replace(event, facts={**event.facts, "times": number})
        on_event(event)

    return report


def id_list(ids: Sequence[bytes]) -> Sequence[str]:
    """Return the first ten of the ids."""
    return tuple(id_.decode() for id_ in ids[:_MAX_LISTED])


def number_list(shards: Iterable[Shard]) -> Sequence[int]:
    """Return the numbers of the first ten of the shards."""
    return tuple(shard.number for shard in islice(shards, _MAX_LISTED))


def stream_list(shards: Iterable[Shard]) -> Sequence[str]:
    """Return the streams of shards, each once; the first ten of them."""
    return tuple(islice(dict.fromkeys(shard.stream for shard in shards), _MAX_LISTED))


def report_sends(
    on_event: OnEvent, name: str, requests: Sequence[SendRequest[Any]], reason: str
) -> None:
    """Report messages that were not sent, or may not have been, if there are any."""
    if requests:
        streams = stream_list(request.shard for request in requests)
        facts = {"messages": len(requests), "streams": streams, "reason": reason}
        on_event(Event(name, facts=facts))


class ShardReporter:
    """Reports events about the shards that one consumer reads.

    Args:
        group: The consumer's group; None for REALTIME.
        on_event: Receives the events.
    """

    def __init__(self, group: str | None, on_event: OnEvent) -> None:
        self._group = {} if group is None else {"group": group}
        self._on_event = on_event

    def report(
        self, name: str, shard: Shard, level: int = logging.WARNING, **facts: object
    ) -> None:
        """Report an event about a shard."""
        where = {"stream": shard.stream, "shard": shard.number, **self._group}
        self._on_event(Event(name, level, {**where, **facts}))


def report_deleted(ledger: Ledger, group: str, on_event: OnEvent) -> None:
    """Report pending entries that were found to be deleted from their stream."""
    report = ShardReporter(group, on_event).report
    for shard, ids in ledger.deliveries.take_deleted():
        facts = {"messages": len(ids), "ids": id_list(ids)}
        report("deleted_while_pending", shard, logging.ERROR, **facts)


def report_blocked(late: float, lease: float, group: str, on_event: OnEvent) -> None:
    """Report that the event loop was blocked, if that endangers a lease.

    Args:
        late: By how many seconds a timer was late.
        lease: The lease in seconds, of entries or of shards.
        group: The consumer's group.
        on_event: Receives the event.
    """
    if late > LeaseTerms(lease).renew_after:
        facts = {"group": group, "seconds": round(late, 3), "lease": lease}
        on_event(Event("loop_blocked", logging.WARNING, facts))
