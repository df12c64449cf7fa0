"""Reports of messages that were left without an outcome and never acknowledged.

The caller that received such a message has ended, or has dropped the message without
reading it. Code that still has the message may still acknowledge it: that counts while
the lease lasts. So the message is reported when its lease is over or the consumer
closes, and not before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from penstock import _clock
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import LOST, UNSETTLED
from penstock._tasks.reporting import id_list
from penstock.events import Event, OnEvent

__all__ = ["Abandoned"]

# The minimum time between two reports, in seconds.
_REPORT_INTERVAL: Final = 1.0
_HINT: Final = (
    "call message.ack(), or await consumer.next(timeout=...) in the task that handles "
    "the message"
)


class Abandoned:
    """The abandoned entries, until they are acknowledged or their lease has ended.

    Args:
        group: The group's name.
        lease: The lease in seconds.
        on_event: Called to report the entries that were not acknowledged.
        on_over: Called with these entries when their lease has ended. In shared shards
            nothing has to be done: any consumer may claim them then.
    """

    def __init__(
        self,
        group: str,
        lease: float,
        on_event: OnEvent,
        on_over: Callable[[Iterable[Entry]], None] = lambda _: None,
    ) -> None:
        self._group = group
        self._lease = lease
        self._on_event = on_event
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        # Each entry with the time at which its lease ends, the oldest first.
        self._entries: deque[tuple[float, Entry]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entries: Iterable[Entry]) -> None:
        """Add those of the entries that have no outcome."""
        end = _clock.monotonic() + self._lease
        self._entries.extend((end, each) for each in entries if _has_no_outcome(each))
        if self._entries and self._timer is None:
            self._timer = self._loop.call_later(self._lease, self._on_timer)

    def close(self) -> None:
        """Report the remaining entries: the consumer closes and others get them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._report([each for _, each in self._entries])
        self._entries.clear()

    def _on_timer(self) -> None:
        self._timer = None
        now, ended = _clock.monotonic(), list[Entry]()
        while self._entries and self._entries[0][0] <= now:
            ended.append(self._entries.popleft()[1])
        self._report(ended)
        self._on_over(filter(_has_no_outcome, ended))
        while self._entries and not _has_no_outcome(self._entries[0][1]):
            self._entries.popleft()
        if self._entries:
            wait = max(_REPORT_INTERVAL, self._entries[0][0] - now)
            self._timer = self._loop.call_later(wait, self._on_timer)

    def _report(self, entries: Iterable[Entry]) -> None:
        left = [each.id for each in entries if _has_no_outcome(each)]
        if left:
            facts = {
                "group": self._group,
                "messages": len(left),
                "ids": id_list(left),
                "hint": _HINT,
            }
            self._on_event(Event("not_acknowledged", facts=facts))


def _has_no_outcome(entry: Entry) -> bool:
    """Return whether an entry has no outcome; another consumer may have claimed it."""
    return entry.state in (UNSETTLED, LOST) and entry.disposition is None
