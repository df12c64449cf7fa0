"""The metrics of a worker of `penstock run`, as it sends them to its parent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from penstock import Router
from penstock.observe._merging import counters_of
from penstock.observe.metrics import Family, Sample
from penstock.observe.prometheus import families_of, metrics_in

__all__ = ["LOOP_DELAY", "WorkerMetricsSource"]

LOOP_DELAY: Final = "penstock_loop_delay_seconds"

_LOGGER: Final = logging.getLogger("penstock.run")


class WorkerMetricsSource:
    """All that the default registry of the Prometheus client has in this process.

    The router is registered there, so the metrics of Penstock and those of the user
    come together, and a router that the user has registered counts once.

    Args:
        router: The router that this worker runs.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        metrics_in().add(router)
        # Whether the last attempt to collect has failed.
        self._failed = False

    def all(self) -> bytes:
        """Return all metrics, packed; nothing if they can't be collected."""
        return self._packed(lambda: [*families_of(), self._loop_delay()])

    def counters(self) -> bytes:
        """Return what only grows, packed; nothing if it can't be collected."""
        return self._packed(lambda: counters_of(families_of()))

    def _packed(self, collect: Callable[[], list[Family]]) -> bytes:
        try:
            packed = msgspec.msgpack.encode(collect())
        except Exception as error:  # a collector of the user's may raise anything
            if not self._failed:
                self._failed = True
                _LOGGER.exception(
                    "the metrics of this worker are missing until this no longer "
                    "happens: a collector in prometheus_client.REGISTRY raised %s",
                    type(error).__name__,
                )
            return b""
        self._failed = False
        return packed

    def _loop_delay(self) -> Family:
        consumers = self._router._consumer_set  # noqa: SLF001
        seconds = 0.0 if consumers is None else consumers.worst_loop_delay()
        return Family(
            LOOP_DELAY,
            "gauge",
            "How late the event loop was at most since the last scrape.",
            (Sample(LOOP_DELAY, (), seconds),),
        )
