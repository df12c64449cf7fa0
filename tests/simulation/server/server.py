"""A model of a Redis or Valkey server: pure code, whose clock is given to it.

Each call from outside (bytes, a timer, an operator) runs until nothing is left to do;
then all replies are sent. So the order in which clients are served is determined by the
order of the calls alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from simulation.server.acl import Users
from simulation.server.blocking import Blocked
from simulation.server.config import Config
from simulation.server.guards import Guards, permit
from simulation.server.keyspace import Database, Stored
from simulation.server.messages import publish_to_all
from simulation.server.replication import Journal, Link, Record, unblock_all
from simulation.server.resp import QUEUED, Fault, Refusal, Reply
from simulation.server.scripting import Scripts
from simulation.server.sessions import Caller, Peer, Session
from simulation.server.table import BLOCKED, Command, commands_of
from simulation.server.texts import arity, unknown_subcommand
from simulation.server.versions import VALKEY_9, Version

__all__ = ["Clock", "Peer", "Server", "Session", "Snapshot", "Timer"]

Snapshot = tuple[Stored, ...]
"""The data of a server at one moment."""

_DATABASES: Final = 16
_NOT_QUEUED: Final = frozenset(("exec", "discard", "multi", "watch", "quit", "reset"))


class Timer(Protocol):
    """A timer that may be cancelled."""

    def cancel(self) -> None:
        """Do not call back any more."""


class Clock(Protocol):
    """The time of the server's machine."""

    def wall(self) -> float:
        """Return the seconds of Unix time."""

    def after(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call back after a delay in seconds."""


class Server:
    """A server.

    Args:
        clock: Its clock.
        chance: What is random, such as run ids, comes from here.
        version: The server that it models.
        config: Directives, as CONFIG SET takes them.

    Attributes:
        now: The time of the current command, in milliseconds of Unix time.
        dirty: The number of changes so far.
        guards: What makes the server refuse commands at present.
        written: The sessions that have something to send.
        reads: How often bytes have been received.
        calls: How often each command was called.
        rejected: How often each command was refused before it ran.
    """

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        version: Version = VALKEY_9,
        *,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version
        self.chance = chance
        self._clock = clock
        self.now = int(clock.wall() * 1000)
        self.table = commands_of(version)
        self.users = Users(self.table)
        self.config = Config(self, config or {})
        self.guards = Guards(self)
        self.scripts = Scripts(self)
        self.blocked = Blocked(self)
        self.dirty = 0
        self.written: dict[Session, None] = {}
        # Called with each command that was executed.
        self.on_executed: Callable[[list[bytes]], None] | None = None
        self._databases = [Database(self, index) for index in range(_DATABASES)]
        self._depth = 0
        self._due: dict[Session, None] = {}
        self._late: list[Callable[[], None]] = []
        self._frozen = False
        self._start()
        self.offset = 0
        self.link: Link | None = None
        self.journal = Journal(self)
        self.config.apply_given()

    def _start(self) -> None:
        """Begin as a process does, without any connection."""
        self.run_id = b"%040x" % self.chance.getrandbits(160)
        self.started = self.now
        self.sessions: dict[int, Session] = {}
        self.channels: dict[bytes, dict[Session, None]] = {}
        self.patterns: dict[bytes, dict[Session, None]] = {}
        self.calls: dict[str, int] = {}
        self.rejected: dict[str, int] = {}
        self.reads = 0
        self.paused: str = ""
        self._postponed: dict[Session, None] = {}
        self._pause_timer: Timer | None = None
        self._next_number = 3

    # -- what the network calls --------------------------------------------------------

    def connected(self, peer: Peer) -> Session:
        """Take a new connection."""
        self.now = int(self._clock.wall() * 1000)
        self._next_number += 1
        session = Session(self, peer, self._next_number)
        self.sessions[session.number] = session
        return session

    def run(self, session: Session) -> None:
        """Let a session work, now or when the server is no longer frozen."""
        self._due[session] = None
        if not self._frozen:
            self.work()

    def work(self) -> None:
        """Let all sessions work that are due, and send their replies."""
        if self._depth:
            return
        self._depth = 1
        try:
            while self._due:
                session = next(iter(self._due))
                del self._due[session]
                session.work()
            while self.written:
                written, self.written = self.written, {}
                for session in written:
                    session.flush()
        finally:
            self._depth = 0

    def resume(self, session: Session) -> None:
        """Let a session go on that was blocked, after what is under way."""
        self._due[session] = None

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back after a delay in seconds, or when no longer frozen."""

        def due() -> None:
            if self._frozen:
                self._late.append(due)
                return
            self.now = int(self._clock.wall() * 1000)
            callback()
            self.journal.commit()
            self.blocked.serve()
            self.work()

        return self._clock.after(delay, due)

    def forget(self, session: Session) -> None:
        """Remove all traces of a connection that has ended."""
        self.sessions.pop(session.number, None)
        self._postponed.pop(session, None)
        if session.waiter is not None:
            self.blocked.remove(session.waiter)
        session.unwatch()
        session.leave_channels()

    # -- running commands --------------------------------------------------------------

    def database(self, index: int) -> Database:
        """Return a database by its number."""
        return self._databases[index]

    def find(self, words: list[bytes]) -> Command:
        """Return the command that words name, with the right number of arguments.

        Raises:
            Refusal: There is none, or the number of arguments is wrong.
        """
        command = self.table.get(words[0]) or self.table.get(words[0].upper())
        if command is None:
            raise self._unknown(words)
        if command.subcommands and len(words) > 1:
            command = self._subcommand(command, words)
        if not command.fits(len(words)):
            raise arity(command.name)
        return command

    def _subcommand(self, command: Command, words: list[bytes]) -> Command:
        found = command.subcommands.get(words[1].upper())
        if self.version.subcommands:
            if found is None:
                raise unknown_subcommand(command.name, words[1], own=True)
            return found
        # Where a subcommand is no command of its own, the command itself refuses it.
        return found if found is not None and found.fits(len(words)) else command

    def _unknown(self, words: list[bytes]) -> Refusal:
        name = words[0]
        if self.version.subcommands:
            args = b" ".join(b"'%b'" % word for word in words[1:]) + b" "
            args = args if words[1:] else b""
            text = b"ERR unknown command '%b', with args beginning with: %b"
        else:
            args = b"".join(b"`%b`, " % word for word in words[1:])
            text = b"ERR unknown command `%b`, with args beginning with: %b"
        return Refusal(text % (name, args))

    def execute(self, session: Session, words: list[bytes]) -> None:
        """Run a client's command, and serve those whom it wakes."""
        self.now = int(self._clock.wall() * 1000)
        session.active = self.now
        self.run_command(session, words)
        if self.on_executed is not None:
            self.on_executed(words)
        self.blocked.serve()

    def run_command(self, session: Session, words: list[bytes]) -> None:
        """Run a client's command, or queue it in a transaction."""
        queue = session.queue
        command: Command | None = None
        try:
            command = self.find(words)
            session.last_command = command.name
            permit(self, session, command, words)
            if self.guards.active and not session.exempt:
                self.guards.check(session, command, queue)
            if queue is not None and command.no_multi and self.version.valkey:
                raise _not_in_transaction(command)
            if queue is not None and command.name not in _NOT_QUEUED:
                queue.commands.append((command, words))
                session.reply(QUEUED)
                return
        except Refusal as refusal:
            if command is not None:
                self.reject(command)
            session.reply(Fault(_refuse(session, words, refusal.text)))
            return
        if self.paused and not session.exempt and self._postpones(session, command):
            session.postponed = words
            self._postponed[session] = None
            return
        reply = self.call(session, command, words)
        self.journal.commit(session)
        if reply is not BLOCKED:
            session.reply(reply)

    def reject(self, command: Command) -> None:
        """Count a command that was refused before it ran."""
        self.rejected[command.name] = self.rejected.get(command.name, 0) + 1

    def call(self, caller: Caller, command: Command, words: list[bytes]) -> Reply:
        """Run a command and return its reply, errors as `Fault`."""
        self.calls[command.name] = self.calls.get(command.name, 0) + 1
        before = self.dirty
        try:
            reply = command.handler(caller, words)
        except Refusal as refusal:
            reply = Fault(refusal.text)
        if self.dirty != before and command.writes:
            self.journal.record(caller.database.index, caller.rewritten or words)
            caller.rewritten = None
        return reply

    def call_in_exec(
        self, session: Session, command: Command, words: list[bytes]
    ) -> Reply:
        """Run a queued command, unless it may no longer run.

        A command that brings its reply itself leaves it among those that were queued.
        """
        try:
            permit(self, session, command, words)
            if self.guards.active and not session.exempt:
                self.guards.check(session, command)
        except Refusal as refusal:
            return Fault(refusal.text)
        return self.call(session, command, words)

    # -- pauses ------------------------------------------------------------------------

    def pause(self, seconds: float, *, writes_only: bool) -> None:
        """Postpone the commands of clients, as CLIENT PAUSE does."""
        self.paused = "write" if writes_only else "all"
        if self._pause_timer is not None:
            self._pause_timer.cancel()
        self._pause_timer = self.after(seconds, self.unpause)

    def unpause(self) -> None:
        """End a pause and run what was postponed."""
        self.paused = ""
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._pause_timer = None
        postponed, self._postponed = self._postponed, {}
        for session in postponed:
            words, session.postponed = session.postponed, None
            if words is not None and session.open:
                self.execute(session, words)
                self.resume(session)

    def _postpones(self, session: Session, command: Command) -> bool:
        if command.name.startswith("client|"):
            return False
        if self.paused == "all":
            return True
        if command.name == "exec" and session.queue is not None:
            return any(
                queued.writes or queued.may_replicate
                for queued, _ in session.queue.commands
            )
        return command.writes or command.may_replicate

    # -- what an operator does ---------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether the process stands still: bytes and timers wait."""
        return self._frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        if self._frozen == frozen:
            return
        self._frozen = frozen
        if not frozen:
            # What has been received is run before timeouts are looked at.
            self.work()
            late, self._late = self._late, []
            for callback in late:
                callback()

    def snapshot(self) -> Snapshot:
        """Return a copy of all data."""
        return tuple(database.copy() for database in self._databases)

    def restart(self, snapshot: Snapshot | None = None) -> None:
        """Restart the process: connections, scripts and blocked clients are gone.

        Args:
            snapshot: The data that it starts with; the present data by default.
        """
        self._restart(self.snapshot() if snapshot is None else snapshot, [])

    def save(self) -> None:
        """Write all data to the disk, unless a journal is kept there."""
        if not self.journal.disk.keeps_journal:
            self.journal.disk.save()

    def crash(self) -> None:
        """Restart the machine, with what had reached the disk."""
        self._restart(*self.journal.disk.restore())

    def _restart(self, snapshot: Snapshot, records: list[Record]) -> None:
        self.drop_connections()
        for database, stored in zip(self._databases, snapshot, strict=True):
            database.load(stored)
        self._late.clear()
        self._frozen = False
        self._start()
        self.scripts = Scripts(self)
        self._run_records(records)
        self.now = int(self._clock.wall() * 1000)
        links = self.journal.links
        self.journal = Journal(self)
        for link in list(links):
            self.replicate_to(link.follower, link.delay)

    # -- replicas ----------------------------------------------------------------------

    @property
    def good_replicas(self) -> int:
        """The number of replicas that follow."""
        return len(self.journal.links)

    def replicate_to(
        self, other: Server, delay: float | Callable[[], float] = 0.0
    ) -> Link:
        """Let another server follow this one; it takes over all data at once.

        Args:
            other: The replica.
            delay: The seconds that a change takes to it, and as many back.
        """
        if other.link is not None:
            other.link.close()
        pause = delay if callable(delay) else (lambda: delay)
        link = Link(self, other, pause)
        other.link = link
        self.journal.links.append(link)
        return link

    def become_replica(self, leader: Server) -> None:
        """Take over the data of a leader, and refuse writes from now on."""
        self.demote()
        for database, stored in zip(self._databases, leader.snapshot(), strict=True):
            database.load(stored)
        self.journal.disk.save()

    def demote(self) -> None:
        """Become a replica: refuse writes, and end the waits of clients."""
        for link in list(self.journal.links):
            link.close()
        if not self.guards.readonly:
            self.guards.readonly = True
            unblock_all(self)
            self.work()

    def promote(self) -> None:
        """Become a leader, with the changes that have arrived so far."""
        if self.link is not None:
            self.link.close()
            self.link = None
        self.guards.readonly = False

    def apply(self, records: list[Record], offset: int) -> None:
        """Make a leader's changes.

        Args:
            records: The changes.
            offset: The leader's offset after them.
        """
        self._run_records(records)
        self.now = int(self._clock.wall() * 1000)
        self.offset = offset - len(records)
        self.journal.commit()

    def _run_records(self, records: list[Record]) -> None:
        for record in records:
            self.now = record.now
            caller = Caller(self, None)
            caller.database = self.database(record.number)
            self.call(caller, self.find(record.words), record.words)

    def drop_connections(self) -> None:
        """Close all connections at once."""
        for session in list(self.sessions.values()):
            session.cut()

    def publish(self, channel: bytes, message: bytes) -> int:
        """Send a message to all subscribers, and return their number."""
        return publish_to_all(self, channel, message)


def _not_in_transaction(command: Command) -> Refusal:
    text = b"ERR Command '%b' not allowed inside a transaction"
    return Refusal(text % command.name.encode())


def _refuse(session: Session, words: list[bytes], text: bytes) -> bytes:
    """Let a refusal break a transaction, and return its text."""
    if words[0].upper() == b"EXEC":
        session.queue = None
        session.unwatch()
        reason = text.removeprefix(b"ERR ")
        return b"EXECABORT Transaction discarded because of: " + reason
    if session.queue is not None:
        session.queue.broken = True
    return text
