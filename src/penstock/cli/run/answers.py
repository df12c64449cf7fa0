"""What a worker answers when its parent asks."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from penstock import Router
from penstock._tracebacks import where_is
from penstock.events import Event, log_event
from penstock.health import WorkerHealth, WorkerState

if TYPE_CHECKING:  # it needs an extra
    from penstock.cli.run.worker_metrics import WorkerMetricsSource

__all__ = ["Answers", "Hang"]

# The default of `Claim(idle)`, for routers whose consumers have no leases.
_LEASE: Final = 60.0


class Answers:
    """Answers what the parent asks; in a thread, since the event loop may be blocked.

    Args:
        number: The worker's number.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        # When there is one to run.
        self.router: Router | None = None
        # If the parent asks for them.
        self.metrics: WorkerMetricsSource | None = None
        self._hang = Hang()

    def health(self) -> bytes:
        """Return the worker's health as JSON."""
        found = self._starting if self.router is None else self._of(self.router)
        return msgspec.json.encode(found)

    def all_metrics(self) -> bytes:
        """Return the worker's metrics in MessagePack; nothing if there are none yet."""
        return b"" if self.metrics is None else self.metrics.all()

    def counters(self) -> bytes:
        """Return those metrics that are added up, in the same way."""
        return b"" if self.metrics is None else self.metrics.counters()

    def _of(self, router: Router) -> WorkerHealth:
        [found] = router.health().workers
        if found.state is WorkerState.DOWN:
            return self._starting
        self._hang.look(found)
        return replace(found, number=self._number)

    @property
    def _starting(self) -> WorkerHealth:
        return WorkerHealth(
            number=self._number,
            pid=os.getpid(),
            state=WorkerState.STARTING,
            why="it starts",
        )


class Hang:
    """Reports an event loop that has stood still for longer than the shortest lease.

    Others take over what this process has then. The report is written by the thread
    that answers the parent, so it is not given to `on_event`, which is called in the
    event loop.
    """

    def __init__(self) -> None:
        # Whether the event loop was late in the last look; one look may see a delay
        # that is just over.
        self._late = False
        self._reported = False

    def look(self, health: WorkerHealth) -> None:
        """Look at the delay of the event loop, and report it if it is long."""
        leases = (one.lease_seconds for one in health.consumers)
        lease = min((one for one in leases if one is not None), default=_LEASE)
        was_late, self._late = self._late, health.loop_delay_seconds > lease
        if not self._late:
            self._reported = False
        elif was_late and not self._reported:
            self._reported = True
            self._report(health.loop_delay_seconds, lease)

    def _report(self, seconds: float, lease: float) -> None:
        facts: dict[str, object] = {"seconds": seconds, "lease": lease}
        frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented
        if (place := where_is(frame)) is not None:
            facts["at"] = place
        log_event(Event("worker_hung", logging.WARNING, facts))
