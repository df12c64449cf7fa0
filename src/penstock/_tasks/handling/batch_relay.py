"""Batches of messages that one script moves to a list or to another stream.

Each message is pushed and acknowledged in one step, or stays as it is. So the script is
sent again when its reply is lost, as a transaction's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final

from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import WITH_HANDLER
from penstock._core.protocol import relay_script
from penstock._core.protocol.commands import Command
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.relay_script import Push, Relayed
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.fencing import SHARED, Fencing
from penstock._tasks.group import Membership
from penstock._tasks.handling.repeated_script import RepeatedScript, finds_no_group
from penstock.message import Message, Shard

__all__ = ["BatchRelay", "Body", "create_batch_relay", "relay"]

Body = tuple[Message[Any], Sequence[bytes]]
"""A message, and what is pushed for it."""

# A script blocks the server: no more than that goes through one, but for an entry that
# is larger by itself.
_BYTES: Final = 4 * 1024 * 1024
_ENTRIES: Final = 1000
# Lua's stack takes 8,000 words of a command.
_WORDS: Final = 7000


class BatchRelay:
    """Moves batches of one consumer's messages.

    Args:
        connection: The command connection.
        ledger: The consumer's ledger.
        member: The consumer's membership of the group.
        on_gone: Called with a shard whose stream or group does not exist.
        fencing: What outcomes are compared with, where shards are owned.
    """

    def __init__(
        self,
        connection: CommandConnection,
        ledger: Ledger,
        member: Membership,
        *,
        on_gone: Callable[[Shard], None],
        fencing: Fencing = SHARED,
    ) -> None:
        self._ledger = ledger
        self._member = member
        self._fencing = fencing
        self._script = RepeatedScript(connection, ledger)
        self._on_gone = on_gone

    async def relay(
        self, items: Sequence[tuple[Entry, Sequence[bytes]]], push: Push
    ) -> Relayed:
        """Move entries, as far as they are pending; see `relay` of this module."""
        for part in _parts(items):
            reply = await self._relay(part, push)
            if reply.full or reply.failure is not None:
                return reply
        return Relayed()

    async def _relay(
        self, part: Sequence[tuple[Entry, Sequence[bytes]]], push: Push
    ) -> Relayed:
        """Move entries of one shard by one script."""
        entries = [entry for entry, _ in part]
        first = entries[0]
        reply, repeated = await self._script.call(
            partial(self._command, part, push),
            is_void=lambda: first.shard_state.replaced,
        )
        if reply is None:
            reply = Relayed(missing=tuple(entry.id for entry in entries))
        if isinstance(reply, Fenced):
            for entry in entries:
                self._ledger.fenced(entry)
                self._fencing.on_fenced(entry, reply)
            return Relayed()
        refused = isinstance(reply, ErrorReply)
        relayed: Relayed = Relayed(failure=reply) if refused else reply
        if finds_no_group(relayed.failure):
            self._on_gone(first.shard)
        if not (relayed.full or refused):
            self._record(entries, relayed, repeated=repeated)
        return relayed

    def _command(
        self,
        part: Sequence[tuple[Entry, Sequence[bytes]]],
        push: Push,
        whole: bool,  # noqa: FBT001 - given by position
    ) -> Command:
        first, member = part[0][0], self._member
        owner = self._fencing.find(first)
        return relay_script.relay(
            first.shard.key,
            member.group,
            # The owner reads a shard under several names in turn.
            "" if owner is not None else member.name_in(first.shard),
            push,
            [(entry.id, body) for entry, body in part],
            whole=whole,
            owner=owner,
        )

    def _record(
        self, entries: Sequence[Entry], reply: Relayed, *, repeated: bool
    ) -> None:
        """Record in the ledger what the server has done with the entries."""
        missing = set(reply.missing)
        is_done = reply.failure is None or bool(reply.last)
        for entry in entries:
            gone = entry.id in missing
            counters = entry.shard_state.counters
            # An entry from before the group was recreated is delivered again. If it
            # were removed here, no handler would have it then.
            redelivered = gone and not repeated and _precedes(entry)
            if (gone or is_done) and not redelivered and self._ledger.applied(entry):
                if gone and not repeated:
                    counters.lost += 1
                else:
                    counters.acked += 1
            if entry.id == reply.last and reply.failure is not None:
                is_done = False


def create_batch_relay(
    config: ConsumerConfig[Any],
    connection: CommandConnection,
    ledger: Ledger,
    *,
    on_gone: Callable[[Shard], None],
    fencing: Fencing = SHARED,
) -> BatchRelay | None:
    """Create what moves a consumer's batches; None where nothing is acknowledged."""
    if config.member is None or not config.acknowledges:
        return None
    return BatchRelay(
        connection, ledger, config.member, on_gone=on_gone, fencing=fencing
    )


def _precedes(entry: Entry) -> bool:
    state = entry.shard_state
    return not state.replaced and state.precedes_group(entry)


async def relay(bodies: Sequence[Body], push: Push) -> tuple[list[Body], Relayed]:
    """Push messages of one consumer, and acknowledge them, in one step each.

    A message is pushed only if it is pending for this consumer, so it is pushed once,
    however often this is called for it. After lost connections the server is asked
    again until it answers. If this is cancelled, it stays open which messages were
    pushed; those that were are acknowledged too.

    Args:
        bodies: The messages, which a handler has, and what is pushed for each.
        push: Where they go, on the consumer's server.

    Returns:
        The messages that have no outcome yet, and why.

    Raises:
        ClosedError: The consumer has closed.
    """
    settler: Any = bodies[0][0]._settler  # noqa: SLF001 - the consumer's own
    items = [(message._entry, body) for message, body in bodies]  # noqa: SLF001
    reply: Relayed = await settler.batches.relay(items, push)
    left = [each for each, item in zip(bodies, items, strict=True) if _is_left(item[0])]
    return left, reply


def _is_left(entry: Any) -> bool:
    return entry.state in WITH_HANDLER


def _parts(
    items: Sequence[tuple[Entry, Sequence[bytes]]],
) -> Iterator[list[tuple[Entry, Sequence[bytes]]]]:
    """Yield what one script can take: entries of one shard and one ownership."""
    shards = sorted(items, key=lambda item: item[0].shard.key)
    for _, group in groupby(shards, key=lambda item: id(item[0].shard_state)):
        part: list[tuple[Entry, Sequence[bytes]]] = []
        size = words = 0
        for item in group:
            body = item[1]
            more = sum(map(len, body))
            full = size + more > _BYTES or words + len(body) > _WORDS
            if part and (full or len(part) == _ENTRIES):
                yield part
                part, size, words = [], 0, 0
            part.append(item)
            size += more
            words += len(body)
        yield part
