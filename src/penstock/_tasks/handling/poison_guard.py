"""One guard against poison messages for all consumers of an event loop."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from penstock._core.ledger.poison import PoisonGuard

__all__ = ["poison_guard"]

_guards: WeakKeyDictionary[asyncio.AbstractEventLoop, PoisonGuard] = WeakKeyDictionary()


def poison_guard() -> PoisonGuard:
    """Return the running event loop's guard.

    A message that kills its process kills all consumers in it, so a message that has to
    run alone has to do so in all of them.
    """
    return _guards.setdefault(asyncio.get_running_loop(), PoisonGuard())
