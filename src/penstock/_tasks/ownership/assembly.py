"""Assembly of the parts of a consumer that owns shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock._connection.command_connection import CommandConnection
from penstock._connection.reconnect import Connector
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.removals import Released
from penstock._tasks.committing.committer import Committer
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.leases.release import release_entries
from penstock._tasks.ownership.callbacks import Callbacks
from penstock._tasks.ownership.owned_shards import OwnedMembership, OwnedShards
from penstock._tasks.ownership.owned_streams import OwnedStreams
from penstock._tasks.ownership.owner_parts import OwnerParts
from penstock._tasks.ownership.shard_readers import ShardReaders
from penstock._tasks.reading.assignment import Assignment
from penstock._tasks.reading.positions import exclusive_start
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock._tasks.signals import Signals
from penstock.durations import seconds
from penstock.errors import NameInUse
from penstock.events import Event
from penstock.message import EntryId
from penstock.options import Start

__all__ = ["OwnershipParts", "make_owned_streams", "with_owned_shards"]


def with_owned_shards(config: ConsumerConfig[Any]) -> ConsumerConfig[Any]:
    """Return a configuration whose membership has a name for each owned shard."""
    member = config.member
    if config.ownership is None or member is None:
        return config
    owned = OwnedMembership(
        member.group,
        member.name,
        mkstream=member.mkstream,
        noack=member.noack,
        owned=OwnedShards(member.group),
    )
    lease = seconds(config.ownership.options.lease, "Owned(lease)")
    return replace(config, member=owned, lease=lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipParts:
    """The parts of a consumer that its ownership needs.

    Attributes:
        connector: Makes connections.
        connection: The command connection.
        ledger: The ledger.
        claims: Claims entries of owned shards.
        committer: Sends outcomes.
        assignment: The positions in the shards.
        readers: The readers.
        signals: Who is woken by what.
        stop: Called with an error after which nothing more is handed out.
    """

    connector: Connector
    connection: CommandConnection
    ledger: Ledger
    claims: OwnClaims
    committer: Committer
    assignment: Assignment
    readers: ReaderPool
    signals: Signals
    stop: Callable[[BaseException], None]


def make_owned_streams(
    config: ConsumerConfig[Any], parts: OwnershipParts
) -> OwnedStreams | None:
    """Create the ownership of a consumer; None if it shares its shards."""
    member, cursors = config.member, parts.assignment.owned
    if (
        config.ownership is None
        or cursors is None
        or not isinstance(member, OwnedMembership)
    ):
        return None
    options = config.ownership.options
    callbacks = Callbacks(config.ownership.callbacks, config.on_event)
    readers = ShardReaders(parts.connector, parts.readers, cursors)

    def make_parts(streams: OwnedStreams) -> OwnerParts:
        return OwnerParts(
            connection=parts.connection,
            member=member,
            ledger=parts.ledger,
            readers=readers,
            callbacks=callbacks,
            start=_start(config),
            lease=config.lease,
            drain=seconds(options.drain, "Owned(drain)"),
            spawn=streams.spawn,
            release=release,
            on_draining=_Draining(streams, parts).changed,
            on_startable=startable,
            on_change=streams.changed,
            on_name_in_use=name_in_use,
            on_event=config.on_event,
        )

    async def release(released: Sequence[Released]) -> None:
        await release_entries(
            parts.connection,
            parts.claims,
            released,
            member,
            idle=config.lease,
            on_event=config.on_event,
        )

    def startable() -> None:
        streams.startable()
        parts.signals.renewed()

    def name_in_use() -> None:
        facts = {"group": member.group, "consumer": member.name}
        config.on_event(Event("name_in_use", logging.ERROR, facts))
        parts.stop(NameInUse(member.group, member.name))

    streams = OwnedStreams(
        options,
        connection=parts.connection,
        member=member,
        ledger=parts.ledger,
        callbacks=callbacks,
        make_parts=make_parts,
        static=config.ownership.static,
    )
    parts.signals.restored.connect(streams.changed)
    parts.signals.ready.connect(streams.look)
    parts.assignment.on_more = streams.found
    return streams


class _Draining:
    """Has outcomes sent at once while any shard is given up.

    Args:
        streams: Check after each outcome whether a shard is drained.
        parts: The parts of the consumer.
    """

    def __init__(self, streams: OwnedStreams, parts: OwnershipParts) -> None:
        self._look = streams.look
        self._parts = parts
        self._shards = 0

    def changed(self, number: int) -> None:
        """Record that some more shards are given up, or with -1 that one is done."""
        self._shards += number
        watchers = self._parts.ledger.watchers
        self._parts.committer.urgent += number
        if self._shards:
            watchers[self._look] = None
        else:
            watchers.pop(self._look, None)
        self._parts.signals.outcomes()


def _start(config: ConsumerConfig[Any]) -> bytes:
    """Return the id after which the group of a shard delivers if it was deleted."""
    start = config.start
    start = Start.EARLIEST if start is Start.LATEST else start
    return exclusive_start(start, EntryId.MIN)
