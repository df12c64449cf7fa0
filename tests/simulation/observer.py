"""Observer: sees in the server's own data what groups have done with entries."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from faults.history import Acked, DeadLettered, Pending, Stored, digest
from faults.task import parse
from simulation.journal import Journal
from simulation.server import ids
from simulation.server.groups import Group
from simulation.server.server import Server
from simulation.server.streams import Entry, Stream

__all__ = ["Observer", "message_of"]


class Observer:
    """Records what is acknowledged while a run goes on, and what is left at its end.

    Args:
        server: The server.
        keys: The keys of the stream's shards, in their order.
        groups: The names of the groups.
        dead: The keys of dead letters.
        journal: Where it records what it sees.
    """

    def __init__(
        self,
        server: Server,
        keys: Sequence[str],
        groups: Iterable[str],
        dead: Iterable[str],
        journal: Journal,
    ) -> None:
        self._server = server
        self._keys = [key.encode() for key in keys]
        self._groups = [group.encode() for group in groups]
        self._journal = journal
        self._letters = [_Letters(key.encode()) for key in dead]
        self._progress: dict[tuple[int, bytes], _Progress] = {}
        # Called after each command that may have taken or freed an owned shard.
        self.on_script: Callable[[], None] | None = None
        self.follow(server)

    def follow(self, server: Server) -> None:
        """Observe another server from now on."""
        self._server.on_executed = None
        self._server = server
        server.on_executed = self._executed

    def stream(self, key: bytes) -> Stream | None:
        """Return a stream; None if the key has none."""
        value = self._server.database(0).find(key)
        return value if isinstance(value, Stream) else None

    def group(self, key: bytes, name: bytes) -> Group | None:
        """Return a group, if there is one."""
        stream = self.stream(key)
        return None if stream is None else stream.groups.get(name)

    def _executed(self, words: Sequence[bytes]) -> None:
        """Look at once after commands that may acknowledge."""
        if words[0].upper() in {b"XACK", b"EVAL", b"EVALSHA", b"EXEC"}:
            self.look()
            if self.on_script is not None:
                self.on_script()

    def look(self) -> None:
        """Record what was dead-lettered or acknowledged since the last look."""
        for letters in self._letters:
            stream = self.stream(letters.key)
            for entry in letters.new(stream) if stream is not None else ():
                self._journal.add(DeadLettered, **_dead_letter(_fields(entry)))
        for number, key in enumerate(self._keys):
            stream = self.stream(key)
            if stream is None:
                continue
            for name in self._groups:
                group = stream.groups.get(name)
                if group is not None:
                    self._look(number, name, stream, group)

    def _look(self, number: int, name: bytes, stream: Stream, group: Group) -> None:
        progress = self._progress.get((number, name))
        if progress is None:
            progress = self._progress[number, name] = _Progress()
        if new := progress.finished(stream, group):
            self._journal.add(
                Acked,
                group=name.decode(),
                shard=number,
                ids=[ids.text(id_).decode() for id_ in new],
            )

    def waiting(self) -> list[tuple[str, int, str]]:
        """Return what groups have not done yet: group, shard and id."""
        found = []
        for number, key in enumerate(self._keys):
            stream = self.stream(key)
            for name in self._groups:
                group = None if stream is None else stream.groups.get(name)
                last = group.last_id if group else 0
                left = [*group.pending.by_id] if group else []
                if stream is not None:
                    left += [id_ for id_ in stream.entries if id_ > last]
                text = name.decode()
                found += [
                    (text, number, ids.text(id_).decode()) for id_ in sorted(left)
                ]
        return found

    def missing(self) -> list[str]:
        """Return the groups that some shard does not have, and REALTIME.

        REALTIME stands for consumers without a group.
        """
        found = ["realtime"]
        for name in self._groups:
            streams = [s for s in map(self.stream, self._keys) if s is not None]
            if any(name not in stream.groups for stream in streams):
                found.append(name.decode())
        return found

    def stored(self, key: str) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return the entries of a stream: id and fields."""
        stream = self.stream(key.encode())
        if stream is None:
            return []
        entries = stream.entries.values()
        return [(entry.name.decode(), _fields(entry)) for entry in entries]

    def names(self) -> list[str]:
        """Return the shard and id of all entries, as excuses name them."""
        return [
            f"{number} {id_}"
            for number, key in enumerate(self._keys)
            for id_, _ in self.stored(key.decode())
        ]

    def next_id(self, key: str) -> str:
        """Return the lowest id that an entry of a stream can get."""
        stream = self.stream(key.encode())
        return ids.text(stream.last_id + 1 if stream else 1).decode()

    def conclude(self) -> None:
        """Record what there is in the end."""
        self.look()
        for number, key in enumerate(self._keys):
            for id_, fields in self.stored(key.decode()):
                self._journal.add(
                    Stored,
                    shard=number,
                    id=id_,
                    message=message_of(fields),
                    key=fields.get(b"key", b"").decode(),
                    digest=digest(fields.get(b"msg", b"")),
                )
        for name, number, id_ in self.waiting():
            self._journal.add(Pending, group=name, shard=number, id=id_)


class _Progress:
    """What a group has done with the entries of one shard."""

    def __init__(self) -> None:
        self._group: Group | None = None
        # The entries that are known to be done with; those that were pending at the
        # last look; and up to which id these are complete.
        self._done: set[int] = set()
        self._pending: list[int] = []
        self._last = 0

    def finished(self, stream: Stream, group: Group) -> list[int]:
        """Return the entries that are done with and were not at the last look."""
        if group is not self._group or group.last_id < self._last:
            # Another group, or one that was rewound.
            self._group, self._pending, self._last = group, [], 0
        given, pending = self._pending, group.pending.by_id
        if group.last_id > self._last:
            begin = bisect_right(stream.ids, self._last)
            given += stream.ids[begin : bisect_right(stream.ids, group.last_id)]
            self._last = group.last_id
        self._pending = [id_ for id_ in given if id_ in pending]
        if len(self._pending) == len(given):
            return []
        done = self._done
        new = [
            id_
            for id_ in given
            if id_ not in pending and id_ not in done and id_ in stream.entries
        ]
        done.update(new)
        return new


class _Letters:
    """The dead letters of one stream that were seen so far."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._seen: set[int] = set()
        self._stream: Stream | None = None
        self._last = 0

    def new(self, stream: Stream) -> list[Entry]:
        """Return the dead letters that were not seen before."""
        if stream is not self._stream or stream.last_id < self._last:
            # Another one, or older data: some of it may have been seen.
            self._stream, self._last = stream, 0
        if stream.last_id == self._last:
            return []
        at = bisect_right(stream.ids, self._last)
        found = [
            stream.entries[id_]
            for id_ in stream.ids[at:]
            if id_ in stream.entries and id_ not in self._seen
        ]
        self._last = stream.last_id
        self._seen.update(entry.id for entry in found)
        return found


def _fields(entry: Entry) -> dict[bytes, bytes]:
    """Return the fields of an entry; of those with one name the first."""
    pairs = zip(entry.fields[::2], entry.fields[1::2], strict=True)
    return dict(reversed([*pairs]))


def message_of(fields: dict[bytes, bytes]) -> str:
    """Return the name of a message, also of one without a payload."""
    if b"msg" not in fields:
        return fields[b"sender"].decode()
    return parse(fields[b"msg"]).message


def _dead_letter(fields: dict[bytes, bytes]) -> dict[str, Any]:
    return {
        "group": fields[b"dead.group"].decode(),
        "shard": int(fields[b"dead.shard"]),
        "id": fields[b"dead.id"].decode(),
        "message": message_of(fields),
        "digest": digest(fields.get(b"msg", b"")),
    }
