"""Metrics for the Prometheus client; needs the extra `metrics`.

See docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from penstock.observe._collecting import Metrics, Thing
from penstock.observe._definitions import FAMILIES
from penstock.observe._families import ADDED, Family, Sample

try:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "metrics need prometheus_client, which is not installed; "
        "install it with: pip install 'penstock[metrics]'",
        name=error.name,
    ) from None

__all__ = ["CONTENT_TYPE", "Registration", "families_of", "register", "text"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""The media type of what `text` returns."""


def families_of(registry: Collector = REGISTRY) -> list[Family]:
    """Return all that a registry collects as plain data, also the metrics of others.

    The times at which series began (`_created`) are left out.

    Args:
        registry: A registry of the Prometheus client; default: the one that its metrics
            are in if they name none.
    """
    return [_family(metric) for metric in registry.collect()]


def text(families: Iterable[Family]) -> bytes:
    """Return families in the text format of Prometheus.

    Example:
        ```python
        from penstock.observe.metrics import Family, Sample
        from penstock.observe.prometheus import text

        jobs = Family("jobs", "counter", "Jobs.", (Sample("jobs_total", (), 3),))
        print(text([jobs]).decode())
        ```
    """
    return generate_latest(_Given(families))


def register(
    *things: Thing, registry: CollectorRegistry = REGISTRY, max_series: int = 2000
) -> Registration:
    """Collect the metrics of consumers, producers and routers in a registry.

    They need not be open. Attempts and sends are recorded from this call on. A consumer
    or producer is removed from the registry when it has closed; register it again
    before it is opened again. A router stays, over any number of runs. What they have
    counted stays, so that no counter falls.

    Args:
        *things: Consumers, producers and routers.
        registry: The registry; default: the one that the Prometheus client serves.
        max_series: The number of series from which on streams and groups that are new
            are counted under `stream="_other"`, with one event, `metrics_overflow`;
            default 2,000. It is one number for a registry: that of the last call.

    Returns:
        A handle whose `close` removes these objects.

    Raises:
        ConfigurationError: An object is none of these, or `max_series` is less than 1.

    Example:
        ```python
        from penstock.observe.prometheus import register

        router = Router("redis://localhost")
        register(router)
        ```
    """
    collector = _collectors.get(registry)
    metrics = Metrics(max_series) if collector is None else collector.metrics
    metrics.max_series = max_series
    metrics.add(*things)
    if collector is None:
        _collect(registry, metrics)
    return Registration(metrics, things)


def metrics_in(registry: CollectorRegistry = REGISTRY) -> Metrics:
    """Return the metrics of Penstock that a registry collects, from now on at least.

    What is added to them and what the user registers there is counted once.
    """
    collector = _collectors.get(registry)
    return _collect(registry, Metrics()) if collector is None else collector.metrics


def _collect(registry: CollectorRegistry, metrics: Metrics) -> Metrics:
    collector = _Collector(metrics)
    registry.register(collector)
    _collectors[registry] = collector
    return metrics


class Registration:
    """What one call of `register` has registered.

    Example:
        ```python
        from penstock.observe.prometheus import register

        producer = Producer("redis://localhost")
        with register(producer):
            async with producer:
                await producer.send("orders", b"...")
        ```
    """

    def __init__(self, metrics: Metrics, things: tuple[Thing, ...]) -> None:
        self._metrics = metrics
        self._things = things

    def close(self) -> None:
        """Remove the objects from the registry; what they have counted stays there."""
        things, self._things = self._things, ()
        self._metrics.remove(*things)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Collector(Collector):
    """The metrics of Penstock in one registry."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Return the families without numbers: their names are taken."""
        return [_metric(Family(n, *described)) for n, described in FAMILIES.items()]

    def collect(self) -> Iterable[Metric]:
        """Return the present numbers."""
        return map(_metric, self.metrics.families())


_collectors: WeakKeyDictionary[CollectorRegistry, _Collector] = WeakKeyDictionary()


class _Given(Collector):
    """A collector of families that are given."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families as the client's metrics."""
        return map(_metric, self._families)


def _family(metric: Metric) -> Family:
    grows = metric.type in ADDED
    samples = [
        Sample(sample.name, tuple(sample.labels.items()), sample.value)
        for sample in metric.samples
        if not (grows and sample.name == f"{metric.name}_created")
    ]
    kind: Any = metric.type
    return Family(metric.name, kind, metric.documentation, tuple(samples))


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for sample in family.samples:
        metric.add_sample(sample.name, dict(sample.labels), sample.value)
    return metric
