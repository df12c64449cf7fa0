"""How groups and consumers are doing: the rules of the states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from penstock._core.protocol.replies import ConsumerInfo
from penstock.monitor._history import History, Trace
from penstock.monitor._observation import GroupSeen
from penstock.monitor.model import ConsumerState, GroupState

__all__ = ["LEASE", "LIVE", "Limits", "consumer_state", "group_state"]

LIVE: Final = 10.0
"""Seconds within which a live consumer has asked the server for something."""
LEASE: Final = 60.0
"""Seconds of a lease, by default; see `Claim`."""
_STILL: Final = 60.0  # seconds without a movement that are a stall
_RECENT: Final = 60.0  # seconds within which there was traffic
# Seconds that a message may wait before its group is behind: less is between two reads.
_WAITS: Final = 1.0
_NOTHING: Final = b"0-0"


class Limits(NamedTuple):
    """Times in seconds by which states are told apart.

    Attributes:
        live: See `LIVE`.
        lease: The lease of the group's consumers.
    """

    live: float = LIVE
    lease: float = LEASE


def consumer_state(idle: float, limits: Limits) -> ConsumerState:
    """Return the state of a consumer.

    Args:
        idle: The seconds since it asked the server for anything.
        limits: The limits.
    """
    if idle <= limits.live:
        return ConsumerState.LIVE
    return ConsumerState.SILENT if idle <= limits.lease else ConsumerState.GONE


def group_state(
    seen: Sequence[tuple[GroupSeen, Trace]],
    history: History,
    *,
    oldest: float | None,
    last_added: float | None,
    limits: Limits,
) -> GroupState | None:
    """Return the state of a group over some shards, by the table in the docs.

    Args:
        seen: The group in each of the shards, and what is remembered of it there.
        history: The samples over all of them.
        oldest: The age of the oldest message that is not acknowledged, in seconds;
            None if that is not known.
        last_added: The seconds since an entry was added; None likewise.
        limits: The limits.

    Returns:
        The state; None if a second sample is needed to know it.
    """
    lag = sum(group.lag.number for group, _ in seen)
    consumers = any(group.consumers for group, _ in seen)
    delivered = any(group.info.last_delivered != _NOTHING for group, _ in seen)
    if lag and not delivered and not consumers:
        return GroupState.UNREAD
    if any(g.has_work and not _is_read(g.consumers, limits) for g, _ in seen):
        return GroupState.NO_CONSUMERS
    now = history.samples[-1].at
    polled_once = all(trace.polls == 1 for _, trace in seen)
    if polled_once and any(group.has_work for group, _ in seen):
        return None
    if any(_is_stalled(*each, now, oldest, limits) for each in seen):
        return GroupState.STALLED
    if lag and history.grows and (oldest is None or oldest >= _WAITS):
        return GroupState.BEHIND
    moved = any(trace.moved and now - trace.changed <= _RECENT for _, trace in seen)
    recent = last_added is not None and last_added <= _RECENT
    return GroupState.OK if moved or recent else GroupState.IDLE


def _is_read(consumers: Iterable[ConsumerInfo], limits: Limits) -> bool:
    return any(consumer.idle <= 1000 * limits.live for consumer in consumers)


def _is_stalled(
    group: GroupSeen, trace: Trace, now: float, oldest: float | None, limits: Limits
) -> bool:
    """Return whether a group that is read does not move in a shard.

    While it has been polled for less than a minute, it is stalled if it has not moved
    since, and if a message is older than a minute as well.
    """
    lapsed = group.idle is not None and group.idle > 1000 * limits.lease
    if not (group.lag.number or lapsed):
        return False
    if now - trace.since >= _STILL:
        return now - trace.changed >= _STILL
    is_old = oldest is not None and oldest > _STILL
    return trace.polls > 1 and not trace.moved and is_old
