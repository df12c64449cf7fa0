"""Watches a run of `penstock demo` until all is handled, and kills half-way.

The kill strikes when the group has read nearly half of the lines, while workers have
some of them in hand, taken and not acknowledged. Whoever has most is frozen first,
since between looking and killing it would go on; it is killed if it then still has
something. Until that is done no more than half of the lines are sent: so it can't come
too late, however fast all goes, and the other half still is to be handled without the
one killed. Should all be acknowledged before that is seen, some more lines are sent,
and so on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio

from penstock import CommandError, ConnectError, ConnectionLost
from penstock.admin import Admin, GroupState
from penstock.cli.demo.sender import Sender
from penstock.cli.demo.worker_processes import Target, WorkerProcesses

__all__ = ["Progress", "Show", "Stalled", "Watch"]

_LOOK: Final = 0.01  # seconds between looks at the group; two commands each
_NEARLY: Final = 0.9  # of the half: sending it may not be over yet


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        sent: Lines that the server has.
        unsettled: Lines on their way to it.
        lag: Lines that no worker has read yet.
        pending: Lines that a worker has read and not acknowledged yet.
        in_flight: The same by worker; one without any is left out.
    """

    sent: int = 0
    unsettled: int = 0
    lag: int = 0
    pending: int = 0
    in_flight: Mapping[str, int] = field(default_factory=dict)

    @property
    def handled(self) -> int:
        """Lines that are acknowledged."""
        return self.sent - self.lag - self.pending

    @property
    def idle(self) -> bool:
        """Whether all lines so far are acknowledged."""
        return not (self.unsettled or self.lag or self.pending)


Show: TypeAlias = Callable[[Progress], None]


class Stalled(Exception):  # noqa: N818 - what happened
    """Nothing moves any more."""

    def __init__(self, seconds: float, seen: Progress) -> None:
        super().__init__(
            f"no progress for {seconds:g} s: {seen.sent} lines sent, {seen.unsettled} "
            f"without a receipt, {seen.lag} unread, {seen.pending} unacknowledged"
        )


class Watch:
    """Follows a run by asking the server about the group.

    Args:
        admin: Where to ask.
        place: The group.
        sender: Who sends.
        worker_processes: Who handles.
        show: Told what is seen.
        half: After how many lines a worker is killed, where the sender pauses; None
            for a run without.
        patience: Seconds without progress after which it is given up.
    """

    def __init__(
        self,
        admin: Admin,
        place: Target,
        *,
        sender: Sender,
        worker_processes: WorkerProcesses,
        show: Show,
        half: int | None,
        patience: float,
    ) -> None:
        self._admin = admin
        self._place = place
        self._sender = sender
        self._worker_pool = worker_processes
        self._show = show
        self._half = half
        self._patience = patience
        # What was seen last, and when it was last something new.
        self._seen = Progress()
        self._moved = 0.0
        # How many lines the killed worker had in hand.
        self.in_hand = 0

    @property
    def missed(self) -> bool:
        """Whether somebody was to be killed and there was never a chance."""
        return (
            bool(self._half and self._sender.receipts) and not self._worker_pool.killed
        )

    async def until_handled(self) -> None:
        """Return when all is sent and acknowledged.

        Raises:
            WorkerDied: A worker ended that nobody had told to.
            Stalled: Nothing moves any more.
            AccessError: The server refuses us.
        """
        self._moved = time.monotonic()
        while not (await self._look() and self._sender.finished and self._seen.idle):
            self._worker_pool.check()
            if self._half and not self._worker_pool.killed:
                await self._try_to_kill(self._half)
            await anyio.sleep(_LOOK)

    async def _look(self) -> bool:
        """See how far it is; False if the server does not tell now."""
        state = await self._ask()
        if state is not None:
            seen = self._progress(state)
            # Without anything to do it may well be that the input takes its time.
            if seen.idle or seen != self._seen:
                self._moved = time.monotonic()
            self._seen = seen
            self._show(seen)
        if time.monotonic() - self._moved > self._patience:
            raise Stalled(self._patience, self._seen)
        return state is not None

    async def _ask(self) -> GroupState | None:
        place = self._place
        try:
            return await self._admin.group_state(place.stream, place.group)
        except (ConnectError, ConnectionLost, CommandError):
            # The others reconnect, and make a group that is gone anew: so wait.
            return None

    def _progress(self, state: GroupState) -> Progress:
        sender = self._sender
        sender.settle()
        sent = len(sender.receipts)
        # Counted here, since Redis 6.2 does not know the lag.
        lag = sent - sender.up_to(state.last_delivered)
        return Progress(sent, sender.unsettled, lag, state.pending, state.holders)

    async def _try_to_kill(self, half: int) -> None:
        sender, seen = self._sender, self._seen
        if seen.sent - seen.lag < _NEARLY * half:
            return
        if seen.in_flight:
            await self._kill(max(seen.in_flight, key=lambda name: seen.in_flight[name]))
        if self._worker_pool.killed:
            sender.go_on()
        elif sender.paused and seen.idle:
            sender.go_on(-(-half // 10))

    async def _kill(self, name: str) -> None:
        async with self._worker_pool.frozen(name):
            state = await self._ask()
            in_hand = state.holders.get(name, 0) if state else 0
            if in_hand:
                self.in_hand = in_hand
                await self._worker_pool.replace(name)
