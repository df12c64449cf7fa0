"""How much the next read may ask for.

COUNT is in messages, and how large they are is known only afterwards. So reading
starts with few, doubles while reads come back full, and never asks for more than
fits into the bytes by the largest size seen of late.
"""

from __future__ import annotations

__all__ = ["Window"]

_FIRST = 16


class Window:
    """Turns what is held into the room for the next read.

    Args:
        max_messages: Messages held at most.
        max_bytes: Bytes held at most.
    """

    __slots__ = ("_ask", "_max_bytes", "_max_messages", "_size")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        # What the next read asks for, if there is room for it.
        self._ask = min(_FIRST, max_messages)
        # Bytes of a message, an upper estimate; 0 before the first read.
        self._size = 0.0

    @property
    def capacity(self) -> int:
        """Messages of the estimated size that may be held; at least one."""
        if not self._size:
            return self._max_messages
        return max(1, min(self._max_messages, int(self._max_bytes / self._size)))

    def room(self, held: int, size: int) -> int:
        """Give how many messages may be read on top of those held.

        Args:
            held: Messages held now.
            size: Their bytes.
        """
        if not held:
            return min(self._ask, self.capacity)
        free = self.capacity - held
        if self._size:
            free = min(free, int((self._max_bytes - size) / self._size))
        return max(0, min(free, self._ask))

    def learned(self, messages: int, size: int) -> None:
        """Take note of a read's outcome.

        Args:
            messages: How many came; not 0.
            size: Their bytes.
        """
        if messages >= self._ask:
            self._ask = min(self._ask * 2, self._max_messages)
        # A tenth a read downwards: one batch of small ones proves nothing.
        self._size = max(size / messages, self._size * 0.9)
