"""What may be done with a shard now, and what follows from an event.

`shard` has the events.
"""

from __future__ import annotations

from typing import Final

from penstock._core.ownership.actions import (
    Abandon,
    CallRevoked,
    DropQueue,
    Free,
    Recover,
    ShardAction,
)
from penstock._core.ownership.outstanding import Outstanding, Told
from penstock._core.ownership.requests import Requests
from penstock._core.ownership.shard_lease import ShardLease
from penstock._core.ownership.states import OWNED, SHARD, ShardState, move
from penstock._core.ownership.tokens import Token, consumer_name

__all__ = ["OVER", "READ", "ShardSteps"]

OVER: Final = frozenset((ShardState.LOST, ShardState.ENDED))
"""The states after an ownership that was lost."""
READ: Final = frozenset((ShardState.LIVE, ShardState.HELD))
"""The states in which what was read is recorded."""


class ShardSteps:
    """The facts of a shard, what they allow, and the steps that follow from them.

    Args:
        member: The member's name.
        run: The run of this process; see `Token`.
        lease: The lease in seconds.
        drain: How long handlers may go on when the shard is to be given up, in
            seconds.

    Attributes:
        state: Its state.
        token: The token of the present or last ownership; its number is 0 before the
            first one.
        reader: How many reads and claims of this ownership were lost.
        turn: The number of the last request to recover.
    """

    __slots__ = (
        "_drain",
        "_drain_until",
        "_lease",
        "_length",
        "_open",
        "_recovered",
        "_requests",
        "reader",
        "state",
        "token",
        "turn",
    )

    def __init__(self, member: str, run: str, *, lease: float, drain: float) -> None:
        self.state = ShardState.ABSENT
        self.token = Token(0, member, run, 0)
        self.reader = 0
        self._length = lease
        self._drain = drain
        self._requests = Requests()
        self.turn = 0
        self._begin(self.token, 0.0)

    def _begin(self, token: Token, now: float) -> None:
        """Begin an ownership, in which nothing has happened yet."""
        self.token = token
        self.reader = 0
        self._lease = ShardLease(self._length, now)
        self._open = Outstanding()
        self._recovered = False
        self._drain_until = float("inf")

    @property
    def consumer(self) -> str:
        """The name under which the shard is read now."""
        return consumer_name(self.token, self.reader)

    def may_start(self, now: float) -> bool:
        """Return whether a handler may start."""
        return self.state is ShardState.LIVE and now < self._lease.until

    @property
    def owned_until(self) -> float:
        """When the lease ends, if nothing renews it."""
        return self._lease.until

    @property
    def taken_until(self) -> float:
        """Until when the shard may stay this member's, if nothing more is sent.

        It is in the past if the server has certainly no lease of this member.
        """
        if self.state is ShardState.TAKING:
            return self._requests.asked_at + self._length
        may_be_taken = self.state in OWNED or self.state is ShardState.FREEING
        return self._lease.latest_end if may_be_taken else float("-inf")

    @property
    def starts_until(self) -> float:
        """When no more handlers may start; infinite if none may start now."""
        live = self.state is ShardState.LIVE
        return self._lease.until if live else float("inf")

    @property
    def awaits_handlers(self) -> bool:
        """Whether it is given up, and its handlers are not known to be done."""
        return self.state is ShardState.DRAINING and not self._open.handlers_done

    def may_read(self, now: float) -> bool:
        """Return whether a read may be sent."""
        return self.may_start(now) and not (self._open.reading or self._open.claiming)

    def counts(self, token: Token) -> bool:
        """Return whether an outcome counts whose handler started under a token."""
        given_up = self.state is ShardState.DRAINING and not self.awaits_handlers
        return token == self.token and self.state in OWNED and not given_up

    def _take(self, now: float) -> list[ShardAction]:
        if self.state is not ShardState.ABSENT or now < self._requests.due_at():
            return []
        self._move("take")
        return [self._requests.next(now)]

    def _check_recovered(self, now: float) -> None:
        told = self._open.told is Told.ASSIGNED
        if self.state is ShardState.RECOVERING and self._recovered and told:
            self._move("recovered")
            if now >= self._lease.until:
                self._move("lease over")

    def _recover(self, *, claim: bool = True) -> list[ShardAction]:
        """Recover, after the read that is in the air."""
        self._recovered = False
        self.turn += 1
        if self._open.reading:
            return []
        return [Recover(self.token, self.reader, self.turn, claim)]

    def _rename(self, now: float) -> list[ShardAction]:
        """Read under another name from now on, and recover."""
        self.reader += 1
        if self.state in READ:
            self._move("rename")
        if self.state is ShardState.RECOVERING:
            return self._recover()
        return [*self._check_drained(), *self._settle(now)]

    def _settle(self, now: float) -> list[ShardAction]:
        """Forget a lost ownership, when its read has ended and its end is told."""
        quiet = self._open.untold and not self._open.reading
        if self.state is not ShardState.LOST or not quiet:
            return []
        self._move("settled")
        return self._take(now)

    def _give_up(self, now: float) -> list[ShardAction]:
        self._move("give up")
        self._drain_until = now + self._drain
        return [DropQueue(), *self._check_drained()]

    def _abandon(self) -> list[ShardAction]:
        if self._open.handlers_done:
            return []
        self._open.handlers_done = True
        return [Abandon(), *self._check_drained()]

    def _check_drained(self) -> list[ShardAction]:
        if self.state is not ShardState.DRAINING or not self._open.answered:
            return []
        if call := self._open.end(CallRevoked()):
            return [*call]
        if not self._open.untold:
            return []
        self._move("drained")
        return [Free(self.token)]

    def _move(self, event: str) -> None:
        self.state = move(SHARD, event, self.state)
