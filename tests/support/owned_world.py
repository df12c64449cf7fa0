"""Processes that own a shard in turn, and a server that answers late, twice or never.

The server is the simulation's, so the scripts run as they are. Each process has the
core's `OwnedShard`, and does what tasks do with what it asks for, in the simplest way.
Every command and every reply waits until the world lets it go on. A connection may be
cut: commands that were not executed by then may be executed at any later time. The
world knows who really has the shard, by the last TAKE that succeeded, whatever tokens
say.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import hiredis

from penstock._core.ownership import actions as do
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.states import ShardState
from penstock._core.ownership.tokens import Token, consumer_name
from penstock._core.protocol import commands, ownership_scripts, reply_parsing
from penstock._core.protocol.commands import Command
from penstock._core.protocol.ownership_replies import Fenced, Guarded, Refused, Taken
from penstock._core.protocol.replies import ErrorReply
from simulation.direct import Direct
from simulation.server import VALKEY_9, Server

KEY = b"orders:0"
OWNER = b"{orders:0}.owner:g"
GROUP = "g"
LEASE = 10.0
DRAIN = 30.0
BEAT = LEASE / 5
START = 1_000_000_000.0


class Violation(AssertionError):  # noqa: N818 - it names what happened
    """An invariant of owned shards does not hold."""


class Clock:
    """The clock of the server; the processes have the same one."""

    now = START

    def wall(self) -> float:
        return self.now

    def after(self, delay: float, callback: Callable[[], None]) -> Clock:
        return self

    def cancel(self) -> None:
        pass


@dataclass(eq=False)
class Flight:
    """Commands in one write.

    Attributes:
        process: Who has sent them.
        token: The token under which they were sent; None for TAKE.
        guarded: Whether it is a write or a read of that ownership, for O5.
        words: The commands.
        answered: Called with the replies.
        lost: Called when the connection has ended instead.
        done: The replies so far.
        lists: Whether it lists what is pending, and changes nothing on the server.
    """

    process: Process
    token: Token | None
    guarded: bool
    words: list[Command]
    answered: Callable[[list[Any]], None]
    lost: Callable[[], None]
    done: list[Any] = field(default_factory=list)
    lists: bool = False

    @property
    def executed(self) -> bool:
        return len(self.done) == len(self.words)


@dataclass
class Ownership:
    """What the world knows of one ownership: an executed TAKE."""

    holder: Process
    serial: int
    started: set[bytes] = field(default_factory=set)


class Process:
    """A member's process, with the ledger and the tasks of one shard.

    Attributes:
        queue: What is recorded and not started, lowest id first.
        running: The token under which each running entry was started.
        outcomes: Entries to be acknowledged, with their tokens.
        acking: Entries whose acknowledgement has no reply yet.
        callbacks: The callbacks that run, with the token and what to report.
    """

    shard_class: ClassVar[type[OwnedShard]] = OwnedShard

    def __init__(self, world: World, name: str, run: str) -> None:
        self.world = world
        self.name = name
        self.shard = self.shard_class(name, run, lease=LEASE, drain=DRAIN)
        self.reading: deque[Flight] = deque()
        self.writing: deque[Flight] = deque()
        self.queue: list[bytes] = []
        self.running: dict[bytes, Token] = {}
        self.zombies: list[tuple[bytes, Token]] = []
        self.outcomes: list[tuple[bytes, Token]] = []
        self.acking: set[bytes] = set()
        self.callbacks: list[tuple[str, Token]] = []
        self.told: dict[Token, list[str]] = {}
        self.batch: list[bytes] = []
        self.learned = 0
        # Whether it knows of a namesake.
        self.ended = False

    def __repr__(self) -> str:
        return f"{self.name}/{self.shard.token.run}"

    @property
    def recorded(self) -> set[bytes]:
        own = {id_ for id_, _ in self.outcomes}
        return {*self.queue, *self.running, *own, *self.acking}

    # -- what the core asks for --------------------------------------------------------

    def act(self, actions: Iterable[do.ShardAction]) -> None:
        for action in actions:
            self._act(action)
        self.check_handlers()

    def _act(self, action: do.ShardAction) -> None:  # noqa: PLR0912 - one per action
        match action:
            case do.Take(version, serial, least):
                self._take(version, serial, least)
            case do.Keep(token):
                self._keep(token)
            case do.Free(token):
                self.world.check_free(self, token)
                self._free(token)
            case do.Recover(token, reader, turn, claim):
                self._recover(token, reader, turn, claim=claim)
            case do.ClaimStrays(token, reader):
                self._claim(
                    token, reader, [], lambda ids: self._strays_claimed(token, ids)
                )
            case do.HandOut():
                self.record(self.batch)
            case do.DropQueue():
                self.queue = []
                if not self.shard.counts(self.shard.token):
                    self._abandon()
            case do.Abandon():
                # All messages of the shard are lost, also those that have an outcome.
                self._abandon()
                self.outcomes, self.acking = [], set()
            case do.CallAssigned():
                self._call("assigned")
            case do.CallRevoked():
                self._call("revoked")
            case do.CallLost():
                self._call("lost")
            case do.News():
                self.world.news = True
            case do.NameInUse():
                self.ended = True
            case do.VersionSeen():
                pass

    def _abandon(self) -> None:
        self.zombies += self.running.items()
        self.running = {}
        if self.shard.state is not ShardState.DRAINING:
            self.outcomes = []
            self.acking = set()

    def _call(self, name: str) -> None:
        token = self.shard.token
        self.told.setdefault(token, []).append(name)
        self.callbacks.append((name, token))

    def check_handlers(self) -> None:
        """Report that no handler runs, once the shard drains."""
        draining = self.shard.state is ShardState.DRAINING
        busy = self.running or self.outcomes or self.shard._open.handlers_done
        if draining and not busy:
            self.act(self.shard.handlers_done(self.shard.token))

    def return_callback(self) -> None:
        name, token = self.callbacks.pop(0)
        report = self.shard.assigned if name == "assigned" else self.shard.end_told
        self.act(report(token, self.now))

    @property
    def now(self) -> float:
        return self.world.clock.now

    def record(self, ids: Sequence[bytes]) -> None:
        new = {*ids} - self.recorded
        self.queue = sorted({*self.queue, *new}, key=number)
        self.batch = []

    def name_of(self, token: Token, reader: int) -> str:
        return consumer_name(token, reader)

    # -- commands ----------------------------------------------------------------------

    def _send(
        self,
        words: Command,
        answered: Callable[[Any], None],
        lost: Callable[[], None],
        *,
        token: Token | None = None,
        guarded: bool = False,
    ) -> None:
        def one(replies: list[Any]) -> None:
            answered(replies[0])

        self.writing.append(Flight(self, token, guarded, [words], one, lost))

    def _take(self, version: int, serial: int, least: int) -> None:
        words = ownership_scripts.take(
            KEY,
            OWNER,
            GROUP,
            self.name,
            version=version,
            run=self.shard.token.run,
            serial=serial,
            least=least,
            lease=int(LEASE * 1000),
        )

        def answered(reply: Taken | Refused) -> None:
            self.act(self.shard.take_answered(reply, self.now))

        self._send(words, answered, lambda: self.act(self.shard.take_lost(self.now)))

    def _keep(self, token: Token) -> None:
        words = ownership_scripts.keep(OWNER, token.encode(), lease=int(LEASE * 1000))

        def answered(reply: Fenced | None) -> None:
            if reply is None:
                self.act(self.shard.kept(token, self.now))
            else:
                self.act(self.shard.fenced(token, reply.token, self.now))

        self._send(words, answered, lambda: self.act(self.shard.keep_lost(token)))

    def _free(self, token: Token) -> None:
        def answered(reply: Fenced | None) -> None:
            self.act(self.shard.freed(token, self.now))

        words = ownership_scripts.free(OWNER, token.encode())
        self._send(words, answered, lambda: self.act(self.shard.free_lost(token)))

    def _recover(self, token: Token, reader: int, turn: int, *, claim: bool) -> None:
        def listed() -> None:
            self.act(self.shard.recovered(token, turn, self.now))

        def then(claimed: list[bytes]) -> None:
            self._list(token, reader, claimed, listed)

        if claim:
            self._claim(token, reader, [], then)
        else:
            then([])

    def _guard(
        self,
        token: Token,
        words: Command,
        done: Callable[[Guarded], None],
        *,
        claim: bool = False,
    ) -> None:
        """Send a write until it is answered, or a claim once."""

        def answered(reply: Any) -> None:
            if isinstance(reply, Fenced):
                self.act(self.shard.fenced(token, reply.token, self.now))
            else:
                done(reply)
            self.act(self.shard.write_answered(token))

        def again() -> None:
            self._send(words, answered, again, token=token, guarded=True)

        def gone() -> None:
            self.act(self.shard.write_answered(token))
            self.act(self.shard.claim_lost(token, self.now))

        if token == self.shard.token:
            self.shard.write_sent()
            self._send(
                words, answered, gone if claim else again, token=token, guarded=True
            )

    def _claim(
        self,
        token: Token,
        reader: int,
        before: list[bytes],
        then: Callable[[list[bytes]], None],
    ) -> None:
        words = ownership_scripts.guard(
            KEY,
            OWNER,
            GROUP,
            token.encode(),
            consumer=self.name_of(token, reader),
            claim=0,
        )

        def done(reply: Guarded) -> None:
            claimed = [*before, *reply.claimed]
            if reply.more:
                self._claim(token, reader, claimed, then)
            else:
                then(claimed)

        self._guard(token, words, done, claim=True)

    def _list(
        self,
        token: Token,
        reader: int,
        claimed: list[bytes],
        then: Callable[[], None],
    ) -> None:
        """List what is pending for the consumer, and record it."""
        name = self.name_of(token, reader)
        words = commands.xpending_page(KEY, GROUP, name, b"0-0", 1000)

        def answered(reply: Any) -> None:
            if isinstance(reply, ErrorReply):
                raise Violation(reply.text)
            if self.may_record(token):
                self.record([*claimed, *(entry.id for entry in reply)])
            then()

        def again() -> None:
            self._list(token, reader, claimed, then)

        self._send(words, answered, again)

    def may_record(self, token: Token) -> bool:
        draining = self.shard.state is ShardState.DRAINING
        return self.shard.counts(token) and not draining

    def _strays_claimed(self, token: Token, claimed: list[bytes]) -> None:
        if self.may_record(token):
            self.record([*claimed, *self.batch])
        self.act(self.shard.strays_recorded(token))

    # -- what tasks do by themselves ---------------------------------------------------

    def can_read(self) -> bool:
        return self.shard.may_read(self.now)

    def read(self) -> None:
        token, name = self.shard.token, self.shard.consumer

        def answered(replies: list[Any]) -> None:
            found, current, summary = replies
            if token == self.shard.token:
                self.batch = [id_ for _, rows in found or [] for id_, _ in rows]
            holders = [name for name, _ in summary.holders or []]
            self.act(self.shard.read_answered(token, current or b"", holders, self.now))

        def lost() -> None:
            self.act(self.shard.read_lost(token, self.now))

        words = [
            commands.xreadgroup(GROUP, name, [KEY], 2, None),
            (b"HGET", OWNER, b"token"),
            commands.xpending_summary(KEY, GROUP),
        ]
        self.shard.read_sent()
        self.reading.append(Flight(self, token, True, words, answered, lost))  # noqa: FBT003

    def can_start(self) -> bool:
        return bool(self.queue) and self.shard.may_start(self.now)

    def start(self) -> None:
        id_ = self.queue.pop(0)
        self.running[id_] = self.shard.token
        self.world.check_start(self, id_)

    def finish(self) -> None:
        id_, token = self.running.popitem()
        if self.shard.counts(token):
            self.outcomes.append((id_, token))
        self.check_handlers()

    def ack(self) -> None:
        ids = [id_ for id_, token in self.outcomes if token == self.shard.token]
        token = self.shard.token
        self.outcomes = []
        self.acking |= {*ids}

        def done(reply: Guarded) -> None:
            self.acking -= {*ids}

        self._guard(token, self.ack_words(token, ids), done)
        self.check_handlers()

    def ack_words(self, token: Token, ids: Sequence[bytes]) -> Command:
        name = self.shard.consumer
        xack = (b"XACK", *ids)
        return ownership_scripts.guard(
            KEY, OWNER, GROUP, token.encode(), consumer=name, commands=[xack]
        )

    def due(self) -> None:
        self.act(self.shard.due(self.now))

    def learn(self) -> None:
        """Hear of the present target."""
        version, owner = self.world.target
        self.learned = version
        if owner == self.name:
            self.act(self.shard.wanted(version, self.now))
        else:
            self.act(self.shard.unwanted(self.now))


def number(id_: bytes) -> int:
    return int(id_.partition(b"-")[0])


class World:
    """A server, processes, and what is in the air.

    Attributes:
        target: The version, and the member that should have the shard.
        clean: Whether nothing has gone wrong so far.
        late: Commands of connections that were cut, not executed yet.
        number: The highest number of an ownership that the server has not lost.
    """

    process_class: ClassVar[type[Process]] = Process

    def __init__(self, names: Sequence[str] = ("a", "b")) -> None:
        self.clock = Clock()
        self.server = Server(self.clock, random.Random(1), VALKEY_9)
        self.direct = Direct(self.server)
        self.direct.call("XGROUP", "CREATE", KEY, GROUP, "0", "MKSTREAM")
        self.processes = [
            self.process_class(self, name, f"run{place}")
            for place, name in enumerate(names)
        ]
        self.added = 0
        self.target = (1, names[0])
        self.clean = True
        self.news = False
        self.late: list[tuple[Flight, Command]] = []
        self.ownership: Ownership | None = None
        self.tokens: dict[bytes, Ownership] = {}
        self.starts: dict[bytes, int] = {}
        self.acked: set[bytes] = set()
        self.copy: Any = None
        self.number = 0

    # -- the server --------------------------------------------------------------------

    def call(self, words: Command) -> Any:
        reply = self.direct.call(*words)
        if isinstance(reply, hiredis.ReplyError):
            reply = ErrorReply(str(reply))
        return reply_parsing.parse([words], [reply])[0]

    def pending(self) -> set[bytes]:
        rows = self.direct.call("XPENDING", KEY, GROUP, "-", "+", 1000)
        return {row[0] for row in rows}

    def token(self) -> bytes:
        found = self.direct.call("HGET", OWNER, "token")
        return bytes(found or b"")

    def execute(self, flight: Flight, words: Command) -> Any:
        """Execute a command, and see what it has done."""
        before, was = self.pending(), self.token()
        reply = self.call(words)
        gone = before - self.pending()
        owner = self.ownership
        if gone and (owner is None or not self.holds(flight.process, flight.token)):
            raise Violation(f"O1: {flight.process} acknowledged {gone}")
        self.acked |= gone
        now = self.token()
        if now != was and now:
            self._check_token(flight.process, now)
        elif not now:
            self.ownership = None
        return reply

    def _check_token(self, process: Process, raw: bytes) -> None:
        serial = int(self.direct.call("HGET", OWNER, "serial"))
        # A failover may undo a TAKE that is then sent again. It is the same ownership,
        # whose messages may have been started already.
        owner = self.tokens.setdefault(raw, Ownership(process, serial))
        if (owner.holder, owner.serial) != (process, serial):
            raise Violation(f"O10: {raw!r} was given twice")
        self.ownership = owner
        token = Token.parse(raw)
        assert token is not None
        if token.number <= self.number:
            raise Violation(f"O10: {raw!r} came after number {self.number}")
        self.number = token.number

    def holds(self, process: Process, token: Token | None) -> bool:
        """Return whether an ownership is the one that the server has."""
        owner = self.ownership
        if owner is None or token is None:
            return False
        return owner.holder is process and owner.serial == token.serial

    # -- steps -------------------------------------------------------------------------

    def lines(self) -> list[deque[Flight]]:
        return [line for p in self.processes for line in (p.reading, p.writing)]

    def can_execute(self) -> list[Flight]:
        """Return for each connection the flight that the server comes to next."""
        found = []
        for line in self.lines():
            waiting = [flight for flight in line if not flight.executed]
            found += waiting[:1]
        return found

    def execute_next(self, flight: Flight) -> None:
        flight.done.append(self.execute(flight, flight.words[len(flight.done)]))

    def can_deliver(self) -> list[deque[Flight]]:
        return [line for line in self.lines() if line and line[0].executed]

    def deliver(self, line: deque[Flight]) -> None:
        flight = line.popleft()
        flight.answered(flight.done)

    def cut(self, line: deque[Flight]) -> None:
        """End a connection; what was not executed may be executed late."""
        self.clean = False
        flights = [*line]
        line.clear()
        for flight in flights:
            left = () if flight.lists else flight.words[len(flight.done) :]
            self.late += [(flight, one) for one in left]
        for flight in flights:
            flight.lost()

    def execute_late(self, place: int) -> None:
        flight, words = self.late.pop(place)
        self.execute(flight, words)

    def add(self) -> None:
        self.added += 1
        self.direct.call("XADD", KEY, f"{self.added}-0", "a", "b")

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.clean = self.clean and seconds < LEASE / 4

    def retarget(self, name: str) -> None:
        self.target = (self.target[0] + 1, name)

    def save(self) -> None:
        """Note what a replica has, which may be promoted later."""
        snapshot = self.server.snapshot()
        known = (self.ownership, self.added, {*self.acked}, self.number)
        self.copy = (snapshot, known)

    def fail_over(self) -> None:
        """Fall back to that copy. Connections end, and their commands are gone."""
        snapshot, known = self.copy
        self.ownership, self.added, self.acked, self.number = known
        self.copy = None
        self.server.restart(snapshot)
        for line in self.lines():
            self.cut(line)
        self.late = []

    def settle(self) -> None:
        """Let everything go on fairly, without faults, until nothing is left to do."""
        while self.late:
            self._step_fairly()
        self._become_live()
        for _ in range(400):
            if not self._step_fairly():
                return
        states = [(p, p.shard.state.name, p.recorded) for p in self.processes]
        raise Violation(f"O9: it does not settle: {states}, {self.pending()}")

    def _become_live(self) -> None:
        """Let the shard become live at its target, within four beats.

        They count from when the lease of a former owner ends that can't free it.
        """
        until = self.direct.call("HGET", OWNER, "until") or 0
        due = max(self.clock.now, int(until) / 1000) + 4 * BEAT
        while not self.is_live():
            if self.clock.now > due:
                states = [(p, p.shard.state.name) for p in self.processes]
                raise Violation(f"O9: not live within four beats: {states}")
            for _ in range(12):
                self._step_fairly(0.0)
            self.clock.now += BEAT / 4

    def is_live(self) -> bool:
        """Return whether a process of the target reads the shard."""
        return any(
            process.shard.state is ShardState.LIVE
            for process in self.processes
            if process.name == self.target[1]
        )

    def _step_fairly(self, seconds: float = 0.5) -> bool:
        for flight in self.can_execute():
            self.execute_next(flight)
        for line in self.can_deliver():
            self.deliver(line)
        for process in self.processes:
            if process.learned != self.target[0]:
                process.learn()
            if process.callbacks:
                process.return_callback()
            process.act(process.shard.due(process.now))
            while process.can_start():
                process.start()
            while process.running:
                process.finish()
            if process.outcomes:
                process.ack()
            if process.can_read() and not self._is_over():
                process.read()
        self._look()
        self.clock.now += seconds
        return bool(self.late) or not self._is_over() or any(self.lines())

    def _look(self) -> None:
        if self.news:
            self.news = False
            for process in self.processes:
                process.act(process.shard.news(process.now))
        if self.late:
            self.execute_late(0)

    def _is_over(self) -> bool:
        ids = {b"%d-0" % n for n in range(1, self.added + 1)}
        return ids <= self.acked and self.is_live()

    # -- invariants --------------------------------------------------------------------

    def check_start(self, process: Process, id_: bytes) -> None:
        token = process.shard.token
        if process.shard.state is not ShardState.LIVE:
            raise Violation(f"O4: {process} starts {id_!r} in {process.shard.state}")
        if "assigned" not in process.told.get(token, []) or process.callbacks:
            raise Violation(f"O7: {process} starts {id_!r} before it was assigned")
        self.starts[id_] = self.starts.get(id_, 0) + 1
        if self.clean and self.starts[id_] > 1:
            raise Violation(f"{process} starts {id_!r} again, and nothing went wrong")
        if not self.holds(process, token):
            return
        assert self.ownership is not None
        lower = {one for one in self.pending() if number(one) < number(id_)}
        if missing := lower - self.ownership.started:
            raise Violation(f"O2: {process} starts {id_!r} before {missing}")
        self.ownership.started.add(id_)

    def check_free(self, process: Process, token: Token) -> None:
        for line in (process.reading, process.writing):
            if any(flight.guarded and flight.token == token for flight in line):
                raise Violation(f"O5: {process} frees with something in the air")
        if token in process.running.values():
            raise Violation(f"O5: {process} frees while handlers run")

    def check_told(self) -> None:
        for process in self.processes:
            for told in process.told.values():
                if told not in (
                    ["assigned"],
                    ["assigned", "revoked"],
                    ["assigned", "lost"],
                ):
                    raise Violation(f"O7: {process} was told {told}")
