"""Run of `penstock demo`: send lines, have workers handle them, and kill one half-way.

The kill strikes when the group has read nearly half of the lines and workers have
pending entries. The worker with the most is frozen first, since between looking and
killing it would go on; it is killed if it still has some then. Until then no more than
half of the lines are sent. So the kill can't come too late, however fast the workers
are, and the other half is left to be handled without the killed process. If all entries
are acknowledged before pending ones are seen, some more lines are sent.

A worker that was killed is replaced by one of its name. Workers that own shards are
replaced by two others, so that the shards are divided anew, and the other half of the
lines is sent when both have joined.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import secrets
import signal
import tempfile
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import anyio

from penstock import (
    KEEP_ALL,
    ConfigurationError,
    EntryId,
    KeyHash,
    Producer,
    Receipt,
)
from penstock._tasks.task_scopes import task_group
from penstock.admin import Admin, GroupState
from penstock.cli._output import say
from penstock.cli.demo import worker
from penstock.cli.demo.report import Progress, Result, display, tally
from penstock.cli.run.child import Child, spawned
from penstock.errors import CommandError, ConnectError, ConnectionLost, PenstockError
from penstock.events import printable

__all__ = ["DemoSender", "Run", "Source", "Stalled", "clicks", "from_file", "run"]

_LOOK: Final = 0.05
_NEARLY: Final = 0.9  # of the half: sending it may not be over yet
_LOG_TAIL: Final = 2000  # bytes
_JOINING: Final = 2  # workers that join after one that owned shards was killed
_SHARDS: Final = 12  # of a stream whose shards are owned
_SETTLING: Final = 0.02  # seconds until commands that a worker has sent are executed


class Lines(NamedTuple):
    """Lines without their newline, and how many there are, where that is known."""

    source: AsyncIterator[bytes]
    total: int | None


Source: TypeAlias = AbstractAsyncContextManager[Lines]


def clicks(count: int, seed: int) -> Lines:
    """Make up clicks like `user-17 /cart 200`, the same ones for the same seed."""
    paths = (b"/", b"/search", b"/item", b"/cart", b"/checkout", b"/login")
    statuses = (b"200",) * 17 + (b"302", b"404", b"500")

    async def source() -> AsyncIterator[bytes]:
        chance = random.Random(seed)  # noqa: S311 - nobody is to be kept from guessing
        for _ in range(count):
            # Some users click a lot more than others, as keys do in real life.
            user = int(500 * chance.random() ** 3) + 1
            click = user, chance.choice(paths), chance.choice(statuses)
            yield b"user-%d %b %b" % click

    return Lines(source(), count)


@asynccontextmanager
async def from_file(descriptor: int, *, counted: bool) -> AsyncIterator[Lines]:
    """Read lines from an open file, a pipe or a terminal as they come.

    A newline ends a line, whatever its bytes, and however many; bytes after the last
    newline are a line too. To count lines takes a copy: a pipe can't be read twice.
    """
    if not counted:
        yield Lines(_lines(descriptor), None)
        return
    with tempfile.TemporaryFile() as copy:
        total = 0
        async for line in _lines(descriptor):
            copy.write(line + b"\n")
            total += 1
        copy.seek(0)
        yield Lines(_lines(copy.fileno()), total)


async def _lines(descriptor: int) -> AsyncIterator[bytes]:
    # Pieces of a line whose end is still to come: joined once, for it may be long.
    pieces: list[bytes] = []
    while chunk := await _read(descriptor):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join((*pieces, end))
            pieces.clear()
        pieces.append(rest)
    if line := b"".join(pieces):
        yield line


async def _read(descriptor: int) -> bytes:
    # No thread: one that waits for a terminal's next line could not be ended.
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
        await ready.wait()
    except PermissionError:
        # A file on disk, or /dev/null: there is never anything to wait for. But others
        # get a turn, since nothing else here may ever wait.
        await asyncio.sleep(0)
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 256 * 1024)


def first_word(line: bytes) -> str:
    """Return a line's key; without any word it is empty."""
    words = line.split(None, 1)
    # A key is text, so bytes that are no UTF-8 are written as `\xff`.
    return words[0].decode("utf-8", "backslashreplace") if words else ""


@dataclass
class DemoSender:
    """Sends lines and keeps the receipts; after `limit` lines it pauses."""

    url: str
    stream: str
    shards: int = 1
    limit: float = math.inf
    # Lines without an outcome, and receipts of the others, in the stream's order.
    unsettled: deque[asyncio.Future[Receipt]] = field(default_factory=deque)
    receipts: list[Receipt] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)  # by the reason
    paused: bool = False
    finished: bool = False
    _raised: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Send all lines and wait for their outcomes."""
        # After Ctrl-C, lines that are left are worth no more than a second. Failures
        # are counted here, and outages are reported by `Admin`.
        async with Producer(
            self.url,
            sharder=KeyHash(self.shards) if self.shards > 1 else None,
            retention=KEEP_ALL,
            close_timeout=1,
            on_event=lambda _: None,
        ) as producer:
            sent = 0
            async for line in lines:
                while sent >= self.limit:
                    self._raised.clear()
                    self.paused = True
                    await self._raised.wait()
                ticket = await producer.enqueue(self.stream, line, key=first_word(line))
                self.unsettled.append(ticket)
                sent += 1
            await producer.flush()
        self.settle()
        self.finished = True

    def raise_limit(self, lines: float = math.inf) -> None:
        """Allow that many more lines to be sent."""
        self.limit += lines
        self.paused = False
        self._raised.set()

    def settle(self) -> None:
        """Record the outcomes that have arrived."""
        while self.unsettled and self.unsettled[0].done():
            try:
                self.receipts.append(self.unsettled.popleft().result())
            except PenstockError as error:
                self.failures[str(error)] += 1

    def count_up_to(self, last: EntryId) -> int:
        """Count the lines sent whose entry's id is not above `last`."""
        return bisect_right(self.receipts, last, key=lambda receipt: receipt.id)


class Stalled(PenstockError):  # noqa: N818 - what happened
    """Nothing moves any more."""


@dataclass
class Run:
    """A run: workers with their journals in `folder`, their progress, and the kill."""

    admin: Admin
    sender: DemoSender
    folder: Path
    show: Callable[[Progress], None]
    patience: float = 30.0  # seconds without progress after which to give up
    seconds: float = 0.0  # from the first look at the group to the last one
    problems: list[str] = field(default_factory=list)
    joined: int = 0  # workers that have joined since one was killed
    _killed_pending: int = 0  # pending lines of the killed worker; 0: none was killed
    _seen: Progress = field(default_factory=Progress)
    _moved: float = 0.0  # seconds when progress was seen last
    _children: dict[str, Child] = field(default_factory=dict)  # by the worker's name
    _ready: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _stopping: bool = False

    @asynccontextmanager
    async def workers(self, count: int) -> AsyncIterator[None]:
        """Run workers during a block: it begins when all read, and ends if one dies."""
        async with task_group() as tasks:
            try:
                for number in range(1, count + 1):
                    tasks.start_soon(self._keep_running, f"worker-{number}")
                for _ in range(count):
                    await self._ready.acquire()
                yield
            finally:
                self._stopping = True
                for child in self._children.values():
                    child.drain()
                    asyncio.get_running_loop().call_later(worker.CLOSING, child.kill)

    async def _keep_running(self, name: str) -> None:
        """Run a process for a worker, and another one after each that we killed."""
        # Processes end by a signal only: a cancellation would not let them close.
        with anyio.CancelScope(shield=True), tempfile.TemporaryFile() as log:
            division = worker.OWNED if self.owned else worker.SHARED
            where = self.sender.stream, name, str(self.folder), division
            async with spawned(
                worker.__name__, *where, url=self.sender.url, stderr=log
            ) as child:
                self._children[name] = child
                if self._stopping:  # while it was started
                    child.drain()
                status = await child.ended(self._ready.release)
            if child.killed and not self._stopping:
                await self._replace(name)
                return
            log.seek(0)
            output = printable(log.read()[-_LOG_TAIL:].strip(), _LOG_TAIL)
        ending = f"{name} ended with status {status}"
        if output:
            ending += f"; its output: {output}"
        if not self._stopping:
            raise PenstockError(ending)
        # SIGTERM ends it by default if it has not come so far as to handle it.
        if status not in (0, -signal.SIGTERM):
            late = f"{name} did not end within {worker.CLOSING:g} s"
            self.problems.append(late if child.killed else ending)

    async def _replace(self, name: str) -> None:
        """Run another process for a worker, or two other workers that own shards."""
        if not self.owned:
            await self._keep_running(name)
            return
        number = len(self._children)
        async with task_group() as tasks:
            for other in range(number + 1, number + 1 + _JOINING):
                tasks.start_soon(self._keep_running, f"worker-{other}")

    @property
    def owned(self) -> bool:
        """Whether each worker owns some of the stream's shards."""
        return self.sender.shards > 1

    async def until_handled(self) -> None:
        """Return when all lines are sent and acknowledged; raise if that stalls."""
        start = time.monotonic()
        while not (await self._look(start) and self.sender.finished):
            await self._try_to_kill()
            await anyio.sleep(_LOOK)

    async def _look(self, start: float) -> bool:
        """Record the progress; return whether all lines so far are acknowledged."""
        state = await self._ask()
        self.seconds = time.monotonic() - start
        if state is not None:
            self.sender.settle()
            sent, unsettled = len(self.sender.receipts), len(self.sender.unsettled)
            seen = Progress(
                sent,
                unsettled,
                self._lag(state, sent),
                state.pending,
                _by_worker(state.holders),
            )
            # A run that is idle may wait for its input: that is no stall.
            if seen.idle or seen != self._seen:
                self._moved = self.seconds
            self._seen = seen
            self.show(seen)
        if self.seconds - self._moved > self.patience:
            seen = self._seen
            raise Stalled(
                f"no progress for {self.patience:g} s: {seen.sent} lines sent, "
                f"{seen.unsettled} without a receipt, {seen.lag} unread, "
                f"{seen.pending} unacknowledged"
            )
        return state is not None and self._seen.idle

    def _lag(self, state: GroupState, sent: int) -> int:
        if not self.owned:
            # Counted here, since Redis 6.2 does not know the lag.
            return sent - self.sender.count_up_to(state.last_delivered)
        if state.lag is None:
            raise ConfigurationError(
                "this server does not know the lag of a shard: --owned needs Redis 7.0 "
                "or newer, or Valkey"
            )
        return state.lag

    async def _ask(self) -> GroupState | None:
        try:
            return await self.admin.group_state(self.sender.stream, worker.GROUP)
        except (ConnectError, ConnectionLost, CommandError):
            # The others reconnect, and recreate a group that is gone: so wait.
            return None

    async def _try_to_kill(self) -> None:
        sender, seen, holders = self.sender, self._seen, self._seen.in_flight
        # The limit is infinite if no worker is to be killed, or one was.
        if seen.sent - seen.lag < _NEARLY * sender.limit:
            return
        if holders:
            await self._kill(max(holders, key=holders.__getitem__))
        if self._killed_pending:
            if self.owned:
                await self._have_joined()
            sender.raise_limit()
        elif sender.paused and seen.idle:
            sender.raise_limit(-(-sender.limit // 10))

    async def _have_joined(self) -> None:
        with anyio.move_on_after(self.patience):
            while self.joined < _JOINING:
                await self._ready.acquire()
                self.joined += 1

    async def _kill(self, name: str) -> None:
        """Freeze a worker, and kill it if it has pending entries then."""
        child = self._children[name]
        child.send_signal(signal.SIGSTOP)
        try:
            await anyio.sleep(_SETTLING)
            state = await self._ask()
            holders = _by_worker(state.holders) if state else {}
            self._killed_pending = holders.get(name, 0)
            if self._killed_pending:
                child.kill()
        finally:
            child.send_signal(signal.SIGCONT)

    def result(self) -> Result:
        """Compare the receipts with what the workers wrote down."""
        sender, problems = self.sender, self.problems
        sender.settle()
        if failures := sender.failures:
            count, reason = failures.total(), next(iter(failures))
            problems.append(f"{count} lines have no receipt: {reason}")
        if sender.receipts and sender.limit < math.inf:
            problems.append(
                "no worker was killed: none was seen with unacknowledged lines"
            )
        sent = (worker.identity(each.shard, each.id) for each in sender.receipts)
        return Result(
            tally(sent, self.folder.glob("*.journal")),
            self.seconds,
            killed=int(self._killed_pending > 0),
            killed_pending=self._killed_pending,
            joined=self.joined,
            in_order=self.owned,
            problems=problems,
        )


def _by_worker(holders: Mapping[str, int]) -> Counter[str]:
    """Add up what the names hold under which a worker owns shards: `name#number`."""
    total: Counter[str] = Counter()
    for name, count in holders.items():
        total[name.partition("#")[0]] += count
    return total


async def run(
    url: str, source: Source, *, workers: int, kill: bool, owned: bool
) -> Result:
    """Send lines, have them handled, and gather what the workers wrote down.

    Nothing is left behind, however the run ends: no process, no file, and no stream if
    the server can still be reached. The result tells what went wrong half-way.
    """
    stream = f"penstock-demo-{secrets.token_hex(4)}"  # the server may be somebody's
    with tempfile.TemporaryDirectory(prefix=stream) as folder, display() as show:
        async with source as lines, Admin(url) as admin, AsyncExitStack() as stack:
            stack.push_async_callback(_delete, admin, stream)
            half = -(-lines.total // 2) if kill and lines.total else math.inf
            shards = _SHARDS if owned else 1
            sender = DemoSender(url, stream, shards, limit=half)
            this = Run(admin, sender, Path(folder), show)
            try:
                if owned:
                    await admin.set_shards(stream, shards)
                # The workers end before the stream does: they would recreate it.
                async with this.workers(workers), task_group() as tasks:
                    # If the server refuses to tell, that is an error and no stall.
                    if not owned:
                        await admin.group_state(stream, worker.GROUP)
                    tasks.start_soon(sender.run, lines.source)
                    await this.until_handled()
            except (PenstockError, OSError) as error:
                if not this.seconds:
                    raise
                this.problems.insert(0, str(error))
            return this.result()


async def _delete(admin: Admin, stream: str) -> None:
    try:
        with anyio.fail_after(5, shield=True):
            await admin.delete_stream(stream)
    except (PenstockError, TimeoutError) as error:
        say(f"{stream} could not be deleted: {str(error) or 'no answer in time'}")
