"""Handler signatures: the argument that a handler takes, by its one parameter."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from penstock.errors import ConfigurationError
from penstock.message import Message

__all__ = [
    "UNSPECIFIED",
    "HandlerArgument",
    "annotations_of",
    "argument_of",
    "check_handler",
    "is_async",
    "name_of",
    "payload_type",
]

_MESSAGE: Final = {"message", "msg"}
_MESSAGES: Final = {"messages", "msgs", *_MESSAGE}
_LISTS: Final = (list, Sequence, Collection, Iterable)
_WRITE: Final = "write `async def handle(order: Order)` or `(message: Message[Order])`"
_WRITE_BATCH: Final = "write `async def handle(messages: list[Message[Order]])`"
_WRITE_ANY: Final = "write `async def handle(message: Message)`"


UNSPECIFIED: Final[Any] = object()
"""The payload type of a handler that does not name one."""


@dataclass(frozen=True, slots=True)
class HandlerArgument:
    """The argument that a handler takes.

    Attributes:
        payload: The payload's type; `UNSPECIFIED` if the handler does not name one.
        whole: Whether the handler takes the message, instead of just its payload.
        batch: Whether the handler takes a list of them.
    """

    payload: Any
    whole: bool
    batch: bool = False


def name_of(handler: object) -> str:
    """Return the name of a handler for an error message."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__qualname__"):
        handler = type(handler)
    module = getattr(handler, "__module__", None)
    name: str = getattr(handler, "__qualname__", repr(handler))
    return f"{module}.{name}" if module else name


def is_async(handler: Callable[..., object]) -> bool:
    """Return whether a call returns an awaitable, as far as that can be known."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - to inspect the method
    )


def argument_of(
    handler: Callable[..., object],
    *,
    batch: bool = False,
    filled: Collection[str] = (),
) -> HandlerArgument:
    """Return the argument that a handler takes.

    Args:
        handler: The handler.
        batch: Whether the handler is called with lists.
        filled: The names of further parameters that are filled by others.

    Raises:
        ConfigurationError: It can't be a handler; the text says what to write instead.
    """
    parameter = _only_parameter(handler, _WRITE_BATCH if batch else _WRITE, filled)
    if parameter.annotation is parameter.empty:
        names = _MESSAGES if batch else _MESSAGE
        return HandlerArgument(UNSPECIFIED, parameter.name in names, batch)
    annotation = _resolved(handler, parameter)
    return _of_batch(parameter.name, annotation) if batch else _of_one(annotation)


def check_handler(handler: Callable[..., object]) -> None:
    """Check that a handler can be called with one argument, and that the call runs it.

    A handler that can't be inspected passes, for example a builtin without a signature.

    Raises:
        ConfigurationError: It can't be a handler; the text says what to write instead.
    """
    try:
        _check_kind(handler, _WRITE_ANY)
        _check_one_argument(handler)
    except ConfigurationError as error:
        name = name_of(handler) if callable(handler) else repr(handler)[:60]
        raise ConfigurationError(f"handler {name}: {error}") from None


def _check_one_argument(handler: Callable[..., object]) -> None:
    try:
        # A decorated function may take arguments that its decorator passes.
        signature = inspect.signature(handler, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigurationError(
            f"it is called with one argument, but its parameters don't allow that "
            f"({error}); {_WRITE_ANY}"
        ) from None


def _check_kind(handler: Callable[..., object], write: str) -> None:
    """Check that a handler is callable, and that a call runs it."""
    if not callable(handler):
        raise ConfigurationError(f"it is not a function and can't be called; {write}")
    while isinstance(handler, functools.partial):
        handler = handler.func
    if inspect.isclass(handler):
        raise ConfigurationError(
            f"it is a class, and calling a class handles nothing; {write}"
        )
    for function in (handler, getattr(handler, "__call__", None)):  # noqa: B004
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(
            function
        ):
            raise ConfigurationError(
                f"it is a generator, and calling a generator handles nothing; remove "
                f"`yield`: {write}"
            )


def annotations_of(handler: Callable[..., object]) -> dict[str, Any]:
    """Return the types of the parameters, by their names and in their order.

    The type is `UNSPECIFIED` for those without an annotation, for those that can't be
    passed by name, and where an annotation means nothing and there is a default.

    Args:
        handler: The handler.

    Raises:
        ConfigurationError: An annotation can't be resolved, or it is no handler.
    """
    _check_kind(handler, _WRITE)
    return {
        parameter.name: _annotation_of(handler, parameter)
        for parameter in _parameters(handler, _WRITE)
    }


def _annotation_of(handler: Callable[..., object], parameter: inspect.Parameter) -> Any:
    by_name = parameter.kind in (_EITHER, parameter.KEYWORD_ONLY)
    if not by_name or parameter.annotation is parameter.empty:
        return UNSPECIFIED
    try:
        return _resolved(handler, parameter)
    except ConfigurationError:
        if parameter.default is parameter.empty:
            raise
        return UNSPECIFIED


def _parameters(
    handler: Callable[..., object], write: str
) -> Sequence[inspect.Parameter]:
    try:
        return tuple(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"its parameters can't be inspected; wrap it in a function: {write}"
        ) from None


def _only_parameter(
    handler: Callable[..., object], write: str, filled: Collection[str]
) -> inspect.Parameter:
    """Return the first parameter; all others are filled, or have defaults."""
    _check_kind(handler, write)
    parameters = _parameters(handler, write)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, _EITHER)]
    if not positional:
        raise ConfigurationError(f"it takes no message; {write}")
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    for parameter in (*positional[1:], *named):
        if parameter.default is parameter.empty and parameter.name not in filled:
            raise ConfigurationError(
                f"it needs more than one argument, but is called with one; {write}"
            )
    return positional[0]


_EITHER: Final = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _resolved(handler: Callable[..., object], parameter: inspect.Parameter) -> Any:
    """Return a parameter's annotation, also if it is written as a string."""
    function: Any = handler
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isroutine(function):
        function = inspect.unwrap(type(function).__call__)
    # Only this annotation is resolved: the others need not be resolvable.
    holder = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
    names = getattr(function, "__globals__", {})
    try:
        return get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except Exception as error:  # unknown names, and anything that an eval raises
        raise ConfigurationError(
            f"its annotation {parameter.annotation!r:.80} can't be resolved "
            f"({type(error).__name__}: {error}); define the type in the module, "
            f"outside of functions and of `if TYPE_CHECKING:`"
        ) from error


def _message_of(annotation: Any) -> HandlerArgument | None:
    """Return what an annotation asks for, if it is a message; else None."""
    if get_origin(annotation) is Annotated:
        inner = _message_of(annotation.__origin__)
        return inner and HandlerArgument(inner.payload, whole=True)
    if annotation is Message:
        return HandlerArgument(UNSPECIFIED, whole=True)
    if get_origin(annotation) is Message:
        return HandlerArgument(get_args(annotation)[0], whole=True)
    return None


def _item_of(annotation: Any) -> Any:
    """Return the type of a list's items, or None if it is not a list."""
    return get_args(annotation)[0] if get_origin(annotation) in _LISTS else None


def _of_one(annotation: Any) -> HandlerArgument:
    item = _item_of(annotation)
    if item is not None and _message_of(item) is not None:
        raise ConfigurationError(
            f"it takes a list of messages, but is called with one message; pass "
            f"batch=, or {_WRITE}"
        )
    return _message_of(annotation) or HandlerArgument(annotation, whole=False)


def _of_batch(name: str, annotation: Any) -> HandlerArgument:
    if annotation is list:
        return HandlerArgument(UNSPECIFIED, name in _MESSAGES, batch=True)
    item = _item_of(annotation)
    if item is None:
        raise ConfigurationError(
            f"with batch= it is called with a list; {_WRITE_BATCH}"
        )
    found = _message_of(item)
    payload = item if found is None else found.payload
    return HandlerArgument(payload, found is not None, batch=True)


def payload_type(annotated: Any, payload: Any) -> Any:
    """Return the payload's type: the named one, if the annotation allows it.

    Args:
        annotated: The type of the annotation, or `UNSPECIFIED`.
        payload: The type of `payload=`, or `UNSPECIFIED`.

    Raises:
        ConfigurationError: The two types contradict each other.
    """
    if payload is UNSPECIFIED:
        return bytes if annotated is UNSPECIFIED else annotated
    if annotated is UNSPECIFIED or _covers(annotated, payload):
        return payload
    raise ConfigurationError(
        f"its annotation {_shown(annotated)} does not match "
        f"payload={_shown(payload)}; leave payload= out, or annotate the parameter "
        f"with the same type"
    )


def _covers(annotated: Any, payload: Any) -> bool:
    if annotated in (Any, object, payload):
        return True
    if get_origin(annotated) is Annotated:
        return _covers(annotated.__origin__, payload)
    if get_origin(annotated) in (Union, types.UnionType):
        return any(_covers(member, payload) for member in get_args(annotated))
    return (
        inspect.isclass(annotated)
        and inspect.isclass(payload)
        and _below(payload, annotated)
    )


def _below(payload: type, annotated: type) -> bool:
    try:
        return issubclass(payload, annotated)
    except TypeError:  # a protocol that does not support issubclass
        return False


def _shown(kind: Any) -> str:
    return f"{getattr(kind, '__qualname__', repr(kind)):.80}"
