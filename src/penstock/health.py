"""Health: whether a router, or all workers of `penstock run`, can get messages."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

__all__ = ["ConsumerHealth", "Health", "ServiceHealth", "WorkerHealth", "WorkerState"]


class WorkerState(StrEnum):
    """What a worker is doing."""

    DOWN = "down"
    """It does not run: a worker process has ended, and another one will be started."""
    STARTING = "starting"
    """Its consumers are not all open yet."""
    RUNNING = "running"
    """Its consumers are open. Whether they can get messages is said by `why`."""
    DRAINING = "draining"
    """It finishes what has begun, and ends."""


class ConsumerHealth(Struct, frozen=True, kw_only=True):
    """An open consumer.

    Attributes:
        streams: The streams that it reads.
        group: Its group; None without one.
        connected: Whether the server has answered it in time: it has owed the consumer
            no answer for more than 15 seconds.
        unanswered_seconds: For how long the server has owed it an answer; 0 if it owes
            none. A read that waits is answered every two seconds.
        queued: Messages that wait for a handler.
        running: Messages that handlers have now.
        oldest_running_seconds: How long the longest of these has been with its handler;
            None unless there are metrics, for which attempts are timed.
        lease_seconds: How long after this process others take over what it has; None
            without a group.
    """

    streams: tuple[str, ...]
    group: str | None
    connected: bool
    unanswered_seconds: float
    queued: int
    running: int
    lease_seconds: float | None
    oldest_running_seconds: float | None = None


class ServiceHealth(Struct, frozen=True, kw_only=True):
    """A service that handlers are given, if its registration has a ping.

    A service that can't be reached does not make a router unready.

    Attributes:
        name: Its type.
        reachable: Whether its last ping succeeded, which must take less than 5 seconds.
        error: The type of the exception, if it did not.
        pinged_seconds_ago: How long ago that was; pings are 15 seconds apart.
    """

    name: str
    reachable: bool
    error: str | None
    pinged_seconds_ago: float


class WorkerHealth(Struct, frozen=True, kw_only=True):
    """A worker: a process of `penstock run`, or a router in a program of its own.

    Attributes:
        number: The worker's number, from 1 on.
        pid: Its process; None if there is none.
        state: What it is doing.
        why: Why it can't get messages; None if it can.
        uptime_seconds: How long it has run.
        loop_delay_seconds: By how much the event loop is late: its timer of one second
            that is overdue, or else the last one. A handler that blocks the event loop
            shows here.
        unanswered_seconds: The longest time for which the server has owed one of the
            consumers an answer.
        consumers: The consumers that are open.
        services: The services of handlers that have a ping.
    """

    number: int
    pid: int | None
    state: WorkerState
    why: str | None
    uptime_seconds: float = 0.0
    loop_delay_seconds: float = 0.0
    unanswered_seconds: float = 0.0
    consumers: tuple[ConsumerHealth, ...] = ()
    services: tuple[ServiceHealth, ...] = ()


class Health(Struct, frozen=True, kw_only=True):
    """The health of a router, or of all workers of `penstock run`.

    Attributes:
        ready: Whether all workers can get messages: all consumers are open, none
            drains, and each has heard from its server in the last 15 seconds.
        live: Whether it runs at all. An outage of the server does not change that.
        why: In one line, why it is not ready; None if it is.
        workers: The workers; a router has one.
    """

    ready: bool
    live: bool
    why: str | None
    workers: tuple[WorkerHealth, ...]
