"""DeadLetterAdmin: lists, reads, redrives and purges dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator

from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter import DeadLetter, DeadLetterList
from penstock.admin._selected_dead_letters import SelectedDeadLetters
from penstock.admin._selection import Before, Id, Ids, Selection, Where

__all__ = ["DeadLetterAdmin"]


class DeadLetterAdmin:
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

    def select(self, selection: Selection) -> SelectedDeadLetters:
        """Return the dead letters that a selection means, for one call."""
        return SelectedDeadLetters(self._connection, selection)

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
        selection = Selection.of("each", stream, dead_letters, where=where, after=after)
        return self.select(selection).each()

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
        selection = Selection.of("read", stream, dead_letters, ids=[id])
        found = await self.select(selection).list()
        return found[0] if found else None

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
        selection = Selection.of(
            "redrive", stream, dead_letters, ids=ids, where=where, limit=limit
        )
        return await self.select(selection).redrive(to)

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
        selection = Selection.of(
            "purge",
            stream,
            dead_letters,
            ids=ids,
            where=where,
            before=before,
            limit=limit,
        )
        return await self.select(selection).purge(all=all)

    # The last one: below it, `list` is the method.
    async def list(
        self,
        stream: str,
        *,
        limit: int | None = 100,
        after: Id | None = None,
        where: Where | None = None,
        dead_letters: str | None = None,
    ) -> DeadLetterList:
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
        selection = Selection.of(
            "list", stream, dead_letters, where=where, after=after, limit=limit
        )
        return await self.select(selection).list()
