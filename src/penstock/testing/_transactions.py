"""Transactions of messages without a server: they are checked and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock import _clock
from penstock._core.handling.settlement import check_open
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.protocol.transactions import Applied, Effects
from penstock._tasks.handling.transaction_buffer import TransactionBuffer
from penstock._tasks.send_hooks import SendHooks
from penstock._tasks.unbounded_streams import UnboundedStreams
from penstock.codecs import Codec
from penstock.message import Receipt
from penstock.retention import Retention
from penstock.sharding import KeyHash
from penstock.transaction import Arg, Transaction

__all__ = ["RecordedTransaction", "RecordedTransactions", "Sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was sent.

    Attributes:
        stream: The stream's name.
        payload: The payload, as it was passed to the call.
        key: Its key, or None.
        headers: Its headers, as they were passed to the call.
        receipt: Its receipt; None in a transaction, and ignored in comparisons.
    """

    stream: str
    payload: Any
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    receipt: Receipt | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class RecordedTransaction:
    """A transaction of a message.

    Attributes:
        sent: The messages that it sends, in order.
        commands: Its commands, each with its arguments, in order.
        applied: Whether it was applied: its block was left without an exception.
    """

    sent: list[Sent] = field(default_factory=list)
    commands: list[tuple[Any, ...]] = field(default_factory=list)
    applied: bool = False


class RecordedTransactions:
    """Begins the transactions of a message, and applies them to nothing.

    Args:
        ledger: Holds the message's entry.
        hooks: The functions that see each message first; None if there are none.

    Attributes:
        begun: The transactions, in the order of their beginning.
    """

    def __init__(self, ledger: Ledger, hooks: SendHooks | None) -> None:
        self._ledger = ledger
        self._hooks = hooks
        self.begun: list[RecordedTransaction] = []

    def begin(self, entry: Entry, fields: Sequence[bytes]) -> Transaction[Receipt]:
        """Begin a transaction."""
        record = RecordedTransaction()
        self.begun.append(record)
        return Transaction(_Buffer(entry, fields, self._ledger, record, self._hooks))


class _Buffer(TransactionBuffer):
    """Checks the commands of a transaction as the real one does, and records them."""

    def __init__(
        self,
        entry: Entry,
        fields: Sequence[bytes],
        ledger: Ledger,
        record: RecordedTransaction,
        hooks: SendHooks | None,
    ) -> None:
        super().__init__(
            entry,
            fields,
            apply=self._apply_to_nothing,
            sharder=KeyHash,
            unbounded=UnboundedStreams(lambda _: None),
            hooks=hooks,
        )
        self._ledger = ledger
        self._record = record

    def add(
        self,
        stream: str,
        payload: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
        retention: Retention | None,
        *,
        codec: Codec[Any] | None,
        field: str | None,
        shards: int | None,
    ) -> None:
        """Add a message with all its headers."""
        super().add(
            stream,
            payload,
            key,
            headers,
            retention,
            codec=codec,
            field=field,
            shards=shards,
        )
        self._record.sent.append(Sent(stream, payload, key, dict(headers or {})))

    def command(
        self, name: str, args: Sequence[Arg], keys: Iterable[str | bytes] | None
    ) -> None:
        """Add a command."""
        super().command(name, args, keys)
        self._record.commands.append((name, *args))

    async def _apply_to_nothing(
        self,
        entry: Entry,
        _fields: Sequence[bytes],
        effects: Effects,
        _shards: Mapping[str, int],
    ) -> tuple[Applied, bool]:
        """Acknowledge the message; the server's replies are not known."""
        check_open(entry, "the end of its transaction")
        self._ledger.applied(entry)
        self._record.applied = True
        now = int(_clock.wall() * 1000)
        results = [
            None if effect.shard is None else b"%d-%d" % (now, number)
            for number, effect in enumerate(effects.all, 1)
        ]
        return Applied(pending=True, results=results), False
