"""The selected dead letters of a stream: read page by page, redriven, or purged."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Final

from penstock._core.protocol import commands
from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.range_pages import RangePages
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter import (
    DeadLetter,
    DeadLetterCount,
    DeadLetterList,
    parse_entry,
)
from penstock.admin._redrive import Redrive
from penstock.admin._selection import Selection
from penstock.errors import ConfigurationError
from penstock.events import Event
from penstock.message import EntryId

__all__ = ["SelectedDeadLetters"]

# The maximum number of dead letters of a page that is read by a range of ids.
_RANGE_PAGE: Final = 200
# The number of dead letters that are read by their ids in one write.
_ID_PAGE: Final = 10
# The number of ids that one command deletes.
_DELETE: Final = 1000


class SelectedDeadLetters:
    """The dead letters that a selection means, oldest first; used for one call.

    Entries that are no dead letters, and dead letters of other streams, are skipped,
    counted and reported. `DeadLetterAdmin` documents the exceptions.

    Args:
        connection: The connection.
        selection: The selection.
    """

    def __init__(self, connection: AdminConnection, selection: Selection) -> None:
        self._connection = connection
        self._selection = selection
        self._location = selection.location
        # Skipped entries that are no dead letters, skipped dead letters of other
        # streams, and the first id of both.
        self._foreign = 0
        self._of_other_streams = 0
        self._first_skipped: EntryId | None = None

    async def each(self) -> AsyncGenerator[DeadLetter, None]:
        """Yield the dead letters."""
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                for dead_letter in page:
                    yield dead_letter

    async def list(self) -> DeadLetterList:
        """Return the dead letters."""
        return [dead_letter async for dead_letter in self.each()]

    async def summary(self, *, quiet: bool = False) -> Sequence[DeadLetterCount]:
        """Count the dead letters by error and group, the highest number first.

        Args:
            quiet: Whether skipped entries are not reported, because a call follows that
                reports them.
        """
        found: dict[tuple[str, str], DeadLetterCount] = {}
        async with aclosing(self._pages(quiet=quiet)) as pages:
            async for page in pages:
                for letter in page:
                    kind = letter.error, letter.group
                    before = found.get(kind)
                    found[kind] = DeadLetterCount(
                        *kind,
                        letters=1 if before is None else before.letters + 1,
                        first=letter.id if before is None else before.first,
                        last=letter.id,
                    )
        return sorted(found.values(), key=lambda one: (-one.letters, one.first))

    async def redrive(self, to: str | None) -> int:
        """Send the dead letters back and return their number.

        Args:
            to: The stream to send them to; None for the shards that they come from.
        """
        redrive = Redrive(self._connection, self._location, to)
        await redrive.check()
        try:
            async with aclosing(self._pages()) as pages:
                async for page in pages:
                    await redrive.move(page)
        finally:
            redrive.report()
        return redrive.moved

    async def purge(self, *, all: bool) -> int:  # noqa: A002 - the public name
        """Delete the dead letters for good and return their number.

        Args:
            all: Whether a selection that leaves nothing out is intended.

        Raises:
            ConfigurationError: What to delete is said in no way, or in several.
        """
        ids = self._selection.ids
        if (ids is not None) + self._selection.filtered + all != 1:
            raise ConfigurationError(
                "purge deletes permanently; select the dead letters in exactly one "
                "way: ids=, or where= and before=, or all=True"
            )
        if ids is not None:
            # Not read before: whatever has these ids is deleted, dead letter or not.
            return await self._delete(ids)
        deleted = 0
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                deleted += await self._delete(dead_letter.id for dead_letter in page)
        return deleted

    async def _delete(self, ids: Iterable[EntryId]) -> int:
        rest, deleted = iter(ids), 0
        while some := [bytes(id_) for id_ in islice(rest, _DELETE)]:
            command = commands.xdel(self._location.key, some)
            what = f"XDEL on {self._location.name!r}"
            [reply] = await self._connection.call_checked([command], what)
            deleted += reply
        return deleted

    async def _pages(
        self, *, quiet: bool = False
    ) -> AsyncGenerator[DeadLetterList, None]:
        """Yield the dead letters by pages, none of them empty.

        An id that does not exist is left out. Dead letters that are added after the
        first read are left out as well, unless they are selected by id.
        """
        ids, limit = self._selection.ids, self._selection.limit
        source = self._by_range() if ids is None else self._by_id(ids)
        try:
            async with aclosing(source):
                async for entries in source:
                    if page := self._parse(entries)[:limit]:
                        yield page
                    limit = None if limit is None else limit - len(page)
                    if limit == 0:
                        break
        finally:
            if not quiet:
                self._report()

    async def _by_range(self) -> AsyncGenerator[Sequence[RawEntry], None]:
        key = self._location.key
        last = await self._ask([commands.xrevrange_last(key)])
        high = min([self._selection.high, *(EntryId.parse(id_) for id_, _ in last)])
        # An empty stream has no last entry, and nothing to read.
        low = self._selection.low if last else None
        span = RangePages(key, low, high, most=_RANGE_PAGE)
        while not span.done:
            entries = await self._ask([span.ask()])
            span.take(entries)
            yield entries

    async def _by_id(
        self, ids: Iterable[EntryId]
    ) -> AsyncGenerator[Sequence[RawEntry], None]:
        rest = iter(ids)
        while some := list(islice(rest, _ID_PAGE)):
            yield await self._ask(
                [commands.xrange_one(self._location.key, bytes(id_)) for id_ in some]
            )

    async def _ask(self, batch: Sequence[commands.Command]) -> Sequence[RawEntry]:
        replies = await self._connection.call_checked(
            batch, f"XRANGE on {self._location.name!r}"
        )
        return [entry for entries in replies for entry in entries]

    def _parse(self, entries: Sequence[RawEntry]) -> DeadLetterList:
        """Return the selected dead letters among entries; count the foreign ones."""
        page = []
        for entry in entries:
            parsed = parse_entry(entry, self._selection.field)
            if parsed is not None and parsed.stream == self._location.stream:
                if self._selection.matches(parsed):
                    page.append(parsed)
                continue
            self._foreign += parsed is None
            self._of_other_streams += parsed is not None
            self._first_skipped = self._first_skipped or EntryId.parse(entry[0])
        return page

    def _report(self) -> None:
        """Report the skipped entries.

        In a stream that has another name than the default one, dead letters of other
        streams are expected.
        """
        others = self._of_other_streams if self._location.default else 0
        if self._foreign or others:
            facts: dict[str, Any] = {
                "dead_letters": self._location.name,
                "foreign": self._foreign,
                "of_other_streams": others,
                "first": str(self._first_skipped),
            }
            self._connection.on_event(Event("foreign_letters", logging.WARNING, facts))
