"""The guard that has possible poison messages run alone in their process.

A message may kill the process that handles it. What comes back from a process that
died is counted before it starts and runs beside others, as long as it has more than
one attempt left: an ordinary crash costs no time. On its last allowed attempt it is a
*probe*: nothing else runs in this process then, in any consumer of the event loop. So
whoever kills the process on a last attempt has done that itself, and no other message
is charged with it.

What a probe has come to is confirmed by the server before anything else starts: should
that end the process, the probe must not come back as one that did.

A handler that has run for longer than a lease is taken for one that hangs and does not
kill: neither is a probe held up by it for longer, nor are others by such a probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol
from weakref import WeakSet

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import WITH_HANDLER

__all__ = ["Member", "PoisonGuard"]


class Member(Protocol):
    """A consumer that starts handlers."""

    @property
    def running(self) -> Sequence[Entry]:
        """The messages that are being handled."""

    @property
    def untracked(self) -> int:
        """How many more are, of which no more is known."""

    @property
    def lease(self) -> float:
        """Its lease in seconds."""

    def hold(self) -> None:
        """Have it ask before it starts another handler."""

    def wake(self) -> None:
        """Have it look what it may start."""


class PoisonGuard:
    """Decides which consumers may start handlers, and when a probe may run."""

    __slots__ = ("_confirms", "_member", "_members", "_probe", "_until")

    def __init__(self) -> None:
        # Weak: one whose event loop was closed beneath it never leaves.
        self._members: WeakSet[Member] = WeakSet()
        # Whose probe waits or runs, if there is one; and the probe, once it runs.
        self._member: Member | None = None
        self._probe: Entry | None = None
        # When it need not wait any more, or others need not.
        self._until = 0.0
        self._confirms = True

    @property
    def until(self) -> float | None:
        """When it has to be looked again; None while no probe waits or runs."""
        return None if self._member is None else self._until

    def join(self, member: Member) -> None:
        """Add a consumer."""
        self._members.add(member)

    def leave(self, member: Member) -> None:
        """Remove a consumer; its probe is over."""
        self._members.discard(member)
        if self._member is member:
            self._end()
        elif self._member is not None:
            self._member.wake()

    def is_open(self, now: float) -> bool:
        """Return whether handlers may start; wake the consumer whose probe may, too."""
        self.look(now)
        return self._member is None

    def admits(self, member: Member, now: float) -> bool:
        """Ask for a consumer's next message to run alone; return whether it may now.

        If not, the consumer is woken when it may.
        """
        self._end_if_over(now)
        if self._member is None:
            self._member, self._until = member, now + member.lease
            for other in self._members:
                other.hold()
        return self._member is member and self._may_run(now)

    def started(self, probe: Entry, now: float, *, confirms: bool) -> None:
        """Take note that the probe that was admitted is about to run.

        Args:
            probe: The probe.
            now: The time.
            confirms: Whether its outcome is sent and confirmed by itself.
        """
        assert self._member is not None  # noqa: S101 - else it was not admitted
        self._probe, self._until = probe, now + self._member.lease
        self._confirms = confirms

    def withdraw(self, member: Member) -> None:
        """Take back what a consumer has asked for: its next message is no probe."""
        if self._member is member and self._probe is None:
            self._end()

    def look(self, now: float) -> None:
        """See whether the probe may run, or has finished; wake who waits for it."""
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
