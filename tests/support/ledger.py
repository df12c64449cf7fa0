"""A ledger that counts its signals, and helpers for the tests of the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import DeadLettered, Disposition, RetryAt
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.limits import LedgerLimits, LedgerSignals
from penstock._core.ledger.pending_acks import AckBatch
from penstock._core.ledger.prefetch_window import PrefetchWindow
from penstock._core.ledger.states import State
from penstock._core.protocol.replies import RawEntry
from penstock.message import Shard
from penstock.options import Ordering

A = Shard("a", 0, b"a")
B = Shard("b", 0, b"b")

NONE, KEY, SHARD = Ordering.NONE, Ordering.KEY, Ordering.SHARD


class Fields(list[bytes]):
    """A field list that can be referenced weakly, to see when it is freed."""


GIVEN_UP = DeadLettered("given up")


def later(due: float = 10.0) -> RetryAt:
    return RetryAt(1.0, due)


class SpyLedger(Ledger):
    """A ledger that counts how often it sent each signal."""

    def __init__(
        self,
        *,
        max_messages: int = 100,
        max_bytes: int = 10**9,
        max_wait: float = 1.0,
        max_pending: int = 1000,
        max_uncommitted: int | None = None,
        max_attempts: int | None = None,
        lease: float = 60.0,
        acks: bool = True,
        strict: bool = False,
        ordering: Ordering = NONE,
        exhausted: Disposition = GIVEN_UP,
    ) -> None:
        self.capacity_signals = 0
        self.outcome_signals = 0
        self.ready_signals = 0
        self.postponed_signals = 0
        self.exhausted: list[Entry] = []
        self._dead_letter_policy = exhausted
        super().__init__(
            PrefetchWindow(max_messages, max_bytes, max_wait),
            LedgerLimits(
                max_pending=max_pending,
                max_uncommitted=max_uncommitted,
                max_attempts=max_attempts,
                lease=lease,
                acknowledges=acks,
                strict=strict,
            ),
            LedgerSignals(
                on_capacity=self._signal_capacity,
                on_outcomes=self._signal_outcomes,
                on_ready=self._signal_ready,
                on_postponed=self._signal_postponed,
                on_exhausted=self._refuse_exhausted,
            ),
        )
        self.order_by(ordering)

    def _signal_capacity(self) -> None:
        self.capacity_signals += 1

    def _signal_outcomes(self) -> None:
        self.outcome_signals += 1

    def _signal_ready(self) -> None:
        self.ready_signals += 1

    def _signal_postponed(self) -> None:
        self.postponed_signals += 1

    def _refuse_exhausted(self, entry: Entry) -> None:
        self.exhausted.append(entry)
        self.refuse(entry, self._dead_letter_policy, entry.fields)

    def read_budget(self, now: float = 0.0) -> int:
        return self.flow.read_budget(now)

    def claim_budget(self, now: float = 0.0) -> int:
        return self.flow.claim_budget(now)

    def read(
        self,
        *ids: int,
        shard: Shard = A,
        key: str | None = None,
        now: float = 0.0,
        rewound: bool = False,
    ) -> int:
        """Receive entries of ten bytes each."""
        tail = [] if key is None else [b"key", key.encode()]
        entries: list[RawEntry] = [[raw(n), [b"msg", b"", *tail]] for n in ids]
        return self.deliveries.received(
            shard, entries, now, 10 * len(ids), rewound=rewound
        )

    def recover(
        self,
        *ids: int,
        attempts: int = 0,
        delivered: bool = False,
        shard: Shard = A,
        key: str | None = None,
        now: float = 0.0,
        claimed: bool = False,
    ) -> int:
        """Recover entries of ten bytes that were started `attempts` times.

        With 0 attempts they were `delivered` and may have been started, or certainly
        were not.
        """
        tail = [] if key is None else [b"key", key.encode()]
        entries: list[RawEntry] = [[raw(n), [b"msg", b"ten byt", *tail]] for n in ids]
        count = attempts + 1 if attempts or delivered else 0
        counts = {raw(n): count for n in ids}
        return self.deliveries.recovered(shard, entries, now, counts, claimed=claimed)

    def take_next(self) -> Entry | None:
        """Take the next entry as workers do, counting its start if it has to be."""
        for entry in self.work.take_counted():
            return entry
        return self.work.take()

    def start_next(self) -> Entry:
        """Take the next entry, which has to exist."""
        entry = self.take_next()
        assert entry is not None
        return entry

    def fail_next(self, disposition: Disposition | None = None) -> Entry:
        """Start the next entry and fail its handler; return the entry."""
        entry = self.start_next()
        self.fail(entry, disposition or later())
        return entry

    def held_entries(self) -> list[Entry]:
        """List the entries that have not left the ledger."""
        shard_states = self.shards.values()
        return [entry for each in shard_states for entry in each.entries.values()]

    def process_next(self, count: int = 1) -> list[Entry]:
        """Start the next entries, and finish them as processed."""
        entries = [self.start_next() for _ in range(count)]
        for entry in entries:
            self.processed(entry)
        return entries


def raw(number: int) -> bytes:
    return b"%d-0" % number


def state_of(entry: Entry) -> State:
    """Return an entry's present state; type checkers remember an earlier one."""
    return entry.state


def known(ledger: Ledger, shard: Shard, id_: bytes) -> bool:
    """Return whether an entry is in the ledger."""
    shard_state = ledger.shards.get(shard.key)
    return shard_state is not None and id_ in shard_state.entries


def ids(entries: Iterable[Entry | None]) -> list[bytes | None]:
    return [None if entry is None else entry.id for entry in entries]


def only(batches: list[AckBatch]) -> AckBatch:
    [batch] = batches
    return batch


def claim(ledger: SpyLedger, *numbers: int) -> int:
    return ledger.recover(*numbers, claimed=True)


def left_unsettled(ledger: SpyLedger, number: int, now: float = 0.0) -> Entry:
    ledger.read(number, now=now)
    entry = ledger.start_next()
    ledger.finish(entry, ack=False)
    return entry
