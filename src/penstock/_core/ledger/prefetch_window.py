"""How much the next read may ask for.

Three bounds hold at once. What is *held*, queued or in handlers' hands, is bounded in
messages and in bytes; COUNT is in messages, and how large they are is known only
afterwards, so the largest size seen of late counts. What is *waiting* is bounded by
pace: no more than handlers got done in `max_wait` at the pace of late, so that nobody
hoards what an idle consumer could do. It begins with a few, and doubles whenever half
of them were done, as long as the pace bears it out.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PrefetchWindow"]

_FIRST: Final = 8
# Messages a second.
_SLOW: Final = 2000.0
# So many messages, or seconds, are more than a moment: handlers that run side by side
# end side by side.
_MANY: Final = 100
_LONG: Final = 0.1


class PrefetchWindow:
    """Turns what is held and how fast it goes into the room for the next read.

    Args:
        max_messages: Messages held at most.
        max_bytes: Bytes held at most.
        max_wait: Seconds that a message may wait for a handler, as far as the pace of
            late tells.
    """

    __slots__ = (
        "_chosen",
        "_done",
        "_max_bytes",
        "_max_messages",
        "_max_wait",
        "_pace",
        "_paced",
        "_paced_at",
        "_since",
        "_size",
        "_waiting",
    )

    def __init__(self, max_messages: int, max_bytes: int, max_wait: float) -> None:
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._max_wait = max_wait
        # Messages that may wait, and what was done when that was chosen.
        self._waiting = _FIRST
        self._chosen = 0
        # Messages a second, over more than a moment; None before that. And what was
        # done, and when, as it was last taken.
        self._pace: float | None = None
        self._paced = 0
        self._paced_at = 0.0
        # What was done, and when, when the pace was last taken.
        self._done = 0
        self._since: float | None = None
        # Bytes of a message, an upper estimate; 0 before the first read.
        self._size = 0.0

    @property
    def capacity(self) -> int:
        """Messages of the estimated size that may be held; at least one."""
        if not self._size:
            return self._max_messages
        return max(1, min(self._max_messages, int(self._max_bytes / self._size)))

    @property
    def pace(self) -> float | None:
        """Messages done in a second, over more than a moment; None before that."""
        return self._pace

    @property
    def slow(self) -> bool:
        """Whether so little goes on that some more commands a message don't matter."""
        return self._pace is None or self._pace < _SLOW

    def aim(self, idle_workers: int) -> int:
        """Give how many messages should wait when so many workers have none."""
        return min(max(self._waiting, idle_workers), self.capacity)

    def free(self, held: int, size: int) -> int:
        """Give how many messages fit on top of those held; one if none are.

        Args:
            held: Messages held now.
            size: Their bytes.
        """
        if not held:
            return self.capacity
        free = self.capacity - held
        if self._size:
            free = min(free, int((self._max_bytes - size) / self._size))
        return max(0, free)

    def paced(self, done: int, now: float) -> None:
        """Take the pace.

        Args:
            done: Messages that handlers have been done with so far.
            now: The time.
        """
        if self._since is None:
            self._since = self._paced_at = now
            self._chosen = self._done = self._paced = done
        progress, span = done - self._done, now - self._since
        if progress <= 0:
            return
        self._aim_at(done, progress * self._max_wait, span)
        self._since, self._done = now, done
        progress, span = done - self._paced, now - self._paced_at
        if span > 0 and (progress >= _MANY or span >= _LONG):
            self._pace = progress / span
            self._paced, self._paced_at = done, now

    def _aim_at(self, done: int, borne_out: float, span: float) -> None:
        """Choose how many may wait: no more than the pace of late bears out."""
        # Doubled at most, and not before half of them were done: one quick message
        # proves little about the next.
        still_running = 2 * (done - self._chosen) >= self._waiting
        most = min(max(1, self._waiting) * (1 + still_running), self._max_messages)
        aim = most if borne_out >= most * span else int(borne_out / span)
        if aim != self._waiting:
            self._waiting, self._chosen = aim, done

    def learned(self, messages: int, size: int) -> None:
        """Take note of the sizes that a read brought.

        Args:
            messages: How many came; not 0.
            size: Their bytes.
        """
        # A tenth a read downwards: one batch of small ones proves nothing.
        self._size = max(size / messages, self._size * 0.9)
