"""Reading stops while the server does not answer on the command connection.

Leases are renewed and outcomes sent on that connection, and entries are read on
another. If only the first falls silent, what is read comes to nothing: its lease ends,
and others handle it too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

import anyio

from penstock._connection.reconnect import CommandConnection
from penstock._core.ledger.lease_terms import LeaseTerms
from penstock._core.protocol import commands
from penstock._tasks.group import Membership
from penstock._tasks.wakeups import AutoResetEvent
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent

__all__ = ["SilenceWatch", "patience"]

# Seconds without an answer that are nothing unusual, however short the lease is.
_USUAL: Final = 1.0
# Part of a lease that silence has lasted before it is reported: an outage that is just
# over ends it.
_GRACE: Final = 0.1


def patience(lease: float) -> float:
    """Return the seconds after which a silent command connection is replaced.

    Another connection may well answer, and what is renewed after a third of a lease can
    still be renewed in time then.
    """
    return max(_USUAL, LeaseTerms(lease).replace_silent_after)


class SilenceWatch:
    """Holds reading up while nothing can be renewed or acknowledged.

    Args:
        connection: The command connection.
        member: The group.
        lease: Seconds; after two thirds of it without an answer reading stops.
        on_end: Called when reading may go on.
        on_event: Told when reading stops, and when it goes on.
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
        # When the present silence began, if reading is held up; and whether that was
        # reported.
        self._began: float | None = None
        self._reported = False

    def is_suspended(self) -> bool:
        """Check whether nothing may be read now; if so, `on_end` will be called."""
        if self._began is None:
            since, now = self._connection.silent_since, monotonic()
            if since is None or now - since < self._stop_after:
                return False
            self._began = since
            self._suspended.ring()
        return True

    async def run(self) -> None:
        """Wait for an answer whenever reading was stopped."""
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
                # Any answer will do, a refusal too.
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
        seconds = round(monotonic() - (self._began or 0.0), 3)
        group = {"group": ascii(self._group), "seconds": seconds}
        self._on_event(Event(name, level, {**group, **facts}))
