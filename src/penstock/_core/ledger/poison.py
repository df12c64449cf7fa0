"""Poison guard: runs possible poison messages alone in their process.

A message may kill the process that handles it. The start of an entry that a dead
process had is counted before it begins. As long as the entry has more than one attempt
left, it runs beside others, so an ordinary crash costs no time. On its last allowed
attempt it is a *probe*: nothing else runs in this process meanwhile, in any consumer of
the event loop. So an entry that kills the process on a last attempt has done that by
itself, and no other entry is charged with it.

The server confirms the outcome of a probe before anything else starts. If the next
handler ends the process, the probe must not come back as the entry that did.

A handler that has run for longer than a lease is assumed to hang and not to kill. No
probe waits for it any longer, and no other entry waits for such a probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import WITH_HANDLER

__all__ = ["Member", "PoisonGuard"]


class Member(Protocol):
    """A consumer that starts handlers."""

    @property
    def running(self) -> Sequence[Entry]:
        """The entries that its handlers have."""

    @property
    def untracked(self) -> int:
        """How many more entries its handlers have, which are not tracked."""

    @property
    def lease(self) -> float:
        """Its lease in seconds."""

    def hold(self) -> None:
        """Make it ask before it starts another handler."""

    def wake(self) -> None:
        """Make it check what it may start."""


class PoisonGuard:
    """Decides which consumers may start handlers, and when a probe may run."""

    __slots__ = ("_confirms", "_member", "_members", "_probe", "_until")

    def __init__(self) -> None:
        # Weak references: a consumer whose event loop was closed never leaves.
        # A dictionary, because it keeps the order: a set of objects has a different
        # one in each process.
        self._members: WeakKeyDictionary[Member, None] = WeakKeyDictionary()
        # The consumer whose probe waits or runs; and the probe, once it runs.
        self._member: Member | None = None
        self._probe: Entry | None = None
        # Until then the probe waits for others, or others for the probe.
        self._until = 0.0
        self._confirms = True

    @property
    def until(self) -> float | None:
        """The time of the next `look`; None while no probe waits or runs."""
        return None if self._member is None else self._until

    def join(self, member: Member) -> None:
        """Add a consumer."""
        self._members[member] = None

    def leave(self, member: Member) -> None:
        """Remove a consumer; its probe no longer counts."""
        self._members.pop(member, None)
        if self._member is member:
            self._end()
        elif self._member is not None:
            self._member.wake()

    def is_open(self, now: float) -> bool:
        """Return whether handlers may start; wake a consumer whose probe may run."""
        self.look(now)
        return self._member is None

    def admits(self, member: Member, now: float) -> bool:
        """Ask for a consumer's next entry to run alone; return whether it may now.

        If not, the consumer is woken when it may.
        """
        self._end_if_over(now)
        if self._member is None:
            self._member, self._until = member, now + member.lease
            for other in self._members:
                other.hold()
        return self._member is member and self._may_run(now)

    def started(self, probe: Entry, now: float, *, confirms: bool) -> None:
        """Record that the probe that was admitted is about to run.

        Args:
            probe: The probe.
            now: The time.
            confirms: Whether its outcome is sent and confirmed without being asked for.
        """
        assert self._member is not None  # noqa: S101 - else it was not admitted
        self._probe, self._until = probe, now + self._member.lease
        self._confirms = confirms

    def withdraw(self, member: Member) -> None:
        """Cancel what a consumer has asked for: its next entry is no probe."""
        if self._member is member and self._probe is None:
            self._end()

    def look(self, now: float) -> None:
        """Check whether the probe may run, or has finished; wake who waits for that."""
        self._end_if_over(now)
        if self._member is not None and self._may_run(now):
            self._member.wake()

    def _may_run(self, now: float) -> bool:
        if self._probe is not None:
            return False
        if now >= self._until:
            for entry in self._running():
                entry.hangs = True
            return True
        if any(member.untracked for member in self._members):
            return False
        return all(entry.hangs for entry in self._running())

    def _running(self) -> Iterator[Entry]:
        for member in self._members:
            yield from member.running

    def _end_if_over(self, now: float) -> None:
        probe = self._probe
        if probe is None:
            return
        if probe.state not in WITH_HANDLER and not (
            probe.unconfirmed and self._confirms
        ):
            self._end()
        elif now >= self._until:
            probe.hangs = True
            self._end()

    def _end(self) -> None:
        self._member = self._probe = None
        for each in self._members:
            each.wake()
