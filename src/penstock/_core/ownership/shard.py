"""A shard of an owned stream, as the member sees it: what it may do there, and when.

The methods are events. They return what the tasks have to do next. An event of a former
ownership brings its token and is ignored, however late it comes.

A read is believed only by what stands behind it in the same write: the token, and which
consumers have pending entries. If the token is ours, it was so when the read was
executed, since no token is used twice. A late read of somebody else may have taken
entries before it. Those are pending in a name that is not our present one. They are
claimed and recorded before anything that was read is handed out.

`FREE` waits until every write and read under the token has been answered. A read whose
connection ended is never answered, and may be executed late. From then on the member
reads under another name, so that what such a read takes is seen as a stray as well. The
same holds for a claim.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock._core.ownership.actions import (
    Abandon,
    CallAssigned,
    CallLost,
    CallRevoked,
    ClaimStrays,
    DropQueue,
    Free,
    HandOut,
    Keep,
    NameInUse,
    News,
    Recover,
    ShardAction,
    VersionSeen,
)
from penstock._core.ownership.outstanding import Outstanding, Told
from penstock._core.ownership.requests import Requests
from penstock._core.ownership.shard_lease import ShardLease
from penstock._core.ownership.states import OWNED, SHARD, ShardState, move
from penstock._core.ownership.tokens import Token, consumer_name, is_ownership
from penstock._core.protocol.ownership_replies import Refused, Taken

__all__ = ["OwnedShard"]

_OVER: Final = frozenset((ShardState.LOST, ShardState.ENDED))
_READ: Final = frozenset((ShardState.LIVE, ShardState.HELD))


class OwnedShard:
    """A shard, as its member sees it.

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
    """

    __slots__ = (
        "_drain",
        "_drain_until",
        "_lease",
        "_length",
        "_open",
        "_recovered",
        "_requests",
        "_turn",
        "reader",
        "state",
        "token",
    )

    def __init__(self, member: str, run: str, *, lease: float, drain: float) -> None:
        self.state = ShardState.ABSENT
        self.token = Token(0, member, run, 0)
        self.reader = 0
        self._length = lease
        self._drain = drain
        self._requests = Requests()
        # The number of the last request to recover; answers to others do not count.
        self._turn = 0
        self._begin(self.token, 0.0)

    def _begin(self, token: Token, now: float) -> None:
        """Begin an ownership, in which nothing has happened yet."""
        self.token = token
        self.reader = 0
        self._lease = ShardLease(self._length, now)
        self._open = Outstanding()
        self._recovered = False
        self._drain_until = float("inf")

    # -- what is allowed ---------------------------------------------------------------

    @property
    def consumer(self) -> str:
        """The name under which the shard is read now."""
        return consumer_name(self.token, self.reader)

    def may_start(self, now: float) -> bool:
        """Return whether a handler may start."""
        return self.state is ShardState.LIVE and now < self._lease.until

    def may_read(self, now: float) -> bool:
        """Return whether a read may be sent."""
        return self.may_start(now) and not (self._open.reading or self._open.claiming)

    def counts(self, token: Token) -> bool:
        """Return whether an outcome counts whose handler started under a token."""
        abandoned = self.state is ShardState.DRAINING and self._open.handlers_done
        return token == self.token and self.state in OWNED and not abandoned

    # -- the target and the time -------------------------------------------------------

    def wanted(self, version: int, now: float) -> list[ShardAction]:
        """The target of this version says that the shard is this member's."""
        self._requests.want(version, now)
        if self.state is ShardState.DRAINING and self._open.may_come_back:
            self._move("back")
            self._drain_until = float("inf")
            return self._recover()
        return self._take(now)

    def unwanted(self, now: float) -> list[ShardAction]:
        """The target says it is another's, or the member leaves."""
        self._requests.wanted = False
        if self.state in OWNED and self.state is not ShardState.DRAINING:
            return self._give_up(now)
        return []

    def news(self, now: float) -> list[ShardAction]:
        """Somebody has freed a shard, perhaps this one."""
        self._requests.look(now)
        return self._take(now)

    def due(self, now: float) -> list[ShardAction]:
        """Time has passed."""
        if self.state not in OWNED:
            return self._take(now)
        if self.state is ShardState.LIVE and now >= self._lease.until:
            self._move("lease over")
        actions: list[ShardAction] = []
        if now >= self._lease.due_at():
            self._lease.sent(now)
            actions.append(Keep(self.token))
        if now >= self._drain_until:
            self._drain_until = float("inf")
            actions += self._abandon()
        return actions

    def due_at(self) -> float:
        """Return when `due` has something to do next."""
        if self.state is ShardState.ABSENT and self._requests.wanted:
            return self._requests.retry_at
        if self.state not in OWNED:
            return float("inf")
        held = self.state is not ShardState.LIVE
        over = float("inf") if held else self._lease.until
        return min(self._drain_until, over, self._lease.due_at())

    # -- taking ------------------------------------------------------------------------

    def _take(self, now: float) -> list[ShardAction]:
        if self.state is not ShardState.ABSENT or not self._requests.is_due(now):
            return []
        self._move("take")
        return [self._requests.next(now)]

    def take_lost(self, now: float) -> list[ShardAction]:
        """The reply of TAKE was lost: it is sent again as it was."""
        return [self._requests.again(now)]

    def take_answered(self, reply: Taken | Refused, now: float) -> list[ShardAction]:
        """TAKE was answered."""
        requests = self._requests
        if isinstance(reply, Refused):
            self._move("refused")
            requests.refused(reply, now)
            seen = [VersionSeen(reply.value)] if reply.why == "old" else []
            return [*seen, *self._take(now)]
        self._move("taken")
        requests.number = reply.number
        token = self.token._replace(number=reply.number, serial=requests.serial)
        self._begin(token, requests.asked_at)
        if not requests.wanted:
            self._open.handlers_done = True
            return self._give_up(now)
        self._open.told = Told.ASSIGNING
        return [*self._recover(claim=reply.more), CallAssigned()]

    # -- recovering --------------------------------------------------------------------

    def recovered(self, token: Token, turn: int, now: float) -> list[ShardAction]:
        """What was pending is recorded; `turn` is that of the request."""
        if token == self.token and turn == self._turn:
            self._recovered = True
            self._check_recovered(now)
        return []

    def assigned(self, token: Token, now: float) -> list[ShardAction]:
        """`on_assigned` has returned."""
        if token != self.token:
            return []
        self._open.told = Told.ASSIGNED
        self._check_recovered(now)
        lost = self.state in _OVER
        return [*self._open.end(CallLost())] if lost else self._check_drained()

    def assign_failed(self, token: Token, now: float) -> list[ShardAction]:
        """`on_assigned` has raised: the shard is given back for a lease."""
        if token != self.token:
            return []
        self._open.told = Told.ENDED
        self._requests.retry_at = now + self._length
        if self.state is ShardState.RECOVERING:
            return self._give_up(now)
        return [*self._check_drained(), *self._settle(now)]

    def _check_recovered(self, now: float) -> None:
        told = self._open.told is Told.ASSIGNED
        if self.state is ShardState.RECOVERING and self._recovered and told:
            self._move("recovered")
            if now >= self._lease.until:
                self._move("lease over")

    def _recover(self, *, claim: bool = True) -> list[ShardAction]:
        """Recover, after the read that is in the air."""
        self._recovered = False
        self._turn += 1
        if self._open.reading:
            return []
        return [Recover(self.token, self.reader, self._turn, claim)]

    # -- reading -----------------------------------------------------------------------

    def read_sent(self) -> None:
        """A read was sent, with what stands behind it."""
        self._open.reading = True

    def read_answered(
        self, token: Token, current: bytes, holders: Iterable[bytes], now: float
    ) -> list[ShardAction]:
        """A read was answered, and so was what stands behind it.

        Args:
            token: The token under which it was sent.
            current: The server's token behind the read.
            holders: The consumers that had pending entries behind it.
            now: The time.
        """
        if not self._open.ended_read(asked=token == self.token):
            return []
        if self.state in OWNED and current != token.encode():
            return self.fenced(token, current, now)
        if self.state is ShardState.RECOVERING:
            return self._recover()
        if self.state not in _READ:
            return [*self._check_drained(), *self._settle(now)]
        own = self.consumer.encode()
        if any(is_ownership(other) and other != own for other in holders):
            self._open.claiming = True
            return [ClaimStrays(token, self.reader)]
        return [HandOut()]

    def strays_recorded(self, token: Token) -> list[ShardAction]:
        """The strays were claimed and recorded with the batch."""
        if token == self.token:
            self._open.claiming = False
        return []

    def read_lost(self, token: Token, now: float) -> list[ShardAction]:
        """The connection of a read ended; the server may execute it late."""
        if not self._open.ended_read(asked=token == self.token):
            return []
        return self._rename(now)

    def claim_lost(self, token: Token, now: float) -> list[ShardAction]:
        """The reply to a claim was lost; the server may execute it late.

        It would claim strays for the present name, where nobody looks for them. So it
        is not sent again: the next one is for another name.
        """
        if token != self.token:
            return []
        self._open.claiming = False
        return self._rename(now)

    def _rename(self, now: float) -> list[ShardAction]:
        """Read under another name from now on, and recover."""
        self.reader += 1
        if self.state in _READ:
            self._move("rename")
        if self.state is ShardState.RECOVERING:
            return self._recover()
        return [*self._check_drained(), *self._settle(now)]

    # -- writing -----------------------------------------------------------------------

    def write_sent(self) -> None:
        """A write was sent for the first time."""
        self._open.writes += 1

    def write_answered(self, token: Token) -> list[ShardAction]:
        """A write was answered, however often it was sent."""
        if token != self.token:
            return []
        self._open.writes -= 1
        return self._check_drained()

    def kept(self, token: Token, now: float) -> list[ShardAction]:
        """KEEP was answered: the lease began when it was sent."""
        if token == self.token:
            self._lease.answered()
            if self.state is ShardState.HELD and now < self._lease.until:
                self._move("kept")
        return []

    def keep_lost(self, token: Token) -> list[ShardAction]:
        """The reply of KEEP was lost."""
        if token == self.token:
            self._lease.lost()
        return []

    def fenced(self, token: Token, current: bytes, now: float) -> list[ShardAction]:
        """The server has another token."""
        if token != self.token or self.state not in OWNED:
            return self.freed(token, now)
        self._move("fenced")
        actions: list[ShardAction] = [DropQueue(), *self._open.end(CallLost())]
        if owner := Token.parse(current):
            self._requests.number = max(self._requests.number, owner.number)
            if owner.member == token.member and owner.run != token.run:
                self._move("namesake")
                actions.append(NameInUse())
        return actions + self._settle(now)

    def _settle(self, now: float) -> list[ShardAction]:
        """Forget a lost ownership, when its read has ended and its end is told."""
        quiet = self._open.untold and not self._open.reading
        if self.state is not ShardState.LOST or not quiet:
            return []
        self._move("settled")
        return self._take(now)

    # -- giving up ---------------------------------------------------------------------

    def _give_up(self, now: float) -> list[ShardAction]:
        self._move("give up")
        self._drain_until = now + self._drain
        return [DropQueue(), *self._check_drained()]

    def _abandon(self) -> list[ShardAction]:
        if self._open.handlers_done:
            return []
        self._open.handlers_done = True
        return [Abandon(), *self._check_drained()]

    def handlers_done(self, token: Token) -> list[ShardAction]:
        """No handler runs, and every outcome has been sent."""
        if token != self.token or self.state is not ShardState.DRAINING:
            return []
        self._open.handlers_done = True
        return self._check_drained()

    def end_told(self, token: Token, now: float) -> list[ShardAction]:
        """`on_revoked` or `on_lost` has returned."""
        if token == self.token:
            self._open.told = Told.ENDED
        return [*self._check_drained(), *self._settle(now)]

    def _check_drained(self) -> list[ShardAction]:
        if self.state is not ShardState.DRAINING or not self._open.answered:
            return []
        if call := self._open.end(CallRevoked()):
            return [*call]
        if not self._open.untold:
            return []
        self._move("drained")
        return [Free(self.token)]

    def free_lost(self, token: Token) -> list[ShardAction]:
        """The reply of FREE was lost: it is sent again."""
        return [Free(token)]

    def freed(self, token: Token, now: float) -> list[ShardAction]:
        """FREE was answered, or another has the shard already."""
        if token != self.token or self.state is not ShardState.FREEING:
            return []
        self._move("freed")
        return [News(), *self._take(now)]

    def _move(self, event: str) -> None:
        self.state = move(SHARD, event, self.state)
