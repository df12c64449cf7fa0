"""Plants: defects that are put into the client, which the simulator has to find.

Each is a context manager that replaces something of the client for a while. A name that
a module has imported is replaced in that module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha1
from typing import Any, Final, TypeAlias
from unittest.mock import patch

from penstock import _clock
from penstock._connection.request_queue import RequestQueue
from penstock._core.ledger.deliveries import Deliveries
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.pending_acks import AckBatch, PendingAcks
from penstock._core.ledger.retry_queue import RetryQueue
from penstock._core.ledger.states import LOST
from penstock._core.protocol import (
    commands,
    dead_letter_scripts,
    reply_parsing,
    transaction_script,
)
from penstock._core.reading.cursor import Cursor
from penstock._core.sending.idempotence import IdempotentRuns
from penstock._tasks import group, session
from penstock._tasks.committing.committer import Committer
from penstock._tasks.handling.checkouts import Checkouts
from penstock._tasks.handling.failures import FailureHandler
from penstock._tasks.leases.delivery_counts import DeliveryCounts
from penstock._tasks.leases.own_claims import OwnClaims
from penstock._tasks.reading import seek as seeking
from penstock._tasks.reading import shard_health
from penstock._tasks.reading.reader import Reader
from penstock._tasks.reading.reader_pool import ReaderPool
from penstock._tasks.reading.recreated_streams import RecreatedStreams
from penstock._tasks.wakeups import WaiterQueue
from simulation.owned_plants import OWNED_PLANTS

__all__ = ["PLANTS", "planted"]

Plant: TypeAlias = Callable[[], AbstractContextManager[None]]

PLANTS: Final[dict[str, Plant]] = {**OWNED_PLANTS}
"""All planted defects by name."""


def planted(name: str) -> AbstractContextManager[None]:
    """Plant a defect for a while; none if the name is empty.

    Raises:
        ValueError: There is no such defect.
    """
    if not name:
        return nullcontext()
    if name not in PLANTS:
        raise ValueError(f"no plant {name!r}; there are {', '.join(sorted(PLANTS))}")
    return PLANTS[name]()


def _plant(change: Callable[[], Iterator[None]]) -> Plant:
    """Register a defect by the name of its function."""
    plant = PLANTS[change.__name__] = contextmanager(change)
    return plant


# -- leases and attempts ---------------------------------------------------------------


@_plant
def lease_from_booking() -> Iterator[None]:
    """Count a lease from when its entry is recorded, not from the request."""
    received, recovered = Deliveries.received, Deliveries.recovered

    def received_now(
        self: Deliveries, shard: Any, entries: Any, _: float, size: int, **how: Any
    ) -> int:
        return received(self, shard, entries, _clock.boottime(), size, **how)

    def recovered_now(
        self: Deliveries, shard: Any, entries: Any, _: float, counts: Any, **how: Any
    ) -> int:
        return recovered(self, shard, entries, _clock.boottime(), counts, **how)

    with (
        patch.object(Deliveries, "received", received_now),
        patch.object(Deliveries, "recovered", recovered_now),
    ):
        yield


@_plant
def count_without_owner() -> Iterator[None]:
    """Count an attempt, and renew a lease, without asking whose the entry is."""

    def command(self: OwnClaims, _: Any, claim: Any) -> commands.Command:
        key, member = claim.shard.key, self.member
        group, name = member.group, member.name
        return commands.xclaim(key, group, name, claim.ids, idle=0, words=claim.words)

    with patch.object(OwnClaims, "command", command):
        yield


@_plant
def suspect_uncounted() -> Iterator[None]:
    """Start a possible poison message before the server has counted the start."""

    def must_confirm(self: DeliveryCounts, _: Any) -> bool:
        return self._single_attempt

    with patch.object(DeliveryCounts, "_must_confirm", must_confirm):
        yield


@_plant
def interrupted_counts() -> Iterator[None]:
    """Put back what a handler was running on closing as if it had been attempted."""
    interrupted = FailureHandler.interrupted

    def attempted(self: FailureHandler, entry: Any) -> None:
        interrupted(self, entry)
        entry.deliveries += 1

    with patch.object(FailureHandler, "interrupted", attempted):
        yield


# -- acknowledgements and loss ---------------------------------------------------------


@_plant
def other_calls_finished() -> Iterator[None]:
    """Let `next()` finish what all callers hold, instead of its own caller's."""
    check_in = Checkouts.check_in

    def check_in_all(self: Checkouts[Any], caller: Any) -> Any:
        for held in self.by_caller.values():
            if held.on_loop:
                entries, held.entries = held.entries, []
                self._finish_received(held, entries, held.results)
        return check_in(self, caller)

    with patch.object(Checkouts, "check_in", check_in_all):
        yield


@_plant
def old_ids() -> Iterator[None]:
    """Take the ids of a recreated stream for those of the one before."""

    async def is_other(
        _: RecreatedStreams, position: Any, info: Any, **__: Any
    ) -> bool:
        position.identity.describe(info)
        return False

    with patch.object(RecreatedStreams, "_is_other", is_other):
        yield


@_plant
def group_at_end() -> Iterator[None]:
    """Recreate a deleted group at `$`."""
    rejoin = group.rejoin

    async def rejoin_at_end(connection: Any, member: Any, shard: Any, _: bytes) -> Any:
        return await rejoin(connection, member, shard, b"$")

    with patch.object(shard_health, "rejoin", rejoin_at_end):
        yield


@_plant
def reply_not_recovered() -> Iterator[None]:
    """Leave the entries of a lost reply pending, and do not read them again."""
    connected = Cursor.connected

    def connected_only(self: Cursor) -> None:
        with patch.object(self, "recover_again", lambda _: None):
            connected(self)

    with patch.object(Cursor, "connected", connected_only):
        yield


_LETTER: Final = b"local copy = redis.call('XADD', KEYS[2], unpack(ARGV, 4))\n"
_ACKED_FIRST: Final = (
    b"redis.pcall('XACK', KEYS[1], group, id)\n"
    b"local copy = redis.pcall('XADD', KEYS[2], unpack(ARGV, 4))\n"
    b"if type(copy) == 'table' and copy.err then return 1 end\n"
)


@_plant
def acked_before_copy() -> Iterator[None]:
    """Acknowledge a dead letter before its copy is written."""
    script = _changed(dead_letter_scripts.SEND_DEAD_LETTER, _LETTER, _ACKED_FIRST)
    parser = reply_parsing._BY_SCRIPT[dead_letter_scripts.SEND_DEAD_LETTER]
    with (
        _parsed({script: parser}),
        patch.object(dead_letter_scripts, "SEND_DEAD_LETTER", script),
    ):
        yield


@_plant
def ack_forgotten() -> Iterator[None]:
    """Send acknowledgements whose reply was lost not again."""

    def unconfirmed(self: PendingAcks, batch: AckBatch) -> None:
        self.confirmed(batch)

    with patch.object(PendingAcks, "unconfirmed", unconfirmed):
        yield


@_plant
def interrupted_acked() -> Iterator[None]:
    """Acknowledge what a handler was running when closing interrupted it."""

    def acknowledge(self: FailureHandler, entry: Any) -> None:
        self._ledger.finish(entry, ack=True)

    with patch.object(FailureHandler, "interrupted", acknowledge):
        yield


@_plant
def seek_acks_first() -> Iterator[None]:
    """Drop and acknowledge what waits before a seek has set the position."""
    seek = seeking.seek

    async def acks_first(
        connection: Any,
        ledger: Ledger,
        member: Any,
        positions: Sequence[Any],
        place: Any,
        **how: Any,
    ) -> None:
        for position in positions if member is not None else ():
            ledger.removals.drop(position.shard)
            await seeking._ack_unheld(connection, ledger, member, position)
        await seek(connection, ledger, member, positions, place, **how)

    with patch.object(session, "seek", acks_first):
        yield


# -- what is applied or written twice --------------------------------------------------


@_plant
def runs_renumbered() -> Iterator[None]:
    """Give an idempotent send another number whenever it is written."""
    numbered = IdempotentRuns.commands

    def renumbered(
        self: IdempotentRuns, batch: Any, written: Any = ()
    ) -> list[commands.Command]:
        batch.runs = []
        return numbered(self, batch, written)

    with patch.object(IdempotentRuns, "commands", renumbered):
        yield


@_plant
def transaction_again() -> Iterator[None]:
    """Apply a transaction though its message is not pending any more."""
    line = b"if #found == 0 then return {'already'} end\n"
    script = _changed(transaction_script.SCRIPT, line, b"")
    sha = sha1(script, usedforsecurity=False).hexdigest()
    parser = reply_parsing._BY_SCRIPT[transaction_script.SCRIPT]
    with (
        _parsed({script: parser, sha: parser}),
        patch.object(transaction_script, "SCRIPT", script),
        patch.object(transaction_script, "SCRIPT_SHA", sha),
    ):
        yield


def _changed(script: bytes, old: bytes, new: bytes) -> bytes:
    assert script.count(old) == 1, f"the script has no {old!r}"
    return script.replace(old, new)


def _parsed(parsers: dict[Any, Any]) -> AbstractContextManager[Any]:
    """Have the replies of other scripts parsed, too."""
    known = {**reply_parsing._BY_SCRIPT, **parsers}
    return patch.object(reply_parsing, "_BY_SCRIPT", known)


# -- what waits for ever ---------------------------------------------------------------


@_plant
def wake_up_lost() -> Iterator[None]:
    """Let a caller that is cancelled when it was woken wake no other one."""

    async def wait(self: WaiterQueue) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        except asyncio.CancelledError:
            self._waiting.pop(future, None)
            raise

    with patch.object(WaiterQueue, "wait", wait):
        yield


@_plant
def commit_for_ever() -> Iterator[None]:
    """Let `commit()` wait for outcomes that a closed consumer does not send."""

    async def flush(self: Committer) -> None:
        waiting = self._ledger.shards.unconfirmed()
        self.urgent += 1
        try:
            while any(entry.unconfirmed for entry in waiting):
                self._outcomes.set()
                await self._rounds.wait()
        finally:
            self.urgent -= 1

    with patch.object(Committer, "flush", flush):
        yield


@_plant
def lane_not_freed() -> Iterator[None]:
    """Let an entry that was lost while its handler ran keep its lane."""
    finish = Ledger.finish

    def finish_lost(self: Ledger, entry: Any, *, ack: bool) -> None:
        if entry.state is LOST:
            entry.lane = None
        finish(self, entry, ack=ack)

    with patch.object(Ledger, "finish", finish_lost):
        yield


@_plant
def retry_not_timed() -> Iterator[None]:
    """Set no timer for a retry that is due before all others."""
    postpone = RetryQueue._postpone

    def untimed(self: RetryQueue, entry: Any, disposition: Any) -> None:
        notify, self._on_postponed = self._on_postponed, lambda: None
        try:
            postpone(self, entry, disposition)
        finally:
            self._on_postponed = notify

    with patch.object(RetryQueue, "_postpone", untimed):
        yield


# -- replies and connections -----------------------------------------------------------


@_plant
def read_cut() -> Iterator[None]:
    """Cancel a blocked read on closing, and forget that its reply may have entries."""

    async def stop(self: Reader) -> None:
        self._stopping = True
        self.cut()
        await self.ended()

    with (
        patch.object(Reader, "stop", stop),
        patch.object(ReaderPool, "stranded", property(lambda _: ())),
    ):
        yield


@_plant
def replies_shifted() -> Iterator[None]:
    """Forget a request whose caller was cancelled, so that the next gets its reply."""
    received = RequestQueue.received

    def shifted(self: RequestQueue, data: bytes) -> None:
        for request in [each for each in self.waiting if each.future.cancelled()]:
            self.waiting.remove(request)
        received(self, data)

    with patch.object(RequestQueue, "received", shifted):
        yield
