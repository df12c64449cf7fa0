"""What `Admin` does with dead letters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import datetime
from itertools import islice
from typing import Final, TypeAlias

from penstock._core.messages import shard_keys
from penstock._core.protocol import commands
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter import DeadLetter, Letters
from penstock.admin._dead_letter_pages import Location, Pages, Where, box
from penstock.admin._redrive import Redrive
from penstock.errors import ConfigurationError
from penstock.message import EntryId
from penstock.options import count, place

__all__ = ["Before", "DeadLetterOffice", "Id", "Ids"]

Id: TypeAlias = EntryId | str
Ids: TypeAlias = Id | Iterable[Id]
Before: TypeAlias = EntryId | datetime | str

# Ids that one command deletes.
_DELETE: Final = 1000


class DeadLetterOffice:
    """Lists, reads, sends back and purges the dead letters of streams.

    It is `Admin.dead`; `penstock.admin.dead` has the same as functions. Dead letters
    are found by the stream that they come from: those of all its shards are in one
    stream, `<stream>.dead` unless `dead_letters=` says otherwise. Where there are none,
    there is no error either. Entries there that are no dead letters, or another
    stream's, are passed over, and told of with the event `foreign_letters`.

    Every method raises

    - `ConfigurationError` at once if an argument makes no sense,
    - `AccessError` if the server refuses this user,
    - `CommandError` if it refuses a command, for example because the key is no stream,
    - `ConnectionLost` if the connection ended before the reply, `ConnectError` if it
      was lost before and no other can be made,
    - `ClosedError` if the `Admin` is not open.

    Example:
        ```python
        async with Admin("redis://localhost") as admin:
            for letter in await admin.dead.list("orders"):
                print(letter.id, letter.error, letter.reason)
        ```
    """

    def __init__(self, connection: AdminConnection) -> None:
        self._connection = connection

    def each(
        self,
        stream: str,
        *,
        after: Id | None = None,
        where: Where | None = None,
        dead_letters: str | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters that there are now, oldest first.

        They are read page by page, some megabytes at a time, so there may be any
        number. Leave the loop by `break` or cancel it as you like.

        Args:
            stream: The stream that they come from.
            after: Begin behind the letter of this id; default: with the oldest.
            where: A function that says of a letter whether it is meant; default: all.
            dead_letters: The stream where they are kept; default: `<stream>.dead`.

        Example:
            ```python
            async for letter in admin.dead.each("orders"):
                print(letter.id, letter.error)
            ```
        """
        pages = self._pages(box(stream, dead_letters), where)
        return _single(pages.ranged(_behind(after), EntryId.MAX, None))

    async def read(
        self,
        stream: str,
        id: Id,  # noqa: A002 - what it is
        *,
        dead_letters: str | None = None,
    ) -> DeadLetter | None:
        """Read one dead letter; None if it is not there, or no letter of the stream.

        Args:
            stream: The stream that it comes from.
            id: Its own id, `DeadLetter.id`.
            dead_letters: The stream where it is kept; default: `<stream>.dead`.
        """
        pages = self._pages(box(stream, dead_letters), None)
        found = [page async for page in pages.named([_id(id)])]
        return found[0][0] if found else None

    async def redrive(
        self,
        stream: str,
        *,
        ids: Ids | None = None,
        where: Where | None = None,
        limit: int | None = None,
        to: str | None = None,
        dead_letters: str | None = None,
    ) -> int:
        """Send dead letters back to the shards they come from; without a choice, all.

        A message goes back as it was, as a new entry at the end of its shard, so its
        attempts start over; its letter is deleted. The order within a shard is kept.
        Letters that come while this runs stay, so a message that dies again at once
        does not go round for ever.

        No message is lost: its letter is deleted only when its copy is in the stream.
        Both are one script, so none is there twice either, though two do this at once
        or the connection ends in between. Where the user may not run scripts, it is one
        after the other: what two redrive at the same moment is there twice, and told of
        with the event `letters_redriven_twice`; and so may be the one message at which
        the connection or the process ended.

        A letter that says it comes from a key that is none of the stream's is forged.
        It is left where it is, and told of with the event `letters_refused`.

        If it ends by an exception, those before have been redriven and the others are
        still there: call it again. Cancelling it is the same.

        Args:
            stream: The stream that they come from.
            ids: The letters of these ids, one or several; those that are not there
                (any more) are passed over. An empty list is none.
            where: Those of which this function says so; not with `ids`.
            limit: At most so many, the oldest first; default: no limit. Not with `ids`.
            to: Another stream to send them to, as one key, instead of their shards.
            dead_letters: The stream where they are kept; default: `<stream>.dead`.

        Returns:
            How many were redriven.

        Example:
            ```python
            await admin.dead.redrive("orders", where=lambda l: l.error == "Timeout")
            ```
        """
        stored = box(stream, dead_letters)
        target = None if to is None else _target(to, stored)
        _check_choice("redrive", ids, where, limit)
        pages = self._pages(stored, where)
        if ids is None:
            found = pages.ranged(EntryId.MIN, EntryId.MAX, limit)
        else:
            found = pages.named(_ids(ids))
        mover = Redrive(self._connection, stored, target)
        await mover.check()
        try:
            async with aclosing(found):
                async for page in found:
                    await mover.move(page)
        finally:
            mover.tell()
        return mover.moved

    async def purge(
        self,
        stream: str,
        *,
        ids: Ids | None = None,
        where: Where | None = None,
        before: Before | None = None,
        all: bool = False,  # noqa: A002 - what it is
        limit: int | None = None,
        dead_letters: str | None = None,
    ) -> int:
        """Delete dead letters for good.

        It has to be said which: by `ids`, or by `where` and `before` (both must hold),
        or with `all=True`. Ended by an exception or cancelled, it has deleted some.

        Args:
            stream: The stream that they come from.
            ids: The entries of these ids, one or several, be they dead letters or not.
            where: Those of which this function says so.
            before: Those that came to the dead letters before a moment (an aware
                `datetime`), or before the letter of this id.
            all: All of them.
            limit: At most so many, the oldest first; default: no limit. Not with `ids`.
            dead_letters: The stream where they are kept; default: `<stream>.dead`.

        Returns:
            How many were deleted.

        Example:
            ```python
            await admin.dead.purge("orders", before=datetime.now(UTC) - timedelta(30))
            ```
        """
        stored = box(stream, dead_letters)
        _check_choice("purge", ids, where, limit)
        filtered = where is not None or before is not None
        if (ids is not None) + filtered + all != 1:
            raise ConfigurationError(
                "purge deletes for good; say which letters, in one way: ids=, or "
                "where= and before=, or all=True"
            )
        if ids is not None:
            return await self._delete(stored, _ids(ids))
        high = EntryId.MAX if before is None else _moment(before).previous()
        pages = self._pages(stored, where).ranged(EntryId.MIN, high, limit)
        deleted = 0
        async with aclosing(pages):
            async for page in pages:
                deleted += await self._delete(stored, [letter.id for letter in page])
        return deleted

    async def _delete(self, stored: Location, ids: Iterable[EntryId]) -> int:
        rest, deleted = iter(ids), 0
        while some := [bytes(id_) for id_ in islice(rest, _DELETE)]:
            command = commands.xdel(stored.key, some)
            [reply] = await self._connection.asks([command], f"XDEL on {stored.name!r}")
            deleted += reply
        return deleted

    def _pages(self, stored: Location, where: Where | None) -> Pages:
        if where is not None and not callable(where):
            raise ConfigurationError(
                f"where={where!r:.60} can't be called; give a function that says of a "
                f"dead letter whether it is meant"
            )
        return Pages(self._connection, stored, where)

    # The last one: below it, `list` is the method.
    async def list(
        self,
        stream: str,
        *,
        limit: int | None = 100,
        after: Id | None = None,
        where: Where | None = None,
        dead_letters: str | None = None,
    ) -> Letters:
        """List dead letters, oldest first.

        For the next page, say `after=` the last one's id.

        Args:
            stream: The stream that they come from.
            limit: How many at most; default 100. None: all, in memory; `each` is
                better for many.
            after: Begin behind the letter of this id; default: with the oldest.
            where: A function that says of a letter whether it is meant; default: all.
            dead_letters: The stream where they are kept; default: `<stream>.dead`.
        """
        if limit is not None:
            count(limit, "list(limit)")
        pages = self._pages(box(stream, dead_letters), where)
        found: Letters = []
        async for page in pages.ranged(_behind(after), EntryId.MAX, limit):
            found += page
        return found


async def _single(
    pages: AsyncGenerator[Letters, None],
) -> AsyncGenerator[DeadLetter, None]:
    async with aclosing(pages):
        async for page in pages:
            for letter in page:
                yield letter


def _check_choice(
    call: str, ids: Ids | None, where: Where | None, limit: int | None
) -> None:
    if limit is not None:
        count(limit, f"{call}(limit)")
    if ids is not None and (where is not None or limit is not None):
        raise ConfigurationError(
            f"{call}(ids=) says which letters; leave out where= and limit=, or ids="
        )


def _behind(after: Id | None) -> EntryId | None:
    """Give the first id behind a letter; None if there is none."""
    if after is None:
        return EntryId.MIN
    return None if _id(after) == EntryId.MAX else _id(after).next()


def _ids(ids: Ids) -> list[EntryId]:
    """Take ids, one or several: sorted, each once.

    Raises:
        ConfigurationError: It is none.
    """
    several = [ids] if isinstance(ids, EntryId | str) else ids
    if isinstance(several, Iterable) and not isinstance(several, bytes | bytearray):
        return sorted({_id(id_) for id_ in several})
    raise ConfigurationError(f"{ids!r:.60} is no id; give the `id` of a dead letter")


def _id(id_: Id) -> EntryId:
    if isinstance(id_, str):
        return EntryId.parse(id_)
    if not isinstance(id_, EntryId):
        raise ConfigurationError(
            f"{id_!r:.60} is no id; give the `id` of a dead letter"
        )
    return id_


def _moment(before: Before) -> EntryId:
    at = place(before, "purge(before)")
    if not isinstance(at, EntryId):
        raise ConfigurationError(
            f"purge(before={before!r:.60}) is no moment; give an aware datetime or the "
            f"id of a dead letter"
        )
    return at


def _target(to: str, stored: Location) -> bytes:
    key = shard_keys.single(to).key
    if key == stored.key:
        raise ConfigurationError(
            f"redrive(to={to!r:.60}) is where the dead letters are; give another stream"
        )
    return key
