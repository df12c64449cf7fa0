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

from penstock._core.ownership.actions import (
    CallAssigned,
    CallLost,
    ClaimStrays,
    DropQueue,
    Free,
    HandOut,
    Keep,
    NameInUse,
    News,
    ShardAction,
    VersionSeen,
)
from penstock._core.ownership.outstanding import Told
from penstock._core.ownership.shard_steps import OVER, READ, ShardSteps
from penstock._core.ownership.states import OWNED, ShardState
from penstock._core.ownership.tokens import Token, is_ownership
from penstock._core.protocol.ownership_replies import Refused, Taken

__all__ = ["OwnedShard"]


class OwnedShard(ShardSteps):
    """A shard, as its member sees it."""

    __slots__ = ()

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
        if self.state is ShardState.ABSENT:
            return self._requests.due_at()
        if self.state not in OWNED:
            return float("inf")
        held = self.state is not ShardState.LIVE
        over = float("inf") if held else self._lease.until
        return min(self._drain_until, over, self._lease.due_at())

    # -- taking ------------------------------------------------------------------------

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
        if token == self.token and turn == self.turn:
            self._recovered = True
            self._check_recovered(now)
        return []

    def assigned(self, token: Token, now: float) -> list[ShardAction]:
        """`on_assigned` has returned."""
        if token != self.token:
            return []
        self._open.told = Told.ASSIGNED
        self._check_recovered(now)
        lost = self.state in OVER
        return [*self._open.end(CallLost())] if lost else self._check_drained()

    def assign_failed(self, token: Token, now: float) -> list[ShardAction]:
        """`on_assigned` has raised: the shard is given back for a lease."""
        if token != self.token:
            return []
        self._open.told = Told.ENDED
        self._requests.decline(now + self._length)
        if self.state is ShardState.RECOVERING:
            return self._give_up(now)
        return [*self._check_drained(), *self._settle(now)]

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
        if self.state not in READ:
            return [*self._check_drained(), *self._settle(now)]
        return self._claim_strays(holders) or [HandOut()]

    def mixed(self) -> list[ShardAction]:
        """Consumers that own nothing have pending entries: claim what is idle."""
        if self.state not in READ or self._open.claiming:
            return []
        self._open.claiming = True
        return [ClaimStrays(self.token, self.reader)]

    def _claim_strays(self, holders: Iterable[bytes]) -> list[ShardAction]:
        own = self.consumer.encode()
        if not any(is_ownership(other) and other != own for other in holders):
            return []
        self._open.claiming = True
        return [ClaimStrays(self.token, self.reader)]

    def page_answered(
        self, token: Token, current: bytes, holders: Iterable[bytes], now: float
    ) -> list[ShardAction]:
        """A page of own pending entries was listed, and what stands behind it.

        The page can be recorded if this returns nothing. The arguments are those of
        `read_answered`.
        """
        if token != self.token or self.state not in READ:
            return []
        if current != token.encode():
            return self.fenced(token, current, now)
        return self._claim_strays(holders)

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
            if owner.is_namesake_after(token):
                self._move("namesake")
                actions.append(NameInUse())
        return actions + self._settle(now)

    # -- giving up ---------------------------------------------------------------------

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

    def free_lost(self, token: Token) -> list[ShardAction]:
        """The reply of FREE was lost: it is sent again."""
        return [Free(token)]

    def freed(self, token: Token, now: float) -> list[ShardAction]:
        """FREE was answered, or another has the shard already."""
        if token != self.token or self.state is not ShardState.FREEING:
            return []
        self._move("freed")
        return [News(), *self._take(now)]
