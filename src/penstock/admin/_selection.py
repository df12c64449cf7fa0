"""Selection of dead letters: by their ids, or by content, age and number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from inspect import isawaitable
from typing import TypeAlias

from penstock._core.messages import dead_letter, shard_keys
from penstock._core.messages.envelope import FIELD, field_of
from penstock.admin._dead_letter import DeadLetter
from penstock.durations import count
from penstock.errors import ConfigurationError
from penstock.message import EntryId
from penstock.options import place

__all__ = ["Before", "Id", "Ids", "Location", "Selection", "Where"]

Id: TypeAlias = EntryId | str
Ids: TypeAlias = Id | Iterable[Id]
Before: TypeAlias = EntryId | datetime | str
Where: TypeAlias = Callable[[DeadLetter], object]
"""Returns whether a dead letter is selected."""


@dataclass(frozen=True, slots=True)
class Location:
    """The stream that holds another stream's dead letters.

    Attributes:
        stream: The stream that the dead letters come from.
        name: The stream that holds them.
        key: The key of the stream that holds them.
        default: Whether that stream has the default name, so that it should hold no
            dead letters of other streams.
    """

    stream: str
    name: str
    key: bytes
    default: bool

    @classmethod
    def of(cls, stream: str, dead_letters: str | None) -> Location:
        """Return the location of a stream's dead letters.

        Raises:
            ConfigurationError: A name is no stream name, or both names are the same.
        """
        shard_keys.single(stream)  # refuses invalid names
        default = dead_letter.default_stream(stream)
        name = default if dead_letters is None else dead_letters
        if name == stream:
            raise ConfigurationError(
                f"dead_letters={name!r:.60} is the stream itself; pass the stream "
                f"that contains its dead letters"
            )
        return cls(stream, name, shard_keys.single(name).key, name == default)


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters that a call is about; `of` makes one from its arguments.

    Attributes:
        location: The stream that holds the dead letters.
        ids: The ids of the dead letters, sorted, each once; None where they are not
            selected by id.
        where: The function that selects a dead letter by its content; None selects all.
        low: The lowest id that may be selected; None if there can be none.
        high: The highest id that may be selected.
        limit: The maximum number of dead letters, the oldest first; None sets no limit.
        field: The name of the field that holds the payloads.
    """

    location: Location
    ids: tuple[EntryId, ...] | None
    where: Where | None
    low: EntryId | None
    high: EntryId
    limit: int | None
    field: str

    @classmethod
    def of(
        cls,
        call: str,
        stream: str,
        dead_letters: str | None,
        *,
        ids: Ids | None = None,
        where: Where | None = None,
        after: Id | None = None,
        before: Before | None = None,
        limit: int | None = None,
        field: str = FIELD,
    ) -> Selection:
        """Return the selection that a call's arguments describe.

        Args:
            call: The name of the call, for the exceptions.
            stream: The stream that the dead letters come from.
            dead_letters: The stream that holds them; default: `<stream>.dead`.
            ids: One id or several; excludes `where` and `limit`.
            where: The function that selects a dead letter by its content.
            after: Only dead letters with a higher id are selected.
            before: A moment or an id; only older dead letters are selected.
            limit: The maximum number of dead letters.
            field: The name of the field that holds the payloads.

        Raises:
            ConfigurationError: An argument is invalid, or two exclude each other.
        """
        if limit is not None:
            count(limit, f"{call}(limit)")
        if ids is not None and (where is not None or limit is not None):
            raise ConfigurationError(
                f"{call}(ids=) selects dead letters by id; leave out where= and "
                f"limit=, or ids="
            )
        if where is not None and not callable(where):
            raise ConfigurationError(
                f"where={where!r:.60} can't be called; pass a function that returns "
                f"whether a dead letter is selected"
            )
        return cls(
            location=Location.of(stream, dead_letters),
            ids=None if ids is None else _ids(ids),
            where=where,
            low=EntryId.MIN if after is None else _above(after),
            high=EntryId.MAX if before is None else _below(call, before),
            limit=limit,
            field=field_of(field).decode(),
        )

    @property
    def filtered(self) -> bool:
        """Whether `where` or `before` was given."""
        return self.where is not None or self.high != EntryId.MAX

    def matches(self, candidate: DeadLetter) -> bool:
        """Return whether `where` selects a dead letter.

        Raises:
            ConfigurationError: `where` is an async function.
        """
        if self.where is None:
            return True
        answer = self.where(candidate)
        if isawaitable(answer):
            # An awaitable is always true, so every dead letter would be selected.
            if close := getattr(answer, "close", None):
                close()  # else Python warns that the coroutine was never awaited
            raise ConfigurationError(
                "where= is an async function; pass a function that is not async"
            )
        return bool(answer)


def _ids(ids: Ids) -> tuple[EntryId, ...]:
    # Bytes are iterable, but they are no ids: `_id` refuses them.
    if isinstance(ids, bytes | bytearray | str) or not isinstance(ids, Iterable):
        ids = [ids]
    return tuple(sorted({_id(id_) for id_ in ids}))


def _id(id_: object) -> EntryId:
    if isinstance(id_, str):
        return EntryId.parse(id_)
    if not isinstance(id_, EntryId):
        raise ConfigurationError(
            f"{id_!r:.60} is not an id; pass the `id` of a dead letter"
        )
    return id_


def _above(after: Id) -> EntryId | None:
    id_ = _id(after)
    return None if id_ == EntryId.MAX else id_.next()


def _below(call: str, before: Before) -> EntryId:
    bound = place(before, f"{call}(before)")
    if isinstance(bound, datetime):
        # The ids of dead letters are the server's, so they count milliseconds.
        bound = EntryId.at(bound)
    if not isinstance(bound, EntryId):
        raise ConfigurationError(
            f"{call}(before={before!r:.60}) is not a time; pass an aware datetime or "
            f"the id of a dead letter"
        )
    return bound.previous()
