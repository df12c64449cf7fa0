"""Draining: the wait until everything is handled, once all faults are over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from faults.history import Note, Record, Start

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["Attempts", "drain"]

# Seconds within which everything must be handled, counted from the last progress.
_PATIENCE: Final = 60.0
# Seconds after which nothing is left of what was handled.
_QUIET: Final = 3.0
# Seconds within which owned shards must be where they belong, from then on.
_SETTLED: Final = 20.0


async def drain(run: Run) -> None:
    """Wait until everything is handled, or nothing makes progress any more.

    An attempt that a message did not have before is progress, too. Where outcomes are
    sent when a consumer closes only, and messages kill its process again and again,
    everything behind them is handled again as often.
    """
    attempts = Attempts(run.history)
    moved, fewest = run.world.time(), None
    while run.world.time() < moved + _PATIENCE:
        left = len(run.observer.waiting()) + _unseen(run)
        if not left:
            run.world.record("operator", "everything is handled")
            # Replies to the last acknowledgements are still to come.
            handled = len(run.history)
            await asyncio.sleep(_QUIET)
            since = run.history[handled:]
            if not (run.observer.waiting() or _unseen(run) or _seeks(since)):
                # Messages may have been handled again meanwhile, and be held still.
                if not any(isinstance(record, Start) for record in since):
                    run.memory.check_empty()
                await _settle(run)
                return
            # Somebody has set a group back meanwhile, for example by a seek.
            moved, fewest = run.world.time(), None
            continue
        if fewest is None or left < fewest:
            fewest, moved = left, run.world.time()
        if attempts.are_new():
            moved = run.world.time()
        await asyncio.sleep(0.5)
    run.world.record("operator", "not everything is handled")


async def _settle(run: Run) -> None:
    """Wait until each owned shard is owned by the member that should have it."""
    end = run.world.time() + _SETTLED
    while unsettled := run.oracle.owned.unsettled():
        if run.world.time() > end:
            run.fail("unsettled", "; ".join(unsettled))
            return
        await asyncio.sleep(0.1)


class Attempts:
    """The attempts of all messages so far.

    Args:
        history: What all processes record.
    """

    def __init__(self, history: Sequence[Record]) -> None:
        self._history = history
        self._looked_at = 0
        self._seen: set[tuple[str, int, str, int]] = set()
        self.are_new()

    def are_new(self) -> bool:
        """Return whether there are any that were not there at the last look."""
        before, end = len(self._seen), len(self._history)
        for record in self._history[self._looked_at : end]:
            if isinstance(record, Start):
                key = record.group, record.shard, record.id, record.attempt
                self._seen.add(key)
        self._looked_at = end
        return len(self._seen) > before


def _seeks(records: Sequence[Record]) -> bool:
    """Return whether a seek has begun, which may set its group back a moment later."""
    notes = (record for record in records if isinstance(record, Note))
    return any(note.text.startswith("step seek") for note in notes)


def _unseen(run: Run) -> int:
    """Count the stored messages that a REALTIME consumer has not seen yet."""
    if not any(replaceable.realtime for replaceable in run.consumers):
        return 0
    seen = {
        (record.shard, record.id)
        for record in run.history
        if isinstance(record, Start) and record.group == "realtime"
    }
    return sum(
        (number, id_) not in seen
        for number, key in enumerate(run.keys)
        for id_, fields in run.observer.stored(key)
        if b"msg" in fields
    )
