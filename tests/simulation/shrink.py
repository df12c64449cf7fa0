"""Shrinking: the smallest plan that can be found which still shows a finding.

Any change of a plan changes the whole schedule, so a smaller plan may need another seed
to show the same. Each candidate is tried with a few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec.structs import replace

from simulation.plan import ConsumerPlan, NetworkPlan, Plan, ProducerPlan

__all__ = ["shrink"]

_SEEDS: Final = 4


def shrink(plan: Plan, fails: Callable[[Plan], bool], seconds: float) -> Plan:
    """Return the smallest plan found that fails.

    Args:
        plan: A plan that fails.
        fails: Carries out a plan, and returns whether it shows the finding.
        seconds: The time to spend.
    """
    end = time.perf_counter() + seconds
    smaller: Plan | None = plan
    while smaller is not None:
        plan, smaller = smaller, _smaller(smaller, fails, end)
    return plan


def _smaller(plan: Plan, fails: Callable[[Plan], bool], end: float) -> Plan | None:
    for candidate in _candidates(plan):
        for seed in range(_SEEDS):
            if time.perf_counter() > end:
                return None
            tried = replace(candidate, seed=plan.seed + seed)
            if fails(tried):
                return tried
    return None


def _candidates(plan: Plan) -> Iterator[Plan]:
    """Yield smaller plans, those that drop most first."""
    for name in ("faults", "operators", "consumers", "producers"):
        for rest in _without_some(getattr(plan, name)):
            if rest or name in {"faults", "operators"}:
                yield replace(plan, **{name: rest})
    for number, operator in enumerate(plan.operators):
        for steps in _without_some(operator.steps):
            fewer = replace(operator, steps=steps)
            yield replace(plan, operators=_put(plan.operators, number, fewer))
    for number, producer in enumerate(plan.producers):
        for smaller in _smaller_producers(producer):
            yield replace(plan, producers=_put(plan.producers, number, smaller))
    for number, consumer in enumerate(plan.consumers):
        for simpler in _simpler_consumers(consumer):
            yield replace(plan, consumers=_put(plan.consumers, number, simpler))
    if plan.shards:
        yield _without_shards(plan)
    yield from _simpler(plan, network=NetworkPlan(), version="valkey_9")
    if plan.seconds > 2:
        yield replace(plan, seconds=plan.seconds / 2)


def _without_shards(plan: Plan) -> Plan:
    producers = [
        replace(each, options={k: v for k, v in each.options.items() if k != "shards"})
        for each in plan.producers
    ]
    return replace(plan, shards=0, producers=tuple(producers))


def _without_some(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield a sequence without some of its items, from many to one."""
    size = len(items)
    while size:
        for start in range(0, len(items), size):
            yield items[:start] + items[start + size :]
        size //= 2


def _put(items: tuple[Any, ...], number: int, item: Any) -> tuple[Any, ...]:
    return (*items[:number], item, *items[number + 1 :])


def _smaller_producers(producer: ProducerPlan) -> Iterator[ProducerPlan]:
    if producer.count > 1:
        yield replace(producer, count=producer.count // 2)
        yield replace(producer, count=producer.count - 1)
    for options in _without_each(producer.options):
        yield replace(producer, options=options)
    for tasks in _without_each(producer.tasks):
        yield replace(producer, tasks=tasks)
    yield from _simpler(
        producer,
        how="enqueue",
        burst=1,
        keys=1,
        at=0.0,
        chosen=False,
        flushes=False,
        cancels=False,
    )


def _simpler_consumers(consumer: ConsumerPlan) -> Iterator[ConsumerPlan]:
    for steps in _without_some(consumer.steps):
        yield replace(consumer, steps=steps)
    for options in _without_each(consumer.options):
        yield replace(consumer, options=options)
    yield from _simpler(consumer, at=0.0, cancels=False)


def _without_each(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in options:
        # Without these, other messages are for the consumer, or elsewhere.
        if name not in {"mode", "start", "shards", "ownership"}:
            yield {key: value for key, value in options.items() if key != name}


def _simpler(value: Any, **simple: Any) -> Iterator[Any]:
    """Yield a value with one attribute replaced by a simple one, if it has another."""
    for name, simplest in simple.items():
        if getattr(value, name) != simplest:
            yield replace(value, **{name: simplest})
