"""Handler specifications: a router's handlers with their checked options."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from penstock._core.handling.signature import (
    UNSPECIFIED,
    HandlerArgument,
    argument_of,
    name_of,
    payload_type,
)
from penstock._core.messages.envelope import FIELD
from penstock._routing.injecting import (
    Injected,
    Kind,
    check_registered,
    injected_of,
)
from penstock.codecs import Codec, codec_for
from penstock.consumer import Consumer
from penstock.durations import count
from penstock.errors import ConfigurationError
from penstock.fields import Fields
from penstock.middleware import Middleware
from penstock.options import AutoCommit, Ordering, Ownership, choice

__all__ = ["HandlerSpec", "adopt", "check_defaults", "specify", "unordered"]

_MANUAL: Final = {AutoCommit.ROLLING, AutoCommit.DISABLED}
# Options of a consumer that a handler gets in other ways, or not at all.
_NOT_OPTIONS: Final = {"streams", "url", "middleware"}
# Options of `Router.handler` that are none of a consumer.
_OF_HANDLERS: Final = {
    *("batch", "concurrency", "event", "event_header", "middleware", "ordering"),
}
_OPTIONS: Final = inspect.signature(Consumer).parameters.keys() - _NOT_OPTIONS


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """A handler with its options; a router's are checked, see `adopt`.

    Attributes:
        function: The user's function.
        name: Its name in errors.
        argument: What it is called with.
        streams: The streams' names.
        event: The event type that it handles; None for all others.
        header: The header that holds the type.
        run_options: The arguments of `Consumer.run`.
        middleware: Wraps the handler, the outermost first.
        payload: The payload's type.
        codec: Decodes the payload; None for whole entries.
        options: The consumer's options, without payload and codec.
        injected: Its further parameters.
        services: The registry that makes its services, if it asks for some.
        group: The consumer's group, since `adopt`; None in REALTIME.
    """

    function: Callable[[Any], object]
    name: str
    argument: HandlerArgument
    streams: tuple[str, ...]
    event: str | None
    header: str
    run_options: Mapping[str, Any]
    middleware: tuple[Middleware[Any], ...]
    payload: Any
    codec: Codec[Any] | None
    options: Mapping[str, Any]
    injected: Injected
    services: Any = None
    group: str | None = None

    @property
    def acks_manually(self) -> bool:
        """Whether only the handler itself acknowledges its messages."""
        policy = self.options.get("auto_commit", AutoCommit.PROCESSED)
        return choice(AutoCommit, policy, "auto_commit") in _MANUAL

    @property
    def is_ordered(self) -> bool:
        """Whether the consumers of a group have to keep an order."""
        ordered = self.run_options["ordering"] is not Ordering.NONE
        return ordered and (self.group or self.options.get("group")) is not None

    @property
    def takes_producer(self) -> bool:
        """Whether it has a parameter that is given the router's producer."""
        return Kind.PRODUCER in self.injected.others

    def check_services(self) -> None:
        """Check that all services that it asks for can be had.

        Raises:
            ConfigurationError: One can't; the message names the handler and the type.
        """
        check_registered(self.name, self.injected, self.services)

    def consumer(self, url: str | None, *, raw: bool) -> Consumer[Any]:
        """Create the consumer.

        Args:
            url: The server; None for the default.
            raw: Whether its payloads are bytes, and not of the handler's type.
        """
        reads: dict[str, Any] = {"payload": bytes}
        if not raw:
            reads = {"payload": self.payload, "codec": self.codec}
        options = {**self.options, **reads}
        if self.is_ordered:
            options.setdefault("ownership", Ownership.AUTO)
        return consumer_of(self.name, self.streams, options, url)


def unordered(spec: HandlerSpec, workers: int) -> str:
    """Return why an order does not hold in several processes, and what to do."""
    ordering = spec.run_options["ordering"].value
    return (
        f"{spec.name} has ordering={ordering!r}, which holds across processes only "
        f"with owned shards: {workers} workers would handle messages of one {ordering} "
        f"at the same time; spread the stream with Producer(shards=...) or "
        f"admin.set_shards, and leave ownership=, claim= and shards= out, or run one "
        f"worker, whose concurrency= handles many messages at a time"
    )


def nearest(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Return which option was meant by the first unknown one; empty if none is near."""
    found = difflib.get_close_matches(min(unknown), sorted(known), n=1)
    return f" did you mean {found[0]!r}?" if found else ""


def consumer_of(
    name: str,
    streams: Sequence[str],
    options: Mapping[str, Any],
    url: str | None = None,
) -> Consumer[Any]:
    """Create a consumer, without connecting it.

    Raises:
        ConfigurationError: An option is wrong; the message begins with the name.
    """
    if unknown := options.keys() - _OPTIONS:
        known = _OPTIONS | _OF_HANDLERS
        raise ConfigurationError(
            f"{name}: unknown option {min(unknown)!r:.60};{nearest(unknown, known)} "
            f"the options are {', '.join(sorted(known))}"
        )
    try:
        return Consumer(*streams, url=url, **options)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    except (AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"{name}: an option is of the wrong type ({error}); see the options of "
            f"Consumer"
        ) from error


def check_defaults(defaults: Mapping[str, Any], known: Collection[str]) -> None:
    """Check the options that a router sets for all its handlers.

    Args:
        defaults: The options.
        known: The names of the options that a router can set.

    Raises:
        ConfigurationError: An option is unknown or invalid.
    """
    if unknown := defaults.keys() - known:
        hint = nearest(unknown, {*known, "url", "middleware"})
        raise ConfigurationError(
            f"a router has no option {min(unknown)!r:.60};{hint} those of a single "
            f"handler go to router.handler(...)"
        )
    consumer_of("a router", ("checked",), {"group": "checked", **defaults})


def specify(
    function: Callable[..., object],
    streams: tuple[str, ...],
    options: Mapping[str, Any],
    *,
    event: str | None,
    header: str,
    concurrency: int,
    ordering: Ordering | str,
    batch: Any,
    middleware: tuple[Middleware[Any], ...],
) -> HandlerSpec:
    """Return a handler's specification; `adopt` checks the consumer's options.

    Raises:
        ConfigurationError: The handler is invalid.
    """
    name = f"handler {name_of(function)}"
    rest = {key: options[key] for key in options.keys() - {"payload", "codec"}}
    try:
        _check_event(event, header, batch)
        run_options = {
            "concurrency": count(concurrency, "concurrency"),
            "ordering": choice(Ordering, ordering, "ordering"),
        }
        if batch is not None:
            run_options["batch"] = batch
        injected = injected_of(function, batch=batch is not None)
        argument = argument_of(function, batch=batch is not None, filled=injected.names)
        payload, codec = _payload_and_codec(argument, options)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    return HandlerSpec(
        *(function, name, argument, streams, event, header, run_options, middleware),
        *(payload, codec, rest, injected),
    )


def adopt(
    spec: HandlerSpec,
    defaults: Mapping[str, Any],
    middleware: tuple[Middleware[Any], ...],
    services: Any,
) -> HandlerSpec:
    """Return a handler with a router's defaults and middleware, its options checked.

    Args:
        spec: The handler.
        defaults: The router's options; the handler's own come first.
        middleware: The router's middleware.
        services: The router's registry of services, if the handler has none.

    Raises:
        ConfigurationError: An option is invalid, or incompatible with the defaults.
    """
    options = {**defaults, **spec.options}
    around = (*middleware, *spec.middleware)
    spec = replace(spec, options=options, middleware=around)
    consumer = spec.consumer(None, raw=False)
    if spec.event is not None and spec.header in {options.get("field", FIELD), "key"}:
        raise ConfigurationError(
            f"{spec.name}: event_header={spec.header!r:.60} is the field of the "
            f"payload or of the key, and no header; name the header that holds the type"
        )
    if spec.acks_manually and not spec.argument.whole:
        raise ConfigurationError(
            f"{spec.name}: its auto_commit= requires it to call message.ack(), but it "
            f"takes only the payload; take the message: `(message: Message[...])`"
        )
    if consumer.group is None and Kind.TRANSACTION in spec.injected.others:
        raise ConfigurationError(
            f"{spec.name}: it takes a transaction, which acknowledges its message; "
            f"without a group there is no acknowledgement: pass group="
        )
    if spec.services is not None:
        services = spec.services
    return replace(spec, group=consumer.group, services=services)


def _check_event(event: object, header: object, batch: object) -> None:
    if event is not None and (not isinstance(event, str) or not event):
        raise ConfigurationError(
            f"event={event!r:.60} is not an event type; pass a string, or leave it out"
        )
    if not isinstance(header, str) or not header:
        raise ConfigurationError(
            f"event_header={header!r:.60} is not the name of a header; pass a string"
        )
    if event is not None and batch is not None:
        raise ConfigurationError(
            "a batch may contain messages of several types; leave event= out and "
            "check their headers, or leave batch= out"
        )


def _payload_and_codec(
    argument: HandlerArgument, options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Return the payload's type and its codec."""
    codec = options.get("codec")
    payload = options.get("payload", UNSPECIFIED)
    if codec is not None and payload is not UNSPECIFIED:
        raise ConfigurationError(
            "payload= and codec= exclude each other; leave one of them out"
        )
    payload = payload_type(argument.payload, payload)
    if codec is None and payload is not Fields:
        codec = codec_for(payload)
    return payload, codec
