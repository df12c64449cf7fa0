"""What ails a shard: groups that have vanished made anew, the hopeless set aside.

One shard that can't be read would have every read refused that names it. So when a
read is refused, each shard is asked by itself how it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from penstock._core import commands
from penstock._core.cursor import Position
from penstock._core.replies import ErrorReply, Trouble
from penstock._link.wire import Wire
from penstock._tasks.describing import Describer
from penstock._tasks.membership import Membership, refusal, rejoin
from penstock.errors import ServerError
from penstock.events import Event, OnEvent
from penstock.message import EntryId, Shard

__all__ = ["Healer"]


class Healer:
    """Looks after the shards of one consumer.

    Args:
        member: The group that is read, or None for REALTIME.
        on_anew: Called with a shard whose group was made anew.
        on_event: Told what is broken, mended or healed.
    """

    def __init__(
        self,
        member: Membership | None,
        on_anew: Callable[[Shard], None],
        on_event: OnEvent,
    ) -> None:
        self._member = member
        self._describer = Describer()
        self._on_anew = on_anew
        self._on_event = on_event

    async def examine(
        self, wire: Wire, positions: Sequence[Position], *, remade: bool = False
    ) -> ServerError | None:
        """Find out which of the shards can be read, and mend what can be mended.

        Args:
            wire: The reader's connection.
            positions: The shards' positions.
            remade: Whether a stream that has come less far than its position must be
                another one, since there was no outage.

        Returns:
            What the server refuses for good; then there is no use in going on.

        Raises:
            ConnectionLost: The connection ended.
        """
        answers = await self._ask(wire, [each.shard.key for each in positions])
        for position, answer in zip(positions, answers, strict=True):
            trouble = answer.trouble if isinstance(answer, ErrorReply) else None
            if trouble is Trouble.FATAL:
                where = f"reading {position.shard.stream!r}"
                return refusal(wire.address.name, where, answer)
            if trouble is Trouble.ISOLATE:
                self._break(position, answer.text)
            elif trouble is Trouble.REPAIR:
                await self._repair(wire, position)
            elif trouble is None:
                self._well(position, answer, remade=remade)
        return None

    async def _ask(self, wire: Wire, keys: Sequence[bytes]) -> list[Any]:
        if self._member is None:
            return await self._describer.streams(wire.calls, keys)
        group = self._member.group
        return await wire.calls([commands.xpending_summary(key, group) for key in keys])

    def _well(self, position: Position, answer: Any, *, remade: bool) -> None:
        remade = remade or position.broken is not None
        self._heal(position)
        if self._member is not None:
            return
        # The server has lost what it had (a restart from an old snapshot), and what
        # comes next has lower ids; or the key was something else meanwhile, and this
        # is another stream.
        # Only what was there counts: a start may be chosen that lies ahead.
        last: EntryId = answer.last
        if last < position.highest:
            position.highest = EntryId.MIN if remade else last
            position.after = bytes(position.highest)
            self.set_back(position, position.after)

    async def _repair(self, wire: Wire, position: Position) -> None:
        """Go on where the stream or the group is gone."""
        if self._member is None:
            if position.highest > EntryId.MIN:
                # There is no stream any more: whatever will be in it is new.
                position.highest, position.after = EntryId.MIN, b"0-0"
            self._heal(position)
            return
        if position.broken is None:
            self._tell("group_missing", position, logging.WARNING)
        # What is still in hand will be read again, and it is known by then.
        position.highest = EntryId.MIN
        made = await rejoin(
            wire, self._member, position.shard, position.floor, self._describer
        )
        if not isinstance(made, ErrorReply):
            self._on_anew(position.shard)
            self._heal(position)
            self._tell("group_recreated", position, logging.ERROR, after=made.decode())
        elif made.code == "BUSYGROUP":
            self._on_anew(position.shard)
            self._heal(position)  # somebody was quicker
        else:
            self._break(position, made.text)

    def _break(self, position: Position, reply: str) -> None:
        if position.broken is None:
            self._tell("shard_broken", position, logging.ERROR, reply=reply)
        position.broken = reply

    def _heal(self, position: Position) -> None:
        if position.broken is not None:
            position.broken = None
            self._tell("shard_healed", position, logging.INFO)

    def set_back(self, position: Position, to: bytes) -> None:
        """Report that what has been read before comes again, or may."""
        position.noted = True
        self._tell("set_back", position, logging.ERROR, to=to.decode())

    def _tell(self, name: str, position: Position, level: int, **facts: object) -> None:
        names: dict[str, object] = {"stream": ascii(position.shard.stream)}
        names["shard"] = position.shard.number
        if self._member is not None:
            names["group"] = ascii(self._member.group)
        self._on_event(Event(name, level, {**names, **facts}))
