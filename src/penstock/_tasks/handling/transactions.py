"""Transactions: the server applies a message's transaction once.

A script applies it, and does nothing unless the message is pending. So when its reply
is lost, the same script call is sent again, across any number of reconnects, until
there is a reply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.handling.settlement import check_open
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.messages import dead_letter
from penstock._core.protocol import transaction_script
from penstock._core.protocol.commands import Command
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.protocol.transactions import (
    Applied,
    CommandFailure,
    Effects,
    refused,
)
from penstock._core.protocol.trimming import trim_arguments
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.fencing import SHARED, Fencing
from penstock._tasks.group import Membership
from penstock._tasks.handling.failures import FailureHandler, wall_clock
from penstock._tasks.handling.repeated_script import RepeatedScript, finds_no_group
from penstock._tasks.handling.transaction_buffer import TransactionBuffer
from penstock._tasks.loop_binding import LoopBinding
from penstock._tasks.send_hooks import SendHooks
from penstock._tasks.shard_checks import ShardChecks
from penstock._tasks.unbounded_streams import UnboundedStreams
from penstock.errors import (
    TransactionBroken,
    TransactionFailed,
)
from penstock.events import Event, OnEvent
from penstock.message import Receipt, Shard
from penstock.retention import Retention
from penstock.retries import DeadLetters
from penstock.sharding import KeyHash
from penstock.transaction import Transaction

__all__ = ["Applier", "create_applier"]

# What the user can do about a refusal, by the code of the error reply.
_HINTS: Final = {
    "NOGROUP": "the group was deleted and is being recreated; the message will be "
    "redelivered",
    "CROSSSLOT": "in a cluster, all keys of a transaction need the same hash tag, as "
    "in '{orders}' and '{orders}:totals'",
    "OOM": "it is retried when the handler is; give the server more memory, or store "
    "less",
}
_NO_SCRIPTS: Final = (
    "this user needs EVAL and EVALSHA, the commands in the transaction and their "
    "keys; where scripts are forbidden, leave transaction() out and recognize "
    "repeated messages by their id"
)
_HINT: Final = "it is retried when the handler is"


class Applier:
    """Applies the transactions of one consumer's messages.

    Args:
        connection: The command connection.
        ledger: The consumer's ledger.
        member: The consumer's membership of the group.
        dead: The name of the dead letters' stream, with `{stream}` in it for the
            message's own; None if there are none.
        dead_retention: How much of that stream is kept; None keeps everything.
        drop: Without dead letters, whether a message that is given up is acknowledged.
        reject: Called to give a message up.
        on_event: Called to report a transaction that was applied in part.
        on_gone: Called with a shard whose stream or group does not exist.
        fencing: What outcomes are compared with, where shards are owned.
        hooks: The functions that see each message first; None if there are none.
        server: The host and port of the server.
    """

    def __init__(
        self,
        connection: CommandConnection,
        ledger: Ledger,
        member: Membership,
        *,
        dead: str | None,
        dead_retention: Retention | None,
        drop: bool,
        reject: Callable[[Entry, Sequence[bytes], str], None],
        on_event: OnEvent,
        on_gone: Callable[[Shard], None],
        fencing: Fencing = SHARED,
        hooks: SendHooks | None = None,
        server: tuple[str, int] | None = None,
    ) -> None:
        self._binding = LoopBinding("consumer")
        self._connection = connection
        self._ledger = ledger
        self._member = member
        self._dead = dead
        self._dead_retention = dead_retention
        self._drop = drop
        self._reject = reject
        self._on_event = on_event
        self._fencing = fencing
        self._hooks = hooks
        self._server = server
        self._unbounded = UnboundedStreams(on_event)
        # By the number of shards. Kept, because messages without a key take turns over
        # the shards.
        self._sharders: dict[int, KeyHash] = {}
        self._shard_checks = ShardChecks(on_event)
        self._script = RepeatedScript(connection, ledger)
        self._on_gone = on_gone

    def begin(self, entry: Entry, fields: Sequence[bytes]) -> Transaction[Receipt]:
        """Begin a transaction."""
        return Transaction(
            TransactionBuffer(
                entry,
                fields,
                apply=self.apply,
                sharder=self.sharder,
                unbounded=self._unbounded,
                hooks=self._hooks,
                server=self._server,
            )
        )

    def sharder(self, shards: int) -> KeyHash:
        """Return the hash that spreads a stream over a number of shards."""
        if shards not in self._sharders:
            self._sharders[shards] = KeyHash(shards)
        return self._sharders[shards]

    async def apply(
        self,
        entry: Entry,
        fields: Sequence[bytes],
        effects: Effects,
        shards: Mapping[str, int],
    ) -> tuple[Applied, bool]:
        """Apply a transaction; return its result, and whether it was sent repeatedly.

        If this is cancelled, it stays open whether the transaction is applied.

        Args:
            entry: The message's entry.
            fields: The fields of the entry.
            effects: What the transaction does.
            shards: The number of shards of each stream that it spreads.

        Raises:
            UsageError: The message has an outcome, or this is another event loop or
                thread than the consumer's.
            ClosedError: The consumer has closed.
            ShardsDiffer: A stream is recorded with another number of shards; nothing
                was applied.
            TransactionFailed: The transaction was refused, and nothing was applied.
            TransactionBroken: The transaction was refused after a part of it.
        """
        self._binding.check()
        check_open(entry, "the end of its transaction")
        reply, repeated = await self._script.call(
            partial(self._command, entry, effects),
            is_void=lambda: entry.shard_state.replaced,
            prepare=partial(self._check_shards, shards) if shards else None,
        )
        if reply is None:
            return Applied(pending=False), repeated
        if isinstance(reply, Fenced):
            self._ledger.fenced(entry)
            self._fencing.on_fenced(entry, reply)
            return Applied(pending=False), repeated
        applied = refused(reply) if isinstance(reply, ErrorReply) else reply
        if not repeated:
            _check_pending(entry, applied)
        self._record(entry, applied, repeated=repeated)
        if applied.failure is not None:
            if finds_no_group(applied.failure.reply):
                self._on_gone(entry.shard)
            self._raise_failure(
                entry, fields, applied, applied.failure, len(effects.all)
            )
        return applied, repeated

    async def _check_shards(self, shards: Mapping[str, int]) -> None:
        """Check that streams are spread as their records say; see `ShardChecks`."""
        for stream, number in shards.items():
            self._shard_checks.use(stream, number, KeyHash.__name__)
        if not self._shard_checks.pending:
            return
        for error in await self._shard_checks.compare(self._connection.calls):
            if error.stream in shards:
                raise error

    def _command(self, entry: Entry, effects: Effects, whole: bool) -> Command:  # noqa: FBT001
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
        return transaction_script.apply(
            shard.key,
            member.group,
            entry.id,
            effects,
            dead=dead,
            behind=behind,
            reason=dead_letter.REASON,
            trim=trim_arguments(self._dead_retention, int(_clock.wall() * 1000)),
            drop=self._drop,
            whole=whole,
            owner=self._fencing.find(entry),
        )

    def _record(self, entry: Entry, applied: Applied, *, repeated: bool) -> None:
        """Record in the ledger what the server has done with the message."""
        failure, counters = applied.failure, entry.shard_state.counters
        if failure is not None and not failure.settled:
            return
        if not self._ledger.applied(entry):
            return  # by the ledger, this delivery no longer counts
        if failure is not None:
            if self._drop:
                counters.dropped += 1
            else:
                counters.count_dead_letter(entry.handler, "rejected")
        elif applied.pending or repeated:
            counters.acked += 1
        else:
            counters.lost += 1

    def _raise_failure(
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
                fatal = reply.kind is ErrorKind.FATAL
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
            "stream": stream,
            "id": id_,
            "attempt": entry.deliveries,
            "applied": applied.done,
            "total": total,
            "reply": reply.text,
        }
        self._on_event(Event("transaction_broken", logging.ERROR, facts))
        if not failure.settled:
            self._reject(entry, fields, f"its transaction broke: {reply.text}")
        raise error


def create_applier(
    config: ConsumerConfig[Any],
    connection: CommandConnection,
    ledger: Ledger,
    failure_handler: FailureHandler,
    *,
    on_gone: Callable[[Shard], None],
    fencing: Fencing = SHARED,
    server: tuple[str, int] | None = None,
) -> Applier | None:
    """Create a consumer's applier; None where nothing can be acknowledged."""
    if config.member is None or not config.acknowledges:
        return None
    return Applier(
        connection,
        ledger,
        config.member,
        dead=config.dead_letters if config.dead_letter_policy is None else None,
        dead_retention=config.dead_letter_retention,
        drop=config.dead_letter_policy is DeadLetters.DROP,
        reject=failure_handler.reject,
        on_event=config.on_event,
        on_gone=on_gone,
        fencing=fencing,
        hooks=SendHooks.of(config.on_send, config.on_event),
        server=server,
    )


def _check_pending(entry: Entry, applied: Applied) -> None:
    """Check that a message that is not pending was acknowledged.

    Raises:
        TransactionFailed: The group was recreated, and is about to deliver the message
            again. If the ledger dropped the entry here, the message would stay pending
            and no handler would have it.
    """
    recreated = entry.shard_state.precedes_group(entry)
    if recreated and not applied.pending and applied.failure is None:
        text = "NOGROUP the group was recreated, and has not delivered the message yet"
        reply = ErrorReply(text)
        hint = _HINTS[reply.code]
        stream, id_ = entry.shard.stream, entry.id.decode()
        raise TransactionFailed(stream, id_, reply.code, reply.text, hint)
