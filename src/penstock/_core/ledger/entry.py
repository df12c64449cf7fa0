"""What is in hand: entries, their states, and what moves them from one to another.

An entry is in exactly one state from the read that brought it to the reply that let
it go. The states and the events between them:

    (read) ──> QUEUED ──take──> RUNNING ──ack──> SETTLED ──plan──> COMMITTING
      │           └───start──┐   ^ │ └─leave─> OPEN ─ack─^   ^──unsent──┘  │confirm
      │           ┌put back──│───│─┤                                       v
      ├─────────> DUE ──start┴───┤ ├─nack─> FAILED                       GONE
      │           ^ripen         │ │           │                           ^
      │       POSTPONED <─retry──│─┴───────────┤                           │buried
      └─> AGAIN ──take again─────┘             └─condemn─> DEAD ─bury─> BURYING

- QUEUED: read, and waiting for a worker, or for its lane. No handler has started it.
  It is taken as it is where starts come too fast to be counted (`take`); else the
  start is counted on the server before the handler begins (`start`).
- DUE: the same, but its start is always counted first. So it is with what other
  consumers or an earlier process had, with what failed here and is tried again, and
  with what was taken and did not run after all.
- AGAIN: as QUEUED, but a handler has it already by an earlier read: the group was set
  back. It is not taken until that handler is finished, whose outcome does not count any
  more (LOST).
- RUNNING: in a handler's hands.
- FAILED: the same, and it was nacked or rejected; what that means for it is its
  `verdict`, which holds once the handler has finished.
- OPEN: the handler is done with it and gave no outcome: its user acks by hand and has
  not yet. It is pending on the server and ours until the lease ends; then it leaves the
  books, so that those who never ack cost no memory, and is still OPEN for a user who
  acks late.
- POSTPONED: tried and failed; waits for the time of its next attempt. It is another
  `Entry` than the one that failed, which is LOST: what is still done with that one does
  not count.
- DEAD: given up; to be copied to the dead letters. BURYING: that has been sent.
- SETTLED: to be acknowledged; the committer has not sent it.
- COMMITTING: sent; the reply has not come. If it never comes, `unsent` goes back:
  acknowledging twice does no harm.
- GONE: acknowledged, by a transaction too (`apply`), or dropped by a seek. RELEASED:
  given back, pending for others.
- LOST: not ours any more by the read that brought it. Somebody else has it now, because
  our lease ended while this process stood still (this is counted); or we have it by a
  later read or attempt; or its stream was deleted and recreated. What its handler makes
  of it is dropped.

Not in the picture: what waits here (QUEUED, DUE, AGAIN, POSTPONED) may be dropped by a
seek, and all but what is acknowledged may be released or lost.

Without acknowledgements (REALTIME) the way is QUEUED, RUNNING, GONE, and the books by
id stay empty: nothing can come twice that would have to be told apart.

`TRANSITIONS` is that picture as data and all there is to it; an event in a state that
the table does not list is a bug and raises `IllegalTransition`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

from msgspec import Struct

from penstock._core.ledger.failure_policy import Disposition
from penstock.message import Shard

__all__ = [
    "SIZED_ABOVE",
    "TRANSITIONS",
    "AckBatch",
    "Counters",
    "Entry",
    "IllegalTransition",
    "Lane",
    "LeaseRenewal",
    "ShardState",
    "State",
]

# Bytes of a reply above which its entries know their own size. What is smaller as a
# whole has nothing large in it, and measuring each would cost more than booking it.
SIZED_ABOVE: Final = 1024 * 1024


class State(IntEnum):
    """Where an entry is; see the module's docstring.

    Integers, because a plain enum's members are hashed in Python, and every message
    is looked up five times.
    """

    QUEUED = 1
    RUNNING = 2
    OPEN = 3
    SETTLED = 4
    COMMITTING = 5
    GONE = 6
    RELEASED = 7
    LOST = 8
    AGAIN = 9
    DUE = 10
    FAILED = 11
    POSTPONED = 12
    DEAD = 13
    BURYING = 14


QUEUED: Final = State.QUEUED
RUNNING: Final = State.RUNNING
OPEN: Final = State.OPEN
SETTLED: Final = State.SETTLED
COMMITTING: Final = State.COMMITTING
GONE: Final = State.GONE
RELEASED: Final = State.RELEASED
LOST: Final = State.LOST
AGAIN: Final = State.AGAIN
DUE: Final = State.DUE
FAILED: Final = State.FAILED
POSTPONED: Final = State.POSTPONED
DEAD: Final = State.DEAD
BURYING: Final = State.BURYING

Table: TypeAlias = Mapping[State, State]

Lane: TypeAlias = tuple[bytes, bytes | None, int]
"""A shard's key, the message's key where that orders too, and which order it was."""

# One mapping an event, bound to a name of its own: a lookup per message and event is
# all that the table costs.
TAKE: Final[Table] = {QUEUED: RUNNING}
TAKE_AGAIN: Final[Table] = {AGAIN: RUNNING}
START: Final[Table] = {QUEUED: RUNNING, DUE: RUNNING, AGAIN: RUNNING}
PUT_BACK: Final[Table] = {RUNNING: DUE}
ACK: Final[Table] = {RUNNING: SETTLED, OPEN: SETTLED}
NACK: Final[Table] = {RUNNING: FAILED}
LEAVE: Final[Table] = {RUNNING: OPEN, FAILED: OPEN}
RETRY: Final[Table] = {RUNNING: LOST, FAILED: LOST, OPEN: LOST}
RIPEN: Final[Table] = {POSTPONED: DUE}
GIVE_UP: Final[Table] = {RUNNING: SETTLED, FAILED: SETTLED, OPEN: SETTLED}
CONDEMN: Final[Table] = {RUNNING: DEAD, FAILED: DEAD, OPEN: DEAD}
BURY: Final[Table] = {DEAD: BURYING}
BURIED: Final[Table] = {BURYING: GONE}
COPIED: Final[Table] = {BURYING: SETTLED}
UNBURIED: Final[Table] = {BURYING: DEAD}
FINISH: Final[Table] = {RUNNING: GONE}
PLAN: Final[Table] = {SETTLED: COMMITTING}
CONFIRM: Final[Table] = {COMMITTING: GONE}
UNSENT: Final[Table] = {COMMITTING: SETTLED}
APPLY: Final[Table] = {RUNNING: GONE, FAILED: GONE, OPEN: GONE}
DROP: Final[Table] = {QUEUED: GONE, DUE: GONE, AGAIN: GONE, POSTPONED: GONE}
RELEASE: Final[Table] = {
    QUEUED: RELEASED,
    DUE: RELEASED,
    AGAIN: RELEASED,
    POSTPONED: RELEASED,
    RUNNING: RELEASED,
    FAILED: RELEASED,
    OPEN: RELEASED,
    DEAD: RELEASED,
    BURYING: RELEASED,
}
LOSE: Final[Table] = {
    QUEUED: LOST,
    DUE: LOST,
    AGAIN: LOST,
    POSTPONED: LOST,
    RUNNING: LOST,
    FAILED: LOST,
    OPEN: LOST,
    DEAD: LOST,
    SETTLED: LOST,
}

TRANSITIONS: Final[Mapping[str, Table]] = {
    "take": TAKE,
    "take again": TAKE_AGAIN,
    "start": START,
    "put back": PUT_BACK,
    "ack": ACK,
    "nack": NACK,
    "leave": LEAVE,
    "retry": RETRY,
    "ripen": RIPEN,
    "give up": GIVE_UP,
    "condemn": CONDEMN,
    "bury": BURY,
    "buried": BURIED,
    "copied": COPIED,
    "unburied": UNBURIED,
    "finish": FINISH,
    "plan": PLAN,
    "confirm": CONFIRM,
    "unsent": UNSENT,
    "apply": APPLY,
    "drop": DROP,
    "release": RELEASE,
    "lose": LOSE,
}

ACKED: Final = frozenset((SETTLED, COMMITTING, GONE))
UNTOLD: Final = frozenset((SETTLED, COMMITTING, DEAD, BURYING))
WAITING: Final = frozenset((QUEUED, DUE, AGAIN))
IN_HAND: Final = frozenset((RUNNING, FAILED))
LEFT: Final = frozenset((GONE, RELEASED, LOST))


class IllegalTransition(AssertionError):  # noqa: N818 - it names what happened
    """An event met a state that the table has no line for: a bug in Penstock."""

    def __init__(self, event: str, state: State, id: bytes) -> None:  # noqa: A002
        super().__init__(
            f"{event} is not possible for entry {id!r:.60}, which is {state.name}; "
            f"this is a bug in Penstock, please report it"
        )


class Entry(Struct, eq=False, gc=False):
    """One entry in hand.

    A msgspec struct, which is made in half the time of a class with slots. It is not
    seen by the garbage collector, whose runs would cost more than making it: the one
    cycle that it is in, by its account, ends when the entry leaves the books.

    Attributes:
        account: The books of its shard.
        id: Its id as the server wrote it.
        fields: Its field list; dropped with the outcome.
        size: Bytes that it holds: its share of the reply that brought it, or of a
            reply above `SIZED_ABOVE` its own.
        deliveries: Which attempt the present one is, or the next one will be; of what
            is POSTPONED, the one that failed.
        leased_at: The earliest time at which the server can have given it to us, or
            renewed its lease, by the ledger's clock: when that was asked for.
        state: Where it is.
        lane: What it has to be run in order with, or None.
        suspect: Whether another process, or an earlier one, had it and may have been
            killed by it: its start is confirmed by the server before it runs.
        probe: Whether it is a suspect on its last allowed attempt: such run alone.
        hangs: Whether a handler has had it for so long that it is known not to kill.
        verdict: What is to become of it when its handler has finished, if that is no
            acknowledgement; of what is DEAD, why.
    """

    account: ShardState
    id: bytes
    fields: Sequence[bytes]
    size: int
    deliveries: int
    leased_at: float
    state: State = QUEUED
    lane: Lane | None = None
    suspect: bool = False
    probe: bool = False
    hangs: bool = False
    verdict: Disposition | None = None

    @property
    def shard(self) -> Shard:
        """The shard it came from."""
        return self.account.shard

    @property
    def untold(self) -> bool:
        """Whether it has an outcome that the server has not confirmed."""
        return self.state in UNTOLD

    def __repr__(self) -> str:
        return f"<Entry {self.id!r} {self.state.name}>"


@dataclass(slots=True)
class ShardState:
    """The books of one shard.

    Attributes:
        shard: The shard.
        entries: All in hand by id, in the order of reading, so the oldest is first.
        settled: Those to be acknowledged.
        dead: Those to be copied to the dead letters.
        ghosts: Ids of pending entries that are deleted from the stream, to be
            acknowledged.
        known_ghosts: The same until the server has confirmed it.
        twice: What a handler has by an earlier read than the one in the books.
        aside: Entries whose turn came while that was so.
        lists: Reads of pending entries, and takeovers, that are under way.
        lately: Ids whose acknowledgement was confirmed since a read of pending entries
            was sent; None while there is no such read.
        set_back: Whether ids have come again, so that an entry of a batch may not be
            the one in the books.
        anew: When the group was last made anew, as far as that is known.
        replaced: Whether the stream was recreated since: no entry here is one of the
            present stream, and no outcome of theirs may be sent.
    """

    shard: Shard
    entries: dict[bytes, Entry] = field(default_factory=dict)
    settled: list[Entry] = field(default_factory=list)
    dead: list[Entry] = field(default_factory=list)
    ghosts: list[bytes] = field(default_factory=list)
    known_ghosts: set[bytes] = field(default_factory=set)
    twice: dict[bytes, Entry] = field(default_factory=dict)
    aside: dict[bytes, Entry] = field(default_factory=dict)
    lately: set[bytes] | None = None
    lists: int = 0
    set_back: bool = False
    anew: float = 0.0
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class AckBatch:
    """What one XACK says.

    Attributes:
        account: The shard's books.
        entries: The entries to acknowledge.
        ghosts: Ids to acknowledge that are no entries any more.
        repeated: Whether an earlier try may have reached the server, so that a lower
            count in the reply means nothing.
    """

    account: ShardState
    entries: Sequence[Entry]
    ghosts: Sequence[bytes]
    repeated: bool

    @property
    def ids(self) -> list[bytes]:
        """All ids."""
        return [entry.id for entry in self.entries] + list(self.ghosts)


@dataclass(frozen=True, slots=True)
class LeaseRenewal:
    """Leases of one shard to be renewed.

    Attributes:
        account: The shard's books.
        entries: The entries.
        late: Whether some may be others' by now, so that it has to be asked first: a
            renewal would take them back.
        count: What their delivery count is set to, one more than the number of
            handler starts; None to leave it.
    """

    account: ShardState
    entries: Sequence[Entry]
    late: bool
    count: int | None = None

    @property
    def ids(self) -> list[bytes]:
        """The ids of those that have not left meanwhile."""
        return [entry.id for entry in self.entries if entry.state not in LEFT]


@dataclass(slots=True)
class Counters:
    """What has happened since the consumer opened.

    Attributes:
        received: Entries read, those read again for recovery included.
        acked: Entries whose acknowledgement the server confirmed.
        left: Times a handler was done with an entry and gave no outcome.
        retried: Times an entry was postponed to another attempt.
        dead: Entries that were copied to the dead letters.
        dropped: Entries that were given up and acknowledged.
        late: Outcomes that came when the entry was somebody else's.
        undecodable: Entries that are none of the payload type.
        ghosts: Pending entries met that were deleted from the stream.
        claimed: Entries taken over from consumers that did not answer.
        lost: Entries that others took over from us.
    """

    received: int = 0
    acked: int = 0
    left: int = 0
    retried: int = 0
    dead: int = 0
    dropped: int = 0
    late: int = 0
    undecodable: int = 0
    ghosts: int = 0
    claimed: int = 0
    lost: int = 0


def move(entry: Entry, event: Table) -> None:
    try:
        entry.state = event[entry.state]
    except KeyError:
        raise illegal(entry, event) from None


def move_all(entries: Iterable[Entry], event: Table) -> None:
    for entry in entries:
        try:
            entry.state = event[entry.state]
        except KeyError:
            raise illegal(entry, event) from None


def illegal(entry: Entry, event: Table) -> IllegalTransition:
    name = next(name for name, table in TRANSITIONS.items() if table is event)
    return IllegalTransition(name, entry.state, entry.id)
