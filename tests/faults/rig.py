"""Rig: a server, proxies, and processes that send and handle, to inject faults into."""

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

__all__ = ["Outcome", "ReplaceableProcess", "Rig", "WorkerGroup", "rig"]

STREAM = "orders"
# The seconds after which a peer that does not answer is considered lost.
_TIMEOUT = 2
# The seconds after which a broken shard is read again, and one more.
_HEALS = 4.0
LEASE = 2.0


@dataclass(frozen=True)
class WorkerGroup:
    """The worker processes of a group.

    Attributes:
        group: The promises to the group, with its name.
        workers: The number of processes; several share the group.
        replaceable: Whether they may be ended and replaced by others.
        options: The options of their consumers.
        style: How they get messages, see `faults.worker`.
        run: The arguments of `run`, or those of another style.
    """

    group: Group
    workers: int = 1
    replaceable: bool = True
    style: str = "run"
    options: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


class ReplaceableProcess:
    """A worker or sender, whose process can be replaced by another one.

    Attributes:
        name: The name of its processes, to which a number is appended.
        replaceable: Whether they may be ended.
        current: The current process.
        lock: Held by a fault that is about to end or stop the process.
    """

    def __init__(
        self,
        rig: Rig,
        name: str,
        program: str,
        settings: dict[str, Any],
        worker_group: WorkerGroup | None = None,
    ) -> None:
        self.name = name
        self.replaceable = worker_group is None or worker_group.replaceable
        # Whether its consumer is given a name.
        self._has_name = worker_group is not None and worker_group.workers > 1
        self.lock = asyncio.Lock()
        self._rig = rig
        self._program = program
        self._settings = settings
        self._starts = 0
        self.current: WorkerProcess | None = None

    async def start(self, *, renamed: bool = False) -> None:
        """Start a process; its consumer keeps the name of the last one, or not."""
        who = f"{self.name}-{self._starts}"
        self._starts += 1
        folder = self._rig.folder
        current = WorkerProcess(
            who,
            folder / f"{who}.journal",
            ("-m", f"faults.{self._program}"),
            folder / f"{who}.stderr",
        )
        settings = {**self._settings, "who": who}
        if self._has_name:
            name = who if renamed else self.name
            settings["options"] = {**settings["options"], "name": name}
        # Registered before it has started, so that it is ended in any case.
        self._rig.processes.append(current)
        self.current = current
        await current.start(settings, within=60)
        assert current.alive or await current.has("ready"), (
            f"{who} has ended: see its stderr"
        )

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the current process."""
        assert self.current is not None
        self.current.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        """End the current process; return its exit code."""
        assert self.current is not None
        return await self.current.end(number)


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        report: The report of the checker.
        drained: The seconds that it took to handle all messages after the faults.
        codes: The exit codes other than 0 of the processes that were ended in order.
        noise: The output of processes on standard error.
        faults: The number of faults of each kind.
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
    """The server, the proxies and the processes of a run.

    Args:
        server: The server.
        folder: The folder for journals.
        worker_proxy: The proxy of the consumers.
        sender_proxy: The proxy of the producers.
        worker_groups: The groups.
        shards: The number of shards of the stream.
        seed: The seed of the messages.

    Attributes:
        processes: All processes so far.
        faults: The number of faults of each kind.
    """

    def __init__(
        self,
        server: Server,
        folder: Path,
        worker_proxy: Proxy,
        sender_proxy: Proxy,
        *,
        worker_groups: list[WorkerGroup],
        shards: int,
        seed: int,
    ) -> None:
        self.server = server
        self.folder = folder
        self.worker_proxy = worker_proxy
        self.sender_proxy = sender_proxy
        self.processes: list[WorkerProcess] = []
        self.faults: dict[str, int] = {}
        self.journal = Journal(folder / "rig.journal", "rig")
        # Held by a fault that is about to end, stop or change the server.
        self.lock = asyncio.Lock()
        # The same for the proxies.
        self.proxy_lock = asyncio.Lock()
        self._worker_groups = worker_groups
        self._shards = shards
        self._seed = seed
        groups = [each.group.name for each in worker_groups if each.group.acks]
        self.observer = Observer(server, STREAM, shards, groups, self.journal)
        self.workers = [
            process
            for each in worker_groups
            for process in self._processes(each, worker_proxy)
        ]
        self.senders: list[ReplaceableProcess] = []
        self._watching: asyncio.Task[None] | None = None

    @property
    def groups(self) -> list[str]:
        """The names of the groups that acknowledge."""
        return [each.group.name for each in self._worker_groups if each.group.acks]

    def _processes(
        self, worker_group: WorkerGroup, via: Proxy
    ) -> list[ReplaceableProcess]:
        name = worker_group.group.name
        options: dict[str, Any] = {"url": f"{via.url}?socket_timeout={_TIMEOUT}"}
        if worker_group.group.acks:
            options |= {"group": name, "claim": {"idle": LEASE, "interval": 0.5}}
            options["retry"] = {"max_attempts": 3, "backoff": [0.05, 0.2]}
        options |= worker_group.options
        settings: dict[str, Any] = {
            "stream": STREAM,
            "called": name,
            "options": options,
        }
        settings |= {"style": worker_group.style, "run": worker_group.run}
        names = [f"{name}{n}" for n in range(worker_group.workers)]
        return [
            ReplaceableProcess(self, name, "worker", settings, worker_group)
            for name in names
        ]

    async def start(self) -> None:
        """Start all workers and the observer."""
        self._watching = asyncio.create_task(self.observer.watch())
        async with asyncio.TaskGroup() as starting:
            for process in self.workers:
                starting.create_task(process.start())

    async def send(
        self, name: str, rate: float, *, burst: int = 1, **options: Any
    ) -> ReplaceableProcess:
        """Start a sender of `rate` messages a second, `burst` of them at a time."""
        url = f"{self.sender_proxy.url}?socket_timeout={_TIMEOUT}"
        settings: dict[str, Any] = {"stream": STREAM, "rate": rate, "burst": burst}
        settings |= {"keys": 20, "seed": self._seed}
        settings["options"] = {"url": url, "shards": self._shards, **options}
        process = ReplaceableProcess(self, name, "sender", settings)
        self.senders.append(process)
        await process.start()
        return process

    def count_fault(self, fault: str) -> None:
        """Count a fault."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        self.journal.note(f"fault {fault}")

    def excuse(self, since: float, *what: str, ids: tuple[str, ...] = ()) -> None:
        """Record that a fault since a time has effects that are not an error."""
        self.journal.add(Excuse, since=since, what=[*what], ids=[*ids])

    async def finish(self, within: float = 20.0) -> Outcome:
        """End sending, wait until everything is handled, end the workers, and check."""
        codes: dict[str, int] = {}
        await _end(self.senders, codes)
        await self._stop_watching()
        client = self.server.client()
        try:
            drained = await self._drain(client, within)
            self.journal.note("drained" if drained is not None else "not drained")
            await _end(self.workers, codes)
            await self.observer.inspect(client)
            await self.observer.conclude(client)
        finally:
            await client.aclose()
        report = check(read(self.folder), [each.group for each in self._worker_groups])
        noise = {
            path.stem: text
            for path in self.folder.glob("*.stderr")
            if (text := path.read_text())
        }
        return Outcome(report, drained, codes, noise, self.faults)

    async def _drain(self, client: Any, within: float) -> float | None:
        """Wait until nothing waits; return None without progress `within` a time."""
        begin = progress_at = time.monotonic()
        least: float = inf
        while progress_at > time.monotonic() - within:
            try:
                waiting = len(await self.observer.waiting(client))
                elapsed = time.monotonic() - begin
                # Messages in flight when the last fault ended may be lost by it. So
                # they are waited for only as long as a shard takes to be read again.
                if (
                    not waiting
                    and self._all_seen(Attempt)
                    and (elapsed > _HEALS or self._all_seen(Receipt))
                ):
                    return elapsed
                if waiting < least:
                    least, progress_at = waiting, time.monotonic()
            except (RedisError, OSError):
                pass  # the last effects of a fault
            await asyncio.sleep(0.1)  # the commands take a while themselves
        return None

    def _all_seen(self, kind: type[Attempt | Receipt]) -> bool:
        """Return whether readers without a group have got all confirmed messages.

        Args:
            kind: The records that have to be later than the last excused fault.
        """
        readers = [each.group for each in self._worker_groups if not each.group.acks]
        if not readers:
            return True
        history = read(self.folder)
        excused = max((e.at for e in history if isinstance(e, Excuse)), default=0.0)
        late = {e.message for e in history if isinstance(e, kind) and e.at > excused}
        confirmed = {each.message for each in history if isinstance(each, Receipt)}
        for group in readers:
            seen = {
                each.message
                for each in history
                if isinstance(each, Start) and each.group == group.name
            }
            if not late & confirmed <= seen:
                return False
        return True

    async def _stop_watching(self) -> None:
        watching, self._watching = self._watching, None
        while watching is not None and not watching.done():
            # redis-py swallows a cancellation that comes while it disconnects.
            watching.cancel()
            await asyncio.wait([watching], timeout=1)

    async def stop(self) -> None:
        """Kill the remaining processes."""
        await self._stop_watching()
        for process in self.processes:
            if process.alive:
                await process.end(signal.SIGKILL)
        self.journal.close()


async def _end(processes: list[ReplaceableProcess], codes: dict[str, int]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.current is not None
        try:
            async with asyncio.timeout(40):
                code = await process.current.end()
        except TimeoutError:
            code = await process.current.end(signal.SIGKILL)
        if code:
            codes[process.current.name] = code


@asynccontextmanager
async def rig(
    server: Server,
    folder: Path,
    *,
    worker_groups: list[WorkerGroup],
    shards: int = 3,
    seed: int = 0,
) -> AsyncIterator[Rig]:
    """Provide a rig on a running server; kill its processes in the end."""
    async with proxy(server.url) as worker_proxy, proxy(server.url) as sender_proxy:
        created = Rig(
            server,
            folder,
            worker_proxy,
            sender_proxy,
            worker_groups=worker_groups,
            shards=shards,
            seed=seed,
        )
        try:
            yield created
        finally:
            await created.stop()
