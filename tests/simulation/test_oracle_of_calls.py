"""The oracle of memory, calls, openings, threads and exits finds what is wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import anyio.to_thread
import msgspec
import pytest

from faults.history import Note
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.sending.accumulator import Accumulator
from simulation import threads
from simulation.checks import findings
from simulation.explore import carry_out
from simulation.network import Network
from simulation.opening import cancel_openings
from simulation.plan import ConsumerPlan, Plan, ProducerPlan
from simulation.process import Process
from simulation.seams import installed
from simulation.world import World

_PLANS = Path(__file__).parent / "plans"
PREFETCHING = ConsumerPlan(
    "one", "one", options={"mode": "resumable", "prefetch": {"max_messages": 5}}
)
SENDING = ProducerPlan("p", count=60, rate=100.0, burst=30, tasks={"sleep 0.3": 1.0})


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run something in a simulated process."""
    world = World(1)
    process = Process(Network(world), "p", main)
    with installed(world):
        process.start()
        assert world.run(lambda: not process.alive, 100)
    process.loop.close()
    if process.error is not None:
        raise process.error


def test_more_messages_than_fit_are_found() -> None:
    plan = Plan(1, seconds=2, consumers=(PREFETCHING,), producers=(SENDING,))
    assert not carry_out(plan).kinds
    aim = patch.object(PrefetchWindow, "aim", lambda *_: 50)
    free = patch.object(PrefetchWindow, "free", lambda *_: 50)
    with aim, free:
        assert carry_out(plan).kinds == {"memory"}


def test_a_buffer_that_takes_more_than_it_may_is_found() -> None:
    sending = msgspec.structs.replace(SENDING, options={"max_messages": 3})
    plan = Plan(1, seconds=2, consumers=(PREFETCHING,), producers=(sending,))
    assert not carry_out(plan).kinds
    with patch.object(Accumulator, "fits", lambda *_: True):
        assert carry_out(plan).kinds == {"memory"}


def test_a_call_that_does_not_end_is_named() -> None:
    path = _PLANS / "commit_for_ever.json"
    plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    hangs = carry_out(plan, "commit_for_ever").failures["hangs"]
    assert any("Consumer.commit" in each for each in hangs)


class _Leaving:
    """Something whose opening leaves a task behind when it is cancelled."""

    def __init__(self, *, leaves: bool) -> None:
        self._leaves = leaves
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks.append(asyncio.create_task(asyncio.sleep(50)))
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            if not self._leaves:
                self._tasks[-1].cancel()
                await asyncio.wait([self._tasks[-1]])
            raise


def test_what_a_cancelled_opening_leaves_behind_is_found() -> None:
    run(lambda: cancel_openings(_Leaving(leaves=False), Random(1)))
    with pytest.raises(AssertionError, match="has left"):
        run(lambda: cancel_openings(_Leaving(leaves=True), Random(1)))


def test_a_function_in_a_thread_takes_virtual_time_and_no_thread() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began, ended = loop.time(), list[float]()

        def function() -> str:
            threads.sleep(3)
            threads.at_end(lambda: ended.append(loop.time()))
            return threading.current_thread().name

        limiter = anyio.CapacityLimiter(1)
        call = anyio.to_thread.run_sync(function, limiter=limiter)
        assert await call == threading.main_thread().name
        assert 3 <= ended[0] - began < 3.01
        assert ended[0] <= loop.time() < ended[0] + 0.01

    run(main)


def _notes(*texts: str) -> list[str]:
    history = [Note(float(at), "c.1", text) for at, text in enumerate(texts)]
    return [kind for kind, _ in findings(Plan(1), [*history])]


def test_an_exit_of_a_handler_has_to_end_its_program() -> None:
    exits, ended = "exits by SystemExit", "ended by SystemExit"
    assert not _notes("ready", exits, ended, "ready")
    assert not _notes("ready", exits, "exits by KeyboardInterrupt", ended)
    assert _notes("ready", exits, "ready") == ["exits"]
    assert _notes("ready", exits, "ended by KeyboardInterrupt") == ["exits"]
    assert _notes("ready", ended) == ["exits"]
