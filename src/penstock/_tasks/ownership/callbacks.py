"""Callbacks of owned shards: the user's functions, called one after the other."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from penstock._tasks.wakeups import AutoResetEvent
from penstock._tracebacks import place_of
from penstock.events import Event, OnEvent
from penstock.message import Shard
from penstock.options import OnShards

__all__ = ["Callbacks", "Kind"]


class Kind(Enum):
    """What has happened to shards."""

    ASSIGNED = "on_assigned"
    REVOKED = "on_revoked"
    LOST = "on_lost"


class _Call(NamedTuple):
    kind: Kind
    shard: Shard
    done: Callable[[bool], None]


class Callbacks:
    """Calls the user's functions, never two at a time.

    What happens to several shards at once is one call, as long as the calls stay in
    their order.

    Args:
        functions: The functions that there are, by the names of their options.
        on_event: Receives what they raise.
    """

    def __init__(self, functions: Mapping[str, OnShards], on_event: OnEvent) -> None:
        self._functions = functions
        self._on_event = on_event
        self._queue: deque[_Call] = deque()
        self._wake = AutoResetEvent()

    def call(self, kind: Kind, shard: Shard, done: Callable[[bool], None]) -> None:
        """Have a function called for a shard.

        Args:
            kind: What has happened.
            shard: The shard.
            done: Called with whether it succeeded; at once if there is no function.
        """
        if kind.value not in self._functions:
            done(True)  # noqa: FBT003 - the callback's one argument
            return
        self._queue.append(_Call(kind, shard, done))
        self._wake.set()

    async def run(self) -> None:
        """Call functions until cancelled."""
        while True:
            await self._wake.wait()
            while self._queue:
                await self._call_next()

    async def _call_next(self) -> None:
        kind = self._queue[0].kind
        calls: list[_Call] = []
        while self._queue and self._queue[0].kind is kind:
            calls.append(self._queue.popleft())
        succeeded = await self._run(kind, tuple(call.shard for call in calls))
        for call in calls:
            call.done(succeeded)

    async def _run(self, kind: Kind, shards: tuple[Shard, ...]) -> bool:
        try:
            await self._functions[kind.value](shards)
        except Exception as error:  # noqa: BLE001 - it is reported
            facts = {
                "callback": kind.value,
                "shards": len(shards),
                "error": type(error).__name__,
                "at": place_of(error),
            }
            self._on_event(Event("callback_failed", logging.ERROR, facts))
            return False
        return True
