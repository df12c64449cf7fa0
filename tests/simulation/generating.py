"""Generating: makes up plans from seeds.

Most plans are a bit of everything. Some are scenarios that chance alone would bring too
rarely: bursts, rolling restarts, streams that are written again, calls that race.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from msgspec.structs import replace

from simulation import choices, owned_plans, swarm
from simulation.plan import (
    ConsumerPlan,
    FaultPlan,
    NetworkPlan,
    OperatorPlan,
    Plan,
    ProducerPlan,
    StepPlan,
)

__all__ = ["generate"]

_VERSIONS: Final = ("valkey_9", "valkey_9", "redis_8_2", "redis_7_0", "redis_6_2")
_NETWORKS: Final = (
    NetworkPlan(),
    NetworkPlan(),
    NetworkPlan(delay=0.002, jitter=0.002),
    NetworkPlan(delay=0.03, jitter=0.02),
    NetworkPlan(delay=0.0002, jitter=0.01, pieces=0.5),
)
# Messages of a burst that each of several consumers handles too fast to count, and the
# seconds between two bursts.
_BURST: Final = 300
_PERIOD: Final = 1.0
_FAST: Final = {"concurrency": 4}
_STYLES: Final = ("run", "loop", "next", "take", "batches", "storm")


# The share of plans whose consumers own the shards.
_OWNED: Final = 0.15
# How often each other scenario comes, in percent.
_SHARES: Final = {
    "anything": 74,
    "flood": 6,
    "rolling": 12,
    "rewriting": 4,
    "racing": 4,
}


def generate(
    seed: int,
    kinds: dict[str, list[str]],
    steps: list[str],
    *,
    owned: bool | None = None,
) -> Plan:
    """Make up a plan.

    Args:
        seed: Decides the plan.
        kinds: The names of faults by family.
        steps: The names of steps.
        owned: Whether the shards are owned; None: the seed decides.
    """
    generator = _Generator(Random(seed), kinds, steps)
    if owned is None:
        # By a number of its own, so that all other seeds bring the plans they brought.
        owned = Random(f"owned {seed}").random() < _OWNED
    return generator.owned_plan(seed) if owned else generator.plan(seed)


class _Generator:
    def __init__(
        self, chance: Random, kinds: dict[str, list[str]], steps: list[str]
    ) -> None:
        self._chance = chance
        self._kinds = kinds
        self._steps = steps
        self._tasks: dict[str, float] = {}
        self._producing = swarm.Producing()

    def plan(self, seed: int) -> Plan:
        """Make up a plan whose consumers share the shards."""
        plan = self._empty(seed, (0, 0, 1, 2, 3))
        (scenario,) = self._chance.choices([*_SHARES], [*_SHARES.values()])
        parts = getattr(self, f"_{scenario}")(plan.seconds, plan.shards)
        return replace(plan, **parts)

    def owned_plan(self, seed: int) -> Plan:
        """Make up a plan whose consumers own the shards."""
        plan, chance = self._empty(seed, (1, 2, 3, 3, 5)), self._chance
        options = self._common()
        del options["claim"]
        shares = owned_plans.SHARES
        (scenario,) = chance.choices([*shares], [*shares.values()])
        if scenario == "anything":
            faults = self._faults(plan.seconds)
            steps = owned_plans.operations(chance, plan.seconds)
        else:
            self._tasks = chance.choice(owned_plans.SLOW)
            disturb = getattr(owned_plans, scenario)
            faults, steps = disturb(chance, plan.seconds)
        consumers = owned_plans.consumers(chance, plan.seconds, options, scenario)
        grows, growing = owned_plans.growth(seed, plan.seconds)
        return replace(
            plan,
            grows=grows,
            consumers=tuple(consumers),
            producers=tuple(self._producers(plan.seconds, plan.shards)),
            operators=(OperatorPlan("admin", tuple(steps)),) if steps else (),
            faults=(*faults, *growing),
        )

    def _empty(self, seed: int, shards: tuple[int, ...]) -> Plan:
        chance = self._chance
        seconds = chance.choice((5.0, 10.0, 20.0))
        number = chance.choice(shards)
        self._tasks = swarm.tasks(chance)
        self._producing = swarm.producing(chance)
        return Plan(
            seed=seed,
            version=chance.choice(_VERSIONS),
            network=chance.choice(_NETWORKS),
            shards=number,
            seconds=seconds,
        )

    def _anything(self, seconds: float, shards: int) -> dict[str, Any]:
        """Make up a bit of everything."""
        return {
            "consumers": tuple(self._consumers(seconds)),
            "producers": tuple(self._producers(seconds, shards)),
            "operators": tuple(self._operators(seconds)),
            "faults": tuple(self._faults(seconds)),
        }

    def _rewriting(self, seconds: float, shards: int) -> dict[str, Any]:
        """Make up streams that are written again.

        Acknowledgements of old entries are under way when new ones come.
        """
        return {
            "consumers": tuple(self._resumable(seconds)),
            "producers": tuple(self._producers(seconds, shards)),
            "faults": tuple(self._repeated("write_again", seconds)),
        }

    def _racing(self, seconds: float, shards: int) -> dict[str, Any]:
        """Make up calls that are cancelled when they are woken, and nothing else.

        Only where nothing else happens nobody else wakes the calls that wait.
        """
        burst = self._chance.choice((3, 10))
        producer = ProducerPlan(
            name="bursts",
            how="nowait",
            count=6 * burst,
            rate=burst / 3,
            burst=burst,
            tasks={"ok": 0.97},
            options={"shards": shards} if shards else {},
        )
        options = self._common()
        if self._chance.random() < 0.8:
            # Where no start is counted, one call wakes the next as it ends.
            del options["retry"], options["prefetch"]
            options["auto_commit"] = "immediate"
        consumer = ConsumerPlan("racing", "shared", style="race", options=options)
        return {"consumers": (consumer,), "producers": (producer,)}

    def _producers(self, seconds: float, shards: int) -> list[ProducerPlan]:
        chance = self._chance
        return [
            ProducerPlan(
                name=f"p{number}",
                how=chance.choice(
                    ("enqueue", "enqueue", "send", "send_many", "nowait", "outlet")
                ),
                count=chance.choice((10, 40, 40, 150)),
                rate=chance.choice((5.0, 20.0, 20.0, 100.0)),
                burst=chance.choice((1, 1, 1, 10)),
                keys=chance.choice((1, 3, 20)),
                at=chance.choice((0.0, 0.0, chance.uniform(0, seconds / 2))),
                tasks=self._tasks,
                **self._producing.facts,
                options={
                    **({"shards": shards} if shards else {}),
                    **self._producing.options,
                    **chance.choice(
                        (
                            {},
                            {},
                            {"linger": 0.02},
                            {"resend": True},
                            {"idempotent": True},
                            {"idempotent": True},
                            {"max_batch": 3, "max_in_flight": 2},
                            {"send_timeout": 2.0},
                        )
                    ),
                },
            )
            for number in range(chance.choice((1, 1, 2, 2, 3)))
        ]

    def _flood(self, seconds: float, shards: int) -> dict[str, Any]:
        """Make up bursts that two consumers handle too fast to count each start."""
        common = {**self._common(), "claim": self._chance.choice(choices.CLAIMS[:3])}
        consumers = tuple(
            ConsumerPlan(f"shared{number}", "shared", options=common, run=_FAST)
            for number in range(2)
        )
        producer = ProducerPlan(
            name="flood",
            how="nowait",
            count=_BURST * 5,
            rate=_BURST / _PERIOD,
            burst=_BURST,
            keys=100,
            tasks={"ok": 0.97},
            options={"shards": shards} if shards else {},
        )
        # Consumers that stand still while a burst comes have to notice that.
        faults = tuple(
            replace(each, at=_PERIOD * (1 + int(each.at) % 4) - each.at % 0.3)
            for each in self._repeated("freeze", 5.0)
        )
        return {"consumers": consumers, "producers": (producer,), "faults": faults}

    def _rolling(self, seconds: float, shards: int) -> dict[str, Any]:
        """Make up restarts that interrupt handlers."""
        self._tasks = {**self._tasks, "sleep 0.3": 0.2}
        options = {
            **self._common(),
            "close_timeout": self._chance.choice((0.0, 0.0, 1.0)),
        }
        # It is made when the consumer closes.
        commit = StepPlan(seconds * 10, "commit")
        shared = [
            replace(each, style="run", options=options, run=_FAST, steps=(commit,))
            for each in self._shared(seconds)
        ]
        faults = self._repeated("terminate", seconds)
        if self._chance.random() < 0.7:
            # Outcomes that are on their way when a consumer closes.
            faults += [
                FaultPlan(max(0.0, each.at - 0.1), "client_pause", each.seed)
                for each in faults
            ]
        return {
            "consumers": (*shared, *self._resumable(seconds)),
            "producers": tuple(self._producers(seconds, shards)),
            "faults": tuple(faults),
        }

    def _operators(self, seconds: float) -> list[OperatorPlan]:
        steps = swarm.operating(self._chance, seconds)
        found = [StepPlan(at, what, argument) for at, what, argument in steps]
        return [OperatorPlan("admin", tuple(found))] if found else []

    def _consumers(self, seconds: float) -> list[ConsumerPlan]:
        chance = self._chance
        found: list[ConsumerPlan] = []
        kinds = chance.sample(
            ("shared", "resumable", "keyed", "realtime", "transactions"),
            chance.choice((1, 1, 2, 3)),
        )
        for kind in kinds:
            found += getattr(self, f"_{kind}")(seconds)
        return found

    def _common(self) -> dict[str, Any]:
        return choices.common(self._chance)

    def _steps_of(self, seconds: float) -> tuple[StepPlan, ...]:
        chance = self._chance
        count = chance.choice((0, 0, 1, 3, 8))
        return tuple(
            StepPlan(
                round(chance.uniform(0, seconds), 3),
                chance.choice(self._steps),
                chance.randrange(2**16),
            )
            for _ in range(count)
        )

    def _shared(self, seconds: float) -> list[ConsumerPlan]:
        chance = self._chance
        run = chance.choice(
            (
                {"concurrency": 1},
                {"concurrency": 4},
                {"concurrency": 8, "ordering": "key"},
                {"concurrency": 3, "ordering": "shard"},
            )
        )
        styles = swarm.styles(chance, ("run", "run", *_STYLES))
        options = swarm.policy(chance, self._common())
        return [
            ConsumerPlan(
                name=f"shared{number}",
                group="shared",
                style=(style := chance.choice(styles)),
                at=chance.choice((0.0, 0.0, chance.uniform(0, seconds))),
                options={**self._policy(style), **options},
                run=swarm.how(chance, style, run),
                steps=self._steps_of(seconds),
                cancels=chance.random() < 0.1,
            )
            for number in range(chance.choice((1, 2, 3)))
        ]

    def _policy(self, style: str) -> dict[str, Any]:
        if style in {"next", "take", "storm"} and self._chance.random() < 0.4:
            return {"auto_commit": self._chance.choice(("rolling", "disabled"))}
        return {}

    def _one(self, name: str, seconds: float, **how: Any) -> list[ConsumerPlan]:
        options = {"mode": "resumable", **self._common(), **how.pop("options", {})}
        steps = self._steps_of(seconds)
        return [
            ConsumerPlan(name=name, group=name, options=options, steps=steps, **how)
        ]

    def _resumable(self, seconds: float) -> list[ConsumerPlan]:
        style = self._chance.choice(swarm.styles(self._chance, _STYLES))
        policy = self._policy(style)
        return self._one("one", seconds, style=style, options=policy)

    def _keyed(self, seconds: float) -> list[ConsumerPlan]:
        run = {"concurrency": self._chance.choice((2, 8)), "ordering": "key"}
        return self._one("keyed", seconds, run=run)

    def _realtime(self, seconds: float) -> list[ConsumerPlan]:
        options = {"mode": "realtime", "start": "earliest"}
        style = self._chance.choice(("run", "loop", "next", "take"))
        return [ConsumerPlan(name="realtime", group="", style=style, options=options)]

    def _transactions(self, seconds: float) -> list[ConsumerPlan]:
        options = self._common()
        return [
            ConsumerPlan(
                name=f"tx{number}",
                group="tx",
                style="transactions",
                options=options,
                run={"concurrency": self._chance.choice((1, 4))},
                steps=self._steps_of(seconds),
            )
            for number in range(self._chance.choice((1, 2)))
        ]

    def _repeated(self, kind: str, seconds: float) -> list[FaultPlan]:
        """Make up one kind of fault for one process after the other."""
        chance = self._chance
        return [
            FaultPlan(
                round(chance.uniform(0, seconds), 4), kind, chance.randrange(2**32)
            )
            for _ in range(chance.choice((3, 6)))
        ]

    def _faults(self, seconds: float) -> list[FaultPlan]:
        chance = self._chance
        families = ["network", "processes", "server", "groups"]
        # What loses messages excuses much, so only some runs have it.
        if chance.random() < 0.3:
            families.append("losses")
        chosen = chance.sample(families, chance.randint(1, len(families)))
        kinds = [kind for family in chosen for kind in self._kinds[family]]
        # Few kinds of faults meet more often than many.
        if chance.random() < 0.5:
            kinds = chance.sample(kinds, min(len(kinds), chance.randint(1, 5)))
        found: list[FaultPlan] = []
        if chance.random() < 0.05:
            return found
        if chance.random() < 0.25:
            kind = chance.choice(("kill", "terminate", "terminate"))
            found += self._repeated(kind, seconds)
        at = chance.uniform(0, 2)
        pace = chance.choice((0.3, 1.0, 3.0))
        while at < seconds and len(found) < 30:
            kind = chance.choice(kinds)
            found.append(FaultPlan(round(at, 4), kind, chance.randrange(2**32)))
            at += chance.expovariate(1 / pace)
        return found
