"""A module with metrics of its own, which `penstock run` runs in the tests."""

from __future__ import annotations

import os
from typing import Any

import prometheus_client
from prometheus_client.registry import Collector

from penstock import Message
from penstock.observe.prometheus import register
from support import run_app

__all__ = ["router"]

router = run_app.router
users = prometheus_client.Counter("users", "Messages that were handled.")
place = prometheus_client.Gauge("place", "A number of each process.")
place.set(os.getpid())
register(router)  # as a user may; it counts once all the same


class Asked(Collector):
    """Leaves a mark each time the registry is read, and fails in the end."""

    broken = False

    def describe(self) -> list[Any]:
        """Return nothing, so that it is not asked now."""
        return []

    def collect(self) -> list[Any]:
        """Leave a mark."""
        if self.broken:
            raise ValueError("canary")
        with open(os.environ["TEST_JOURNAL"] + ".asked", "a") as file:  # noqa: PTH123
            file.write(".")
        return []


asked = Asked()
prometheus_client.REGISTRY.register(asked)


@router.handler(os.environ["TEST_STREAM"], group="users")
async def count(message: Message[bytes]) -> None:
    """Count a message, and break the metrics if it says so."""
    users.inc()
    asked.broken = message.payload == b"break"
