"""A running router: one run of its consumers, with or without a block around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self
from weakref import WeakMethod

from penstock._tasks.consumer_set import ConsumerSet
from penstock._tasks.lifetime import Live
from penstock._tasks.openable import Openable
from penstock.errors import ClosedError

__all__ = ["Running"]


class Running(Openable[ConsumerSet]):
    """A running router; created by `Router.running`.

    Use it with `async with`, or call `start` and `aclose`, from any task.

    Args:
        name: The router's name in its representation.
        begin: Creates the consumers for this run.
    """

    def __init__(self, name: str, begin: Callable[[Running], ConsumerSet]) -> None:
        self._name = name
        self._begin = begin
        self._consumers: ConsumerSet | None = None
        # The block's timeout while the block runs; moving its deadline to now cancels
        # it.
        self._block: asyncio.Timeout | None = None

    @property
    def consumer_set(self) -> ConsumerSet | None:
        """The consumers, while they are opening, open or closing."""
        gone = self._lifetime is None or self._lifetime.gone
        return None if gone else self._consumers

    @property
    def ready(self) -> bool:
        """Whether all consumers are open and connected, and none is draining.

        Connected means that the server has owed none of them an answer for more than 15
        seconds; see `Consumer.silent_for`.
        """
        return self.consumer_set is not None and self.consumer_set.ready

    async def wait(self) -> None:
        """Wait until the router drains.

        It drains when `stop` is called or a consumer has failed for good.

        Raises:
            ClosedError: The router is not running.
            UsageError: This was called in another event loop or thread.
        """
        if self.consumer_set is None or self._lifetime is None:
            raise ClosedError(self._what)
        self._lifetime.binding.check()
        await self.consumer_set.wait()

    @property
    def _what(self) -> str:
        return "router"

    def _opener(self) -> Live[ConsumerSet]:
        self._consumers = consumer_set = self._begin(self)
        return consumer_set.live

    def _shut(self) -> None:
        if self.consumer_set is not None:
            self.consumer_set.stop()

    def _closes_later(self) -> bool:
        lifetime, consumer_set = self._lifetime, self.consumer_set
        if lifetime is None or consumer_set is None or not consumer_set.is_inside():
            return False
        # Closing waits for the end of the caller.
        lifetime.request_close(asyncio.current_task())
        return True

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self.consumer_set is not None:
            # Not an anyio scope: this is the user's own task, and an anyio cancellation
            # has been seen to leave its scope under load.
            self._block = await asyncio.timeout(None).__aenter__()
            self.consumer_set.on_failure = _weakly(self._cancel_block)
            if self.consumer_set.failed:
                self._cancel_block()
        return self

    def _cancel_block(self) -> None:
        if self._block is not None:
            self._block.reschedule(asyncio.get_running_loop().time())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        block, self._block = self._block, None
        if block is not None:
            try:
                await block.__aexit__(kind, error, traceback)
            except TimeoutError:
                # Penstock cancelled the block because a consumer has failed; that error
                # is raised below.
                kind = error = None
        failure = (await self._close_block(kind)).take_error()
        if failure is None:
            return None
        if isinstance(error, Exception):
            failure.add_note(f"and then the block raised {error!r:.200}")
        elif error is not None:
            return None  # the cancellation continues
        # The error that ended the block adds nothing, and as context it would only
        # repeat the traceback.
        raise failure from failure.__cause__

    def __repr__(self) -> str:
        state = "idle" if self.consumer_set is None else "running"
        return f"<Running of {self._name}, {state}>"


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls a method without keeping its object alive."""
    reference = WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    return call
