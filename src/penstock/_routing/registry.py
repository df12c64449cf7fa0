"""The registry of a router: its handlers, and the consumers that they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from penstock._routing.handlers import HandlerSpec, adopt, unordered
from penstock._routing.injecting import Sources, check_services, container_type
from penstock._routing.service_pings import ServicePings
from penstock._routing.shared_consumers import SharedConsumer
from penstock._tasks.consumer_config import check_streams
from penstock._tasks.consumer_set import ConsumerSet
from penstock._tasks.hooks import Hooks
from penstock.errors import ConfigurationError, UsageError
from penstock.middleware import Middleware
from penstock.options import Ownership
from penstock.producer import Producer

__all__ = ["Registry"]

# Options of a router that its producer has, too.
_SHARED: Final = {"credentials", "field", "open_timeout", "close_timeout", "on_event"}


class Registry:
    """Handlers that are valid, alone and together.

    Args:
        defaults: Options of `Consumer` for all handlers that don't override them.
        middleware: Wraps all handlers, outside of their own middleware.
        services: Makes the services that handlers ask for; None without any.

    Attributes:
        handlers: The handlers.
        shared: The same handlers, grouped by the consumers that they share.
        workers: The number of processes that run the handlers, as far as is known.
        hooks: The functions that are called around a run.
    """

    def __init__(
        self,
        defaults: Mapping[str, Any],
        middleware: tuple[Middleware[Any], ...],
        services: Any = None,
    ) -> None:
        check_services(services)
        self._defaults = defaults
        self._middleware = middleware
        self._services = services
        self.handlers: tuple[HandlerSpec, ...] = ()
        self.shared: tuple[SharedConsumer, ...] = ()
        self.workers = 1
        self.hooks = Hooks()
        # Whether another registry has included the handlers.
        self._included = False

    def add(self, *new: HandlerSpec) -> None:
        """Add handlers: all of them, or none if one is refused.

        Raises:
            ConfigurationError: A handler is invalid, or its messages have one already,
                or its stream is a shard of another handler's by name.
            UsageError: Another registry has included this one.
        """
        self._check_open("handlers")
        ours = (self._defaults, self._middleware, self._services)
        adopted = (adopt(each, *ours) for each in new)
        handlers = (*self.handlers, *adopted)
        check_streams(stream for each in handlers for stream in each.streams)
        self.shared = _grouped(handlers)
        self.handlers = handlers

    def add_hooks(self, hooks: Hooks) -> None:
        """Add hooks that are not among these already.

        Raises:
            UsageError: Another registry has included this one.
        """
        self._check_open("hooks")
        self.hooks = self.hooks.with_others(hooks)

    def _check_open(self, what: str) -> None:
        if self._included:
            raise UsageError(
                f"this router is included in another one already; add its {what} "
                f"before that, by importing their modules first"
            )

    def check_workers(self, workers: int) -> None:
        """Check that the handlers keep their order in so many processes.

        Raises:
            ConfigurationError: A handler asks for an order that would not hold.
        """
        for each in self.handlers:
            may_own = each.consumer(None, raw=False).ownership is not Ownership.SHARED
            if workers > 1 and each.is_ordered and not may_own:
                raise ConfigurationError(unordered(each, workers))
        self.workers = workers

    def consumer_set(self, url: str | None) -> ConsumerSet:
        """Create the consumers that the handlers need.

        Args:
            url: The server; None for the default.

        Raises:
            ConfigurationError: There are no handlers, or one asks for a service that is
                not registered.
        """
        if not self.shared:
            raise ConfigurationError(
                "this router has no handlers; register some with @router.handler(...), "
                "and import their modules before it runs"
            )
        for each in self.handlers:
            each.check_services()
        producer = self._producer(url)
        hooks, sources = self.hooks, Sources(producer)
        if producer is not None:
            # It opens before all else, and closes after it.
            own = Hooks(on_start=(producer.start,), on_stop=(producer.aclose,))
            hooks = own.with_others(hooks)
        parts = [shared.part(url, self.workers, sources) for shared in self.shared]
        producers = () if producer is None else (producer,)
        return ConsumerSet(parts, hooks, self._pings(), producers)

    def _pings(self) -> ServicePings | None:
        """Return what pings the services that handlers ask for; None without any."""
        asking = [each for each in self.handlers if each.injected.services]
        registries = {id(each.services): each.services for each in asking}
        if not registries:
            return None
        return ServicePings([*registries.values()], container_type())

    def _producer(self, url: str | None) -> Producer | None:
        """Create the producer that handlers ask for; None if none does."""
        if not any(each.takes_producer for each in self.handlers):
            return None
        options = {key: self._defaults[key] for key in _SHARED & self._defaults.keys()}
        return Producer(url, **options)

    def include(self, other: Registry) -> None:
        """Add what another registry has, which takes no more from then on."""
        self.add(*other.handlers)
        self.add_hooks(other.hooks)
        other._included = True


def _grouped(specs: Iterable[HandlerSpec]) -> tuple[SharedConsumer, ...]:
    """Group handlers by the consumers that they share.

    Raises:
        ConfigurationError: Two handlers are for the same messages, or should share a
            consumer and have different options.
    """
    shared: list[SharedConsumer] = []
    for spec in specs:
        group = spec.group
        for index, one in enumerate(shared):
            # Without a group every consumer sees all messages.
            if group is not None and group == one.group and _can_share(one, spec):
                shared[index] = SharedConsumer(group, (*one.handlers, spec))
                break
        else:
            shared.append(SharedConsumer(group, (spec,)))
    return tuple(shared)


def _can_share(shared: SharedConsumer, new: HandlerSpec) -> bool:
    """Return whether a handler is to share a consumer."""
    theirs, ours = set(shared.first.streams), set(new.streams)
    if not theirs & ours:
        return False
    group = f"group {shared.group!r:.80}"
    if theirs != ours:
        raise ConfigurationError(
            f"{new.name} and {shared.first.name} share only some of their streams in "
            f"{group}; use the same streams for both, or separate groups"
        )
    for other in shared.handlers:
        if other.event == new.event:
            what = "all other events" if new.event is None else repr(new.event)
            raise ConfigurationError(
                f"{new.name} and {other.name} both handle {what} of "
                f"{new.streams!r:.80} in {group}; use another event, or another "
                f"group, for one of them"
            )
    for option, of_first, of_new in _differences(shared.first, new):
        raise ConfigurationError(
            f"{new.name} and {shared.first.name} share a consumer in {group}, but "
            f"have {option}={of_new!r:.60} and {of_first!r:.60}; use the same value "
            f"for both, or separate groups"
        )
    return True


def _differences(
    first: HandlerSpec, new: HandlerSpec
) -> Iterable[tuple[str, object, object]]:
    if first.header != new.header:
        yield "event_header", first.header, new.header
    for one, other in (
        (first.run_options, new.run_options),
        (first.options, new.options),
    ):
        for option in sorted(one.keys() | other.keys()):
            if one.get(option) != other.get(option):
                yield option, one.get(option), other.get(option)
