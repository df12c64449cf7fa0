"""Owned plans: groups whose members own the shards of a stream."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulation.plan import ConsumerPlan, Plan, StepPlan

__all__ = ["AT_ONCE", "consumers", "is_peaceful"]

AT_ONCE: Final = frozenset(
    ("run", "router", "loop", "next", "transactions", "direct", "threads", "reopening")
)
"""Styles that handle a message in the moment in which it is handed out."""
_OPTIONS: Final[tuple[dict[str, Any], ...]] = (
    {"lease": 2.0, "drain": 2.0},
    {"lease": 2.0, "drain": 2.0},
    {"lease": 1.0, "drain": 5.0},
    {"lease": 4.0, "drain": 0.1},
    {"lease": 2.0, "drain": 5.0, "settle": 1.0},
)
_RUN: Final = (
    {"concurrency": 1, "ordering": "key"},
    {"concurrency": 4, "ordering": "key"},
    {"concurrency": 8, "ordering": "key"},
    {"concurrency": 4, "ordering": "shard"},
    {"concurrency": 4},
)
_COMMON: Final = ("run", "run", "direct", "threads")
_STYLES: Final = (
    *("loop", "next", "take", "batches", "lists", "storm", "race"),
    *("reopening", "cancelling", "router", "transactions", "threads", "direct"),
)
_STEPS: Final = ("pause", "commit", "commit_cancelled", "lag", "lag_cancelled")
_BY_RUN: Final = frozenset(
    ("run", "direct", "threads", "router", "reopening", "cancelling", "transactions")
)
# Faults after which nothing is handled twice, if handlers end in time; the tasks that
# keep them from that; and the longest time that the others take.
_PEACEFUL: Final = frozenset(("terminate", "slow", "add_and_delete", "forget_scripts"))
_ENDING: Final = frozenset(
    ("kill 0", "leave 0", "exit 0", "interrupt 0", "block 1.5", "hang 3", "cancel 1")
)
_LONGEST: Final = 5.0


def consumers(
    chance: Random, seconds: float, options: dict[str, Any]
) -> list[ConsumerPlan]:
    """Return the consumers of a group: some are there first, others join.

    Args:
        chance: Decides.
        seconds: How long faults may happen.
        options: The consumers' options, apart from those of ownership.
    """
    style = chance.choice(_COMMON if chance.random() < 0.6 else _STYLES)
    run = dict(chance.choice(_RUN)) if style in _BY_RUN else {}
    owned = chance.choice(_OPTIONS)
    unnamed = style != "router" and chance.random() < 0.4
    group = "tx" if style == "transactions" else "owned"
    return [
        ConsumerPlan(
            name=f"member{number}",
            group=group,
            style=style,
            at=chance.choice((0.0, 0.0, round(chance.uniform(0, seconds), 3))),
            options={
                **options,
                "ownership": {**owned, "weight": chance.choice((1, 1, 1, 2))},
            },
            run=run,
            steps=_steps(chance, seconds),
            cancels=chance.random() < 0.1,
            unnamed=unnamed,
        )
        for number in range(chance.choice((1, 2, 2, 3, 4)))
    ]


def _steps(chance: Random, seconds: float) -> tuple[StepPlan, ...]:
    return tuple(
        StepPlan(
            round(chance.uniform(0, seconds), 3),
            chance.choice(_STEPS),
            chance.randrange(2**16),
        )
        for _ in range(chance.choice((0, 0, 0, 2)))
    )


def is_peaceful(plan: Plan) -> bool:
    """Return whether members come and go in order, and handlers end in time.

    Then nothing is handled twice in owned shards.
    """
    tasks = {task for each in plan.producers for task in each.tasks}
    return (
        {fault.kind for fault in plan.faults} <= _PEACEFUL
        and not tasks & _ENDING
        and not any(
            "close_timeout" in each.options
            or each.options.get("dead_letters") == "stop"
            or each.options["ownership"].get("drain", 30.0) < _LONGEST
            or each.style not in AT_ONCE
            for each in plan.consumers
            if each.owned
        )
    )
