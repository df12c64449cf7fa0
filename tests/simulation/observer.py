"""Observer: sees in the server's own data what groups have done with entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from faults.history import Acked, DeadLettered, Pending, Stored, digest
from faults.task import parse
from simulation.journal import Journal
from simulation.server import ids
from simulation.server.groups import Group
from simulation.server.server import Server
from simulation.server.streams import Stream

__all__ = ["Observer"]


class Observer:
    """Records what is acknowledged while a run goes on, and what is left at its end.

    Args:
        server: The server.
        keys: The keys of the stream's shards, in their order.
        groups: The names of the groups.
        journal: Where it records what it sees.
    """

    def __init__(
        self,
        server: Server,
        keys: Sequence[str],
        groups: Iterable[str],
        journal: Journal,
    ) -> None:
        self._server = server
        self._keys = [key.encode() for key in keys]
        self._groups = [group.encode() for group in groups]
        self._journal = journal
        # By shard and group, the entries that are known to be done with.
        self._done: dict[tuple[int, bytes], set[int]] = {}
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

    def look(self) -> None:
        """Record what has been acknowledged since the last look."""
        for number, key in enumerate(self._keys):
            stream = self.stream(key)
            if stream is None:
                continue
            for name in self._groups:
                group = stream.groups.get(name)
                if group is not None:
                    self._look(number, name, stream, group)

    def _look(self, number: int, name: bytes, stream: Stream, group: Group) -> None:
        done = self._done.setdefault((number, name), set())
        pending = group.pending.by_id
        new = [
            id_
            for id_ in stream.ids
            if id_ <= group.last_id
            and id_ not in pending
            and id_ not in done
            and id_ in stream.entries
        ]
        if new:
            done.update(new)
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

    def stored(self, key: str) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return the entries of a stream: id and fields."""
        stream = self.stream(key.encode())
        if stream is None:
            return []
        return [
            (
                entry.name.decode(),
                dict(zip(entry.fields[::2], entry.fields[1::2], strict=True)),
            )
            for entry in stream.entries.values()
        ]

    def conclude(self, dead: str) -> None:
        """Record what there is in the end.

        Args:
            dead: The key of the dead letters.
        """
        for number, key in enumerate(self._keys):
            for id_, fields in self.stored(key.decode()):
                payload = fields[b"msg"]
                self._journal.add(
                    Stored,
                    shard=number,
                    id=id_,
                    message=parse(payload).message,
                    key=fields.get(b"key", b"").decode(),
                    digest=digest(payload),
                )
        for name, number, id_ in self.waiting():
            self._journal.add(Pending, group=name, shard=number, id=id_)
        for _, fields in self.stored(dead):
            self._journal.add(DeadLettered, **_dead_letter(fields))


def _dead_letter(fields: dict[bytes, bytes]) -> dict[str, Any]:
    payload = fields.get(b"msg", b"")
    return {
        "group": fields[b"dead.group"].decode(),
        "shard": int(fields[b"dead.shard"]),
        "id": fields[b"dead.id"].decode(),
        "message": parse(payload).message,
        "digest": digest(payload),
    }
