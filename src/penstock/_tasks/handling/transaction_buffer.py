"""The buffer in which a message's transaction collects its commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from penstock import _clock
from penstock._core.ledger.entry import Entry
from penstock._core.messages import envelope
from penstock._core.messages.shard_keys import numbered, single
from penstock._core.protocol.transactions import Applied, Effects
from penstock._core.protocol.trimming import trim_words
from penstock._tasks.send_hooks import Announced, SendHooks
from penstock._tasks.unbounded_streams import UnboundedStreams
from penstock.codecs import Codec, encode_any, encoding, unencodable
from penstock.errors import SendFailed, SendUnknown, UsageError
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
        hooks: The functions that see each message first; None if there are none.
        server: The host and port of the server.
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
        hooks: SendHooks | None = None,
        server: tuple[str, int] | None = None,
    ) -> None:
        self._entry = entry
        self._fields = fields
        self._apply = apply
        self._sharder = sharder
        self._unbounded = unbounded
        self._hooks = hooks
        self._server = server
        # The messages that hooks have seen, in order.
        self._announced: list[Announced] = []
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
        add = partial(self.add, codec=codec, field=field, shards=shards)
        if self._hooks is None:
            add(stream, payload, key, headers, retention)
            return
        announced = self._hooks.announce(
            stream, payload, key, headers, server=self._server
        )
        try:
            add(stream, payload, key, announced.outgoing.headers, retention)
        except BaseException as error:
            announced.settle(error)
            raise
        self._announced.append(announced)

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

    def discard(self, error: BaseException) -> None:
        """Tell the hooks that nothing is sent, because the block raised."""
        for announced in self._announced:
            name = type(error).__name__
            reason = f"its transaction was left by {name}"
            announced.settle(SendFailed(announced.outgoing.stream, "ABORTED", reason))

    async def settle(self) -> None:
        """Apply the transaction; see `Applier.apply`."""
        try:
            await self._settle()
        except Exception as error:
            for announced in self._announced:
                announced.settle(error)
            raise
        except BaseException:
            self._settle_unknown()
            raise
        if self.applied is None:
            self._settle_unknown()
        elif self.applied:
            for announced, receipt in zip(self._announced, self.receipts, strict=False):
                announced.settle(receipt)
        else:
            reason = "its message had been acknowledged before"
            for announced in self._announced:
                stream = announced.outgoing.stream
                announced.settle(SendFailed(stream, "NOT_APPLIED", reason))

    def _settle_unknown(self) -> None:
        reason = "the outcome of its transaction is not known"
        for announced in self._announced:
            announced.settle(SendUnknown(announced.outgoing.stream, reason))

    async def _settle(self) -> None:
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
