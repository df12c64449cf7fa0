"""Run of `penstock demo`: send lines, have workers handle them, and kill one half-way.

The kill strikes when the group has read nearly half of the lines and workers have
pending entries. The worker with the most is frozen first, since between looking and
killing it would go on; it is killed if it still has some then. Until that is done no
more than half of the lines are sent. So the kill can't come too late, however fast the
workers are, and the other half is still to be handled without the killed process.
Should all lines be acknowledged before pending ones are seen, some more lines are sent,
and so on.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from penstock import (
    CommandError,
    ConnectError,
    ConnectionLost,
    PenstockError,
    ServerError,
)
from penstock._tasks.lifetime import task_group
from penstock.admin import Admin, GroupState
from penstock.cli.demo.input import Lines
from penstock.cli.demo.report import Progress, Show
from penstock.cli.demo.result import Result, tally
from penstock.cli.demo.sender import Sender
from penstock.cli.demo.worker import GROUP
from penstock.cli.demo.workers import WorkerDied, Workers

__all__ = ["Stalled", "Watch", "run"]

_LOOK: Final = 0.01  # seconds between looks at the group; two commands each
_NEARLY: Final = 0.9  # of the half: sending it may not be over yet
_CLEANUP: Final = 5.0  # seconds for deleting the stream


class Stalled(Exception):  # noqa: N818 - what happened
    """Nothing moves any more."""


@dataclass
class Watch:
    """Follows a run by asking the server about the group, and kills half-way.

    Attributes:
        admin: The connection to ask by.
        sender: Sends the lines.
        workers: Handle the lines.
        show: Called with the progress after each look.
        half: After how many lines a worker is killed, where the sender pauses; None
            for a run without.
        patience: Seconds without progress after which the run is given up.
        in_hand: How many pending lines the killed worker had; 0: none was killed.
        seconds: How long the run took, or has taken when it failed.
    """

    admin: Admin
    sender: Sender
    workers: Workers
    show: Show
    half: int | None = None
    patience: float = 30.0
    in_hand: int = 0
    seconds: float = 0.0
    # The progress seen last, and when it was last a new one.
    _seen: Progress = field(default_factory=Progress)
    _moved: float = 0.0

    async def until_handled(self) -> None:
        """Return when all lines are sent and acknowledged.

        Raises:
            Stalled: Nothing moves any more.
            AccessError: The server refuses us.
        """
        start = self._moved = time.monotonic()
        try:
            while not (await self._look() and self.sender.finished and self._seen.idle):
                if self.half and not self.in_hand:
                    await self._try_to_kill(self.half)
                await anyio.sleep(_LOOK)
        finally:
            self.seconds = time.monotonic() - start

    async def _look(self) -> bool:
        """Record the progress; return whether the server could be asked."""
        state = await self._ask()
        if state is not None:
            seen = self._progress(state)
            # A run that is idle may wait for its input: that is no stall.
            if seen.idle or seen != self._seen:
                self._moved = time.monotonic()
            self._seen = seen
            self.show(seen)
        if time.monotonic() - self._moved > self.patience:
            seen = self._seen
            raise Stalled(
                f"no progress for {self.patience:g} s: {seen.sent} lines sent, "
                f"{seen.unsettled} without a receipt, {seen.lag} unread, "
                f"{seen.pending} unacknowledged"
            )
        return state is not None

    async def _ask(self) -> GroupState | None:
        try:
            return await self.admin.group_state(self.workers.stream, GROUP)
        except (ConnectError, ConnectionLost, CommandError):
            # The others reconnect, and recreate a group that is gone: so wait.
            return None

    def _progress(self, state: GroupState) -> Progress:
        sender = self.sender
        sender.settle()
        sent = len(sender.receipts)
        # Counted here, since Redis 6.2 does not know the lag.
        lag = sent - sender.up_to(state.last_delivered)
        unsettled = len(sender.unsettled)
        return Progress(sent, unsettled, lag, state.pending, state.holders)

    async def _try_to_kill(self, half: int) -> None:
        sender, seen = self.sender, self._seen
        if seen.sent - seen.lag < _NEARLY * half:
            return
        if seen.in_flight:
            await self._kill(max(seen.in_flight, key=lambda name: seen.in_flight[name]))
        if self.in_hand:
            sender.go_on()
        elif sender.paused and seen.idle:
            sender.go_on(-(-half // 10))

    async def _kill(self, name: str) -> None:
        async with self.workers.frozen(name) as child:
            state = await self._ask()
            self.in_hand = state.holders.get(name, 0) if state else 0
            if self.in_hand:
                child.kill()

    def result(self, problems: list[str]) -> Result:
        """Compare the receipts with what the workers wrote down."""
        sender = self.sender
        sender.settle()
        if sender.failure is not None:
            count = sender.failures
            problems.append(f"{count} lines without a receipt: {sender.failure}")
        if self.half and sender.receipts and not self.in_hand:
            problems.append("no worker was killed: none was seen with work in hand")
        ids = (bytes(receipt.id) for receipt in sender.receipts)
        counted = tally(ids, self.workers.journals())
        killed = int(self.in_hand > 0)
        return Result(counted, self.seconds, killed, self.in_hand, tuple(problems))


async def run(
    url: str, lines: Lines, show: Show, *, workers: int, kill: bool
) -> Result:
    """Send lines, have them handled, and gather what the workers wrote down.

    Nothing is left behind, however the run ends: no process, no file, and no stream if
    the server can still be reached. The result tells what went wrong half-way.

    Args:
        url: The server.
        lines: What to send; the total must be known if a worker is to be killed.
        show: Called with the progress, often.
        workers: How many worker processes.
        kill: Whether one of them is killed half-way.

    Raises:
        PenstockError: There is no server, or it refuses us.
        WorkerDied: The workers can't start.
        OSError: No process or no file can be made.
    """
    half = -(-lines.total // 2) if kill and lines.total else None
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        async with Admin(url) as admin, _new_stream(admin) as stream:
            sender = Sender(url, stream, half)
            crew = Workers(url, stream, Path(folder))
            watch = Watch(admin, sender, crew, show, half)
            problems: list[str] = []
            try:
                # The workers end before the stream does: they would recreate it.
                async with crew.running(workers), task_group() as tasks:
                    # If the server refuses to tell, that is an error and no stall.
                    await admin.group_state(stream, GROUP)
                    tasks.start_soon(sender.run, lines.source)
                    await watch.until_handled()
            except (PenstockError, WorkerDied, Stalled, OSError) as error:
                if not watch.seconds:
                    raise
                problems.append(str(error))
            return watch.result(problems + crew.complaints)


@asynccontextmanager
async def _new_stream(admin: Admin) -> AsyncIterator[str]:
    """Yield a stream's name that nobody else has; the stream is deleted afterwards."""
    stream = f"penstock-demo-{secrets.token_hex(4)}"  # the server may be somebody's
    try:
        yield stream
    finally:
        reason = f"no answer within {_CLEANUP:g} s"
        with anyio.move_on_after(_CLEANUP, shield=True):
            try:
                await admin.delete_stream(stream)
                reason = ""
            except ServerError as error:
                reason = str(error)
        if reason:
            print(f"{stream} could not be deleted: {reason}", file=sys.stderr)
