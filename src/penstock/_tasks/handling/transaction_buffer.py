"""The buffer in which a message's transaction collects its commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from penstock import _clock
from penstock._core.ledger.entry import Entry
from penstock._core.messages import envelope
from penstock._core.messages.shard_keys import numbered, single
from penstock._core.protocol.transactions import Applied, Effects
from penstock._core.protocol.trimming import trim_words
from penstock._tasks.unbounded_streams import UnboundedStreams
from penstock.codecs import Codec, encode_any, encoding, unencodable
from penstock.errors import UsageError
from penstock.message import Receipt
from penstock.retention import Retention, retention_of
from penstock.sharding import KeyHash
from penstock.transaction import Arg

__all__ = ["TransactionBuffer"]


class TransactionBuffer:
    """The commands of one transaction, until the transaction is applied.

    Args:
        entry: The message's entry.
        fields: The fields of the entry.
        apply: Applies the transaction, see `Applier.apply`.
        sharder: Returns the hash that spreads streams over a number of shards.
        unbounded: Reports the streams that are sent to without a retention.
    """

    def __init__(
        self,
        entry: Entry,
        fields: Sequence[bytes],
        *,
        apply: Callable[
            [Entry, Sequence[bytes], Effects, Mapping[str, int]],
            Awaitable[tuple[Applied, bool]],
        ],
        sharder: Callable[[int], KeyHash],
        unbounded: UnboundedStreams,
    ) -> None:
        self._entry = entry
        self._fields = fields
        self._apply = apply
        self._sharder = sharder
        self._unbounded = unbounded
        self._effects = Effects(entry.shard.key)
        # The streams that are spread, and the number of their shards.
        self._shards: dict[str, int] = {}
        self.applied: bool | None = None
        self.results: Sequence[Any] = ()
        self.receipts: Sequence[Receipt] = ()

    def send(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None,
        headers: Mapping[str, str] | None,
        codec: Codec[Any] | None,
        field: str | None,
        shards: int | None,
        retention: Retention | None,
    ) -> None:
        """Add a message to be sent."""
        kept = retention_of(retention)
        name = envelope.PAYLOAD if field is None else envelope.field_of(field)
        try:
            body, kind = (encode_any if codec is None else encoding(codec))(payload)
        except UsageError:
            raise
        except Exception as error:
            raise unencodable(payload, error) from error
        fields = envelope.pack(body, key, headers, kind, name)
        shard = single(stream)
        if shards is not None:
            sharder = self._sharder(shards)
            shard = numbered(stream, sharder(stream, key, body))
            self._shards[stream] = shards
        now = int(_clock.wall() * 1000)
        self._effects.send(shard, fields, trim_words(kept, now))
        self._unbounded.check(stream, kept)

    def command(
        self, name: str, args: Sequence[Arg], keys: Iterable[str | bytes] | None
    ) -> None:
        """Add a command."""
        self._effects.command(name, args, keys)

    async def settle(self) -> None:
        """Apply the transaction; see `Applier.apply`."""
        effects = self._effects
        applied, repeated = await self._apply(
            self._entry, self._fields, effects, self._shards
        )
        if applied.pending:
            self.applied, self.results = True, tuple(applied.results)
            self.receipts = tuple(
                Receipt(effect.shard.stream, effect.shard.number, reply)
                for effect, reply in zip(effects.all, self.results, strict=True)
                if effect.shard is not None
            )
        elif not repeated:
            self.applied = False
