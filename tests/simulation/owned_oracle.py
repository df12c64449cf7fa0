"""Owned oracle: holds what owners of shards do against the server's own data.

The server's token tells at each moment whose a shard is. A handler that starts under
another one is a stale one: its member stood still, or could not know yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from faults.history import Acked, DeadLettered, End, Excuse, Note, Record, Start
from penstock._core.ownership.tokens import Token
from simulation import owning
from simulation.owned_division import Division, Holder, holder_of
from simulation.owned_facts import Member, Place, Shard
from simulation.owned_handover import HandOver
from simulation.owned_plans import AT_ONCE, is_peaceful
from simulation.plan import ConsumerPlan
from simulation.process import Process
from simulation.server import ids

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["OwnedOracle"]

# Styles whose handlers start in the order of the stream.
_IN_ORDER: Final = frozenset(("loop", "next", "take", "batches", "lists"))
_BY_RUN: Final = frozenset(("run", "router", "transactions", "direct", "threads"))
# What must have been noted before.
_BEFORE: Final[dict[str, frozenset[str]]] = {
    owning.ASSIGNING: frozenset(("", owning.REFUSED, owning.REVOKED, owning.LOST)),
    owning.ASSIGNED: frozenset((owning.ASSIGNING,)),
    owning.REFUSED: frozenset((owning.ASSIGNING,)),
    owning.REVOKING: frozenset((owning.ASSIGNED,)),
    owning.REVOKED: frozenset((owning.REVOKING,)),
    owning.LOST: frozenset((owning.ASSIGNED,)),
}
_OWNED: Final = frozenset((owning.ASSIGNING, owning.ASSIGNED, owning.REVOKING))
# Seconds for which a member that has stood still may start what it had taken in hand.
_TURNS: Final = 0.05
# Seconds after which shards of a consumer that has closed must be free.
_FREED: Final = 0.5
# Faults after which wall clocks differ from what leases were reckoned by.
_CLOCKS: Final = frozenset(("set_clock",))
# Faults after which a group delivers lower ids than those of pending entries.
_SET_BACK: Final = frozenset(("set_group_back",))
# Faults after which the server has another one's token without a TAKE.
_OTHER_DATA: Final = frozenset(("restart_older", "fail_over", "swap_databases"))
# Events of a consumer that had no time to give up its shards.
_INCOMPLETE: Final = ("not_given_back", "close_incomplete", "close_timeout has expired")

# Events that say what has become of handled messages, or has not.
_OF_OUTCOMES: Final = (
    *("drain_incomplete", "commit_", "handler_failed", "not_acknowledged"),
)


class OwnedOracle:
    """Checks starts, acknowledgements and callbacks of consumers that own shards.

    Args:
        run: The run.

    Attributes:
        stale: The starts by members that the shard had been taken from by then.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._plans = plans = [each for each in run.plan.consumers if each.owned]
        self.groups = frozenset(group for each in plans for group in each.groups)
        self._styles = {
            g: {p.style for p in plans if g in p.groups} for g in self.groups
        }
        self._in_order = {
            group: all(_in_order(p) for p in plans if group in p.groups)
            for group in self.groups
        }
        self._by_key = {
            group: all(
                p.run.get("ordering") == "key" for p in plans if group in p.groups
            )
            for group in self.groups
        }
        self._kinds = {fault.kind for fault in run.plan.faults}
        self._blocks = any(
            task.startswith("block")
            for each in run.plan.producers
            for task in each.tasks
        )
        self._hand_over = HandOver()
        self._leases = max(
            (p.options["ownership"].get("lease", 10.0) for p in plans), default=0.0
        )
        self._members: dict[str, Member] = {}
        self._shards: dict[Place, Shard] = {}
        self.stale: set[Start] = set()
        # Who has handled an entry, under which epoch; and what was acknowledged though
        # its owner had not.
        self._handled: set[tuple[Place, str, bytes, int]] = set()
        self._suspects: list[tuple[Place, str]] = []
        self._given_up: set[str] = set()
        # When somebody last changed what owners can't know of at once.
        self._changed = float("-inf")

    # -- what happens ------------------------------------------------------------------

    def begins(
        self, who: str, name: str | None, plan: ConsumerPlan, process: Process
    ) -> None:
        """Record that the process of a consumer that owns shards begins."""
        hurried = "close_timeout" in plan.options
        self._members[who] = Member((name or "").encode(), process, hurried)

    def seen(self, record: Record) -> None:
        """Check what a process has just recorded."""
        if isinstance(record, Excuse) and {"again", "order"} & {*record.what}:
            self._changed = record.at
        if isinstance(record, Excuse) and "ack" in record.what:
            self._hand_over.excused(record)
        if not self.groups:
            return
        if isinstance(record, Start):
            if record.group in self.groups:
                self._hand_over.started(record)
                self._started(record)
        elif isinstance(record, End):
            if record.group in self.groups:
                self._ended(record)
        elif isinstance(record, Acked):
            if record.group in self.groups:
                self._acknowledged(record)
        elif isinstance(record, Note):
            self._noted(record)

    def looked(self) -> None:
        """Check whether somebody has taken a shard whose lease was not over."""
        for group in self.groups:
            for number in range(len(self._run.keys)):
                shard = self._shard((number, group))
                before, now = shard.holder, self._holder((number, group))
                shard.holder = now
                if before is not None and now is not None:
                    self._check_lease((number, group), before, now)

    def _check_lease(self, place: Place, before: Holder, now: Holder) -> None:
        """Check that a shard is taken from another only when its lease is over."""
        one, other = Token.parse(before.token), Token.parse(now.token)
        if one is None or other is None or one.member == other.member:
            return
        left = before.until - self._run.server.now
        if left > 0 and not self._kinds & (_CLOCKS | _OTHER_DATA):
            what = f"{_name(place)} from {one.member} by {other.member}"
            self._run.fail("taken_early", f"{what}, {left} ms early")

    # -- the server --------------------------------------------------------------------

    def _shard(self, place: Place) -> Shard:
        return self._shards.setdefault(place, Shard())

    def _holder(self, place: Place) -> Holder | None:
        database = self._run.server.database(0)
        return holder_of(database, self._run.keys[place[0]], place[1])

    def unsettled(self) -> list[str]:
        """Describe the shards that are not where they belong."""
        processes = [each for each in self._run.processes if each.alive]
        members = [self._members[p.name] for p in processes if p.name in self._members]
        names = {member.name.decode() for member in members}
        if not names:
            return []
        # A router goes on without a consumer that has given up.
        stops = any(p.options.get("dead_letters") == "stop" for p in self._plans)
        shards = [
            number
            for number, key in enumerate(self._run.keys)
            if self._run.observer.stored(key)
        ]  # others need not have been found
        database = self._run.server.database(0)
        return [
            what
            for group in sorted(self.groups)
            for what in Division(database, group).wrong(
                names, {shard: self._run.keys[shard] for shard in shards}, some=stops
            )
        ]

    # -- handlers ----------------------------------------------------------------------

    def _started(self, start: Start) -> None:
        place, member = (start.shard, start.group), self._members[start.who]
        at_once = self._styles[start.group] <= AT_ONCE
        if member.told.get(place) != owning.ASSIGNED and at_once:
            what = f"{_name(place)} {start.id} by {start.who}"
            self._run.fail("untold", f"{what} after {member.told.get(place)!r}")
        holder = self._holder(place)
        token = Token.parse(holder.token) if holder else None
        current = token and (token.member.encode(), token.number)
        if holder is None or current != (member.name, start.epoch):
            self.stale.add(start)
            if at_once and not self._may_be_late(start.who):
                what = f"{_name(place)} {start.id} by {start.who}, epoch {start.epoch}"
                self._run.fail("zombie", f"{what}, which is {holder}")
            return
        if at_once:
            self._check_lease_goes_on(place, start, holder)
        shard, id_ = self._shard(place), ids.parse(start.id.encode())
        if shard.token != holder.token:
            shard.token, shard.started = holder.token, set()
        self._check_lower(place, start, shard)
        shard.started.add(id_)

    def _ended(self, end: End) -> None:
        self._hand_over.ended(end)
        if end.ok:
            name = self._members[end.who].name
            self._handled.add(((end.shard, end.group), end.id, name, end.epoch))

    def _may_be_late(self, who: str) -> bool:
        """Return whether a member can't know that a shard is not its own any more."""
        now, process = self._run.world.time(), self._members[who].process
        stood_still = now - process.loop.frozen_until < _TURNS
        changed = now - self._changed < 2 * self._leases
        return stood_still or self._blocks or changed or bool(self._kinds & _CLOCKS)

    def _check_lease_goes_on(self, place: Place, start: Start, holder: Holder) -> None:
        """Check that no handler starts of a shard whose lease is over.

        A member's lease begins when it asks for it, which is before the server's.
        """
        over = int(self._run.world.wall() * 1000) - holder.until
        if over > 0 and not (self._may_be_late(start.who) or self._kinds & _OTHER_DATA):
            what = f"{_name(place)} {start.id} by {start.who}"
            self._run.fail("lapsed", f"{what}, {over} ms after the lease")

    def _check_lower(self, place: Place, start: Start, shard: Shard) -> None:
        """Check that what was delivered before has been started by this owner, too."""
        group = self._run.observer.group(
            self._run.keys[place[0]].encode(), place[1].encode()
        )
        if group is None or not self._in_order[place[1]]:
            return
        id_ = ids.parse(start.id.encode())
        if id_ in shard.started:
            return
        for lower in group.pending.by_id:
            if lower < id_ and lower not in shard.started:
                self._check_skipped(place, start, lower)

    def _check_skipped(self, place: Place, start: Start, lower: int) -> None:
        """Report an entry that was passed over, unless it is in another lane."""
        stream = self._run.observer.stream(self._run.keys[place[0]].encode())
        entry = stream.entries.get(lower) if stream is not None else None
        if entry is None or entry.name.decode() in self._given_up:
            return  # deleted, or to be dead-lettered
        fields = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
        if b"msg" not in fields:
            return  # it can't be decoded
        if self._by_key[place[1]] and fields.get(b"key", b"").decode() != start.key:
            return
        if self._run.world.time() - self._changed < 2 * self._leases:
            return
        if self._kinds & _SET_BACK:
            return  # what is pending comes first, and then what is read again
        what = f"{_name(place)} {ids.text(lower).decode()} by {start.who}"
        self._run.fail("passed_over", f"{what}, which starts {start.id}")

    # -- acknowledgements --------------------------------------------------------------

    def _acknowledged(self, record: Acked) -> None:
        """Note what is acknowledged and was not handled by the shard's owner."""
        place = record.shard, record.group
        holder = self._holder(place)
        token = Token.parse(holder.token) if holder else None
        for id_ in record.ids:
            done = token is not None and (
                (place, id_, token.member.encode(), token.number) in self._handled
            )
            if not done:
                self._suspects.append((place, id_))

    def findings(
        self, history: list[Record], repeated: list[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield what must not be and only the whole history shows.

        Args:
            history: The history.
            repeated: What was handled more than once, as the checker names it.
        """
        if is_peaceful(self._run.plan):
            groups = tuple(f"{group}: " for group in self.groups)
            for what in repeated:
                if what.startswith(groups):
                    yield "twice", what
        excuses = [e for e in history if isinstance(e, Excuse) and "ack" in e.what]
        dead = {
            ((each.shard, each.group), each.id)
            for each in history
            if isinstance(each, DeadLettered)
        }
        for place, id_ in self._suspects:
            if (place, id_) in dead:
                continue
            entry = f"{place[0]} {id_}"
            excused = any(
                e.group in {"", place[1]} and (not e.ids or entry in e.ids)
                for e in excuses
            )
            if not excused:
                yield "acked_by_others", f"{_name(place)} {id_}"

    # -- callbacks ---------------------------------------------------------------------

    def _noted(self, note: Note) -> None:
        member = self._members.get(note.who)
        if member is None:
            return
        word, _, rest = note.text.partition(" ")
        if word == "member":
            member.name = rest.encode()
            self._check_ended(note.who, member)
        elif word in _BEFORE:
            group, *names = rest.split()
            for key in names:
                # The stream's own key may be there before its shards are.
                if key in self._run.keys:
                    place = self._run.keys.index(key), group
                    self._told(note.who, member, place, word)
        elif rest.startswith(_OF_OUTCOMES):
            self._hand_over.noted(note.who, note.text)
        elif rest.startswith("gave_up"):
            self._given_up.add(rest.partition(" id=")[2].partition(" ")[0])
        elif word == "event" and any(text in rest for text in _INCOMPLETE):
            member.incomplete = True
        elif word == "closed":
            self._check_ended(note.who, member)
            if not (member.incomplete or member.hurried):
                self._run.world.after(_FREED, self._check_freed, note.who, member)

    def _check_ended(self, who: str, member: Member) -> None:
        """Check that a consumer which has closed was told the end of its ownerships."""
        for place, told in member.told.items():
            if told in _OWNED and not (member.incomplete or member.hurried):
                self._run.fail("callbacks", f"{_name(place)}: {who} closed")
        member.told.clear()

    def _told(self, who: str, member: Member, place: Place, word: str) -> None:
        before = member.told.get(place, "")
        excused = member.incomplete or (member.hurried and word == owning.ASSIGNING)
        if before not in _BEFORE[word] and not excused:
            what = f"{_name(place)}: {who} is told {word!r} after {before!r}"
            self._run.fail("callbacks", what)
        member.told[place] = word
        if word == owning.REVOKING:
            self._check_handed_over(who, member, place)

    def _check_handed_over(self, who: str, member: Member, place: Place) -> None:
        """Check that everything is over that a member has begun in a shard."""
        holder = self._holder(place)
        token = Token.parse(holder.token) if holder else None
        changed = self._run.world.time() - self._changed < 2 * self._leases
        if token is None or token.member.encode() != member.name or changed:
            return
        group = self._run.observer.group(
            self._run.keys[place[0]].encode(), place[1].encode()
        )
        pending = (
            {ids.text(id_).decode() for id_ in group.pending.by_id} if group else set()
        )
        for what in self._hand_over.open(who, place, token.number, pending):
            self._run.fail("revoked_early", f"{_name(place)} of {who}: {what}")

    def _check_freed(self, who: str, member: Member) -> None:
        """Check that a consumer which has closed owns nothing."""
        if self._run.oracle.disturbed_at() > self._run.world.time() - 3:
            return
        if any(m.name == member.name for w, m in self._members.items() if w > who):
            return  # there is a later one of its name
        for place in self._shards:
            holder = self._holder(place)
            token = Token.parse(holder.token) if holder else None
            if token is not None and token.member.encode() == member.name:
                self._run.fail("kept", f"{_name(place)} by {who}")


def _in_order(plan: ConsumerPlan) -> bool:
    """Return whether a consumer starts handlers in order."""
    if plan.style in _BY_RUN:
        return "ordering" in plan.run or plan.run.get("concurrency") == 1
    return plan.style in _IN_ORDER


def _name(place: Place) -> str:
    return f"{place[1]}: shard {place[0]}"
