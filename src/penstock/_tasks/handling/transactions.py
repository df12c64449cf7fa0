"""Applying: a message's transaction is run by the server, once.

By a script that does nothing unless the message is pending. So when its reply is lost
it is sent again as it was, over any number of reconnects, until there is an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from penstock._connection.reconnect import CommandConnection
from penstock._core.handling.settlement import check_open
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.messages import dead_letter, envelope
from penstock._core.messages.shard_keys import numbered, single
from penstock._core.protocol import commands, scripts
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.protocol.transactions import (
    Applied,
    CommandFailure,
    Effects,
    refused,
)
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.group import Membership
from penstock._tasks.handling.failures import FailureHandler, wall_clock
from penstock._tasks.lifetime import LoopBinding
from penstock.codecs import Codec, encode_any, encoding, unencodable
from penstock.errors import (
    ClosedError,
    ConnectionLost,
    TransactionBroken,
    TransactionFailed,
    UsageError,
)
from penstock.events import Event, OnEvent
from penstock.message import Receipt
from penstock.retries import DeadLetters
from penstock.sharding import KeyHash
from penstock.transaction import Arg, Transaction

__all__ = ["Applier", "applier"]

# What is refused, and what the user can do about it.
_HINTS: Final = {
    "NOGROUP": "the group is gone and is made anew; the message comes again",
    "CROSSSLOT": "in a cluster all keys of a transaction need one hash tag, as in "
    "'{orders}' and '{orders}:totals'",
    "OOM": "it is tried again as the handler is; give the server more memory, or keep "
    "less",
}
_NO_SCRIPTS: Final = (
    "this user needs EVAL and EVALSHA, the commands in the transaction and their keys; "
    "where scripts are forbidden, leave transaction() out and tell repeated messages "
    "by their id"
)
_HINT: Final = "the message is tried again as its handler is"


class Applier:
    """Has transactions of one consumer's messages applied.

    Args:
        connection: The command connection.
        ledger: Has the messages.
        member: The group's.
        dead: The name of the dead letters' stream, with `{stream}` in it for the
            message's own; None if there are none.
        drop: Without dead letters, whether what is given up is acknowledged.
        reject: Gives a message up.
        on_event: Told of what was applied in part.
    """

    def __init__(
        self,
        connection: CommandConnection,
        ledger: Ledger,
        member: Membership,
        *,
        dead: str | None,
        drop: bool,
        reject: Callable[[Entry, Sequence[bytes], str], None],
        on_event: OnEvent,
    ) -> None:
        self._binding = LoopBinding("consumer")
        self._connection = connection
        self._ledger = ledger
        self._member = member
        self._dead = dead
        self._drop = drop
        self._reject = reject
        self._on_event = on_event
        # By the number of shards: messages without a key go round.
        self._sharders: dict[int, KeyHash] = {}
        # Whether the server has been given the script.
        self._given = False

    def begin(self, entry: Entry, fields: Sequence[bytes]) -> Transaction[Receipt]:
        """Begin a transaction."""
        return Transaction(TransactionBuffer(self, entry, fields))

    def sharder(self, shards: int) -> KeyHash:
        """Give what spreads a stream over so many shards."""
        if shards not in self._sharders:
            self._sharders[shards] = KeyHash(shards)
        return self._sharders[shards]

    async def apply(
        self, entry: Entry, fields: Sequence[bytes], effects: Effects
    ) -> tuple[Applied, bool]:
        """Have a transaction applied; gives what came of it, and if it was sent twice.

        Cancelling it leaves open whether it is applied.

        Raises:
            UsageError: The message has an outcome, or this is another event loop or
                thread than the consumer's.
            ClosedError: The consumer has closed.
            TransactionFailed: It was refused, and nothing was applied.
            TransactionBroken: It was refused after a part of it.
        """
        self._binding.check()
        check_open(entry, "the end of its transaction")
        repeated, reply = False, None
        while reply is None:
            if self._ledger.closed:  # there will be no connection any more
                raise ClosedError("consumer")
            if entry.shard_state.replaced:
                # An entry of this id is another message, in a recreated stream.
                return Applied(pending=False), repeated
            try:
                self._connection.check()
            except ConnectionLost as error:
                # Until the consumer closes, which closes the link.
                with suppress(ConnectionLost):
                    await self._connection.restore(error.reason)
                continue
            try:
                reply = await self._ask(entry, effects)
            except ConnectionLost:
                repeated = True
        applied = refused(reply) if isinstance(reply, ErrorReply) else reply
        if not repeated:
            _check_pending(entry, applied)
        self._book(entry, applied, repeated=repeated)
        if applied.failure is not None:
            self._fail(entry, fields, applied, applied.failure, len(effects.all))
        return applied, repeated

    async def _ask(self, entry: Entry, effects: Effects) -> Any:
        """Send it; gives the reply, None if the server has forgotten the script."""
        command = self._command(entry, effects)
        self._given, given = True, self._given
        [reply] = await self._connection.calls([command])
        if given and isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT":
            self._given = False
            return None
        return reply

    def _command(self, entry: Entry, effects: Effects) -> commands.Command:
        dead, member, shard = None, self._member, entry.shard
        behind: Sequence[bytes] = ()
        if self._dead is not None:
            dead = self._dead.replace("{stream}", shard.stream).encode()
            origin = dead_letter.Origin(
                shard=shard,
                id=entry.id.decode(),
                group=member.group,
                consumer=member.name,
                attempts=entry.deliveries,
                reason="",
                error=TransactionBroken.__name__,
                traceback="",
                time=wall_clock(),
            )
            behind = dead_letter.write((), origin)
        return scripts.apply(
            shard.key,
            member.group,
            entry.id,
            effects,
            dead=dead,
            behind=behind,
            reason=dead_letter.REASON,
            drop=self._drop,
            whole=not self._given,
        )

    def _book(self, entry: Entry, applied: Applied, *, repeated: bool) -> None:
        """Tell the ledger what the server has done with the message."""
        failure, counters = applied.failure, self._ledger.counters
        if failure is not None and not failure.buried:
            return
        if not self._ledger.applied(entry):
            return  # it was somebody else's by our books
        if failure is not None:
            counters.dead += not self._drop
            counters.dropped += self._drop
        elif applied.pending or repeated:
            counters.acked += 1
        else:
            counters.lost += 1

    def _fail(
        self,
        entry: Entry,
        fields: Sequence[bytes],
        applied: Applied,
        failure: CommandFailure,
        total: int,
    ) -> None:
        stream, id_, reply = entry.shard.stream, entry.id.decode(), failure.reply
        if not applied.done:
            hint = _HINTS.get(reply.code)
            if hint is None:
                fatal = reply.trouble is ErrorKind.FATAL
                hint = _NO_SCRIPTS if fatal else _HINT
            raise TransactionFailed(stream, id_, reply.code, reply.text, hint)
        error = TransactionBroken(
            stream,
            id_,
            applied=applied.done,
            total=total,
            code=reply.code,
            reason=reply.text,
        )
        facts = {
            "stream": ascii(stream),
            "id": id_,
            "attempt": entry.deliveries,
            "applied": applied.done,
            "total": total,
            "reply": reply.text,
        }
        self._on_event(Event("transaction_broken", logging.ERROR, facts))
        if not failure.buried:
            self._reject(entry, fields, f"its transaction broke: {reply.text}")
        raise error


def applier(
    config: ConsumerConfig[Any],
    connection: CommandConnection,
    ledger: Ledger,
    failure_handler: FailureHandler,
) -> Applier | None:
    """Make a consumer's; None where nothing can be acknowledged."""
    if config.member is None or not config.acks:
        return None
    return Applier(
        connection,
        ledger,
        config.member,
        dead=config.dead_letters if config.dead_letter_policy is None else None,
        drop=config.dead_letter_policy is DeadLetters.DROP,
        reject=failure_handler.reject,
        on_event=config.on_event,
    )


class TransactionBuffer:
    """What one transaction has gathered.

    Args:
        applier: Has it applied.
        entry: The message's.
        fields: Its fields.
    """

    def __init__(self, applier: Applier, entry: Entry, fields: Sequence[bytes]) -> None:
        self._applier = applier
        self._entry = entry
        self._fields = fields
        self._effects = Effects(entry.shard.key)
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
        shards: int | None,
    ) -> None:
        """Take in a message to be sent."""
        try:
            body, kind = (encode_any if codec is None else encoding(codec))(payload)
        except UsageError:
            raise
        except Exception as error:
            raise unencodable(payload, error) from error
        fields = envelope.pack(body, key, headers, kind)
        shard = single(stream)
        if shards is not None:
            sharder = self._applier.sharder(shards)
            shard = numbered(stream, sharder(stream, key, body))
        self._effects.send(shard, fields)

    def command(
        self, name: str, args: Sequence[Arg], keys: Iterable[str | bytes] | None
    ) -> None:
        """Take in a command."""
        self._effects.command(name, args, keys)

    async def settle(self) -> None:
        """Have it applied; see `Applier.apply`."""
        effects = self._effects
        applied, repeated = await self._applier.apply(
            self._entry, self._fields, effects
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


def _check_pending(entry: Entry, applied: Applied) -> None:
    """Check that a message that is not pending was acknowledged by somebody.

    Raises:
        TransactionFailed: Its group was recreated, and is about to be given the message
            again. To let go of it here would leave it pending for nobody who works.
    """
    recreated = entry.shard_state.group_recreated_at > entry.leased_at
    if recreated and not applied.pending and applied.failure is None:
        text = "NOGROUP the group was recreated, and has not been given the message yet"
        reply = ErrorReply(text)
        hint = _HINTS[reply.code]
        stream, id_ = entry.shard.stream, entry.id.decode()
        raise TransactionFailed(stream, id_, reply.code, reply.text, hint)
