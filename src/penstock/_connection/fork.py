"""What a forked child must leave alone.

`os.fork()` gives the child the parent's connections. What it read from them, the parent
would miss, and what it wrote would come in the middle of the parent's commands. So in
the child everything that is open is told, and lets go.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["notify_on_fork"]


class ForkAware(Protocol):
    """Something that belongs to the process that made it."""

    def forked(self) -> None:
        """Let go: this is the child."""


_registered: WeakSet[ForkAware] = WeakSet()


def notify_on_fork(item: ForkAware) -> None:
    """Have it told, in every child, that it is not the child's."""
    _registered.add(item)


def _notify() -> None:
    for item in list(_registered):
        item.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notify)
