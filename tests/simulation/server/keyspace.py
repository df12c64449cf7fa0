"""Databases: keys, their values and expiry, and who watches them."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from simulation.server.resp import Refusal
from simulation.server.streams import Stream
from simulation.server.texts import WRONG_TYPE

if TYPE_CHECKING:
    from simulation.server.server import Server
    from simulation.server.sessions import Session

__all__ = ["Database", "Hash", "List", "Scores", "Set", "Stored", "Value", "kind_of"]


class Hash(dict[bytes, bytes]):
    """A hash."""

    kind: ClassVar = b"hash"


class List(list[bytes]):
    """A list."""

    kind: ClassVar = b"list"


class Set(dict[bytes, None]):
    """A set; a dict, so that its order does not depend on the process."""

    kind: ClassVar = b"set"


class Scores(dict[bytes, float]):
    """A sorted set: the scores of its members."""

    kind: ClassVar = b"zset"


Value: TypeAlias = Stream | Hash | List | Set | Scores | bytes
T = TypeVar("T", Stream, Hash, List, Set, Scores, bytes)
Stored: TypeAlias = dict[bytes, tuple[Any, int | None]]
"""A copy of a database: each key's value and when it expires."""


def kind_of(value: Value | None) -> bytes:
    """Return the type of a value, as TYPE names it."""
    if value is None:
        return b"none"
    return b"string" if isinstance(value, bytes) else value.kind


class Database:
    """A numbered database of a server.

    Attributes:
        index: Its number.
        expires: When keys expire, in milliseconds of Unix time.
        watchers: The sessions that watch a key, in the order in which they began.
    """

    __slots__ = ("_server", "_values", "expires", "index", "watchers")

    def __init__(self, server: Server, index: int) -> None:
        self._server = server
        self._values: dict[bytes, Value] = {}
        self.index = index
        self.expires: dict[bytes, int] = {}
        self.watchers: dict[bytes, dict[Session, None]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def existing(self) -> list[bytes]:
        """Return the keys that have not expired, oldest first."""
        for key in list(self.expires):
            self.find(key)
        return list(self._values)

    def count(self, keys: Iterable[bytes]) -> int:
        """Return how many of some keys exist."""
        if self.expires:
            return sum(self.find(key) is not None for key in keys)
        # Clients look for hundreds of shards at once.
        return sum(map(self._values.__contains__, keys))

    def find(self, key: bytes) -> Value | None:
        """Return a key's value, unless it has expired."""
        if self.expires and self._is_expired(key):
            self.remove(key)
            self._server.journal.record(self.index, [b"DEL", key])
        return self._values.get(key)

    def _is_expired(self, key: bytes) -> bool:
        due = self.expires.get(key)
        if due is None or due > self._server.now:
            return False
        # A paused server keeps expired keys.
        return not self._server.paused

    def typed(self, key: bytes, kind: type[T]) -> T | None:
        """Return a key's value of one type.

        Raises:
            Refusal: It is of another type.
        """
        value = self.find(key) if self.expires else self._values.get(key)
        if value is None or type(value) is kind:
            return value
        raise Refusal(WRONG_TYPE)

    def stream(self, key: bytes) -> Stream | None:
        """Return the stream at a key."""
        return self.typed(key, Stream)

    def put(self, key: bytes, value: Value, *, keep_expiry: bool = False) -> None:
        """Set a key's value, and wake those who wait for the key."""
        if not keep_expiry:
            self.expires.pop(key, None)
        self._values[key] = value
        self.touch(key)
        self._server.blocked.ready(self.index, key)

    def remove(self, key: bytes) -> bool:
        """Remove a key, if it exists."""
        value = self._values.pop(key, None)
        if value is None:
            return False
        self.expires.pop(key, None)
        self.touch(key)
        if type(value) is Stream and self._server.version.wakes_on_deletion:
            self._server.blocked.ready(self.index, key)
        return True

    def put_copy(self, source: bytes, target: bytes) -> None:
        """Set a key to a copy of another one's value, with its expiry."""
        self.put(target, _copy(self._values[source]))
        if source in self.expires:
            self.expires[target] = self.expires[source]

    def discard_empty(self, key: bytes) -> None:
        """Remove a key whose collection is empty; streams stay."""
        value = self._values.get(key)
        if value is not None and type(value) is not Stream and not value:
            self.remove(key)

    def touch(self, key: bytes) -> None:
        """Record that a key's value has changed."""
        self._server.dirty += 1
        if self.watchers:
            for session in self.watchers.get(key, ()):
                session.watch_failed = True

    def clear(self) -> int:
        """Remove all keys, and return their number."""
        removed = list(self._values)
        for key in removed:
            self.remove(key)
        return len(removed)

    def copy(self) -> Stored:
        """Return a copy of all values, which later changes do not affect."""
        return {
            key: (_copy(value), self.expires.get(key))
            for key, value in self._values.items()
        }

    def load(self, stored: Stored) -> None:
        """Replace all values by those of a copy."""
        self._values = {key: _copy(value) for key, (value, _) in stored.items()}
        self.expires = {key: due for key, (_, due) in stored.items() if due is not None}

    def swap(self, other: Database) -> None:
        """Exchange the values with another database."""
        self._values, other._values = other._values, self._values
        self.expires, other.expires = other.expires, self.expires
        for database in (self, other):
            for key in list(database.watchers):
                database.touch(key)
            for key in self._server.blocked.keys(database.index):
                self._server.blocked.ready(database.index, key)


def _copy(value: Value) -> Value:
    if isinstance(value, Stream):
        return value.copy()
    # Bytes are returned as they are; of a collection of bytes a shallow copy will do.
    return copy(value)
