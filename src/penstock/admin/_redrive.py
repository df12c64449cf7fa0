"""Redrive: moves dead letters back to the streams that they come from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final

from penstock._core.messages import dead_letter, shard_keys, shard_record
from penstock._core.protocol import commands, dead_letter_scripts
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.task_scopes import shielded_until_done
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter import DeadLetter, DeadLetterList
from penstock.admin._selection import Location
from penstock.errors import AccessError, CommandError, ConfigurationError, ServerError
from penstock.events import Event
from penstock.message import EntryId

__all__ = ["Redrive"]

# A search by name finds shards with lower numbers than this, see `ShardDiscovery`.
_SEARCHED: Final = 1024
# The number of words (names and values) that follow the message's own fields.
_ORIGIN_WORDS: Final = 2 * len(dead_letter.NAMES)


class Redrive:
    """Moves dead letters: each one is copied, and deleted with its copy.

    A script does both where the user may run scripts. Otherwise the dead letters are
    moved one after the other; each is copied first, and deleted once its copy has been
    confirmed. MULTI would not do: it deletes the dead letter even if the copy is
    refused.

    Args:
        connection: The connection.
        location: The stream that holds the dead letters.
        to: The stream to move them to; None for the shards that they come from.

    Raises:
        ConfigurationError: `to` is no stream name, or the stream that holds the dead
            letters.
    """

    def __init__(
        self, connection: AdminConnection, location: Location, to: str | None
    ) -> None:
        self._connection = connection
        self._location = location
        self._to = None if to is None else shard_keys.single(to).key
        if self._to == location.key:
            raise ConfigurationError(
                f"redrive(to={to!r:.60}) is the stream of the dead letters itself; "
                f"pass another stream"
            )
        self._scripts_allowed = True
        # How many dead letters were moved, and how many of these somebody else deleted
        # after they had been copied.
        self.moved = 0
        self._duplicated = 0
        # Dead letters that claim to come from a key that the stream does not have.
        self._refused: list[EntryId] = []
        # Whether keys are those of shards that somebody reads.
        self._are_shards: dict[bytes, bool] = {}

    async def check(self) -> None:
        """Check that dead letters may be deleted, before any is copied.

        Raises:
            AccessError: The user may not delete them.
            CommandError: The key is of another type.
            ConnectionLost: The connection ended before the reply.
        """
        # No entry has this id.
        await self._delete(EntryId.MIN)

    async def move(self, page: DeadLetterList) -> None:
        """Move dead letters, in this order.

        Raises:
            CommandError: A copy was refused; this dead letter and those after it stay.
            AccessError: The same, because the user may not write the copy.
            ConnectionLost: The connection ended before the replies.
        """
        await self._look_up(page)
        rest = [move for one in page if (move := self._with_target(one))]
        while rest:
            done = await self._move_by_script(rest) if self._scripts_allowed else 0
            if done < len(rest):
                # If this one can't be moved, its error says plainly why.
                await self._move_one(*rest[done])
                done += 1
            rest = rest[done:]

    def _with_target(self, one: DeadLetter) -> tuple[DeadLetter, bytes] | None:
        """Return a dead letter with its target key; None if that is not the stream's.

        Anybody who can write to the dead letters could make us write to any key.
        """
        target = self._to or one.shard_key
        valid = self._to is not None or self._is_shard(one)
        if not valid or target == self._location.key:
            self._refused.append(one.id)
            return None
        return one, target

    def _is_shard(self, one: DeadLetter) -> bool:
        """Return whether the key of a dead letter is one of its stream."""
        if one.shard_key == shard_keys.single(one.stream).key:
            return True
        numbered = shard_keys.numbered(one.stream, one.shard).key
        return one.shard_key == numbered and self._are_shards[numbered]

    async def _look_up(self, page: DeadLetterList) -> None:
        """Find out which numbered keys are shards: by the records, or they exist."""
        if self._to is not None:
            return
        new = {
            shard_keys.numbered(one.stream, one.shard): one.stream
            for one in page
            if shard_keys.numbered(one.stream, one.shard).key not in self._are_shards
        }
        for stream in dict.fromkeys(new.values()):
            shards = [shard for shard in new if shard.stream == stream]
            asked = [commands.get(shard_record.key(stream))]
            asked += [commands.exists([shard.key]) for shard in shards]
            stored, *exist = await self._connection.calls(asked)
            number = _number(stored)
            for shard, exists in zip(shards, exist, strict=True):
                self._are_shards[shard.key] = exists == 1 or shard.number < number

    async def _move_by_script(self, moves: Sequence[tuple[DeadLetter, bytes]]) -> int:
        """Move dead letters until one can't be moved.

        Returns:
            How many the script is done with: those that it moved, and those that do not
            exist any more.
        """
        ids = [(bytes(one.id), target) for one, target in moves]
        command = dead_letter_scripts.move_entries(
            self._location.key, ids, _ORIGIN_WORDS
        )
        [reply] = await self._connection.calls([command])
        if isinstance(reply, ErrorReply):
            self._scripts_allowed = False
            return 0
        moved, done = reply
        self.moved += moved
        return int(done)

    async def _move_one(self, one: DeadLetter, target: bytes) -> None:
        look = commands.xrange_one(self._location.key, bytes(one.id))
        what = f"XRANGE on {self._location.name!r}"
        [found] = await self._connection.call_checked([look], what)
        if found:
            await _run_to_completion(self._copy(one, target))

    async def _copy(self, one: DeadLetter, target: bytes) -> None:
        [copy] = await self._connection.calls([commands.xadd(target, one.words)])
        if isinstance(copy, ErrorReply):
            raise self._refusal(target, copy)
        self.moved += 1
        self._duplicated += not await self._delete(one.id)

    async def _delete(self, id_: EntryId) -> int:
        command = commands.xdel(self._location.key, [bytes(id_)])
        what = f"XDEL on {self._location.name!r}"
        [deleted] = await self._connection.call_checked([command], what)
        return int(deleted)

    def _refusal(self, target: bytes, reply: ErrorReply) -> ServerError:
        what = f"XADD to {target.decode('utf-8', 'surrogateescape')!a:.80}"
        error = self._connection.refusal(what, reply)
        if isinstance(error, AccessError):
            return error
        hint = (
            f"{self.moved} dead letters were redriven, the others are still in "
            f"{self._location.name!r}; fix the cause and call redrive again"
        )
        return CommandError(what, reply.code, reply.text, hint)

    def report(self) -> None:
        """Report dead letters that were refused, and messages that were duplicated."""
        on_event = self._connection.on_event
        facts: dict[str, Any] = {"dead_letters": self._location.name}
        if self._refused:
            more = {"count": len(self._refused), "first": str(self._refused[0])}
            on_event(Event("letters_refused", logging.WARNING, facts | more))
        if self._duplicated:
            more = {"count": self._duplicated}
            on_event(Event("letters_redriven_twice", logging.WARNING, facts | more))


def _number(stored: Any) -> int:
    """Return the number of shards by a record, or how many a search would find."""
    if isinstance(stored, ErrorReply):
        return _SEARCHED
    try:
        record = shard_record.load(stored)
    except ValueError:
        return _SEARCHED
    return _SEARCHED if record is None else record.number or _SEARCHED


async def _run_to_completion(work: Coroutine[Any, Any, None]) -> None:
    """Await work that must not stop half-way; raise a cancellation only afterwards.

    A dead letter would be left beside its copy. Each call has a deadline, so the work
    does end. (anyio's shield alone does not hold against a task's own `cancel`.)
    """
    task = asyncio.ensure_future(work)
    try:
        await shielded_until_done(partial(asyncio.wait, [task]))
    except asyncio.CancelledError:
        # Retrieve the exception, so that asyncio does not log it; the caller gets the
        # cancellation.
        task.exception()
        raise
    task.result()
