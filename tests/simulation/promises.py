"""Promises: what holds for the consumers of a group, by their options."""

from __future__ import annotations

from typing import Literal

from faults.checker import Group
from faults.history import Start
from simulation.plan import ConsumerPlan

__all__ = ["policy_of", "promise_of"]


def policy_of(plan: ConsumerPlan) -> str:
    """Return when a consumer acknowledges."""
    return str(plan.options.get("auto_commit", "processed"))


def promise_of(
    name: str, consumers: list[ConsumerPlan], stale: frozenset[Start]
) -> Group:
    """Return what is promised to a group, by the options of its consumers.

    Args:
        name: The group; empty in REALTIME.
        consumers: Its consumers.
        stale: Starts by members which had lost the shard, where shards are owned.
    """
    if not name:
        return Group("realtime", "shard", acks=False)
    policies = {policy_of(each) for each in consumers}
    once = "immediate" in policies
    early = once or "delayed" in policies
    return Group(
        name,
        _order(consumers),
        early=early,
        once=once,
        stale=stale,
        several=any(each.run.get("consumers", 1) > 1 for each in consumers),
    )


def _order(
    consumers: list[ConsumerPlan],
) -> Literal["shard", "key", "key within"] | None:
    first = consumers[0]
    if all(each.owned for each in consumers):
        return _order_of_owned(consumers)
    runs = {"run", "router", "reopening", "direct", "threads"}
    if len(consumers) > 1 or first.options.get("mode") != "resumable":
        keyed = all(
            c.style in runs
            and c.run.get("ordering") in {"key", "shard"}
            and c.run.get("consumers", 1) == 1
            for c in consumers
        )
        return "key within" if keyed else None
    if first.style in runs and first.run.get("ordering") == "key":
        return "key"
    sequential = first.style in {"loop", "next", "take", "batches", "lists"} or (
        first.style in runs and first.run.get("concurrency", 1) == 1
    )
    return "shard" if sequential else None


def _order_of_owned(consumers: list[ConsumerPlan]) -> Literal["shard", "key"] | None:
    """Return the order that holds over all processes of a group with owned shards."""
    orders = {each.run.get("ordering") for each in consumers}
    if None in orders:
        return None
    return "shard" if orders == {"shard"} else "key"
