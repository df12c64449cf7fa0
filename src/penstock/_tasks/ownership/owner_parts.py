"""Owner parts: what all shard owners of a consumer share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from penstock._connection.command_connection import CommandConnection
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.removals import Released
from penstock._tasks.ownership.callbacks import Callbacks
from penstock._tasks.ownership.owned_shards import OwnedMembership
from penstock._tasks.ownership.shard_readers import ShardReaders
from penstock.events import OnEvent

__all__ = ["OwnerParts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerParts:
    """What all shard owners of a consumer share.

    Attributes:
        connection: The command connection.
        member: The consumer's membership of the group.
        ledger: The consumer's ledger.
        readers: The readers of owned shards.
        callbacks: Calls the user's functions.
        start: The id after which a group delivers that had to be created again.
        lease: The lease of a shard in seconds.
        drain: How long handlers may go on when a shard is given up, in seconds.
        spawn: Runs a task in the background.
        release: Tells the server about entries that leave without an outcome.
        on_draining: Called with how many more shards are given up, or -1.
        on_startable: Called when handlers of a shard may start.
        on_change: Called when something may be due at another time.
        on_name_in_use: Called when another process has this member's name.
        on_event: Receives what happens.
    """

    connection: CommandConnection
    member: OwnedMembership
    ledger: Ledger
    readers: ShardReaders
    callbacks: Callbacks
    start: bytes
    lease: float
    drain: float
    spawn: Callable[[Callable[[], Awaitable[None]]], None]
    release: Callable[[Sequence[Released]], Awaitable[None]]
    on_draining: Callable[[int], None]
    on_startable: Callable[[], None]
    on_change: Callable[[], None]
    on_name_in_use: Callable[[], None]
    on_event: OnEvent

    @property
    def lease_ms(self) -> int:
        """The lease in milliseconds."""
        return int(self.lease * 1000)
