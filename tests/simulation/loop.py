"""Loop: asyncio's event loop in virtual time, one for each simulated process.

An iteration is asyncio's own: the sockets that have become readable, in any order; then
the timers that are due; then the callbacks that are ready now, in the order in which
they were scheduled. What they schedule runs in the next iteration. Each callback takes
a little virtual time, in which other processes run, bytes arrive and timers become due.

Loops do not block and know nothing of each other. The world runs their iterations.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol

from simulation.world import Event, World

__all__ = ["Loop", "Readable"]

# The seconds that a callback takes: from this, to this, and rarely much longer.
_SHORTEST: Final = 5e-6
_LONGEST: Final = 25e-6
_RARELY: Final = 0.001
_PAUSE: Final = 0.004
# Turns that no work needs within a second.
_MANY_TURNS: Final = 20_000

# Killed loops. If their coroutines were collected, they would run to their end: Python
# closes a coroutine that nobody can resume, and its `finally` blocks run. They would
# also be collected at any time, within another run or another test.
_killed: Final[list[tuple[Loop, list[asyncio.Task[Any]]]]] = []


class Readable(Protocol):
    """A transport with bytes, an end of file or an error to be read."""

    def read(self) -> None: ...


class Loop(asyncio.BaseEventLoop):
    """The event loop of one simulated process.

    Args:
        world: The world.
        name: The process's name.
        connect: Opens connections.

    Attributes:
        complaints: What asyncio reported to the loop's exception handler.
        hot: When there were more turns within a second than any work needs.
    """

    def __init__(self, world: World, name: str, connect: Connect) -> None:
        super().__init__()
        self.world = world
        self.name = name
        self.complaints: list[dict[str, Any]] = []
        self._tasks: list[weakref.ref[asyncio.Task[Any]]] = []
        self.signal_handlers: dict[int, Callable[[], None]] = {}
        self._connect = connect
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[asyncio.TimerHandle] = []
        self._readable: list[Readable] = []
        # The next iteration, if one is due.
        self._next: Event | None = None
        # When the last iteration has ended; and until when the process stands still.
        self._busy_until = 0.0
        self._frozen_until = 0.0
        self.hot: list[float] = []
        self._turns, self._counted_at = 0, world.now
        self._dead = False
        self._closed = False
        self._running = False

    # -- the world's side --------------------------------------------------------------

    def readable(self, transport: Readable) -> None:
        """Have a transport read in the next iteration."""
        if transport not in self._readable:
            self._readable.append(transport)
            self._wake(self.world.time())

    def freeze(self, seconds: float) -> None:
        """Let the process stand still for a while; its clock goes on."""
        self._frozen_until = max(self._frozen_until, self.world.time() + seconds)
        self._plan()

    def kill(self) -> None:
        """End the process: none of its callbacks runs any more."""
        self._dead = True
        self._closed = True
        _killed.append((self, self.pending))
        if self._next is not None:
            self._next.cancel()
        for task in self.pending:
            # It stays pending for ever, which is what a kill means.
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    @property
    def frozen_until(self) -> float:
        """Until when the process stands still, or stood still last."""
        return self._frozen_until

    @property
    def dead(self) -> bool:
        """Whether the process has been killed."""
        return self._dead

    @property
    def pending(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        tasks = (task() for task in self._tasks)
        return [task for task in tasks if task is not None and not task.done()]

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that have neither run nor been cancelled."""
        return [timer for timer in self._timers if not timer.cancelled()]

    def left_open(self) -> list[object]:
        """List the tasks, timers and connections of the process."""
        connections = self._connect.__self__.of(self.name)  # type: ignore[attr-defined]
        return [*self.pending, *self.timers, *connections]

    def _wake(self, when: float) -> None:
        """Plan an iteration at a moment, unless one is planned before it."""
        when = max(when, self._busy_until, self._frozen_until)
        if self._dead or (self._next is not None and self._next.when <= when):
            return
        if self._next is not None:
            self._next.cancel()
        self._next = self.world.at(when, self._iterate)

    def _plan(self) -> None:
        """Plan the next iteration."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        timers = self._timers
        while timers and timers[0].cancelled():
            heappop(timers)
        if self._ready or self._readable:
            self._wake(self.world.time())
        elif timers:
            self._wake(timers[0].when())

    def _count_turn(self) -> None:
        """Record when the process does nothing but take turns."""
        self._turns += 1
        if self._turns == _MANY_TURNS:
            if self.world.now < self._counted_at + 1:
                self.hot.append(self.world.elapsed)
            self._turns, self._counted_at = 0, self.world.now

    def _iterate(self) -> None:
        world, self._next = self.world, None
        if self._frozen_until > world.now:
            self._plan()
            return
        self._count_turn()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finalize)
        asyncio._set_running_loop(self)
        self._running = True
        try:
            self._read_sockets()
            self._take_due()
            # Not what they schedule: that is for the next iteration.
            for _ in range(len(self._ready)):
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
                if self._dead:
                    break
        finally:
            self._running = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
        self._busy_until = world.time()
        self._plan()

    def _duration(self) -> float:
        chance = self.world.chance
        if chance.random() < _RARELY:
            return chance.uniform(_LONGEST, _PAUSE)
        return chance.uniform(_SHORTEST, _LONGEST)

    def _read_sockets(self) -> None:
        readable, self._readable = self._readable, []
        # A selector promises no order between sockets.
        self.world.chance.shuffle(readable)
        for transport in readable:
            self._ready.append(asyncio.Handle(transport.read, (), self))

    def _take_due(self) -> None:
        timers = self._timers
        while timers and timers[0].when() <= self.world.now:
            self._ready.append(heappop(timers))
        # Cancelled timers pile up where each reply has a deadline.
        if len(timers) > 100 and sum(t.cancelled() for t in timers) > len(timers) // 2:
            timers[:] = [timer for timer in timers if not timer.cancelled()]
            heapify(timers)

    def _finalize(self, generator: Any) -> None:
        self.call_soon(self.create_task, generator.aclose())

    # -- asyncio's side ----------------------------------------------------------------

    def time(self) -> float:
        """Return the virtual clock."""
        return self.world.monotonic()

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Schedule a callback for the next iteration."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        if not self._running:
            self._wake(self.world.time())
        return handle

    def deliver(self, callback: Callable[..., object], *args: Any) -> None:
        """Call something in the next iteration, as another thread does."""
        if not self._dead:
            self.call_soon(callback, *args)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Schedule a callback after a number of seconds."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Schedule a callback at a moment of this loop's clock."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, timer)
        if not self._running:
            self._wake(when)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: cancelled timers are skipped."""

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """Start a task."""
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(weakref.ref(task))
        if len(self._tasks) > 1000:
            self._tasks = [weakref.ref(task) for task in self.pending]
        return task

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        **options: Any,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect to a simulated server."""
        assert not options.get("ssl"), "TLS is not simulated"
        protocol = protocol_factory()
        return await self._connect(self, host, port, protocol), protocol

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function at once; its result arrives as from another thread."""
        future = self.create_future()
        try:
            result, error = func(*args), None
        except Exception as caught:  # noqa: BLE001 - it belongs to who awaits it
            result, error = None, caught

        def arrive() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        delay = self.world.chance.uniform(1e-5, 1e-3)
        self.world.after(delay, self.deliver, arrive)
        return future

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Set the handler of a signal."""
        self.signal_handlers[sig] = partial(self.deliver, callback, *args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the handler of a signal."""
        return self.signal_handlers.pop(sig, None) is not None

    def is_running(self) -> bool:
        """Return whether an iteration is running."""
        return self._running

    def is_closed(self) -> bool:
        """Return whether the loop was closed."""
        return self._closed

    def close(self) -> None:
        """Close the loop; what still runs on it is killed."""
        self._closed = True
        if self.pending:
            self.kill()

    def get_debug(self) -> bool:
        """Return False: debugging would make runs slow."""
        return False

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - asyncio's signature
        """Do nothing."""

    def get_task_factory(self) -> None:
        """Return None: tasks are asyncio's own."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what asyncio complains about."""
        self.complaints.append(context)
        self.world.record(self.name, f"complaint {context.get('message')}")

    default_exception_handler = call_exception_handler

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: generators are finalized as they are collected."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: there are no threads."""


class Connect(Protocol):
    """Opens a connection for a loop."""

    def __call__(
        self, loop: Loop, host: str, port: int, protocol: asyncio.BaseProtocol, /
    ) -> Awaitable[asyncio.Transport]: ...
