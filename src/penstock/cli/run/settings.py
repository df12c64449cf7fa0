"""Settings of `penstock run`, which its workers get as one argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.cli.run.logs import Logs

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The router to run, and how.

    Attributes:
        target: `module:attribute` of the router, or of a function that returns it.
        workers: The number of processes.
        url: The server; None for the router's own. No argument of a process has it,
            since every user can read those.
        grace: Seconds to drain before workers are killed.
        hang_timeout: Seconds for which a worker's event loop may stand still before the
            worker is replaced; 0 for any time.
        logs: How the workers log.
        uvloop: Whether the workers use uvloop's event loop.
        tracebacks: When the workers log tracebacks, see `log_event`.
        metrics: Whether the parent asks its workers for metrics.
        until_caught_up: Whether all ends once no group has lag or pending messages.
        factory: Whether the target is a function that returns the router.
        app_dir: The folder that modules are imported from; empty for the current one.
        reload: Whether the worker is replaced when its files have changed.
    """

    target: str
    workers: int = 1
    url: str | None = None
    grace: float = 30.0
    hang_timeout: float = 300.0
    logs: Logs = field(default_factory=Logs)
    uvloop: bool = False
    tracebacks: str = "last"
    metrics: bool = False
    until_caught_up: bool = False
    factory: bool = False
    app_dir: str = ""
    reload: bool = False
