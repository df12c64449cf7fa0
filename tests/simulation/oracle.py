"""Oracle: holds what consumers do, at that moment, against the server's own data.

The checker sees what became of messages in the end. A defect may do no harm to them: an
entry that is taken from its owner too early is only handled twice, as after a crash.
Here the server's pending lists tell whose an entry is, since when and on which attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias
from unittest.mock import patch

from faults.history import Excuse, Note, Record, Start
from simulation.oracle_facts import Entry, Life
from simulation.owned_oracle import OwnedOracle
from simulation.plan import ConsumerPlan
from simulation.process import Process
from simulation.server import ids
from simulation.server.groups import Consumer, Group, Pending

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["Oracle"]

_Place: TypeAlias = tuple[int, bytes]
"""The number of a shard, and a group."""

# Styles in which a message is handled in the moment in which it is handed out, and
# those in which it is also handed out again in the moment in which that fails.
_AT_ONCE: Final = frozenset(
    ("run", "router", "loop", "next", "storm", "race", "transactions", "direct")
)
_BY_RUN: Final = frozenset(("run", "router", "transactions", "direct", "threads"))
# Seconds for which a consumer need not know that it has lost an entry: a few turns. If
# the server has counted the start, the consumer knows of a loss only after the reply,
# which it may get after it stood still.
_TURNS: Final = 0.002
_REPLY: Final = 0.05
# Seconds after which entries of a consumer that has closed must be released, and after
# which a network that was disturbed is quiet.
_RELEASED: Final = 0.5
_QUIET: Final = 3.0
# Events of a consumer that had no time or no way to release its entries.
_INCOMPLETE: Final = ("event not_given_back", "event close_incomplete")
# Faults in which the server refuses to count a start.
_REFUSING: Final = frozenset(
    ("demote", "no_memory", "no_disk", "busy", "no_replicas", "no_permission")
)
# Faults in which claims have to do without the script that checks the owner. Idle times
# do not tell it for certain (docs/explanation/design.md, Claims of own entries).
_UNSCRIPTED: Final = frozenset(("no_scripts", "no_permission"))
# Seconds after which no fault has an effect on a consumer any more.
_CALM: Final = 10.0
# Milliseconds for which tasks that block hold up their loop at most.
_BLOCKED: Final = 1500


class Oracle:
    """Checks each start of a handler, each claim, and each consumer that has closed.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        # Checks consumers that own shards.
        self.owned = OwnedOracle(run)
        self._entries: dict[tuple[int, bytes, int], Entry] = {}
        # The processes by their names, and the latest ones by consumers' names.
        self._lives: dict[str, Life] = {}
        self._latest: dict[tuple[bytes, bytes], Life] = {}
        # The groups that were found, so that each is looked for once only.
        self._places: dict[int, tuple[Group, _Place]] = {}
        self._kinds = {fault.kind for fault in run.plan.faults}
        # When a fault last began or ended that lets closing take time.
        self._disturbed = 0.0
        self._disturbing = 0
        # When somebody last changed something that consumers can't know of at once.
        self._changed = 0.0
        # When the server's clock last jumped ahead, which ends all leases.
        self._jumped = 0.0

    # -- what happens ------------------------------------------------------------------

    def begins(
        self, who: str, name: str | None, plan: ConsumerPlan, process: Process
    ) -> None:
        """Record that a consumer's process begins."""
        life = Life(who, (name or "").encode(), plan, process)
        self._lives[who] = life
        for group in plan.groups:
            self._latest[group.encode(), life.name] = life
            for number in range(1, plan.run.get("consumers", 1)):
                other = life.name + b"-%d" % number if name else b""
                self._latest[group.encode(), other] = life
        if plan.owned:
            self.owned.begins(who, name, plan, process)

    @contextmanager
    def disturbed(self, kind: str) -> Iterator[None]:
        """Record that a fault lasts, which may keep others from closing in order."""
        if kind in {"kill", "terminate"}:
            yield
            return
        self._disturbing += 1
        yield
        self._disturbing -= 1
        self._disturbed = self._run.world.time()

    def disturbed_at(self) -> float:
        """Return when the last fault ended; infinity while one lasts."""
        return inf if self._disturbing else self._disturbed

    def seen(self, record: Record) -> None:
        """Check what a consumer's process has just recorded."""
        self.owned.seen(record)
        if isinstance(record, Start):
            life = self._lives.get(record.who)
            if life is not None and life.group and not life.plan.owned:
                self._started(life, record)
        elif isinstance(record, Note):
            self._noted(record)
        elif isinstance(record, Excuse) and "again" in record.what:
            self._changed = record.at
        elif isinstance(record, Excuse) and "leases" in record.what:
            self._jumped = record.at

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch how entries get to consumers."""
        deliver, move = Group.deliver, Group.move

        def delivered(group: Group, id_: int, consumer: Consumer, now: int) -> None:
            self._delivered(group, id_, consumer)
            deliver(group, id_, consumer, now)

        def moved(group: Group, pending: Pending, consumer: Consumer) -> None:
            self._moved(group, pending, consumer)
            move(group, pending, consumer)

        with patch.object(Group, "deliver", delivered):
            with patch.object(Group, "move", moved):
                yield

    # -- the server --------------------------------------------------------------------

    def _place(self, group: Group) -> _Place | None:
        """Return where a group is; None if consumers can't reach it."""
        known = self._places.get(id(group))
        if known is not None and known[0] is group:
            return known[1]
        # A group that is not found now may be found later: its server may be promoted,
        # or its database swapped.
        observer = self._run.observer
        for number, key in enumerate(self._run.keys):
            for name in self._run.groups:
                if observer.group(key.encode(), name.encode()) is group:
                    place = number, name.encode()
                    self._places[id(group)] = group, place
                    return place
        return None

    def _life(self, group: bytes, consumer: Consumer) -> Life | None:
        """Return the process of a consumer; None for a stranger."""
        if consumer.name == b"stranger" or group.decode() in self.owned.groups:
            return None
        found = self._latest.get((group, consumer.name))
        return found or self._latest.get((group, b""))

    def _delivered(self, group: Group, id_: int, consumer: Consumer) -> None:
        place = self._place(group)
        if place is None:
            return
        entry = self._entries.setdefault((*place, id_), Entry())
        entry.holder = self._life(place[1], consumer)
        entry.touched = self._run.server.now
        entry.held_at = entry.fresh_at = entry.leased_at = self._run.world.time()
        entry.lost_by = None
        entry.unknown += 1 if entry.starts else 0

    def _moved(self, group: Group, pending: Pending, consumer: Consumer) -> None:
        place, now = self._place(group), self._run.server.now
        if place is None:
            return
        entry = self._entries.setdefault((*place, pending.id), Entry())
        before, after = entry.holder, self._life(place[1], consumer)
        if entry.touched == now and entry.fresh_at == self._run.world.time():
            return  # it was delivered again
        if before is not None and before is not after:
            # If it was released, its idle time was set.
            released = pending.time < entry.touched
            entry.unknown += not (released or before.closed)
            self._check_lease(place, pending, consumer, after)
        if after is not None and pending.consumer is not consumer:
            entry.lost_by, entry.kept_since = before, entry.held_at
            entry.lost_at, entry.lost_count = self._run.world.time(), pending.count
            entry.lost_lease = entry.leased_at
        if entry.lost_by is after:
            entry.lost_by = None
        if before is not after:
            entry.held_at = self._run.world.time()
        entry.holder, entry.touched = after, now
        entry.leased_at = self._run.world.time()

    def _check_lease(
        self, place: _Place, pending: Pending, consumer: Consumer, to: Life | None
    ) -> None:
        idle = self._run.server.now - pending.time
        if to is None or pending.consumer is consumer or idle >= to.lease:
            return
        if self._kinds & _UNSCRIPTED:
            return
        what = f"{_name(place, pending.id)} by {to.who}, idle for {idle} ms"
        self._run.fail("stolen", what)

    # -- handlers ----------------------------------------------------------------------

    def _started(self, life: Life, start: Start) -> None:
        place = start.shard, start.group.encode()
        id_ = ids.parse(start.id.encode())
        entry = self._entries.setdefault((*place, id_), Entry())
        self._check_owner(place, id_, entry, life, start.attempt)
        if life.who not in entry.starters:
            self._check_counted(place, id_, entry, life, start.attempt)
            entry.starters += (life.who,)
        if life.plan.style in _BY_RUN:
            self._check_attempt(place, id_, entry, start.attempt)
        entry.starts += 1

    def _check_owner(
        self, place: _Place, id_: int, entry: Entry, life: Life, attempt: int
    ) -> None:
        """Check that another consumer has not claimed it long ago."""
        if entry.lost_by is not life or life.plan.style not in _AT_ONCE:
            return
        if self._changed > entry.kept_since or self._kinds & _UNSCRIPTED:
            return
        counted = entry.lost_count > attempt
        since = max(entry.lost_at, life.since) if counted else entry.lost_at
        if entry.lost_lease <= self._jumped <= entry.lost_at:
            # The server's clock has ended the lease at once, so the claim was in
            # order (docs/explanation/guarantees.md, Leases). Nobody tells the consumer,
            # which asks when it renews the lease. By its own clock the lease is not
            # over yet, and may not be when it starts the entry.
            since = max(since, entry.lost_lease + life.lease / 1000)
        ago = self._run.world.time() - since
        if ago > (_REPLY if counted else _TURNS):
            what = f"{_name(place, id_)} by {life.who}, which lost it {ago:.3f} s ago"
            self._run.fail("foreign", what)

    def _check_counted(
        self, place: _Place, id_: int, entry: Entry, life: Life, attempt: int
    ) -> None:
        """Check that the server knows of a start after others that ended somewhere."""
        group = self._run.observer.group(self._run.keys[place[0]].encode(), place[1])
        pending = None if group is None else group.pending.by_id.get(id_)
        if attempt == 1 or pending is None or entry.holder is not life:
            return
        # Where the server refuses the count, the handler is started without it.
        if self._changed > entry.held_at or self._kinds & _REFUSING:
            return
        if entry.fresh_at < life.process.started_at and pending.count <= attempt:
            what = f"{_name(place, id_)} by {life.who}, attempt {attempt}"
            self._run.fail("uncounted", f"{what}, counted {pending.count}")

    def _check_attempt(
        self, place: _Place, id_: int, entry: Entry, attempt: int
    ) -> None:
        """Check that no more attempts are counted than there may have been."""
        processes_of_plan = self._run.plan.consumers
        group = [each for each in processes_of_plan if place[1].decode() in each.groups]
        if any(each.style not in _BY_RUN for each in group):
            return
        if attempt > 1 + entry.starts + entry.unknown:
            what = f"{_name(place, id_)}: attempt {attempt}, {entry.starts} starts"
            self._run.fail("overcounted", what)

    # -- the ends of processes ---------------------------------------------------------

    def _noted(self, note: Note) -> None:
        life = self._lives.get(note.who)
        if life is None or not life.group:
            return
        word, _, rest = note.text.partition(" ")
        if word == "interrupted":
            group, shard, id_ = rest.split()
            # Where handlers have a time limit, that may have ended it.
            limited = "timeout" in life.plan.options.get("retry", {})
            if life.terminated and not limited and not life.plan.owned:
                key = int(shard), group.encode(), ids.parse(id_.encode())
                self._entries[key].starts -= 1
        elif word == "idle":
            self._check_idle(life)
        elif word == "SIGTERM":
            life.terminated = note.at
        elif "malformed reply" in rest and "spoil" not in self._kinds:
            self._run.fail("malformed", f"{life.who}: {rest}")
        elif note.text.startswith(_INCOMPLETE):
            life.refused = True
            # A start that was counted and did not come is given back with its entry.
            self._counted_in_vain(life)
        elif rest.startswith("stream_recreated"):
            # It is dropped, and a failover may bring back the stream with the count.
            self._counted_in_vain(life)
        elif word == "closed":
            life.closed = not life.refused
            if life.closed:
                self._run.world.after(_RELEASED, self._check_released, life)

    def _counted_in_vain(self, life: Life) -> None:
        """Record that starts may have been counted that did not come."""
        for entry in self._entries.values():
            entry.unknown += entry.holder is life

    def _check_idle(self, life: Life) -> None:
        """Check that a call which waits though there are messages has a reason to."""
        calm = self._run.world.time() - _CALM
        paused = any(step.what == "pause" for step in life.plan.steps)
        quiet = not self._disturbing and max(self._disturbed, life.since) < calm
        # A consumer that holds up its loop for longer than its lease loses what it has.
        # The others wait until they have claimed that, and may hold up theirs with it.
        producers = self._run.plan.producers
        brief = life.plan.owned or life.lease < _BLOCKED
        blocked = brief and any("block 1.5" in p.tasks for p in producers)
        if quiet and not (paused or blocked):
            self._run.fail("hangs", f"{life.who}: nobody wakes a call of next()")

    def _check_released(self, life: Life) -> None:
        """Check that a consumer which has closed has kept no lease."""
        disturbed = self._disturbing or self._disturbed + _QUIET > life.terminated
        if disturbed or life.since + _QUIET > life.terminated:
            return
        if self._latest[life.group, life.name] is not life:
            return
        if life.plan.run.get("consumers", 1) > 1:
            return  # the others may close later
        for number, key in enumerate(self._run.keys):
            group = self._run.observer.group(key.encode(), life.group)
            for pending in group.pending if group is not None else ():
                held = self._life(life.group, pending.consumer) is life
                idle = int(self._run.world.wall() * 1000) - pending.time
                if held and idle < life.lease:
                    name = _name((number, life.group), pending.id)
                    self._run.fail("kept", f"{name} by {life.who}")


def _name(place: _Place, id_: int) -> str:
    return f"{place[1].decode()}: {place[0]} {ids.text(id_).decode()}"
