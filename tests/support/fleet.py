"""Worker processes that are killed and restarted, and the journals that they write."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock import Producer
from support.waiting import eventually

WORKER = Path(__file__).with_name("worker.py")
# The folder from which `python -m` finds the modules of the tests.
TESTS = WORKER.parent.parent


@dataclass(frozen=True)
class JournalLine:
    """A line of a journal.

    Attributes:
        at: The time, by the clock that all processes share.
        word: The kind of the line.
        facts: The other words.
    """

    at: float
    word: str
    facts: list[str]

    @property
    def number(self) -> int:
        """The number of the message."""
        return int(self.facts[0])

    @property
    def attempt(self) -> int:
        """The number of the attempt, in a `start` line."""
        return int(self.facts[1])


class WorkerProcess:
    """One process, from its start to its end, however it ends.

    Args:
        name: The name of the process.
        journal: The file in which it records its actions, `ready` first.
        program: The arguments of Python.
        errors: The file for its standard error; by default it is shared with ours.
    """

    def __init__(
        self,
        name: str,
        journal: Path,
        program: Sequence[str] = (str(WORKER),),
        errors: Path | None = None,
    ) -> None:
        self.name = name
        self.journal = journal
        self._program = program
        self._errors = errors
        # The time at which it had ended, by the clock of the journals.
        self.ended_at = float("inf")
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.Task[int] | None = None

    async def start(self, settings: dict[str, Any], within: float = 20) -> None:
        """Start the process, and wait until its consumer is open."""
        self.journal.touch()
        command = [*self._program, json.dumps(settings), str(self.journal)]
        with ExitStack() as files:
            errors = self._errors and files.enter_context(self._errors.open("ab"))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stderr=errors or None, cwd=TESTS
            )
        self._ending = asyncio.create_task(self._wait_for_end(self._process))
        # A process that its first message kills has written `ready` before that.
        await eventually(self._has_started, within)

    async def _has_started(self) -> bool:
        return not self.alive or await self.has("ready")

    async def has(self, word: str) -> bool:
        """Return whether the journal contains a word."""
        return word.encode() in self.journal.read_bytes()

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended, as far as is known."""
        return self._process is not None and self._process.returncode is None

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL has ended the process."""
        return self._process is not None and self._process.returncode == -signal.SIGKILL

    def lines(self, *words: str) -> Iterator[JournalLine]:
        """Yield the lines of the journal, or those of some kinds."""
        # The last line may be read while it is written.
        for text in self.journal.read_text().split("\n")[:-1]:
            at, word, *facts = text.split()
            if not words or word in words:
                yield JournalLine(float(at), word, facts)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is alive."""
        if self._process is not None and self.alive:
            self._process.send_signal(number)

    async def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end, after a signal if one is given; return the exit code."""
        assert self._ending is not None
        if number is not None:
            self.send_signal(number)
        return await asyncio.shield(self._ending)

    async def _wait_for_end(self, process: asyncio.subprocess.Process) -> int:
        # Whoever asked for the end may be cancelled, which must not delay the time.
        code = await process.wait()
        self.ended_at = time.monotonic()
        return code


@dataclass(frozen=True)
class Handling:
    """One call of a handler.

    Attributes:
        process: The process.
        start: Its `start` line.
        until: When the call or its process ended.
        outcome: `end`, `fail`, or None if its process ended before.
        lost: Whether another consumer had claimed the message when the call ended.
    """

    process: WorkerProcess
    start: JournalLine
    until: float
    outcome: str | None
    lost: bool


@dataclass
class Fleet:
    """Worker processes of one group.

    Attributes:
        url: The URL of the server.
        stream: The stream that they read.
        folder: The folder of their journals.
        retry: The arguments of `Retry`.
        claim: The arguments of `Claim`.
        run: The arguments of `run`.
        close_timeout: The `close_timeout` of the consumers.
        ownership: The arguments of `Owned`, if the consumers own shards.
        shards: The number of shards of the stream, if it has shards.
        processes: All processes so far.
    """

    url: str
    stream: str
    folder: Path
    retry: dict[str, Any] = field(default_factory=dict)
    claim: dict[str, Any] = field(default_factory=lambda: {"idle": 1, "interval": 0.2})
    run: dict[str, Any] = field(default_factory=dict)
    close_timeout: float = 10.0
    ownership: dict[str, Any] | None = None
    shards: int | None = None
    processes: list[WorkerProcess] = field(default_factory=list)

    async def start(
        self, name: str, url: str | None = None, *, restart: bool = False
    ) -> WorkerProcess:
        """Start a worker with a consumer's name; `restart` it whenever it is killed."""
        process = WorkerProcess(name, self.folder / f"{len(self.processes):04}-{name}")
        self.processes.append(process)
        settings: dict[str, Any]
        settings = {"retry": self.retry, "claim": self.claim, "run": self.run}
        settings["close_timeout"] = self.close_timeout
        settings["ownership"] = self.ownership
        settings["restart"] = restart
        names = {"url": url or self.url, "stream": self.stream, "name": name}
        await process.start({**names, **settings})
        return process

    async def supervise(self, name: str) -> None:
        """Start a worker, and restart it whenever it was killed or has failed."""
        while await (await self.start(name)).end():
            pass

    async def send(self, *payloads: str, first: int = 0, keys: int = 0) -> None:
        """Number payloads and send them in this order, with `keys` keys in turn."""
        async with Producer(self.url, shards=self.shards) as producer:
            for number, what in enumerate(payloads, first):
                key = f"k{number % keys}" if keys else None
                payload = f"{number} {what}".encode()
                await producer.enqueue(self.stream, payload, key=key)

    def lines(self, *words: str) -> list[JournalLine]:
        """Return the lines of all journals in the order of time."""
        lines = [line for process in self.processes for line in process.lines(*words)]
        return sorted(lines, key=lambda line: line.at)

    def attempts(self) -> dict[int, list[int]]:
        """Return the started attempts of each message, in the order of time."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for line in self.lines("start"):
            found[line.number].append(line.attempt)
        return dict(found)

    def ended(self) -> list[int]:
        """Return the numbers of handled messages, each as often as it was handled."""
        return sorted(line.number for line in self.lines("end"))

    async def handled(self, *numbers: int) -> bool:
        """Return whether these messages were handled."""
        return set(numbers) <= set(self.ended())

    def handlings(self) -> list[Handling]:
        """Return all calls of handlers in the order of their starts."""
        return sorted(
            (
                handling
                for process in self.processes
                for handling in _handlings(process)
            ),
            key=lambda handling: handling.start.at,
        )

    async def stop(self) -> None:
        """Kill all processes that are alive."""
        for process in self.processes:
            await process.end(signal.SIGKILL)


def _handlings(process: WorkerProcess) -> Iterator[Handling]:
    running: dict[int, JournalLine] = {}
    for line in process.lines("start", "end", "fail"):
        if line.word == "start":
            assert line.number not in running, (
                "two handlers had a message at the same time"
            )
            running[line.number] = line
        else:
            start, lost = running.pop(line.number), "lost" in line.facts
            yield Handling(process, start, line.at, line.word, lost)
    for line in running.values():
        yield Handling(process, line, process.ended_at, None, lost=False)


@asynccontextmanager
async def open_fleet(
    url: str, stream: str, folder: Path, **options: Any
) -> AsyncIterator[Fleet]:
    """Provide a fleet without workers; kill those that are alive in the end."""
    made = Fleet(url, stream, folder, **options)
    try:
        yield made
    finally:
        await made.stop()
