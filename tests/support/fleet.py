"""Worker processes that are killed and started again, and what their journals say."""

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
# From here `-m` finds the tests' own modules.
TESTS = WORKER.parent.parent


@dataclass(frozen=True)
class Line:
    """A line of a journal.

    Attributes:
        at: When, by the clock that all processes share.
        word: What happened.
        facts: More of it.
    """

    at: float
    word: str
    facts: list[str]

    @property
    def number(self) -> int:
        """Which message."""
        return int(self.facts[0])

    @property
    def attempt(self) -> int:
        """Of a start, which attempt it was."""
        return int(self.facts[1])


class Life:
    """One process, from its start to its end, however it ends.

    Args:
        name: What it goes by.
        journal: Where it writes down what it does; `ready` when it has begun.
        program: What Python is to run.
        errors: Where its standard error goes; default: with ours.
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
        # When it was gone, by the journals' clock.
        self.ended_at = float("inf")
        self._process: asyncio.subprocess.Process | None = None

    async def begin(self, asked: dict[str, Any], within: float = 20) -> None:
        """Start it, and wait until its consumer is open."""
        self.journal.touch()
        command = [*self._program, json.dumps(asked), str(self.journal)]
        with ExitStack() as files:
            errors = self._errors and files.enter_context(self._errors.open("ab"))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stderr=errors or None, cwd=TESTS
            )
        # One that dies of its first message has said so too.
        await eventually(self._has_begun, within)

    async def _has_begun(self) -> bool:
        return not self.alive or await self.has("ready")

    async def has(self, word: str) -> bool:
        """Whether there is such a word."""
        return word.encode() in self.journal.read_bytes()

    @property
    def alive(self) -> bool:
        """Whether it has begun and not ended, as far as we have looked."""
        return self._process is not None and self._process.returncode is None

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL has ended it."""
        return self._process is not None and self._process.returncode == -signal.SIGKILL

    def lines(self, *words: str) -> Iterator[Line]:
        """Give the journal's lines, or those of some kinds."""
        for text in self.journal.read_text().splitlines():
            at, word, *facts = text.split()
            if not words or word in words:
                yield Line(float(at), word, facts)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self._process is not None and self.alive:
            self._process.send_signal(number)

    async def end(self, number: signal.Signals | None = None) -> int:
        """Wait for its end, after a signal if one is given; gives its exit code."""
        assert self._process is not None
        if number is not None:
            self.send_signal(number)
        code = await self._process.wait()
        self.ended_at = min(self.ended_at, time.monotonic())
        return code


@dataclass(frozen=True)
class Handling:
    """One call of a handler.

    Attributes:
        life: In which process.
        start: Its first line.
        until: When it ended, or its process did.
        outcome: `end`, `fail`, or None where it did not come to that.
        lost: Whether the message was somebody else's when it ended.
    """

    life: Life
    start: Line
    until: float
    outcome: str | None
    lost: bool


@dataclass
class Fleet:
    """Worker processes of one group.

    Attributes:
        url: The server.
        stream: What they read.
        folder: Where their journals go.
        retry: What `Retry` is given.
        claim: What `Claim` is given.
        run: What `run` is given.
        close_timeout: What the consumer is given.
        lives: All processes so far.
    """

    url: str
    stream: str
    folder: Path
    retry: dict[str, Any] = field(default_factory=dict)
    claim: dict[str, Any] = field(default_factory=lambda: {"idle": 1, "interval": 0.2})
    run: dict[str, Any] = field(default_factory=dict)
    close_timeout: float = 10.0
    lives: list[Life] = field(default_factory=list)

    async def start(
        self, name: str, url: str | None = None, *, restart: bool = False
    ) -> Life:
        """Start a worker whose consumer has that name; have it restart when killed."""
        life = Life(name, self.folder / f"{len(self.lives):04}-{name}")
        self.lives.append(life)
        asked: dict[str, Any]
        asked = {"retry": self.retry, "claim": self.claim, "run": self.run}
        asked["close_timeout"] = self.close_timeout
        asked["restart"] = restart
        names = {"url": url or self.url, "stream": self.stream, "name": name}
        await life.begin({**names, **asked})
        return life

    async def keep_up(self, name: str) -> None:
        """Be its supervisor: start it anew whenever it was killed or has failed."""
        while await (await self.start(name)).end():
            pass

    async def send(self, *payloads: str, first: int = 0, keys: int = 0) -> None:
        """Number payloads and send them, in this order, with so many keys in turn."""
        async with Producer(self.url) as producer:
            for number, what in enumerate(payloads, first):
                key = f"k{number % keys}" if keys else None
                payload = f"{number} {what}".encode()
                await producer.enqueue(self.stream, payload, key=key)

    def lines(self, *words: str) -> list[Line]:
        """Give the lines of all journals, in the order of time."""
        lines = [line for life in self.lives for line in life.lines(*words)]
        return sorted(lines, key=lambda line: line.at)

    def attempts(self) -> dict[int, list[int]]:
        """Give each message's attempts that were started, in the order of time."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for line in self.lines("start"):
            found[line.number].append(line.attempt)
        return dict(found)

    def ended(self) -> list[int]:
        """Give the numbers of messages that were handled, each as often as it was."""
        return sorted(line.number for line in self.lines("end"))

    async def handled(self, *numbers: int) -> bool:
        """Whether those messages were handled."""
        return set(numbers) <= set(self.ended())

    def handlings(self) -> list[Handling]:
        """Give all calls of handlers, by the time of their starts."""
        return sorted(
            (handling for life in self.lives for handling in _handlings(life)),
            key=lambda handling: handling.start.at,
        )

    async def stop(self) -> None:
        """Kill what is left."""
        for life in self.lives:
            await life.end(signal.SIGKILL)


def _handlings(life: Life) -> Iterator[Handling]:
    running: dict[int, Line] = {}
    for line in life.lines("start", "end", "fail"):
        if line.word == "start":
            assert line.number not in running, "two handlers had it at a time"
            running[line.number] = line
        else:
            start, lost = running.pop(line.number), "lost" in line.facts
            yield Handling(life, start, line.at, line.word, lost)
    for line in running.values():
        yield Handling(life, line, life.ended_at, None, lost=False)


@asynccontextmanager
async def fleet(
    url: str, stream: str, folder: Path, **options: Any
) -> AsyncIterator[Fleet]:
    """No workers yet; those that are left in the end are killed."""
    made = Fleet(url, stream, folder, **options)
    try:
        yield made
    finally:
        await made.stop()
