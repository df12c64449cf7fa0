"""Signature of handlers: the one parameter decides what a handler gets."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import pytest

from penstock import ConfigurationError, Fields, Message
from penstock._core.handling.signature import (
    UNSPECIFIED,
    HandlerArgument,
    annotations_of,
    argument_of,
    check_handler,
    is_async,
    name_of,
    payload_type,
)

if TYPE_CHECKING:
    from decimal import Decimal


class Order(msgspec.Struct):
    id: int


class Rush(Order):
    pass


async def typed_message(message: Message[Order]) -> None: ...
async def typed_payload(order: Order) -> None: ...
async def bare_message(m: Message) -> None: ...  # type: ignore[type-arg]
async def untyped(body) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
async def untyped_message(message) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
async def untyped_msg(msg) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
async def payload_named_message(message: Order) -> None: ...
async def whole_entry(message: Message[Fields]) -> None: ...
async def annotated(message: Annotated[Message[Order], "why"]) -> None: ...
async def more(order: Order, log: object = None, *, dry: bool = False) -> None: ...
async def positional(order: Order, /) -> None: ...
async def a_list(orders: list[Order]) -> None: ...
def sync(order: Order) -> None: ...


class Handler:
    async def __call__(self, order: Order) -> None: ...

    async def method(self, message: Message[Order]) -> None: ...

    @staticmethod
    async def static(message: Message[Order]) -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def around(*args: Any) -> Any:
        return function(*args)

    return around


@pytest.mark.parametrize(
    ("handler", "payload", "whole"),
    [
        (typed_message, Order, True),
        (typed_payload, Order, False),
        (bare_message, UNSPECIFIED, True),
        (untyped, UNSPECIFIED, False),
        (untyped_message, UNSPECIFIED, True),
        (untyped_msg, UNSPECIFIED, True),
        (payload_named_message, Order, False),
        (whole_entry, Fields, True),
        (annotated, Order, True),
        (more, Order, False),
        (positional, Order, False),
        (a_list, list[Order], False),
        (sync, Order, False),
        (Handler(), Order, False),
        (Handler().method, Order, True),
        (Handler.static, Order, True),
        (functools.partial(more, log=print), Order, False),
        (decorated(typed_message), Order, True),
    ],
)
def test_a_handler_gets_what_its_parameter_says(
    handler: Callable[..., Any], payload: Any, *, whole: bool
) -> None:
    assert argument_of(handler) == HandlerArgument(payload, whole)


async def batch_messages(messages: list[Message[Order]]) -> None: ...
async def batch_payloads(orders: Sequence[Order]) -> None: ...
async def batch_untyped(messages) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
async def batch_bare(bodies: list) -> None: ...  # type: ignore[type-arg]


@pytest.mark.parametrize(
    ("handler", "payload", "whole"),
    [
        (batch_messages, Order, True),
        (batch_payloads, Order, False),
        (batch_untyped, UNSPECIFIED, True),
        (untyped, UNSPECIFIED, False),
        (batch_bare, UNSPECIFIED, False),
    ],
)
def test_a_handler_of_batches_gets_a_list_of_what_its_parameter_says(
    handler: Callable[..., Any], payload: Any, *, whole: bool
) -> None:
    assert argument_of(handler, batch=True) == HandlerArgument(
        payload, whole, batch=True
    )


async def nothing() -> None: ...
async def only_star(*messages: bytes) -> None: ...
async def two(order: Order, log: object) -> None: ...
async def keyword(*, order: Order) -> None: ...
async def keyword_besides(order: Order, *, log: object) -> None: ...
async def agen(order: Order) -> AsyncIterator[int]:
    yield 1


def gen(order: Order) -> Iterator[int]:
    yield 1


async def unresolved(amount: Decimal) -> None: ...


class Generates:
    async def __call__(self, order: Order) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (nothing, "takes no message; write `async def handle"),
        (only_star, "takes no message"),
        (two, "more than one argument"),
        (keyword, "takes no message"),
        (keyword_besides, "more than one argument"),
        (agen, "a generator"),
        (gen, "a generator"),
        (Generates(), "a generator"),
        (Order, "it is a class"),
        ("text", "not a function"),
        (iter, "its parameters can't be inspected"),
        (unresolved, r"'Decimal' can't be resolved \(NameError: .*define the type"),
        (batch_messages, "pass batch="),
    ],
)
def test_a_callable_that_is_not_a_handler_is_refused(handler: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        argument_of(handler)


def wraps(order: Order) -> None: ...


wraps.__wrapped__ = two  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "handler", [only_star, typed_payload, functools.partial(two, log=0), iter, wraps]
)
def test_any_callable_with_one_argument_can_be_a_handler(handler: Any) -> None:
    check_handler(handler)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (nothing, "handler .*nothing: it is called with one argument"),
        (two, "called with one argument.*'log'"),
        (keyword_besides, "called with one argument"),
        (functools.partial(gen), "a generator"),
        (Generates(), "a generator"),
        (Order, "a class"),
        (functools.partial(Order), "a class"),
        ("text", "handler 'text': .*can't be called"),
    ],
)
def test_an_object_that_cannot_be_called_with_one_argument_is_refused(
    handler: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_handler(handler)


def test_a_handler_of_batches_has_to_take_a_list() -> None:
    for handler in (typed_message, typed_payload):
        with pytest.raises(ConfigurationError, match=r"list\[Message\[Order\]\]"):
            argument_of(handler, batch=True)


class Shaped(Protocol):
    id: int


@pytest.mark.parametrize(
    ("annotation", "payload", "kind"),
    [
        (UNSPECIFIED, UNSPECIFIED, bytes),
        (Order, UNSPECIFIED, Order),
        (UNSPECIFIED, Order, Order),
        (Order, Order, Order),
        (Any, Order, Order),
        (object, Order, Order),
        (Order, Rush, Rush),
        (Order | str, Order, Order),
        (Annotated[Order, 1], Order, Order),
        (dict[str, int], dict[str, int], dict[str, int]),
    ],
)
def test_an_explicit_payload_type_takes_precedence_over_the_annotation(
    annotation: Any, payload: Any, kind: Any
) -> None:
    assert payload_type(annotation, payload) == kind


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (Order, str),
        (Rush, Order),
        (Order | int, str),
        (dict[str, int], dict),
        (dict, dict[str, int]),
        (Annotated[Order, 1], str),
        (Shaped, Order),
    ],
)
def test_an_explicit_payload_type_must_not_contradict_the_annotation(
    annotation: Any, payload: Any
) -> None:
    with pytest.raises(ConfigurationError, match="leave payload= out"):
        payload_type(annotation, payload)


def test_a_handler_is_async_if_its_function_is() -> None:
    assert is_async(typed_payload)
    assert is_async(Handler())
    assert is_async(Handler().method)
    assert is_async(functools.partial(more, log=print))
    assert not is_async(sync)
    assert not is_async(decorated(typed_payload))


def test_a_handler_is_named_by_its_module_and_qualified_name() -> None:
    assert name_of(sync) == f"{__name__}.sync"
    assert name_of(Handler().method) == f"{__name__}.Handler.method"
    assert name_of(Handler()) == f"{__name__}.Handler"
    assert name_of(functools.partial(sync)) == f"{__name__}.sync"
    assert name_of([].append) == "list.append"


# -- all parameters --------------------------------------------------------------------


def test_annotations_are_those_that_can_be_passed_by_name() -> None:
    async def handle(  # type: ignore[no-untyped-def]
        first: int,
        second: str,
        bare,  # noqa: ANN001
        *more: bytes,
        named: list[int],
    ) -> None: ...

    assert annotations_of(handle) == {
        "first": int,
        "second": str,
        "bare": UNSPECIFIED,
        "more": UNSPECIFIED,
        "named": list[int],
    }


def test_an_annotation_that_means_nothing_is_left_out_where_there_is_a_default() -> (
    None
):
    async def handle(first: int, other: Unknown = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert annotations_of(handle) == {"first": int, "other": UNSPECIFIED}


def test_an_annotation_that_means_nothing_is_refused_where_there_is_no_default() -> (
    None
):
    async def handle(first: int, other: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match="can't be resolved"):
        annotations_of(handle)
