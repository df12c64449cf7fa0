"""DeadLetterAdmin: lists, reads, redrives and purges dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from penstock._core.messages.envelope import FIELD
from penstock._core.protocol import commands
from penstock._tasks.reading.shard_discovery import ShardDiscovery
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter import (
    DeadLetter,
    DeadLetterCount,
    DeadLetterList,
)
from penstock.admin._selected_dead_letters import SelectedDeadLetters
from penstock.admin._selection import Before, Id, Ids, Location, Selection, Where

__all__ = ["DeadLetterAdmin"]


class DeadLetterAdmin:
    """Lists, reads, redrives and purges the dead letters of streams.

    `Admin.dead` is an instance; `penstock.admin.dead` has the same methods as
    functions. Dead letters are found by the stream that they come from: one stream
    holds those of all its shards, `<stream>.dead` unless `dead_letters=` names another
    one. A stream without dead letters is no error. Entries that are no dead letters,
    and dead letters of other streams, are skipped and reported with the event
    `foreign_letters`.

    Every method raises

    - `ConfigurationError` at once if an argument is invalid,
    - `AccessError` if the server refuses this user,
    - `CommandError` if the server refuses a command, for example because the key is no
      stream,
    - `ConnectionLost` if the connection ended before the reply, `ConnectError` if the
      connection was lost earlier and reconnecting failed,
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
        """Return the dead letters of a selection, to be used for one call."""
        return SelectedDeadLetters(self._connection, selection)

    def each(
        self,
        stream: str,
        *,
        after: Id | None = None,
        where: Where | None = None,
        dead_letters: str | None = None,
        field: str = FIELD,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate over the dead letters that exist now, oldest first.

        Dead letters are read page by page, some megabytes at a time, so there may be
        any number of them. The loop may be left by `break` or cancelled at any time.

        Args:
            stream: The stream that the dead letters come from.
            after: Begin after the dead letter with this id; default: with the oldest.
            where: A function that returns whether a dead letter is selected; default:
                all are.
            dead_letters: The stream that holds them; default: `<stream>.dead`.
            field: The name of the field that holds the payload, see
                `DeadLetter.payload`; default: `"msg"`.

        Example:
            ```python
            async for letter in admin.dead.each("orders"):
                print(letter.id, letter.error)
            ```
        """
        selection = Selection.of(
            "each", stream, dead_letters, where=where, after=after, field=field
        )
        return self.select(selection).each()

    async def read(
        self,
        stream: str,
        id: Id,  # noqa: A002 - the operator's word
        *,
        dead_letters: str | None = None,
        field: str = FIELD,
    ) -> DeadLetter | None:
        """Return one dead letter; None if the stream has none with this id.

        Args:
            stream: The stream that the dead letter comes from.
            id: The id of the dead letter, `DeadLetter.id`.
            dead_letters: The stream that holds it; default: `<stream>.dead`.
            field: The name of the field that holds the payload, see
                `DeadLetter.payload`; default: `"msg"`.
        """
        selection = Selection.of("read", stream, dead_letters, ids=[id], field=field)
        found = await self.select(selection).list()
        return found[0] if found else None

    async def summary(
        self,
        stream: str,
        *,
        where: Where | None = None,
        before: Before | None = None,
        dead_letters: str | None = None,
    ) -> Sequence[DeadLetterCount]:
        """Count dead letters by error and group, the highest number first.

        All of them are read.

        Args:
            stream: The stream that the dead letters come from.
            where: A function that returns whether a dead letter is counted; default:
                all are.
            before: Only those that were added before a moment (an aware `datetime`), or
                before the dead letter with this id.
            dead_letters: The stream that holds them; default: `<stream>.dead`.

        Example:
            ```python
            for count in await admin.dead.summary("orders"):
                print(count.letters, count.error, count.group)
            ```
        """
        selection = Selection.of(
            "summary", stream, dead_letters, where=where, before=before
        )
        return await self.select(selection).summary()

    async def redrive(
        self,
        stream: str,
        *,
        ids: Ids | None = None,
        where: Where | None = None,
        limit: int | None = None,
        to: str | None = None,
        dead_letters: str | None = None,
        field: str = FIELD,
    ) -> int:
        """Send dead letters back to the shards that they come from, by default all.

        The message is added unchanged, as a new entry at the end of its shard, so its
        attempts start over; the dead letter is deleted. The order within a shard is
        kept. Dead letters that are added while this runs stay, so a message that is
        given up again at once is not redriven forever.

        No message is lost: a dead letter is deleted only once its copy is in the
        stream. One script does both, so no message is duplicated either, even if two
        redrive at once or the connection ends in between. Where the user may not run
        scripts, copying and deleting are two commands. Then a message that two redrive
        at the same moment is duplicated, and reported with the event
        `letters_redriven_twice`. The one message at which the connection or the process
        ended may be duplicated as well.

        A dead letter that claims to come from a key that the stream does not have is
        forged. It stays where it is, and is reported with the event `letters_refused`.

        If an exception or a cancellation ends the call, the dead letters before it have
        been redriven and the others are still there: call it again.

        Args:
            stream: The stream that the dead letters come from.
            ids: Only the dead letters with these ids, one or several; ids that do not
                exist (any more) are skipped. An empty list selects none.
            where: Only those for which this function returns true; not with `ids`.
            limit: The maximum number, the oldest first; default: no limit. Not with
                `ids`.
            to: Another stream to send them to, as one key, instead of their shards.
            dead_letters: The stream that holds them; default: `<stream>.dead`.
            field: The name of the field that holds the payload, for `where`; default:
                `"msg"`.

        Returns:
            The number of redriven dead letters.

        Example:
            ```python
            await admin.dead.redrive("orders", where=lambda l: l.error == "Timeout")
            ```
        """
        selection = Selection.of(
            "redrive",
            stream,
            dead_letters,
            ids=ids,
            where=where,
            limit=limit,
            field=field,
        )
        return await self.select(selection).redrive(to)

    async def purge(
        self,
        stream: str,
        *,
        ids: Ids | None = None,
        where: Where | None = None,
        before: Before | None = None,
        all: bool = False,  # noqa: A002 - the operator's word
        limit: int | None = None,
        dead_letters: str | None = None,
        field: str = FIELD,
    ) -> int:
        """Delete dead letters for good.

        They must be selected: by `ids`, or by `where` and `before` (both must hold), or
        with `all=True`. A call that an exception or a cancellation ends has deleted
        some of them.

        Args:
            stream: The stream that the dead letters come from.
            ids: The entries with these ids, one or several, dead letters or not.
            where: Only those for which this function returns true.
            before: Only those that were added to the dead letters before a moment (an
                aware `datetime`), or before the dead letter with this id.
            all: Whether to delete all of them.
            limit: The maximum number, the oldest first; default: no limit. Not with
                `ids`.
            dead_letters: The stream that holds them; default: `<stream>.dead`.
            field: The name of the field that holds the payload, for `where`; default:
                `"msg"`.

        Returns:
            The number of deleted entries.

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
            field=field,
        )
        return await self.select(selection).purge(all=all)

    async def stream_exists(
        self, stream: str, *, dead_letters: str | None = None
    ) -> bool:
        """Return whether a stream, or the stream of its dead letters, exists.

        It tells a stream without dead letters from a misspelt name. If this user may
        not ask, the answer is True.

        Args:
            stream: The stream that the dead letters come from.
            dead_letters: The stream that holds them; default: `<stream>.dead`.
        """
        location = Location.of(stream, dead_letters)
        quiet = ShardDiscovery(self._connection.calls, lambda _: None)
        keys = [location.key, *(shard.key for shard in await quiet.watch(stream))]
        # One command for each key: in cluster mode they may have several slots.
        answers = await self._connection.calls([commands.exists([k]) for k in keys])
        return any(answer != 0 for answer in answers)

    # The last method: after it, `list` in this class is the method.
    async def list(
        self,
        stream: str,
        *,
        limit: int | None = 100,
        after: Id | None = None,
        where: Where | None = None,
        dead_letters: str | None = None,
        field: str = FIELD,
    ) -> DeadLetterList:
        """Return dead letters, oldest first.

        For the next page, pass the id of the last one as `after`.

        Args:
            stream: The stream that the dead letters come from.
            limit: The maximum number; default: 100. None returns all, in memory; `each`
                is better for many.
            after: Begin after the dead letter with this id; default: with the oldest.
            where: A function that returns whether a dead letter is selected; default:
                all are.
            dead_letters: The stream that holds them; default: `<stream>.dead`.
            field: The name of the field that holds the payload, see
                `DeadLetter.payload`; default: `"msg"`.
        """
        selection = Selection.of(
            "list",
            stream,
            dead_letters,
            where=where,
            after=after,
            limit=limit,
            field=field,
        )
        return await self.select(selection).list()
