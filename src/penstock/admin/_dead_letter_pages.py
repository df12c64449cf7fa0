"""Going through a stream's dead letters, page by page."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from itertools import islice
from typing import Any, Final, TypeAlias

from penstock._core.messages import dead_letter, shard_keys
from penstock._core.protocol import commands
from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.range_pages import RangePages
from penstock.admin._connection import AdminConnection
from penstock.admin._dead_letter import DeadLetter, Letters, opened
from penstock.errors import ConfigurationError
from penstock.events import Event
from penstock.message import EntryId

__all__ = ["Location", "Pages", "Where", "box"]

Where: TypeAlias = Callable[[DeadLetter], object]
"""Says of a letter whether it is meant."""

# Letters that a page has at most.
_MOST: Final = 200
# Letters that are asked for by name at once.
_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Location:
    """Where a stream's dead letters lie.

    Attributes:
        stream: The stream that they come from.
        name: The stream that they are in.
        key: Its key.
        own: Whether it has the name by default, so that no other stream's are there.
    """

    stream: str
    name: str
    key: bytes
    own: bool


def box(stream: str, dead_letters: str | None) -> Location:
    """Say where a stream's dead letters lie.

    Raises:
        ConfigurationError: A name can't be one, or both are the same.
    """
    shard_keys.single(stream)  # refuses what is no name
    usual = dead_letter.default_stream(stream)
    name = usual if dead_letters is None else dead_letters
    if name == stream:
        raise ConfigurationError(
            f"dead_letters={name!r:.60} is the stream itself; give the stream where "
            f"its dead letters are kept"
        )
    return Location(stream, name, shard_keys.single(name).key, own=name == usual)


class Pages:
    """One way through the dead letters of a stream, oldest first.

    What is no letter, and other streams' letters, are passed over and counted.

    Args:
        connection: The connection.
        place: Where they lie.
        where: Which of them are meant; None means all.
    """

    def __init__(
        self, connection: AdminConnection, place: Location, where: Where | None = None
    ) -> None:
        self._connection = connection
        self._box = place
        self._where = where
        # What was passed over, and the first of it.
        self._foreign = 0
        self._strays = 0
        self._first: EntryId | None = None

    async def ranged(
        self, low: EntryId | None, high: EntryId, limit: int | None
    ) -> AsyncGenerator[Letters, None]:
        """Give the letters between two ids, both included, but none that come later.

        Args:
            low: The first id; None where there can be none.
            high: The last id.
            limit: How many at most; None for all.
        """
        last = await self._ask(commands.xrevrange_last(self._box.key))
        high = min([high, *(EntryId.parse(id_) for id_, _ in last)])
        # An empty stream has no last entry, and nothing to read.
        span = RangePages(self._box.key, low if last else None, high, most=_MOST)
        try:
            while not span.done and limit != 0:
                page = await self._ask(span.ask())
                span.take(page)
                found = self._sift(page)[:limit]
                if found:
                    yield found
                limit = None if limit is None else limit - len(found)
        finally:
            self._report()

    async def named(self, ids: Iterable[EntryId]) -> AsyncGenerator[Letters, None]:
        """Give the letters of some ids; those that are not there are left out."""
        rest = iter(ids)
        try:
            while some := list(islice(rest, _NAMED)):
                ask = [commands.xrange_one(self._box.key, bytes(id_)) for id_ in some]
                answers = await self._connection.asks(
                    ask, f"XRANGE on {self._box.name!r}"
                )
                if found := self._sift([entry for page in answers for entry in page]):
                    yield found
        finally:
            self._report()

    async def _ask(self, command: commands.Command) -> Sequence[RawEntry]:
        [entries] = await self._connection.asks(
            [command], f"XRANGE on {self._box.name!r}"
        )
        return list(entries)

    def _sift(self, page: Sequence[RawEntry]) -> Letters:
        found = []
        for entry in page:
            letter = opened(entry)
            if letter is None:
                self._foreign += 1
            elif letter.stream != self._box.stream:
                self._strays += 1
            else:
                if self._where is None or _is_meant(self._where, letter):
                    found.append(letter)
                continue
            self._first = self._first or EntryId.parse(entry[0])
        return found

    def _report(self) -> None:
        """Say what was passed over; where streams share one, others' are expected."""
        strays = self._strays if self._box.own else 0
        if self._foreign or strays:
            facts: dict[str, Any] = {
                "dead_letters": ascii(self._box.name),
                "foreign": self._foreign,
                "of_other_streams": strays,
                "first": str(self._first),
            }
            self._connection.on_event(Event("foreign_letters", logging.WARNING, facts))


def _is_meant(where: Where, letter: DeadLetter) -> bool:
    answer = where(letter)
    if isawaitable(answer):
        # Always true, so that everything would be meant.
        if close := getattr(answer, "close", None):
            close()  # else Python complains that nobody awaited it
        raise ConfigurationError(
            "where= is an async function; give one that answers at once"
        )
    return bool(answer)
