"""Plan: everything that a run does, as a value that can be stored, shrunk and replayed.

A plan and its seed determine a run completely. `simulation.generating` makes up plans.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = [
    "REOPENING",
    "ConsumerPlan",
    "FaultPlan",
    "NetworkPlan",
    "OperatorPlan",
    "Plan",
    "ProducerPlan",
    "StepPlan",
]


REOPENING: Final = frozenset(("router", "reopening", "cancelling"))
"""Styles that have several consumers, or open one again and again."""


class StepPlan(msgspec.Struct, frozen=True):
    """Something that a consumer's process does beside handling messages.

    Attributes:
        at: Seconds since the process began.
        what: The name of a step, see `simulation.steps`.
        argument: A number that decides its details.
    """

    at: float
    what: str
    argument: int = 0


class ConsumerPlan(msgspec.Struct, frozen=True):
    """One consumer's process.

    Attributes:
        name: The process, and the consumer if it has a fixed name.
        group: The group; empty in REALTIME.
        style: How it takes messages, see `simulation.programs.STYLES`.
        at: When it starts, in seconds.
        options: Options of `Consumer`.
        run: Options of the style, for example those of `Consumer.run`.
        steps: What it does besides.
        cancels: Whether it cancels its opening a few times before it opens.
        unnamed: Whether Penstock chooses its name in the group.
        refuses: Whether it refuses some of the first shards that it is assigned.
    """

    name: str
    group: str
    style: str = "run"
    at: float = 0.0
    options: dict[str, Any] = {}
    run: dict[str, Any] = {}
    steps: tuple[StepPlan, ...] = ()
    cancels: bool = False
    unnamed: bool = False
    refuses: bool = False

    @property
    def owned(self) -> bool:
        """Whether it owns shards."""
        return "ownership" in self.options

    @property
    def groups(self) -> tuple[str, ...]:
        """All groups that its process has handlers of."""
        if self.style == "router":
            return self.group, f"{self.group}.audit"
        return (self.group,) if self.group else ()


class ProducerPlan(msgspec.Struct, frozen=True):
    """One producer's process.

    Attributes:
        name: The process.
        how: The method, see `simulation.programs.SENDS`.
        count: The number of messages.
        rate: Messages in a second.
        burst: The number of messages that are sent together.
        keys: The number of keys.
        tasks: The shares of messages with certain tasks, see `simulation.tasks`.
        chosen: Whether it chooses some of the ids and times.
        flushes: Whether it flushes now and then.
        cancels: Whether it cancels some of the calls that wait for an outcome, and its
            opening a few times.
        at: When it starts, in seconds.
        options: Options of `Producer`.
    """

    name: str
    how: str = "enqueue"
    count: int = 100
    rate: float = 20.0
    burst: int = 1
    keys: int = 5
    tasks: dict[str, float] = {}
    chosen: bool = False
    flushes: bool = False
    cancels: bool = False
    at: float = 0.0
    options: dict[str, Any] = {}


class FaultPlan(msgspec.Struct, frozen=True):
    """A fault.

    Attributes:
        at: When it begins, in seconds.
        kind: Its name, see `simulation.faults`.
        seed: Decides its details.
    """

    at: float
    kind: str
    seed: int = 0


class OperatorPlan(msgspec.Struct, frozen=True):
    """A process that inspects and changes streams, groups and dead letters.

    Attributes:
        name: The process.
        steps: What it does, see `simulation.operating`.
    """

    name: str
    steps: tuple[StepPlan, ...] = ()


class NetworkPlan(msgspec.Struct, frozen=True):
    """The quality of the network, see `simulation.network.Conditions`."""

    delay: float = 0.0002
    jitter: float = 0.0002
    pieces: float = 0.05


class Plan(msgspec.Struct, frozen=True):
    """A run.

    Attributes:
        seed: Decides the schedule, the delays and the details of everything.
        version: The version of the server, see `simulation.server.versions`.
        network: The network.
        shards: The number of the stream's shards; 0 for a stream without shards.
        grows: How many shards are added while the run goes on, by `grow`.
        seconds: How long faults may happen; then everything is healed.
        consumers: The consumers' processes.
        producers: The producers' processes.
        operators: The operators' processes.
        faults: The faults.
    """

    seed: int
    version: str = "valkey_9"
    network: NetworkPlan = NetworkPlan()
    shards: int = 0
    grows: int = 0
    seconds: float = 20.0
    consumers: tuple[ConsumerPlan, ...] = ()
    producers: tuple[ProducerPlan, ...] = ()
    operators: tuple[OperatorPlan, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
