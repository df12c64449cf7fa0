"""What a worker of `penstock relay` runs: `router`, made of the parent's settings."""

from __future__ import annotations

from penstock.cli.relay.names import hold
from penstock.cli.relay.router import RelayRouter
from penstock.cli.relay.settings import RelaySettings

__all__ = ["TARGET"]

TARGET = f"{__name__}:router"
"""The router, which the worker imports by this name."""


def __getattr__(name: str) -> RelayRouter:
    # Made when it is asked for: only a worker has the settings.
    if name != "router":
        raise AttributeError(name)
    settings = RelaySettings.handed_over()
    hold(settings.workers)
    return RelayRouter(settings)
