"""Injection into handlers: their further parameters, and the calls that fill them.

Each kind of parameter is a layer around the call of the handler, which exists only
where the handler asks for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, get_args, get_origin

from penstock._core.handling.signature import annotations_of, is_async
from penstock.errors import ConfigurationError
from penstock.injection import SERVICE
from penstock.message import Message
from penstock.producer import Producer
from penstock.transaction import Transaction

if TYPE_CHECKING:
    import svcs

__all__ = [
    "NO_SOURCES",
    "Filled",
    "Injected",
    "Kind",
    "Sources",
    "Values",
    "check_registered",
    "check_services",
    "container_type",
    "injected_of",
    "injecting",
    "kind_of",
]

Values: TypeAlias = dict[str, Any]
Filled: TypeAlias = Callable[[Any, Values], Awaitable[object]]


class Kind(Enum):
    """What a parameter is given."""

    SERVICE = auto()
    PRODUCER = auto()
    TRANSACTION = auto()
    MESSAGE = auto()


_KINDS: Final[Mapping[Any, Kind]] = {
    Producer: Kind.PRODUCER,
    Transaction: Kind.TRANSACTION,
    Message: Kind.MESSAGE,
}


@dataclass(frozen=True, slots=True)
class Injected:
    """The further parameters of a handler that are filled.

    Attributes:
        services: The types of the services, by the parameters' names.
        others: The names of the other parameters, by what they are given.
    """

    services: Mapping[str, Any]
    others: Mapping[Kind, tuple[str, ...]]

    @property
    def names(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset(self.services).union(*self.others.values())


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a run takes the arguments of its handlers from.

    Attributes:
        producer: The producer; None if no handler asks for one.
    """

    producer: Any = None


NO_SOURCES: Final = Sources()


def kind_of(annotation: Any) -> Kind | None:
    """Return what a parameter is given; None if it is not for Penstock to fill."""
    if get_origin(annotation) is Annotated:
        if SERVICE in annotation.__metadata__:
            return Kind.SERVICE
        annotation = annotation.__origin__
    return _KINDS.get(get_origin(annotation) or annotation)


def injected_of(function: Callable[..., object], *, batch: bool) -> Injected:
    """Return the further parameters of a handler that are to be filled.

    Args:
        function: The handler.
        batch: Whether it is called with lists.

    Raises:
        ConfigurationError: A parameter can't be given what it asks for.
    """
    services: dict[str, Any] = {}
    others: dict[Kind, tuple[str, ...]] = {}
    for number, (name, annotation) in enumerate(annotations_of(function).items()):
        kind = kind_of(annotation)
        if not number:
            _check_first(kind)
        elif kind is Kind.SERVICE:
            services[name] = get_args(annotation)[0]
        elif kind is not None:
            _check_kind(name, kind, function, batch=batch)
            others[kind] = (*others.get(kind, ()), name)
    return Injected(services, others)


def _check_first(kind: Kind | None) -> None:
    if kind not in {None, Kind.MESSAGE}:
        raise ConfigurationError(
            "its first parameter is given the message or its payload; put what is "
            "filled after it: `async def handle(order: Order, db: Inject[Database])`"
        )


def _check_kind(
    name: str, kind: Kind, function: Callable[..., object], *, batch: bool
) -> None:
    if batch and kind in {Kind.TRANSACTION, Kind.MESSAGE}:
        raise ConfigurationError(
            f"its parameter {name} is about one message, and with batch= it is called "
            f"with many; take them as its first parameter: `list[Message[Order]]`"
        )
    if kind is Kind.TRANSACTION and not is_async(function):
        raise ConfigurationError(
            f"its parameter {name} is a transaction, which a plain function can't use; "
            f"make it an async function"
        )


def check_services(services: object) -> None:
    """Check that an object is a registry of services, or None.

    Raises:
        ConfigurationError: It is neither, or svcs is not installed.
    """
    if services is not None and not isinstance(services, _svcs().Registry):
        raise ConfigurationError(
            f"services={services!r:.60} is not a registry; pass an svcs.Registry()"
        )


def check_registered(
    name: str, injected: Injected, services: svcs.Registry | None
) -> None:
    """Check that all services of a handler can be had.

    Args:
        name: The handler's name in errors.
        injected: Its parameters.
        services: The registry.

    Raises:
        ConfigurationError: There is no registry, or a type is not registered in it.
    """
    for parameter, kind in injected.services.items():
        if services is None:
            raise ConfigurationError(
                f"{name}: its parameter {parameter} is given a service, but the router "
                f"has no registry; pass Router(services=svcs.Registry())"
            )
        if kind not in services:
            shown = getattr(kind, "__qualname__", repr(kind))
            raise ConfigurationError(
                f"{name}: its parameter {parameter} needs a {shown:.80}, which is not "
                f"registered; call register_factory or register_value of the router's "
                f"services before it runs"
            )


def injecting(
    call: Filled, injected: Injected, services: svcs.Registry | None, sources: Sources
) -> Callable[[Any], Awaitable[object]]:
    """Return a handler that fills the further parameters and calls another one.

    Args:
        call: Called with the message, or the list of them, and the arguments by name.
        injected: The parameters.
        services: Makes the services.
        sources: Where the other arguments are from.
    """
    if injected.services:
        call = _with_services(call, injected.services, services)
    for name in injected.others.get(Kind.TRANSACTION, ()):
        call = _with_transaction(call, name)
    messages = injected.others.get(Kind.MESSAGE, ())
    producers = dict.fromkeys(injected.others.get(Kind.PRODUCER, ()), sources.producer)

    async def handle(given: Any) -> object:
        return await call(given, {**producers, **dict.fromkeys(messages, given)})

    return handle


def _with_services(
    call: Filled, services: Mapping[str, Any], registry: svcs.Registry | None
) -> Filled:
    container_of = container_type()

    async def with_services(given: Any, values: Values) -> object:
        async with container_of(registry) as container:
            for name, kind in services.items():
                values[name] = await container.aget(kind)
            return await call(given, values)

    return with_services


def _with_transaction(call: Filled, name: str) -> Filled:
    async def with_transaction(message: Any, values: Values) -> object:
        async with message.transaction() as values[name]:
            return await call(message, values)

    return with_transaction


def container_type() -> Any:
    """Return the type of containers, which is called with a registry."""
    return _svcs().Container


def _svcs() -> Any:
    try:
        import svcs  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ConfigurationError(
            "services need svcs, which is not installed; install it with: "
            "pip install 'penstock[inject]'"
        ) from None
    return svcs
