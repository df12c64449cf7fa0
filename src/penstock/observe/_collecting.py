"""Collecting: the numbers of consumers, producers and routers as families."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from penstock.consumer import Consumer
from penstock.errors import ConfigurationError
from penstock.events import Event, OnEvent, log_event
from penstock.observe._builder import OTHER, Builder, Cardinality
from penstock.observe._definitions import FAMILIES
from penstock.observe._families import Family
from penstock.observe._merging import add_up, counters_of, subtract
from penstock.observe._numbers import (
    Admit,
    add_consumer,
    add_producer,
    describe_process,
    server_version_of,
)
from penstock.producer import Producer
from penstock.router import Router

__all__ = ["Metrics", "Thing"]

Thing: TypeAlias = "Consumer[Any] | Producer | Router"
Observer: TypeAlias = "Callable[[Sequence[Consumer[Any] | Producer]], None]"


class Metrics:
    """The metrics of consumers, producers and routers.

    Attempts and sends are recorded from `add` on, all other counts begin when a
    consumer or producer is created. What was counted is kept when a consumer, producer
    or router has closed or is removed, so that no counter falls.

    Args:
        max_series: The number of series from which on streams and groups that are new
            are counted under `stream="_other"`; default 2,000.
        on_event: Called with one event, `metrics_overflow`, when that happens first;
            default: logs it to `penstock`.

    Raises:
        ConfigurationError: `max_series` is less than 1.

    Example:
        ```python
        from penstock.observe.metrics import Metrics

        metrics = Metrics()
        producer = Producer("redis://localhost")
        metrics.add(producer)
        async with producer:
            await producer.send("orders", b"...")
        names = [family.name for family in metrics.families()]
        assert "penstock_sent" in names
        ```
    """

    def __init__(
        self, max_series: int = 2000, *, on_event: OnEvent = log_event
    ) -> None:
        self._cardinality = Cardinality(self._overflow)
        self._on_event = on_event
        self.max_series = max_series
        # What is registered, by the identity of the object.
        self._sources: dict[int, _Source] = {}
        # The functions that were given to routers, by the identity of the router.
        self._routers: dict[int, tuple[Router, Observer]] = {}
        # What closed and removed things had counted, in all and each.
        self._ended: list[Family] = []
        self._last: WeakKeyDictionary[Any, list[Family]] = WeakKeyDictionary()
        # A scrape may come in another thread.
        self._lock = RLock()

    @property
    def max_series(self) -> int:
        """The number of series from which on new streams are counted as one."""
        return self._cardinality.max_series

    @max_series.setter
    def max_series(self, number: int) -> None:
        if type(number) is not int or number < 1:
            raise ConfigurationError(
                f"max_series={number!r:.40} is not a number of series; pass an "
                f"integer from 1 on"
            )
        self._cardinality.max_series = number

    def add(self, *things: Thing) -> None:
        """Add consumers, producers or routers; those that were added stay as they are.

        They need not be open. A consumer or producer is removed when it has closed. A
        router stays, and its consumers and its producer come and go with its runs.

        Raises:
            ConfigurationError: An object is none of these.
        """
        for thing in things:
            if not isinstance(thing, Consumer | Producer | Router):
                raise ConfigurationError(
                    f"{type(thing).__name__} has no metrics; pass consumers, "
                    f"producers or routers"
                )
        with self._lock:
            self._sweep()
            for thing in things:
                if isinstance(thing, Router):
                    self._add_router(thing)
                else:
                    self._add_source(thing)

    def remove(self, *things: Thing) -> None:
        """Remove consumers, producers or routers; what they have counted is kept."""
        with self._lock:
            for thing in things:
                if isinstance(thing, Router):
                    self._remove_router(thing)
                elif id(thing) in self._sources:
                    self._end(id(thing))

    def families(self) -> list[Family]:
        """Return the present numbers; any thread may call it."""
        with self._lock:
            self._sweep()
            builder = Builder(FAMILIES)
            versions = (server_version_of(s.thing) for s in self._sources.values())
            describe_process(builder, filter(None, versions))
            for source in self._sources.values():
                source.add_to(builder, self._admit(builder, _size(self._ended)))
            for router, _ in self._routers.values():
                for family, labels, value in router._gauges:  # noqa: SLF001
                    builder.add(family, labels, value())
            return add_up([builder.families(), self._ended])

    def _add_source(self, thing: Consumer[Any] | Producer) -> None:
        if id(thing) not in self._sources:
            self._sources[id(thing)] = _Source(thing)
            # It goes on from there.
            self._ended = subtract(self._ended, self._last.pop(thing, ()))

    def _add_router(self, router: Router) -> None:
        if id(router) in self._routers:
            return
        # Those of the last run.
        current: list[int] = []

        def observe(parts: Sequence[Consumer[Any] | Producer]) -> None:
            with self._lock:
                for key in current:
                    self._end(key)
                current[:] = map(id, parts)
                for part in parts:
                    self._add_source(part)

        running = router._consumer_set  # noqa: SLF001
        producers = () if running is None else running.producers
        observe([*router.consumers, *producers])
        router._observers.append(observe)  # noqa: SLF001
        self._routers[id(router)] = router, observe

    def _remove_router(self, router: Router) -> None:
        _, observe = self._routers.pop(id(router), (router, None))
        if observe is not None:
            observe(())
            router._observers.remove(observe)  # noqa: SLF001

    def _sweep(self) -> None:
        """Remove what has closed."""
        for key in [key for key, each in self._sources.items() if each.closed]:
            self._end(key)

    def _end(self, key: int) -> None:
        """Keep what a thing has counted, and drop the thing."""
        source = self._sources.pop(key, None)
        if source is None:
            return
        builder = Builder(FAMILIES)
        others = _size(self._ended) + len(self._sources)
        source.add_to(builder, self._admit(builder, others))
        self._last[source.thing] = last = counters_of(builder.families())
        self._ended = add_up([self._ended, last])

    def _admit(self, builder: Builder, others: int) -> Admit:
        def admit(stream: str, group: str = "") -> tuple[str, str]:
            return self._cardinality.admit(stream, group, builder.series + others)

        return admit

    def _overflow(self) -> None:
        facts = {"max_series": self.max_series, "stream": OTHER}
        self._on_event(Event("metrics_overflow", logging.WARNING, facts))


class _Source:
    """A consumer or a producer that is registered."""

    def __init__(self, thing: Consumer[Any] | Producer) -> None:
        self.thing = thing
        lifetime = thing._lifetime  # noqa: SLF001
        # An opening that was over by then says nothing: the next one counts.
        self._former = lifetime if lifetime is not None and lifetime.gone else None
        meter = thing._config.meter if isinstance(thing, Consumer) else thing._meter  # noqa: SLF001
        meter.on = True

    @property
    def closed(self) -> bool:
        """Whether it was open since it is registered, and has closed."""
        lifetime = self.thing._lifetime  # noqa: SLF001
        return lifetime is not None and lifetime is not self._former and lifetime.gone

    def add_to(self, builder: Builder, admit: Admit) -> None:
        """Add the numbers to the families."""
        if isinstance(self.thing, Consumer):
            add_consumer(builder, self.thing, admit)
        else:
            add_producer(builder, self.thing, admit)


def _size(families: Sequence[Family]) -> int:
    return sum(len(family.samples) for family in families)
