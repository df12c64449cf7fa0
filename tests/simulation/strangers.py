"""Strangers: other programs that write to the streams, and what the oracle is told."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from faults.history import Attempt, Receipt, digest
from faults.task import make
from penstock._core.messages import shard_record

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["Stranger"]


class Stranger:
    """Writes entries as another program does.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._count = 0
        self._shards = run.plan.shards
        self._chance = Random(f"{run.plan.seed} stranger")

    def without_payload(self, number: int, key: str) -> None:
        """Write an entry that has no payload."""
        name = self._name()
        fields = ("sender", name, "x", b"\xff", "x", "")
        id_ = self._write(key, "*", *fields)
        if id_ is not None:
            self._record(name, number, id_, b"")

    def message(self, number: int, key: str, id_: str, own: bytes = b"") -> None:
        """Write a message with more fields than Penstock's, some of one name.

        Args:
            number: The shard's number.
            key: The shard's key.
            id_: The entry's id.
            own: The message's key.
        """
        name = self._name()
        payload = make(name, self._chance)
        fields = ("colour", "red", "msg", payload, "msg", "another", "colour", "")
        keyed = ("key", own) if own else ()
        written = self._write(key, id_, *keyed, *fields)
        if written is not None:
            self._record(name, number, written, payload, own)

    def _name(self) -> str:
        self._count += 1
        return f"foreign-{self._count}"

    def record_shards(self, key: str) -> None:
        """Record the shards, if that was lost: without it nobody has to read them.

        Args:
            key: The key of one of them.
        """
        stream, _, number = key.rpartition(":")
        if self._shards and number.isdecimal():
            record = shard_record.dump(self._shards, "", 0.0)
            self._run.direct.call("SET", shard_record.key(stream), record, "NX")

    def grow(self) -> None:
        """Record all shards that there are to be."""
        self._shards = len(self._run.keys) if self._run.plan.shards else 0
        stream, _, number = self._run.keys[0].rpartition(":")
        if self._shards and number.isdecimal():
            record = shard_record.dump(self._shards, "", 0.0)
            self._run.direct.call("SET", shard_record.key(stream), record)

    def _write(self, key: str, id_: str, *fields: str | bytes) -> str | None:
        self.record_shards(key)
        reply = self._run.direct.call("XADD", key, id_, *fields)
        return reply.decode() if isinstance(reply, bytes) else None

    def _record(
        self, name: str, number: int, id_: str, payload: bytes, own: bytes = b""
    ) -> None:
        facts = {"key": own.decode(), "digest": digest(payload)}
        self._run.journal.add(Attempt, message=name, **facts)
        self._run.journal.add(Receipt, message=name, shard=number, id=id_)
