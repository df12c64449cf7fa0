"""Prefetch window: how many messages may be held, and how many of them may wait.

Three bounds hold at once. The messages that are *held*, queued or with a handler, are
bounded in number and in bytes. A read's COUNT is a number of messages, and their sizes
are known only afterwards, so the largest recent size counts. The messages that *wait*
are bounded by rate: no more than handlers got done in `max_wait` at the recent rate, so
that no consumer keeps messages which an idle one could handle. That bound begins small
and doubles whenever half of the waiting messages were done, as long as the rate
supports it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PrefetchWindow"]

_FIRST: Final = 8
# Messages a second.
_SLOW: Final = 2000.0
# A rate is taken over so many messages or seconds at least: handlers that run side by
# side also end side by side.
_MANY: Final = 100
_LONG: Final = 0.1


class PrefetchWindow:
    """Computes how much the next read may bring.

    Args:
        max_messages: Messages held at most.
        max_bytes: Bytes held at most.
        max_wait: Seconds that a message may wait for a handler, by the recent rate.
    """

    __slots__ = (
        "_chosen",
        "_done",
        "_max_bytes",
        "_max_messages",
        "_max_wait",
        "_rate",
        "_rated",
        "_rated_at",
        "_since",
        "_size",
        "_waiting",
    )

    def __init__(self, max_messages: int, max_bytes: int, max_wait: float) -> None:
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._max_wait = max_wait
        # Messages that may wait, and how many had been done when that was chosen.
        self._waiting = _FIRST
        self._chosen = 0
        # Messages a second, over more than a moment; None before that. How many had
        # been done, and when, as it was last computed.
        self._rate: float | None = None
        self._rated = 0
        self._rated_at = 0.0
        # How many had been done, and when, at the last look.
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
    def rate(self) -> float | None:
        """Messages done in a second, over more than a moment; None before that."""
        return self._rate

    @property
    def slow(self) -> bool:
        """Whether the rate is so low that some more commands a message don't matter."""
        return self._rate is None or self._rate < _SLOW

    def aim(self, idle_workers: int) -> int:
        """Return how many messages should wait when so many workers are idle."""
        return min(max(self._waiting, idle_workers), self.capacity)

    def free(self, held: int, size: int) -> int:
        """Return how many messages fit beside those held; one at least if none are.

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

    def take_rate(self, done: int, now: float) -> None:
        """Update the rate.

        Args:
            done: Messages that handlers have finished so far.
            now: The time.
        """
        if self._since is None:
            self._since = self._rated_at = now
            self._chosen = self._done = self._rated = done
        progress, span = done - self._done, now - self._since
        if progress <= 0:
            return
        self._aim_at(done, progress * self._max_wait, span)
        self._since, self._done = now, done
        progress, span = done - self._rated, now - self._rated_at
        if span > 0 and (progress >= _MANY or span >= _LONG):
            self._rate = progress / span
            self._rated, self._rated_at = done, now

    def _aim_at(self, done: int, supported: float, span: float) -> None:
        """Choose how many may wait: no more than the recent rate supports."""
        # Doubled at most, and not before half of them were done: one quick message
        # proves little about the next.
        half_done = 2 * (done - self._chosen) >= self._waiting
        most = min(max(1, self._waiting) * (1 + half_done), self._max_messages)
        aim = most if supported >= most * span else int(supported / span)
        if aim != self._waiting:
            self._waiting, self._chosen = aim, done

    def learn_size(self, messages: int, size: int) -> None:
        """Update the estimated size of a message.

        Args:
            messages: How many a read has brought; not 0.
            size: Their bytes.
        """
        # It falls by a tenth for each read: one batch of small messages proves nothing.
        self._size = max(size / messages, self._size * 0.9)
