"""Swarm: which of the rarer options and workloads a plan has.

Each plan has a few of them only, so that they do not hide each other, and many plans
have none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from simulation.tasks import MORE

__all__ = [
    "Producing",
    "dead_letters",
    "how",
    "operating",
    "policy",
    "producing",
    "retry",
    "styles",
    "tasks",
]

_STYLES: Final = (
    *("lists", "jobs", "cancelling", "reopening", "router"),
    *("race", "direct", "threads"),
)
_ENDING: Final = frozenset(("kill 0", "leave 0", "exit 0", "interrupt 0"))
_OPERATIONS: Final = (
    *("group_state", "trim_acked", "trim_length", "list_dead", "redrive", "redrive"),
    *("purge", "reset_group", "replay", "replay_reverse"),
)


def tasks(chance: Random) -> dict[str, float]:
    """Return the shares of messages with rare tasks."""
    if chance.random() < 0.5:
        return {}
    chosen = chance.sample(MORE, chance.choice((1, 2, 4)))
    # Each of these ends a process or a consumer several times, so there are few.
    return {task: 0.01 if task in _ENDING else 0.03 for task in chosen}


@dataclass
class Producing:
    """What all producers of a plan have in common.

    Attributes:
        facts: Facts of `ProducerPlan`.
        options: Options of `Producer`.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def producing(chance: Random) -> Producing:
    """Return what all producers of a plan have in common."""
    found = Producing()
    if chance.random() < 0.15:
        found.facts["chosen"] = True
    if chance.random() < 0.2:
        found.facts["flushes"] = True
    if chance.random() < 0.15:
        found.facts["cancels"] = True
    options: tuple[dict[str, Any], ...]
    options = ({}, {}, {}, {"max_len": 30}, {"max_age": 3600}, {"close_timeout": 0.0})
    found.options = dict(chance.choice(options))
    return found


def retry(chance: Random) -> dict[str, Any]:
    """Return further options of `Retry`."""
    return dict(chance.choice(({}, {}, {}, {"timeout": 1.0}, {"give_up_on": True})))


def dead_letters(chance: Random) -> dict[str, Any]:
    """Return where messages go that are given up."""
    where = chance.choice((None, None, None, None, "drop", "stop", "graves"))
    return {"dead_letters": where} if where else {}


def styles(chance: Random, common: tuple[str, ...]) -> tuple[str, ...]:
    """Return the styles that the consumers of a group choose from."""
    if chance.random() < 0.5:
        return common
    return (chance.choice(_STYLES),)


def policy(chance: Random, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a group, a few of which acknowledge early."""
    which = chance.choice((*[None] * 10, "delayed", "immediate"))
    if which is None:
        return options
    commit = {**options["commit"], "delay": chance.choice((0.05, 0.5))}
    early = {"auto_commit": which, "commit": commit}
    return {k: v for k, v in options.items() if k != "retry"} | early


def how(chance: Random, style: str, run: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a style."""
    if style in {"run", "router", "reopening", "cancelling", "direct", "threads"}:
        several = style == "run" and chance.random() < 0.2
        return {**run, **({"consumers": 2} if several else {})}
    return {}


def operating(chance: Random, seconds: float) -> list[tuple[float, str, int]]:
    """Return what operators do: when, what, and a number that decides its details."""
    if chance.random() < 0.6:
        return []
    chosen = chance.sample(_OPERATIONS, chance.choice((1, 2, 4)))
    return sorted(
        (
            round(chance.uniform(0, seconds), 3),
            chance.choice(chosen),
            chance.randrange(2**16),
        )
        for _ in range(chance.choice((2, 5, 10)))
    )
