"""The states of an entry, and the events that lead from one to another.

An entry is in exactly one state from its delivery until the server has confirmed its
outcome. These are the states, and the events between them:

    (read) ──> QUEUED ──take──> RUNNING ──ack──> TO_ACK ──send ack──> ACKING
      │           └───start──┐   ^ │ └─leave─> UNSETTLED ─ack─^  ^─unconfirmed─┘ │
      │           ┌put back──│───│─┤                                             │
      ├──────> TO_COUNT ─start───┤ ├─nack─> FAILED                    confirmed  v
      │           ^due           │ │           │                               DONE
      │       POSTPONED <─retry──│─┴───────────┤                    confirmed  ^
      └─> REDELIVERED ─take──────┘             └─dead-letter─> TO_DEAD_LETTER  │
                                                   send ─> DEAD_LETTERING ─────┘

- QUEUED: waits for a worker, or for its lane. No handler has started it. It is taken
  as it is if starts come too fast to be counted (`take`). Otherwise the start is
  counted on the server before the handler begins (`start`).
- TO_COUNT: waits like QUEUED, but its start is always counted first. This is the
  state of entries that another consumer or an earlier process had, of retries, and of
  entries that were taken and did not run.
- REDELIVERED: waits like QUEUED, but a handler of this process is still running an
  earlier delivery of it, because the group was rewound. It is not taken until that
  handler has finished, whose outcome no longer counts (LOST).
- RUNNING: a handler has it.
- FAILED: a handler has it and it was nacked or rejected. Its `disposition` says what
  follows once the handler has finished.
- UNSETTLED: its handler has finished without an outcome, because the user
  acknowledges by hand and has not done so yet. It is pending on the server and leased
  until the lease ends. Then it leaves the ledger, so that users who never acknowledge
  cost no memory. It is still UNSETTLED for a user who acknowledges late.
- POSTPONED: failed, and waits for the time of its next attempt. This is another
  `Entry` than the one that failed, which is LOST: later calls on that one do not
  count.
- TO_ACK: has to be acknowledged, and that has not been sent. ACKING: it has been
  sent, and the reply has not come. Without a reply it is TO_ACK again: a second
  acknowledgement does no harm.
- TO_DEAD_LETTER: given up, and has to be copied to the dead letters. DEAD_LETTERING:
  the copy has been sent, and the reply has not come.
- DONE: acknowledged (`apply`: by a transaction), or dropped by a seek.
- RELEASED: given up without an outcome, and pending for others.
- LOST: this delivery of it no longer counts. Another consumer has claimed it because
  the lease ended, or its shard has another owner (`Counters.lost` counts these), or
  this consumer has a later delivery or attempt of it, or its stream was deleted and
  recreated. What its handler does with it is dropped.

Not in the picture: entries that wait (QUEUED, TO_COUNT, REDELIVERED, POSTPONED) may be
dropped by a seek, and all that are not acknowledged may be released or lost.

Without acknowledgements (REALTIME) an entry goes from QUEUED to RUNNING to DONE, and
the ledger keeps no entries by id, since no id is delivered twice.

`INITIAL` and `TRANSITIONS` are that picture as data, and complete. An event in a state
that the table does not list is a bug and raises `IllegalTransition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeAlias

__all__ = ["INITIAL", "TRANSITIONS", "IllegalTransition", "State", "Table"]


class State(IntEnum):
    """The state of an entry; see the module's docstring.

    Integers, because a plain enum's members are hashed in Python, and every message
    is looked up five times.
    """

    QUEUED = 1
    RUNNING = 2
    UNSETTLED = 3
    TO_ACK = 4
    ACKING = 5
    DONE = 6
    RELEASED = 7
    LOST = 8
    REDELIVERED = 9
    TO_COUNT = 10
    FAILED = 11
    POSTPONED = 12
    TO_DEAD_LETTER = 13
    DEAD_LETTERING = 14


QUEUED: Final = State.QUEUED
RUNNING: Final = State.RUNNING
UNSETTLED: Final = State.UNSETTLED
TO_ACK: Final = State.TO_ACK
ACKING: Final = State.ACKING
DONE: Final = State.DONE
RELEASED: Final = State.RELEASED
LOST: Final = State.LOST
REDELIVERED: Final = State.REDELIVERED
TO_COUNT: Final = State.TO_COUNT
FAILED: Final = State.FAILED
POSTPONED: Final = State.POSTPONED
TO_DEAD_LETTER: Final = State.TO_DEAD_LETTER
DEAD_LETTERING: Final = State.DEAD_LETTERING

Table: TypeAlias = Mapping[State, State]

# States in which an entry may enter the ledger.
INITIAL: Final = frozenset((QUEUED, TO_COUNT, REDELIVERED, POSTPONED, UNSETTLED))

# One mapping for each event, bound to a name of its own: the table costs a message one
# lookup per event.
TAKE: Final[Table] = {QUEUED: RUNNING}
TAKE_REDELIVERED: Final[Table] = {REDELIVERED: RUNNING}
START: Final[Table] = {QUEUED: RUNNING, TO_COUNT: RUNNING, REDELIVERED: RUNNING}
PUT_BACK: Final[Table] = {RUNNING: TO_COUNT}
ACK: Final[Table] = {RUNNING: TO_ACK, UNSETTLED: TO_ACK}
NACK: Final[Table] = {RUNNING: FAILED}
LEAVE_UNSETTLED: Final[Table] = {RUNNING: UNSETTLED, FAILED: UNSETTLED}
RETRY: Final[Table] = {RUNNING: LOST, FAILED: LOST, UNSETTLED: LOST}
BECOME_DUE: Final[Table] = {POSTPONED: TO_COUNT}
DISCARD: Final[Table] = {RUNNING: TO_ACK, FAILED: TO_ACK, UNSETTLED: TO_ACK}
DEAD_LETTER: Final[Table] = {
    RUNNING: TO_DEAD_LETTER,
    FAILED: TO_DEAD_LETTER,
    UNSETTLED: TO_DEAD_LETTER,
}
SEND_DEAD_LETTER: Final[Table] = {TO_DEAD_LETTER: DEAD_LETTERING}
DEAD_LETTER_CONFIRMED: Final[Table] = {DEAD_LETTERING: DONE}
DEAD_LETTER_WRITTEN: Final[Table] = {DEAD_LETTERING: TO_ACK}
DEAD_LETTER_UNCONFIRMED: Final[Table] = {DEAD_LETTERING: TO_DEAD_LETTER}
FINISH: Final[Table] = {RUNNING: DONE}
SEND_ACK: Final[Table] = {TO_ACK: ACKING}
ACK_CONFIRMED: Final[Table] = {ACKING: DONE}
ACK_UNCONFIRMED: Final[Table] = {ACKING: TO_ACK}
APPLY: Final[Table] = {RUNNING: DONE, FAILED: DONE, UNSETTLED: DONE}
DROP: Final[Table] = {QUEUED: DONE, TO_COUNT: DONE, REDELIVERED: DONE, POSTPONED: DONE}
RELEASE: Final[Table] = {
    QUEUED: RELEASED,
    TO_COUNT: RELEASED,
    REDELIVERED: RELEASED,
    POSTPONED: RELEASED,
    RUNNING: RELEASED,
    FAILED: RELEASED,
    UNSETTLED: RELEASED,
    TO_DEAD_LETTER: RELEASED,
    DEAD_LETTERING: RELEASED,
}
LOSE: Final[Table] = {
    QUEUED: LOST,
    TO_COUNT: LOST,
    REDELIVERED: LOST,
    POSTPONED: LOST,
    RUNNING: LOST,
    FAILED: LOST,
    UNSETTLED: LOST,
    TO_DEAD_LETTER: LOST,
    TO_ACK: LOST,
}

TRANSITIONS: Final[Mapping[str, Table]] = {
    "take": TAKE,
    "take redelivered": TAKE_REDELIVERED,
    "start": START,
    "put back": PUT_BACK,
    "ack": ACK,
    "nack": NACK,
    "leave unsettled": LEAVE_UNSETTLED,
    "retry": RETRY,
    "become due": BECOME_DUE,
    "discard": DISCARD,
    "dead-letter": DEAD_LETTER,
    "send dead letter": SEND_DEAD_LETTER,
    "dead letter confirmed": DEAD_LETTER_CONFIRMED,
    "dead letter written": DEAD_LETTER_WRITTEN,
    "dead letter unconfirmed": DEAD_LETTER_UNCONFIRMED,
    "finish": FINISH,
    "send ack": SEND_ACK,
    "ack confirmed": ACK_CONFIRMED,
    "ack unconfirmed": ACK_UNCONFIRMED,
    "apply": APPLY,
    "drop": DROP,
    "release": RELEASE,
    "lose": LOSE,
}

ACKED: Final = frozenset((TO_ACK, ACKING, DONE))
UNCONFIRMED: Final = frozenset((TO_ACK, ACKING, TO_DEAD_LETTER, DEAD_LETTERING))
SENT: Final = frozenset((ACKING, DEAD_LETTERING))
WAITING: Final = frozenset((QUEUED, TO_COUNT, REDELIVERED))
WITH_HANDLER: Final = frozenset((RUNNING, FAILED))
LEFT: Final = frozenset((DONE, RELEASED, LOST))


# What the hot path sets without a lookup.
TAKEN: Final = TAKE[QUEUED]
ACKNOWLEDGED: Final = ACK[RUNNING]
FINISHED: Final = FINISH[RUNNING]


class IllegalTransition(AssertionError):  # noqa: N818 - it names what happened
    """An event met a state that the table has no line for: a bug in Penstock."""

    def __init__(self, event: str, state: State, id: bytes) -> None:  # noqa: A002
        super().__init__(
            f"{event} is not possible for entry {id!r:.60}, which is {state.name}; "
            f"this is a bug in Penstock, please report it"
        )
