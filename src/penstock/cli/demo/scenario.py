"""A run of `penstock demo`: lines in, workers at work, their journals out."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from penstock import PenstockError, ServerError
from penstock._tasks.lifetime import task_group
from penstock.admin import Admin
from penstock.cli.demo.input import Lines
from penstock.cli.demo.progress import Show, Stalled, Watch
from penstock.cli.demo.result import Result, tally
from penstock.cli.demo.sender import Sender
from penstock.cli.demo.worker_processes import (
    Target,
    WorkerDied,
    WorkerProcesses,
    open_workers,
)

__all__ = ["Settings", "run"]

_STALL: Final = 30.0  # seconds without progress, after which none is expected
_CLEANUP: Final = 5.0  # seconds for deleting the stream


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is to do.

    Attributes:
        url: The server.
        workers: How many processes.
        kill: Whether one is killed half-way.
        patience: Seconds without progress after which it is given up.
    """

    url: str
    workers: int
    kill: bool
    patience: float = _STALL


async def run(settings: Settings, lines: Lines, show: Show) -> Result:
    """Send lines, have them handled, and gather what the workers wrote down.

    Nothing is left behind, however it ends: no process, no file, and no stream if the
    server can still be reached. What goes wrong half-way is told in the result.

    Args:
        settings: What to do.
        lines: What to send; its total must be known if a worker is to be killed.
        show: Told how far it is, often.

    Raises:
        PenstockError: There is no server, or it refuses us.
        WorkerDied: The workers can't start.
        OSError: No process or no file can be made.
    """
    async with (
        Admin(settings.url) as admin,
        _place(settings.url, admin) as place,
        # The workers end before the stream does: they would make it anew.
        open_workers(place) as worker_processes,
    ):
        await worker_processes.start(
            [f"worker-{n}" for n in range(1, settings.workers + 1)]
        )
        # What can't be asked at all is an error now, and not a stall later.
        await admin.group_state(place.stream, place.group)
        half = -(-lines.total // 2) if settings.kill and lines.total else None
        sender = Sender(place.url, place.stream, limit=half)
        watch = Watch(
            admin,
            place,
            sender=sender,
            worker_processes=worker_processes,
            show=show,
            half=half,
            patience=settings.patience,
        )
        start = time.monotonic()
        problems = await _work(sender, lines, watch)
        seconds = time.monotonic() - start
        problems += await worker_processes.stop()
        return _result(sender, worker_processes, watch, seconds, problems)


@asynccontextmanager
async def _place(url: str, admin: Admin) -> AsyncIterator[Target]:
    """Give a stream that is gone afterwards, by names that nobody else has."""
    tag = secrets.token_hex(4)  # the server may be somebody's
    place = Target(url, f"penstock-demo-{tag}", f"counters-{tag}")
    try:
        yield place
    finally:
        reason = f"no answer within {_CLEANUP:g} s"
        with anyio.move_on_after(_CLEANUP, shield=True):
            try:
                await admin.delete_stream(place.stream)
                reason = ""
            except ServerError as error:
                reason = str(error)
        if reason:
            print(f"{place.stream} could not be deleted: {reason}", file=sys.stderr)


async def _work(sender: Sender, lines: Lines, watch: Watch) -> list[str]:
    """Send all and wait until it is handled; gives what went wrong."""
    try:
        async with task_group() as tasks:
            tasks.start_soon(sender.run, lines.source)
            await watch.until_handled()
    except (PenstockError, WorkerDied, Stalled, OSError) as error:
        return [str(error)]
    return []


def _result(
    sender: Sender,
    worker_processes: WorkerProcesses,
    watch: Watch,
    seconds: float,
    problems: list[str],
) -> Result:
    sender.settle()
    if sender.failure is not None:
        problems.append(f"{sender.failures} lines without a receipt: {sender.failure}")
    if watch.missed:
        problems.append("no worker was killed: none was seen with work in hand")
    ids = (bytes(receipt.id) for receipt in sender.receipts)
    return Result(
        tally=tally(ids, worker_processes.journals()),
        seconds=seconds,
        killed=worker_processes.killed,
        in_hand=watch.in_hand,
        problems=tuple(problems),
    )
