"""Read fence: what stands behind each read of an owned shard, and what follows from it.

See `_core/ownership/shard.py`: a read is believed only by the token and the pending
entries that were read behind it, in the same write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from penstock import _clock
from penstock._core.ownership.actions import HandOut, ShardAction
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.shard_steps import READ
from penstock._core.ownership.tokens import Token
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply

__all__ = ["ReadFence", "Ticket"]

# Errors that do not say that nothing is pending.
_REFUSES: Final = frozenset((ErrorKind.FATAL, ErrorKind.TRANSIENT))


class Ticket(NamedTuple):
    """The moment of an ownership at which a request was sent."""

    token: Token
    turn: int


class ReadFence:
    """Decides for one shard whether to read, and whether to record what was read.

    Args:
        shard: The shard as the core sees it.
        key: The shard's stream.
        owner: The key of the shard's hash.
        group: The group.
        act: Carries out actions.
        on_holders: Called with the names of the consumers that have pending entries.
    """

    def __init__(
        self,
        shard: OwnedShard,
        *,
        key: bytes,
        owner: bytes,
        group: str,
        act: Callable[[Sequence[ShardAction]], None],
        on_holders: Callable[[Sequence[bytes]], None],
    ) -> None:
        self._shard = shard
        self._act = act
        self._on_holders = on_holders
        self.behind: tuple[Command, Command] = (
            commands.hget(owner, b"token"),
            commands.xpending_summary(key, group),
        )

    def may_read(self) -> bool:
        """Return whether a read may be sent now."""
        return self._shard.may_read(_clock.boottime())

    def ticket(self) -> Ticket:
        """Return what `is_valid` needs to know about a request that is sent now."""
        return Ticket(self._shard.token, self._shard.turn)

    def is_valid(self, ticket: Ticket | None) -> bool:
        """Return whether what a request has brought may be recorded now."""
        return self._shard.state in READ and ticket == self.ticket()

    # -- reads of new entries ----------------------------------------------------------

    def read_sent(self) -> Ticket:
        """Record that a read is about to be sent."""
        self._shard.read_sent()
        return self.ticket()

    def read_answered(self, ticket: Ticket, behind: Sequence[Any]) -> bool:
        """Record what stands behind a read; return whether to record its entries."""
        now = _clock.boottime()
        if _is_unknown(behind):
            # Whose the entries are can't be known, so they are recovered under another
            # name once it can.
            self.read_lost(ticket)
            return False
        current, holders = _read(behind)
        actions = self._shard.read_answered(ticket.token, current, holders, now)
        # A read that is handed out changes nothing else, and there are many of these.
        if actions != [HandOut()]:
            self._act(actions)
        if HandOut() not in actions:
            return False
        self._on_holders(holders)
        return True

    def read_lost(self, ticket: Ticket) -> None:
        """Record that the connection of a read has ended."""
        self._act(self._shard.read_lost(ticket.token, _clock.boottime()))

    # -- pages of own pending entries --------------------------------------------------

    def page_answered(self, ticket: Ticket, behind: Sequence[Any]) -> bool:
        """Record what stands behind a page; return whether to record its entries."""
        now = _clock.boottime()
        if _is_unknown(behind):
            self._act(self._shard.claim_lost(ticket.token, now))
            return False
        current, holders = _read(behind)
        actions = self._shard.page_answered(ticket.token, current, holders, now)
        if actions:
            self._act(actions)
        return not actions and self.is_valid(ticket)


def _is_unknown(behind: Sequence[Any]) -> bool:
    """Return whether the server has refused to tell the token or the holders."""
    token, summary = behind
    refused = isinstance(summary, ErrorReply) and summary.kind in _REFUSES
    return refused or isinstance(token, ErrorReply)


def _read(behind: Sequence[Any]) -> tuple[bytes, list[bytes]]:
    """Return the server's token and the holders of pending entries.

    Without the group there are none, and the read is refused as well.
    """
    token, summary = behind
    refused = isinstance(summary, ErrorReply)
    return token or b"", [] if refused else [name for name, _ in summary.holders or ()]
