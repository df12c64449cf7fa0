"""A server, proxies, and processes that send and handle: what faults are done to."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from faults.checker import Group, Report, check
from faults.history import Attempt, Excuse, Receipt, Start
from faults.journal import Journal, read
from faults.observer import Observer
from support.fleet import WorkerProcess
from support.proxy import Proxy, proxy
from support.server import Server

__all__ = ["Crew", "Outcome", "Post", "Rig", "rig"]

STREAM = "orders"
# Peers that vanish without a word are given up after so many seconds.
_TIMEOUT = 2
# Seconds in which a broken shard is read again, and one to spare.
_HEALS = 4.0
LEASE = 2.0


@dataclass(frozen=True)
class Crew:
    """The processes of a group.

    Attributes:
        group: What is promised to it; its name is the group's.
        workers: How many processes; several share the group.
        replaceable: Whether they may be ended, and others take their place.
        options: Of their consumers.
        style: How they get messages, see `faults.worker`.
        run: What `run` is given, or another style.
    """

    group: Group
    workers: int = 1
    replaceable: bool = True
    style: str = "run"
    options: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


class Post:
    """A place that is to be manned: a process, and the one that replaces it.

    Attributes:
        name: What its processes are called, with a number.
        replaceable: Whether they may be ended.
        life: The process there is.
        lock: Held by who is about to end or stop it.
    """

    def __init__(
        self,
        rig: Rig,
        name: str,
        program: str,
        asked: dict[str, Any],
        crew: Crew | None = None,
    ) -> None:
        self.name = name
        self.replaceable = crew is None or crew.replaceable
        # Whether its consumer may have a name of its own.
        self._named = crew is not None and crew.workers > 1
        self.lock = asyncio.Lock()
        self._rig = rig
        self._program = program
        self._asked = asked
        self._lives = 0
        self.life: WorkerProcess | None = None

    async def man(self, *, renamed: bool = False) -> None:
        """Start a process; its consumer has the name of the one before, or another."""
        who = f"{self.name}-{self._lives}"
        self._lives += 1
        folder = self._rig.folder
        life = WorkerProcess(
            who,
            folder / f"{who}.journal",
            ("-m", f"faults.{self._program}"),
            folder / f"{who}.stderr",
        )
        asked = {**self._asked, "who": who}
        if self._named:
            name = who if renamed else self.name
            asked["options"] = {**asked["options"], "name": name}
        # Known before it has begun, to be ended whatever happens.
        self._rig.lives.append(life)
        self.life = life
        await life.start(asked, within=60)
        assert life.alive or await life.has("ready"), f"{who} has ended: see its stderr"

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process there is."""
        assert self.life is not None
        self.life.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        """End the process there is; gives its exit code."""
        assert self.life is not None
        return await self.life.end(number)


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        report: What the checker says.
        drained: Seconds that it took to handle what was left when all was well.
        codes: Exit codes of the processes that were ended in order, but 0.
        noise: What processes wrote to standard error.
        faults: How often each kind was done.
    """

    report: Report
    drained: float | None
    codes: dict[str, int]
    noise: dict[str, str]
    faults: dict[str, int]

    @property
    def faultless(self) -> bool:
        """Whether every promise was kept."""
        drained = self.drained is not None
        return drained and not (self.report.findings or self.codes or self.noise)

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {n}" for name, n in sorted(self.faults.items()))
        drained = "never" if self.drained is None else f"in {self.drained:.1f} s"
        more = "".join(f"\n{who} ended with {c}" for who, c in self.codes.items())
        more += "".join(f"\n{who}: {text}" for who, text in self.noise.items())
        return f"{self.report}\ndrained {drained}; faults: {kinds}{more}"


class Rig:
    """All that a run has.

    Args:
        server: The server.
        folder: For journals.
        workers_by: The proxy that consumers go through.
        senders_by: The proxy that producers go through.
        crews: The groups.
        shards: Over how many keys the stream is spread.
        seed: Decides what is sent.

    Attributes:
        lives: All processes so far.
        faults: How often each kind of fault was done.
    """

    def __init__(
        self,
        server: Server,
        folder: Path,
        workers_by: Proxy,
        senders_by: Proxy,
        *,
        crews: list[Crew],
        shards: int,
        seed: int,
    ) -> None:
        self.server = server
        self.folder = folder
        self.workers_by = workers_by
        self.senders_by = senders_by
        self.lives: list[WorkerProcess] = []
        self.faults: dict[str, int] = {}
        self.journal = Journal(folder / "rig.journal", "rig")
        # Held by who is about to end, stop or change the server.
        self.lock = asyncio.Lock()
        # The same, of the proxies.
        self.wires = asyncio.Lock()
        self._crews = crews
        self._shards = shards
        self._seed = seed
        groups = [crew.group.name for crew in crews if crew.group.acks]
        self.observer = Observer(server, STREAM, shards, groups, self.journal)
        self.workers = [
            post for crew in crews for post in self._posts(crew, workers_by)
        ]
        self.senders: list[Post] = []
        self._watching: asyncio.Task[None] | None = None

    @property
    def groups(self) -> list[str]:
        """The names of the groups that acknowledge."""
        return [crew.group.name for crew in self._crews if crew.group.acks]

    def _posts(self, crew: Crew, by: Proxy) -> list[Post]:
        name = crew.group.name
        options: dict[str, Any] = {"url": f"{by.url}?socket_timeout={_TIMEOUT}"}
        if crew.group.acks:
            options |= {"group": name, "claim": {"idle": LEASE, "interval": 0.5}}
            options["retry"] = {"max_attempts": 3, "backoff": [0.05, 0.2]}
        options |= crew.options
        asked: dict[str, Any] = {"stream": STREAM, "called": name, "options": options}
        asked |= {"style": crew.style, "run": crew.run}
        names = [f"{name}{n}" for n in range(crew.workers)]
        return [Post(self, name, "worker", asked, crew) for name in names]

    async def man(self) -> None:
        """Start all workers, and have the server looked at."""
        self._watching = asyncio.create_task(self.observer.watch())
        async with asyncio.TaskGroup() as starting:
            for post in self.workers:
                starting.create_task(post.man())

    async def send(
        self, name: str, rate: float, *, burst: int = 1, **options: Any
    ) -> Post:
        """Start a sender of so many messages a second, so many of them at once."""
        url = f"{self.senders_by.url}?socket_timeout={_TIMEOUT}"
        asked: dict[str, Any] = {"stream": STREAM, "rate": rate, "burst": burst}
        asked |= {"keys": 20, "seed": self._seed}
        asked["options"] = {"url": url, "shards": self._shards, **options}
        post = Post(self, name, "sender", asked)
        self.senders.append(post)
        await post.man()
        return post

    def done(self, fault: str) -> None:
        """Count a fault."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        self.journal.note(f"fault {fault}")

    def excuse(self, since: float, *what: str, ids: tuple[str, ...] = ()) -> None:
        """Write down that what was done since then has consequences."""
        self.journal.tell(Excuse, since=since, what=[*what], ids=[*ids])

    async def finish(self, within: float = 20.0) -> Outcome:
        """End sending, have everything handled, end the workers, and check."""
        codes: dict[str, int] = {}
        await _end(self.senders, codes)
        await self._watch_no_more()
        client = self.server.client()
        try:
            drained = await self._drain(client, within)
            self.journal.note("drained" if drained is not None else "not drained")
            await _end(self.workers, codes)
            await self.observer.look(client)
            await self.observer.conclude(client)
        finally:
            await client.aclose()
        report = check(read(self.folder), [crew.group for crew in self._crews])
        noise = {
            path.stem: text
            for path in self.folder.glob("*.stderr")
            if (text := path.read_text())
        }
        return Outcome(report, drained, codes, noise, self.faults)

    async def _drain(self, client: Any, within: float) -> float | None:
        """Wait until nothing waits; gives up when nothing moves for so long."""
        begin = moved = time.monotonic()
        fewest: float = inf
        while moved > time.monotonic() - within:
            try:
                waiting = len(await self.observer.waiting(client))
                spent = time.monotonic() - begin
                # What was on its way when the last fault ended may have been lost by
                # it; so it is waited for only as long as a shard takes to heal.
                if (
                    not waiting
                    and self._all_seen(Attempt)
                    and (spent > _HEALS or self._all_seen(Receipt))
                ):
                    return spent
                if waiting < fewest:
                    fewest, moved = waiting, time.monotonic()
            except (RedisError, OSError):
                pass  # a fault's last effects
            await asyncio.sleep(0.1)  # a look takes a while by itself
        return None

    def _all_seen(self, kind: type[Attempt | Receipt]) -> bool:
        """Whether who acknowledges nothing has got everything that is confirmed.

        Args:
            kind: What has to be younger than the last fault with consequences.
        """
        readers = [crew.group for crew in self._crews if not crew.group.acks]
        if not readers:
            return True
        history = read(self.folder)
        excused = max((e.at for e in history if isinstance(e, Excuse)), default=0.0)
        late = {e.message for e in history if isinstance(e, kind) and e.at > excused}
        told = {each.message for each in history if isinstance(each, Receipt)}
        for group in readers:
            seen = {
                each.message
                for each in history
                if isinstance(each, Start) and each.group == group.name
            }
            if not late & told <= seen:
                return False
        return True

    async def _watch_no_more(self) -> None:
        watching, self._watching = self._watching, None
        while watching is not None and not watching.done():
            # redis-py swallows a cancellation that comes while it disconnects.
            watching.cancel()
            await asyncio.wait([watching], timeout=1)

    async def stop(self) -> None:
        """Kill what is left."""
        await self._watch_no_more()
        for life in self.lives:
            if life.alive:
                await life.end(signal.SIGKILL)
        self.journal.close()


async def _end(posts: list[Post], codes: dict[str, int]) -> None:
    for post in posts:
        post.send_signal(signal.SIGTERM)
    for post in posts:
        assert post.life is not None
        try:
            async with asyncio.timeout(40):
                code = await post.life.end()
        except TimeoutError:
            code = await post.life.end(signal.SIGKILL)
        if code:
            codes[post.life.name] = code


@asynccontextmanager
async def rig(
    server: Server, folder: Path, *, crews: list[Crew], shards: int = 3, seed: int = 0
) -> AsyncIterator[Rig]:
    """A rig on a server that runs; its processes are killed in the end."""
    async with proxy(server.url) as workers_by, proxy(server.url) as senders_by:
        made = Rig(
            server,
            folder,
            workers_by,
            senders_by,
            crews=crews,
            shards=shards,
            seed=seed,
        )
        try:
            yield made
        finally:
            await made.stop()
