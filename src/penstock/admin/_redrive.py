"""Sending dead letters back to where they came from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final

from penstock._core.messages import dead_letter, shard_keys
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.lifetime import shielded_until_done
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter import DeadLetter, Letters
from penstock.admin._dead_letter_pages import Location
from penstock.errors import AccessError, CommandError, ServerError
from penstock.events import Event
from penstock.message import EntryId

__all__ = ["Redrive"]

# What a letter has behind the message's own fields, in words.
_BEHIND: Final = 2 * len(dead_letter.NAMES)


class Redrive:
    """Moves dead letters: each is copied, and deleted with its copy.

    By a script where the server lets us run one, and else one after the other, each
    copied first and deleted when its copy has been confirmed. MULTI would not do: in it
    the letter is deleted even though the copy is refused.

    Args:
        connection: The connection.
        box: Where they lie.
        to: The key they go to; None: where each comes from.
    """

    def __init__(
        self, connection: AdminConnection, box: Location, to: bytes | None
    ) -> None:
        self._connection = connection
        self._box = box
        self._to = to
        self._scripts = True
        # How many were moved; and deleted by others, after we had copied them.
        self.moved = 0
        self._twice = 0
        # Letters that claim to come from a key that is none of the stream's.
        self._refused: list[EntryId] = []

    async def check(self) -> None:
        """Make sure that letters may be deleted, before any is copied.

        Raises:
            AccessError: They may not.
            CommandError: The key is of another type.
            ConnectionLost: The connection ended before the reply.
        """
        # No entry has that id.
        command = commands.xdel(self._box.key, [bytes(EntryId.MIN)])
        await self._connection.asks([command], f"XDEL on {self._box.name!r}")

    async def move(self, page: Letters) -> None:
        """Move letters, in this order.

        Raises:
            CommandError: A copy was refused; this letter and those behind it stay.
            AccessError: The same, because the user may not.
            ConnectionLost: The connection ended before the replies.
        """
        rest = [pair for letter in page if (pair := self._addressed(letter))]
        while rest:
            done = await self._by_script(rest) if self._scripts else 0
            if done < len(rest):
                # It says plainly why, if it can't be.
                await self._by_hand(*rest[done])
                done += 1
            rest = rest[done:]

    def _addressed(self, letter: DeadLetter) -> tuple[DeadLetter, bytes] | None:
        """Say where a letter goes; never to a key that is none of the stream's.

        Whoever can write to the dead letters could make us write to any key.
        """
        target = self._to or letter.shard_key
        shards = (
            shard_keys.single(letter.stream),
            shard_keys.numbered(letter.stream, letter.shard),
        )
        ours = self._to is not None or target in {shard.key for shard in shards}
        if not ours or target == self._box.key:
            self._refused.append(letter.id)
            return None
        return letter, target

    async def _by_script(self, moves: Sequence[tuple[DeadLetter, bytes]]) -> int:
        """Move what can be moved; gives how many it is through with."""
        addressed = [(bytes(letter.id), target) for letter, target in moves]
        command = scripts.move_entries(self._box.key, addressed, _BEHIND)
        [reply] = await self._connection.calls([command])
        if isinstance(reply, ErrorReply):
            self._scripts = False
            return 0
        moved, done = reply
        self.moved += moved
        return int(done)

    async def _by_hand(self, letter: DeadLetter, target: bytes) -> None:
        look = commands.xrange_one(self._box.key, bytes(letter.id))
        [there] = await self._connection.asks([look], f"XRANGE on {self._box.name!r}")
        if not there:
            return
        await _to_the_end(self._copy(letter, target))

    async def _copy(self, letter: DeadLetter, target: bytes) -> None:
        [copy] = await self._connection.calls([commands.xadd(target, letter.words)])
        if isinstance(copy, ErrorReply):
            raise self._refusal(target, copy)
        self.moved += 1
        delete = commands.xdel(self._box.key, [bytes(letter.id)])
        what = f"XDEL on {self._box.name!r}"
        [deleted] = await self._connection.asks([delete], what)
        self._twice += not deleted

    def _refusal(self, target: bytes, reply: ErrorReply) -> ServerError:
        what = f"XADD to {target.decode('utf-8', 'surrogateescape')!a:.80}"
        error = self._connection.refusal(what, reply)
        if isinstance(error, AccessError):
            return error
        hint = (
            f"{self.moved} were redriven, the others are still in {self._box.name!r}: "
            f"mend that and call it again"
        )
        return CommandError(what, reply.code, reply.text, hint)

    def tell(self) -> None:
        """Report what was not as it should be."""
        facts: dict[str, Any] = {"dead_letters": ascii(self._box.name)}
        if self._refused:
            facts |= {"count": len(self._refused), "first": str(self._refused[0])}
            self._connection.on_event(Event("letters_refused", logging.WARNING, facts))
        if self._twice:
            facts = {"dead_letters": ascii(self._box.name), "count": self._twice}
            self._connection.on_event(
                Event("letters_redriven_twice", logging.WARNING, facts)
            )


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await what must not stop half-way; if cancelled, raise that in the end.

    A letter would be left beside its copy. Each call has a deadline, so it does end.
    (anyio's shield alone does not hold against a task's own `cancel`.)
    """
    task = asyncio.ensure_future(work)
    try:
        await shielded_until_done(partial(asyncio.wait, [task]))
    except asyncio.CancelledError:
        # Retrieved, so that nobody complains; to be cancelled is what counts.
        task.exception()
        raise
    task.result()
