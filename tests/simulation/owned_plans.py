"""Owned plans: groups whose members own the shards of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final, TypeAlias

from simulation.plan import ConsumerPlan, FaultPlan, Plan, StepPlan

__all__ = [
    "AT_ONCE",
    "SHARES",
    "SLOW",
    "consumers",
    "growth",
    "handing_over",
    "is_peaceful",
    "lapsing",
    "operations",
]

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
# Where members are to finish what they handle before a shard is handed over, and where
# leases are to end while something waits for a handler.
_HANDING_OVER: Final = ({"lease": 2.0, "drain": 5.0}, {"lease": 4.0, "drain": 10.0})
_LAPSING: Final = ({"lease": 1.0, "drain": 5.0}, {"lease": 2.0, "drain": 2.0})
_OWNED: Final = {
    "anything": _OPTIONS,
    "handing_over": _HANDING_OVER,
    "lapsing": _LAPSING,
}
# Options by which a consumer may leave handlers alone.
_HURRYING: Final = frozenset(("close_timeout", "dead_letters"))
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
_PEACEFUL: Final = frozenset(
    ("terminate", "slow", "hold_requests", "add_and_delete", "forget_scripts", "grow")
)
# How often shards are added.
_GROWING: Final = 0.25
# How often the members refuse a few shards.
_REFUSING: Final = 0.15
_ENDING: Final = frozenset(
    ("kill 0", "leave 0", "exit 0", "interrupt 0", "block 1.5", "hang 3", "cancel 1")
)
_LONGEST: Final = 5.0
_LATE: Final = frozenset(("slow", "hold_requests"))
# The shortest lease that goes on while requests arrive late.
_SLOW_LEASE: Final = 2.0

SHARES: Final = {"anything": 50, "handing_over": 30, "lapsing": 20}
"""How often each scenario comes, in percent."""
SLOW: Final = ({"sleep 0.3": 0.3}, {"sleep 0.3": 0.05})
"""The tasks of scenarios in which handlers run when a shard is handed over."""


Disturbances: TypeAlias = tuple[list[FaultPlan], list[StepPlan]]
"""Faults, and what an operator does."""


def handing_over(chance: Random, seconds: float) -> Disturbances:
    """Return what hands shards over in order.

    Members come and go, and shards are moved. Requests arrive late, reads after their
    shard was freed among them.
    """
    faults = _at_any_time(chance, seconds, ["terminate"] * chance.choice((0, 3, 6)))
    steps = _operating(chance, seconds, ("move",), chance.choice((0, 6, 12)))
    late = chance.choice((None, "slow", "hold_requests", "hold_requests"))
    if late is not None:
        times = [each.at for each in faults] + [each.at for each in steps]
        begin = [max(0.0, at - chance.uniform(0, 0.3)) for at in times]
        faults += _at(chance, [(at, late) for at in begin])
    return faults, steps


def lapsing(chance: Random, seconds: float) -> Disturbances:
    """Return what ends leases while others take the shards."""
    still = ("freeze", "freeze", "unreachable", "unreachable", "silence", "freeze_all")
    kinds = chance.choices(still, k=chance.choice((3, 6)))
    kinds += chance.choices(("terminate", "slow", "slow"), k=chance.choice((0, 2, 4)))
    steps = _operating(chance, seconds, ("move", "take_away"), chance.choice((0, 0, 3)))
    return _at_any_time(chance, seconds, kinds), steps


def operations(chance: Random, seconds: float) -> list[StepPlan]:
    """Return what an operator does beside faults of all kinds."""
    number = chance.choice((0, 0, 0, 2, 5))
    return _operating(chance, seconds, ("move", "take_away"), number)


def growth(seed: int, seconds: float) -> tuple[int, list[FaultPlan]]:
    """Return how many shards are added, and when.

    It has a chance of its own, so that all else is as if none were added.
    """
    chance = Random(f"growth {seed}")
    if chance.random() >= _GROWING:
        return 0, []
    return chance.choice((1, 1, 3)), _at_any_time(chance, seconds, ["grow"])


def _operating(
    chance: Random, seconds: float, steps: Sequence[str], number: int
) -> list[StepPlan]:
    """Return some steps of an operator, at any time."""
    return sorted(
        (
            StepPlan(
                round(chance.uniform(0, seconds), 3),
                chance.choice(steps),
                chance.randrange(2**16),
            )
            for _ in range(number)
        ),
        key=lambda step: step.at,
    )


def _at_any_time(chance: Random, seconds: float, kinds: list[str]) -> list[FaultPlan]:
    return _at(chance, [(chance.uniform(0, seconds), kind) for kind in kinds])


def _at(chance: Random, faults: list[tuple[float, str]]) -> list[FaultPlan]:
    return [
        FaultPlan(round(at, 4), kind, chance.randrange(2**32)) for at, kind in faults
    ]


def consumers(
    chance: Random, seconds: float, options: dict[str, Any], scenario: str
) -> list[ConsumerPlan]:
    """Return the consumers of a group: some are there first, others join.

    Args:
        chance: Decides.
        seconds: How long faults may happen.
        options: The consumers' options, apart from those of ownership.
        scenario: The scenario, see `SHARES`.
    """
    anything = scenario == "anything"
    style = chance.choice(_STYLES if anything and chance.random() < 0.4 else _COMMON)
    run = dict(chance.choice(_RUN)) if style in _BY_RUN else {}
    owned = chance.choice(_OWNED[scenario])
    if not anything:
        options = {k: v for k, v in options.items() if k not in _HURRYING}
    unnamed = style != "router" and chance.random() < 0.4
    refuses = chance.random() < _REFUSING
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
            refuses=refuses,
        )
        for number in range(chance.choice((1, 2, 2, 3, 4) if anything else (2, 3, 4)))
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
    kinds = {fault.kind for fault in plan.faults}
    steps = {step.what for operator in plan.operators for step in operator.steps}
    return (
        kinds <= _PEACEFUL
        and steps <= {"move"}
        and not tasks & _ENDING
        and not any(
            "close_timeout" in each.options
            or each.options.get("dead_letters") == "stop"
            or each.options["ownership"].get("drain", 30.0) < _LONGEST
            or (
                kinds & _LATE
                and each.options["ownership"].get("lease", 10.0) < _SLOW_LEASE
            )
            or each.style not in AT_ONCE
            for each in plan.consumers
            if each.owned
        )
    )
