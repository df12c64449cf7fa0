"""The gate of an entry queue: whether entries are handed out, and why no more come."""

from __future__ import annotations

from collections.abc import Callable

from penstock._tasks.handling.waiters import Waiters

__all__ = ["Gate"]


class Gate:
    """Opens and shuts an entry queue, and keeps the reason why no more entries come.

    Args:
        waiters: Woken when callers have to check again.
        on_shut: Called when nothing is handed out from now on.

    Attributes:
        shut: Whether nothing is handed out now: it is paused, stopped or closed.
        paused: Whether that is so until `resume`.
        stopped: Whether that is so for good, because of the error.
        closed: Whether that is so for good, because the consumer closes.
        error: The reason why no more entries come; None while more may come.
    """

    __slots__ = (
        "_aborted",
        "_on_shut",
        "_reported",
        "_waiters",
        "closed",
        "error",
        "paused",
        "shut",
        "stopped",
    )

    def __init__(self, waiters: Waiters, on_shut: Callable[[], None]) -> None:
        self._waiters = waiters
        self._on_shut = on_shut
        self.shut = self.paused = self.stopped = self.closed = False
        self.error: BaseException | None = None
        # Whether a caller has got the error.
        self._reported = False
        # Whether the error ended a task of Penstock, and is not a reply of the server.
        self._aborted = False

    def pause(self) -> None:
        """Hand nothing out until `resume`."""
        self.paused = self.shut = True
        self._on_shut()

    def resume(self) -> None:
        """Hand entries out again."""
        self.paused = False
        self.shut = self.stopped or self.closed
        self._waiters.wake_all()

    def close(self) -> None:
        """Hand nothing out from now on; handlers that have started finish."""
        self.closed = self.shut = True
        self._on_shut()
        self._waiters.close()

    def fail(self, error: BaseException) -> None:
        """Record why no more entries come; callers get it once the queue is empty."""
        self.error = error
        self._waiters.wake_all()

    def stop(self, error: BaseException) -> None:
        """Hand nothing more out, and raise an error in callers."""
        self.stopped = self.shut = True
        self._on_shut()
        self.fail(error)

    def abort(self, error: BaseException) -> None:
        """Hand nothing more out: a background task has failed.

        The error is raised in callers that wait for an entry, though the consumer
        closes because of it.
        """
        self._aborted = True
        self.stop(error if self.error is None else self.error)

    def raise_error(self) -> None:
        """Raise the reason why no more entries come to a caller, if there is one.

        Raises:
            BaseException: Reading failed for good.
        """
        if self.error is not None:
            self._reported = True
            raise self.error

    def raise_if_aborted(self) -> None:
        """Raise the error of a background task to a caller, if one has failed."""
        if self._aborted:
            self.raise_error()

    def raise_unreported(self) -> None:
        """Raise the reason why no more entries came, unless a caller has got it."""
        if not self._reported:
            self.raise_error()
