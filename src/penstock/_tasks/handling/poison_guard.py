"""The poison guard of an event loop, and its member for each consumer.

All consumers of an event loop share one guard. A message that kills its process kills
all consumers of the process, so a message that has to run alone has to run alone in all
of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from penstock import _clock
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.poison import PoisonGuard

__all__ = ["GuardMember", "poison_guard"]

_guards: WeakKeyDictionary[asyncio.AbstractEventLoop, PoisonGuard] = WeakKeyDictionary()


def poison_guard() -> PoisonGuard:
    """Return the running event loop's guard."""
    return _guards.setdefault(asyncio.get_running_loop(), PoisonGuard())


class GuardMember:
    """One consumer as the guard sees it.

    Args:
        guard: The event loop's guard.
        ledger: The consumer's ledger.
        lease: The lease in seconds.
        confirms: Whether outcomes are sent without the user's demand.
        on_hold: Called when the guard has to be asked before the next handler starts.
        on_wake: Called when handlers may start again.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_confirms",
        "_guard",
        "_ledger",
        "_on_hold",
        "_on_wake",
        "_timer",
        "lease",
    )

    def __init__(
        self,
        guard: PoisonGuard,
        ledger: Ledger,
        *,
        lease: float,
        confirms: bool,
        on_hold: Callable[[], None],
        on_wake: Callable[[], None],
    ) -> None:
        self._guard = guard
        self._ledger = ledger
        self.lease = lease
        self._confirms = confirms
        self._on_hold = on_hold
        self._on_wake = on_wake
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def running(self) -> Sequence[Entry]:
        """The entries that handlers have."""
        return self._ledger.running

    @property
    def untracked(self) -> int:
        """The number of entries that handlers have and `running` does not list."""
        return self._ledger.untracked

    def hold(self) -> None:
        """Ask the guard before the next handler starts."""
        self._ledger.watchers[self.look] = None
        self._on_hold()

    def wake(self) -> None:
        """Check again which handlers may start."""
        if self._guard.until is None:
            self._ledger.watchers.pop(self.look, None)
        self._on_wake()

    def join(self) -> None:
        """Have the guard ask this consumer, too."""
        self._guard.join(self)

    def leave(self) -> None:
        """Start no more handlers: the guard no longer asks this consumer."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._guard.leave(self)

    def may_start(self) -> bool:
        """Return whether the handler of the next entry may start."""
        if not self._ledger.work.next_is_probe:
            self._guard.withdraw(self)
            return self._guard.is_open(_clock.boottime())
        now = _clock.boottime()
        admitted = self._guard.admits(self, now)
        if not admitted:
            self._set_timer(now)
        return admitted

    def started(self, probe: Entry) -> None:
        """Record that the admitted probe is about to run."""
        now = _clock.boottime()
        self._guard.started(probe, now, confirms=self._confirms)
        self._set_timer(now)

    def look(self) -> None:
        """Check whether the probe may run, or has finished."""
        now = _clock.boottime()
        self._guard.look(now)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        """Set the one timer to the time at which the guard stops waiting.

        When that is over there is nothing to wait for: the consumer whose probe may run
        has been woken, and it may be held by something else, as leases to be renewed.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        until = self._guard.until
        if until is not None and until > now and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(until - now, self.look)
