"""Streams: entries in the order of their ids, and the nodes that they lie in.

The nodes matter only to trimming with `~`, which removes whole nodes. A node holds up
to `stream-node-max-entries` entries, deleted ones included, or `stream-node-max-bytes`
bytes, which are estimated here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from simulation.server import ids

if TYPE_CHECKING:
    from simulation.server.groups import Group

__all__ = ["Entry", "Limits", "Node", "Stream", "Trim"]

# Bytes of an entry beside its words, and of a word beside its text, in a node.
_PER_ENTRY = 12
_PER_WORD = 3


class Entry:
    """An entry; it never changes, so copies of a stream share it.

    Attributes:
        id: Its id.
        name: Its id as text.
        fields: Its fields and values in turn.
    """

    __slots__ = ("_wire", "fields", "id", "name")

    def __init__(self, id_: int, fields: tuple[bytes, ...]) -> None:
        self.id = id_
        self.name = b"%d-%d" % (id_ >> 64, id_ & ids.SEQUENCE)
        self.fields = fields
        self._wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The entry as it is sent, the same in both protocols."""
        wire = self._wire
        if wire is None:
            words = b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in self.fields])
            wire = self._wire = b"*2\r\n$%d\r\n%b\r\n*%d\r\n%b" % (
                len(self.name),
                self.name,
                len(self.fields),
                words,
            )
        return wire

    @property
    def size(self) -> int:
        """The bytes that it takes in a node, roughly."""
        words = sum(map(len, self.fields)) + _PER_WORD * len(self.fields)
        return _PER_ENTRY + words


class Node:
    """Some entries that follow each other.

    Attributes:
        first: The id of its first entry, which may be deleted by now.
        last: The id of its last entry, likewise.
        total: The number of its entries, deleted ones included.
        live: The number of its entries that exist.
        size: Its bytes.
    """

    __slots__ = ("first", "last", "live", "size", "total")

    def __init__(self, first: int) -> None:
        self.first = self.last = first
        self.total = self.live = self.size = 0

    def copy(self) -> Node:
        """Return a copy."""
        node = Node(self.first)
        node.last, node.total = self.last, self.total
        node.live, node.size = self.live, self.size
        return node


class Limits(NamedTuple):
    """The sizes of nodes; 0 means no limit."""

    entries: int = 100
    size: int = 4096


class Trim(NamedTuple):
    """How to trim.

    Attributes:
        most: The number of entries to keep; None to trim by id.
        floor: The id below which entries are deleted.
        whole: Whether to remove whole nodes only, and perhaps too few (`~`).
        limit: The most entries to delete; 0 for any number.
    """

    most: int | None
    floor: int
    whole: bool
    limit: int


class Stream:
    """A stream.

    Attributes:
        entries: The entries by id.
        ids: The entries' ids, in order.
        nodes: The nodes, in order.
        last_id: The highest id that an entry ever had.
        max_deleted: The highest id of an entry that was deleted, not trimmed.
        added: The number of entries that were ever added.
        groups: The groups by name.
    """

    kind = b"stream"
    __slots__ = (
        "added",
        "entries",
        "groups",
        "ids",
        "last_id",
        "max_deleted",
        "nodes",
    )

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.ids: list[int] = []
        self.nodes: list[Node] = []
        self.last_id = self.max_deleted = self.added = 0
        self.groups: dict[bytes, Group] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def first_id(self) -> int:
        """The id of the first entry; 0 without entries."""
        return self.ids[0] if self.ids else 0

    @property
    def last_existing(self) -> int:
        """The id of the last entry; 0 without entries."""
        return self.ids[-1] if self.ids else 0

    def next_id(self, ms: int) -> int:
        """Return the id for `*`: never below the last one, even if the clock is."""
        id_ = ms << 64
        return id_ if id_ > self.last_id else self.last_id + 1

    def append(self, id_: int, fields: tuple[bytes, ...], limits: Limits) -> Entry:
        """Append an entry whose id exceeds the last one."""
        entry = self.entries[id_] = Entry(id_, fields)
        self.ids.append(id_)
        self.last_id = id_
        self.added += 1
        size = entry.size
        node = self.nodes[-1] if self.nodes else None
        if (
            node is None
            or (limits.entries and node.total >= limits.entries)
            or (limits.size and node.size + size >= limits.size)
        ):
            node = Node(id_)
            self.nodes.append(node)
        node.last = id_
        node.total += 1
        node.live += 1
        node.size += size
        return entry

    def range(
        self, low: int, high: int, count: int = -1, *, backwards: bool = False
    ) -> list[Entry]:
        """Return the entries from one id to another, both included.

        Args:
            low: The lowest id.
            high: The highest id.
            count: The most entries to return; below 0: all.
            backwards: Whether to begin with the highest.
        """
        listed, entries = self.ids, self.entries
        start, end = bisect_left(listed, low), bisect_right(listed, high)
        if backwards:
            if 0 <= count < end - start:
                start = end - count
            return [entries[id_] for id_ in reversed(listed[start:end])]
        if 0 <= count < end - start:
            end = start + count
        return [entries[id_] for id_ in listed[start:end]]

    def delete(self, id_: int) -> bool:
        """Delete an entry, if it exists."""
        if self.entries.pop(id_, None) is None:
            return False
        del self.ids[bisect_left(self.ids, id_)]
        place = bisect_right(self.nodes, id_, key=_first) - 1
        node = self.nodes[place]
        node.live -= 1
        if not node.live:
            del self.nodes[place]
        self.max_deleted = max(self.max_deleted, id_)
        return True

    def trim(self, how: Trim) -> int:
        """Trim, and return the number of deleted entries."""
        gone = 0
        nodes = self.nodes
        whole = 0
        for node in nodes:
            if not self._node_goes(node, how, gone):
                break
            if how.limit and gone + node.live > how.limit:
                break
            gone += node.live
            whole += 1
        del nodes[:whole]
        if not how.whole:
            extra = self._excess(how) - gone
            if extra > 0:
                nodes[0].live -= extra
                gone += extra
        for id_ in self.ids[:gone]:
            del self.entries[id_]
        del self.ids[:gone]
        return gone

    def _node_goes(self, node: Node, how: Trim, gone: int) -> bool:
        if how.most is None:
            return node.last < how.floor
        return len(self.ids) - gone - node.live >= how.most

    def _excess(self, how: Trim) -> int:
        """Return the number of entries that are to go exactly."""
        if how.most is None:
            return bisect_left(self.ids, how.floor)
        return max(0, len(self.ids) - how.most)

    def copy(self) -> Stream:
        """Return a copy, which shares nothing that changes."""
        other = Stream()
        other.entries = self.entries.copy()
        other.ids = self.ids.copy()
        other.nodes = [node.copy() for node in self.nodes]
        other.last_id = self.last_id
        other.max_deleted = self.max_deleted
        other.added = self.added
        other.groups = {name: group.copy() for name, group in self.groups.items()}
        return other


def _first(node: Node) -> int:
    return node.first
