"""Calls: each public call ends within a bound, or has a reason not to.

The documented reasons are an outage, a process that stands still, and the time that the
call itself was given. So a call has some seconds from when all of that was over. Calls
that wait for messages, as `next()` without a timeout, end when the consumer closes; the
end of a process is bounded by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from penstock import Consumer, Producer
from penstock._tasks.sending.send_many import SendResults
from penstock.admin import Admin
from penstock.admin._dead_letter_admin import DeadLetterAdmin
from simulation.loop import Loop

__all__ = ["Calls"]

# Seconds from when all is well: reconnecting, a lease, the retries of a call.
_BOUND: Final = 15.0
# Closing waits for handlers, up to `close_timeout`.
_CLOSING: Final = 45.0

_CALLS: Final[dict[type, tuple[str, ...]]] = {
    Consumer: (
        *("_start", "next", "take", "commit", "lag", "seek", "assign", "unassign"),
        "aclose",
    ),
    Producer: ("_start", "send", "enqueue", "flush", "aclose"),
    Admin: ("_start", "group_state", "reset_group", "trim", "aclose"),
    DeadLetterAdmin: ("list", "read", "redrive", "purge"),
}
_RECEIVING: Final = frozenset(("Consumer.next", "Consumer.take"))
_NAMES: Final = {"_start": "opening"}


class Calls:
    """Knows the public calls that are under way, and since when.

    Args:
        disturbed: Returns when the last fault ended; infinity while one lasts.
        fail: Called with what is wrong.
    """

    def __init__(
        self, disturbed: Callable[[], float], fail: Callable[[str], None]
    ) -> None:
        self._disturbed = disturbed
        self._fail = fail
        # The loop, the name and the deadline's begin and length of each.
        self._under_way: dict[object, tuple[Loop, str, float, float]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all public calls that are bounded."""
        with ExitStack() as patches:
            for kind, names in _CALLS.items():
                for name in names:
                    made = self._watched(f"{kind.__name__}.{_NAMES.get(name, name)}")
                    made = made(getattr(kind, name))
                    patches.enter_context(patch.object(kind, name, made))
            each = SendResults.__await__

            def send_many(results: Any) -> Any:
                with self._call("Producer.send_many", _BOUND):
                    return (yield from each(results))

            patches.enter_context(patch.object(SendResults, "__await__", send_many))
            yield

    def _watched(self, name: str) -> Callable[[Any], Any]:
        def watched(function: Callable[..., Awaitable[Any]]) -> Any:
            async def ended(call: Awaitable[Any], bound: float) -> Any:
                with self._call(name, bound):
                    return await call

            def received(*args: Any, **options: Any) -> Any:
                # Which task calls counts, so the call is made at once.
                call, bound = function(*args, **options), _bound(args[1:], options)
                return call if bound is None else ended(call, bound)

            async def called(*args: Any, **options: Any) -> Any:
                with self._call(name, _CLOSING if "aclose" in name else _BOUND):
                    return await function(*args, **options)

            return received if name in _RECEIVING else called

        return watched

    @contextmanager
    def _call(self, name: str, bound: float) -> Iterator[None]:
        loop, key = asyncio.get_running_loop(), object()
        assert isinstance(loop, Loop)
        self._under_way[key] = loop, name, loop.world.time(), bound
        try:
            yield
        finally:
            self._check(*self._under_way.pop(key))

    def check_all(self) -> None:
        """Check the calls that are under way."""
        for call in [*self._under_way.values()]:
            if not call[0].dead:
                self._check(*call)

    def _check(self, loop: Loop, name: str, began: float, bound: float) -> None:
        since = max(began, self._disturbed(), loop.frozen_until)
        took = loop.world.time() - since
        if took > bound:
            self._fail(f"{loop.name}: {name} for {took:.1f} s, {bound:g} at most")


def _bound(args: tuple[Any, ...], options: Any) -> float | None:
    """Return the seconds in which a call receives; None if that is up to messages."""
    timeout = options.get("timeout", args[0] if args else None)
    return None if timeout is None else _BOUND + timeout
