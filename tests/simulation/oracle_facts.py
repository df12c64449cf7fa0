"""Oracle facts: what the oracle knows of processes and of pending entries."""

from __future__ import annotations

from dataclasses import dataclass

from simulation.plan import ConsumerPlan
from simulation.process import Process

__all__ = ["Entry", "Life"]


@dataclass(eq=False)
class Life:
    """One consumer's process.

    Attributes:
        who: The process.
        name: The consumer's name; empty if Penstock chose it.
        plan: What it does.
        process: The process itself.
        terminated: When it was asked to end.
        closed: Whether the consumer has closed in order.
        refused: Whether it could not release its entries.
    """

    who: str
    name: bytes
    plan: ConsumerPlan
    process: Process
    terminated: float = 0.0
    closed: bool = False
    refused: bool = False

    @property
    def group(self) -> bytes:
        return self.plan.group.encode()

    @property
    def lease(self) -> int:
        """The lease in milliseconds."""
        claim = self.plan.options.get("claim", {})
        return int(claim.get("idle", 60.0) * 1000)

    @property
    def since(self) -> float:
        """When it last stood still."""
        return self.process.loop.frozen_until


@dataclass
class Entry:
    """What is known of a pending entry.

    Attributes:
        holder: The process that has it.
        touched: When it was last delivered or claimed, by the server's clock.
        held_at: Since when.
        lost_by: The process from which it was claimed last.
        kept_since: Since when that had it.
        lost_at: When that was.
        leased_at: When its lease last began on the server.
        lost_lease: When the lease began that ended with that.
        lost_count: How often it had been delivered by then.
        fresh_at: When it was last delivered as a new one.
        starts: How often a handler was started with it, unless closing ended that.
        unknown: How often a start may have been counted of which nothing was seen.
        starters: The processes that started it.
    """

    holder: Life | None = None
    held_at: float = 0.0
    touched: int = 0
    lost_by: Life | None = None
    kept_since: float = 0.0
    lost_at: float = 0.0
    leased_at: float = 0.0
    lost_lease: float = 0.0
    lost_count: int = 0
    fresh_at: float = 0.0
    starts: int = 0
    unknown: int = 0
    starters: tuple[str, ...] = ()
