"""Silence watch: reading stops while the command connection gets no answers.

Leases are renewed and outcomes are sent on the command connection, and entries are read
on others. If only the command connection is silent, entries are read in vain: their
leases end, and other consumers handle them too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.protocol import commands
from penstock._tasks.group import Membership
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["SilenceWatch", "patience"]

# The seconds without an answer that are usual, however short the lease is.
_USUAL: Final = 1.0
# The part of a lease that reading has to be stopped before that is reported. An outage
# that is just over ends sooner.
_GRACE: Final = 0.1


def patience(lease: float) -> float:
    """Return the seconds after which a silent command connection is replaced.

    Another connection may get answers, and leases that are due for renewal can then
    still be renewed in time.
    """
    return max(_USUAL, LeaseTerms(lease).replace_silent_after)


class SilenceWatch:
    """Suspends reading while nothing can be renewed or acknowledged.

    Args:
        connection: The command connection.
        member: The consumer's place in the group.
        lease: The lease in seconds. Reading stops after two thirds of it without an
            answer.
        on_end: Called when reading may continue.
        on_event: Receives the suspension and the end of it.
    """

    def __init__(
        self,
        connection: CommandConnection,
        member: Membership,
        *,
        lease: float,
        on_end: Callable[[], None],
        on_event: OnEvent,
    ) -> None:
        self._connection = connection
        self._group = member.group
        self._lease = lease
        self._stop_after = LeaseTerms(lease).stop_reading_after
        self._on_end = on_end
        self._on_event = on_event
        self._suspended = AutoResetEvent()
        # The time when the present silence began, if reading is suspended, and whether
        # the suspension was reported.
        self._began: float | None = None
        self._reported = False

    def is_suspended(self) -> bool:
        """Check whether nothing may be read now. If so, `on_end` will be called."""
        if self._began is None:
            since, now = self._connection.silent_since, _clock.monotonic()
            if since is None or now - since < self._stop_after:
                return False
            self._began = since
            self._suspended.set()
        return True

    async def run(self) -> None:
        """Wait for an answer whenever reading is suspended."""
        while True:
            await self._suspended.wait()
            async with anyio.create_task_group() as group:
                group.start_soon(self._report_if_it_lasts)
                await self._answer()
                group.cancel_scope.cancel()
            self._resume()

    async def _answer(self) -> None:
        while True:
            try:
                # Any answer ends the silence, also a refusal.
                await self._connection.calls([commands.client_id()])
            except ConnectionLost as error:
                await self._connection.restore(error.reason)
            else:
                return

    async def _report_if_it_lasts(self) -> None:
        await anyio.sleep(self._lease * _GRACE)
        self._reported = True
        self._report("reading_suspended", logging.WARNING, lease=self._lease)

    def _resume(self) -> None:
        if self._reported:
            self._report("reading_resumed", logging.INFO)
        self._reported, self._began = False, None
        self._on_end()

    def _report(self, name: str, level: int, **facts: object) -> None:
        seconds = round(_clock.monotonic() - (self._began or 0.0), 3)
        group = {"group": self._group, "seconds": seconds}
        self._on_event(Event(name, level, {**group, **facts}))
