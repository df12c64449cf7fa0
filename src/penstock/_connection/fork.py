"""Fork safety: detaches a forked child from its parent's connections.

`os.fork()` gives the child the parent's connections. The parent would miss whatever the
child read from them, and whatever the child wrote would end up in the middle of the
parent's commands. So every open object is notified in the child, and detaches.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["notify_on_fork"]


class ForkAware(Protocol):
    """An object that belongs to the process that created it."""

    def forked(self) -> None:
        """Detach: this process is a forked child."""


_registered: WeakSet[ForkAware] = WeakSet()


def notify_on_fork(item: ForkAware) -> None:
    """Register an object whose `forked` is called in every forked child."""
    _registered.add(item)


def _notify() -> None:
    for item in list(_registered):
        item.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notify)
