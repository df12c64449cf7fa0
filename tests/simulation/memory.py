"""Memory: holds what consumers and producers keep against the bounds that docs promise.

The bounds are checked whenever something is added. At the end of a run, when everything
is handled, consumers that are still open must hold nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final
from unittest.mock import patch

from penstock import Consumer
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.flow_control import FlowControl
from penstock._core.sending.accumulator import Accumulator
from simulation.loop import Loop

__all__ = ["Memory"]

# Bytes of the fields of a message: the largest one, and a small one.
_LARGEST: Final = 2500
_SMALL: Final = 60
# Collections of a shard's state that are empty when everything is handled.
_EMPTIED: Final = (
    *("to_ack", "to_dead_letter", "deleted_ids", "deleted_in_flight"),
    *("still_running", "deferred", "recently_acked"),
)


class Memory:
    """Checks the bounds of all consumers and producers of a run.

    Args:
        streams: The number of streams and shards that a consumer may read.
        fail: Called with the name of a process and what is wrong.
    """

    def __init__(self, streams: int, fail: Callable[[str], None]) -> None:
        self._streams = streams
        self._fail = fail
        self._open: dict[int, tuple[Loop, Consumer[Any]]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is added to ledgers and to producers' buffers."""
        filled, keep, add = FlowControl.filled, FlowControl.keep, Accumulator.add

        def filled_within(flow: FlowControl, count: int, size: int) -> None:
            filled(flow, count, size)
            self._check_held(flow)

        def keep_within(flow: FlowControl, entry: Entry) -> None:
            keep(flow, entry)
            self._check_held(flow)

        def add_within(buffer: Accumulator[Any], request: Any) -> int:
            queued = add(buffer, request)
            self._check_buffer(buffer)
            return queued

        start = Consumer._start

        async def started(consumer: Consumer[Any], *, by_block: bool) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            self._open[id(consumer)] = loop, consumer
            await start(consumer, by_block=by_block)

        with (
            patch.object(Consumer, "_start", started),
            patch.object(FlowControl, "filled", filled_within),
            patch.object(FlowControl, "keep", keep_within),
            patch.object(Accumulator, "add", add_within),
        ):
            yield

    def _check_held(self, flow: FlowControl) -> None:
        window = flow._window
        # One message of each shard more, and as many again when others are claimed.
        most = window._max_messages + 2 * self._streams
        if flow.held > most:
            self._fail(f"{_process()} holds {flow.held} messages, {most} at most")
        # One read more, if sizes have risen suddenly.
        size = window._max_bytes + _LARGEST * min(most, window._max_bytes // _SMALL)
        if flow.size > size:
            self._fail(f"{_process()} holds {flow.size} bytes, {size} at most")
        waiting = flow._acks.uncommitted
        if flow._max_uncommitted is not None and waiting > flow._max_uncommitted + most:
            self._fail(f"{_process()} has {waiting} outcomes that are not confirmed")

    def _check_buffer(self, buffer: Accumulator[Any]) -> None:
        full = buffer.held > buffer._max_messages or buffer.size > buffer._max_bytes
        if full and buffer.held > 1:
            self._fail(f"{_process()} has {buffer.held} messages in its buffer")

    # -- the end -----------------------------------------------------------------------

    def check_empty(self) -> None:
        """Check that the consumers that are open hold nothing that was handled."""
        for loop, consumer in self._open.values():
            if not loop.dead and consumer._session is not None:
                if consumer._known().checkouts.entry_queue.gate.paused:
                    continue  # nothing is taken from it
                for what in _left_in(consumer):
                    self._fail(f"{loop.name} still has {what}")


def _left_in(consumer: Consumer[Any]) -> Iterator[str]:
    """Yield what the ledger of a consumer has though everything is handled."""
    ledger = consumer._known().ledger
    if not ledger._acknowledges:
        return  # the server knows nothing of what waits
    held = consumer.statistics()
    for name in ("in_hand", "bytes_in_hand", "queued"):
        if count := getattr(held, name):
            yield f"{name}={count}"
    if ledger._ready_queue._lanes:
        yield f"{len(ledger._ready_queue._lanes)} lanes"
    # Under DISABLED, outcomes wait for the user's `commit`.
    emptied = set(_EMPTIED)
    if ledger.flow._max_uncommitted is None:
        emptied.discard("to_ack")
    for state in ledger.shards.values():
        for each in fields(state):
            if each.name in emptied and (kept := getattr(state, each.name)):
                yield f"{each.name}={len(kept)}"


def _process() -> str:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    return loop.name
