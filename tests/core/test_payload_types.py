"""Payload types: those that nothing can decode are refused, and NaN is not sent."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from math import inf, nan
from typing import Annotated, Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pytest

from penstock._payload_types import may_hold_floats
from penstock.codecs import encode_any, json_codec, msgpack_codec
from penstock.errors import ConfigurationError

T = TypeVar("T")


class Plain:
    pass


class Number(int):
    pass


class Struct(msgspec.Struct):
    parts: list[Plain | None] = []


class Tree(msgspec.Struct):
    children: list[Tree] = []
    leaf: complex | None = None


@dataclasses.dataclass
class Data:
    on_done: Callable[[], None]


class Named(NamedTuple):
    part: Plain


class Keys(TypedDict):
    part: Plain


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


@attrs.define
class Attrs:
    part: Plain


UNDECODABLE: list[tuple[Any, str]] = [
    (Plain, "Plain"),
    (Number, "Number"),
    (complex, "complex"),
    (Callable, "Callable"),
    (Callable[[int], int], "Callable"),
    (Iterator[int], "Iterator"),
    (pathlib.Path, "Path"),
    (type, "type"),
    (list[Plain], "Plain"),
    (dict[str, tuple[int, Plain]], "Plain"),
    (Plain | None, "Plain"),
    (Annotated[Plain, "text"], "Plain"),
    (Struct, "Plain"),
    (Tree, "complex"),
    (Data, "Callable"),
    (Named, "Plain"),
    (Keys, "Plain"),
    (Page[Plain], "Plain"),
    (Attrs, "Plain"),
]


@pytest.mark.parametrize("create", [json_codec, msgpack_codec])
@pytest.mark.parametrize(("kind", "part"), UNDECODABLE, ids=lambda it: str(it)[:40])
def test_a_type_that_nothing_can_decode_is_refused_and_its_part_named(
    create: Callable[[Any], object], kind: Any, part: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"create .*{part}.* codec="):
        create(kind)


@pytest.mark.parametrize("create", [json_codec, msgpack_codec])
def test_a_union_of_several_such_types_is_refused_too(create: Any) -> None:
    with pytest.raises(ConfigurationError, match="codec="):
        create(Plain | complex)


@attrs.define
class Order:
    id: int
    lines: list[int] = attrs.field(factory=list)


class Partial(msgspec.Struct):
    note: str | msgspec.UnsetType = msgspec.UNSET
    anything: object = None


@pytest.mark.parametrize("create", [json_codec, msgpack_codec])
@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Order, Order(7, [1])),
        (list[Order], [Order(7)]),
        (Order | None, None),
        (Partial, Partial()),
        (object, {"a": 1}),
        (list[object], [1, "a"]),
    ],
)
def test_types_that_msgspec_decodes_are_accepted(
    create: Callable[[Any], Any], kind: Any, payload: Any
) -> None:
    codec = create(kind)
    assert codec.decode(codec.encode(payload)) == payload


# -- NaN and the infinities --------------------------------------------------------


class Reading(msgspec.Struct):
    value: float
    note: str | None = None


@dataclasses.dataclass
class Point:
    x: float


class Level(enum.IntEnum):
    HIGH = 2


class Constant(enum.Enum):
    LIMIT = inf


TYPED = {float, Reading, Point}
NOT_FINITE: list[Any] = [
    nan,
    -inf,
    [1.5, inf],
    {"a": [None, {"b": nan}]},
    Reading(nan),
    [Reading(1.0), Reading(-inf)],
    Point(inf),
    (2**70, nan),
    {1.5, nan},
    Constant.LIMIT,
    [nan, msgspec.Raw(b"null")],
]


@pytest.mark.parametrize("payload", NOT_FINITE, ids=lambda it: type(it).__name__)
def test_a_number_that_json_cannot_hold_is_refused(payload: Any) -> None:
    typed = json_codec(type(payload) if type(payload) in TYPED else object)
    for encode in (typed.encode, encode_any):
        with pytest.raises(ConfigurationError, match="NaN or an infinity") as caught:
            encode(payload)
        assert f"type {type(payload).__name__} " in str(caught.value)


@pytest.mark.parametrize("kind", [list[Any], Reading, float, msgspec.Raw, object])
def test_the_encoder_of_a_type_with_floats_looks_for_them(kind: Any) -> None:
    assert may_hold_floats(kind)


@pytest.mark.parametrize("kind", [int, list[str | None], Order, Level])
def test_the_encoder_of_any_other_type_is_that_of_msgspec(kind: Any) -> None:
    """It has nothing to look for, and so costs nothing."""
    assert not may_hold_floats(kind)
    assert type(json_codec(kind).encode) is type(msgspec.json.Encoder().encode)


# Written as `null`, or with bytes that look like NaN in MessagePack.
LOOKALIKES: list[Any] = [
    None,
    [None, 1.5, 2**70],
    {"null": None},
    {nan: None},
    [None, Decimal("NaN"), "NaN"],
    [None, b"\xcb\x7f\xf8\0\0\0\0\0\0"],
    [None, 0x7BCB_7FF8_0000_0000],
    [None, msgspec.Raw(b"7")],
    Reading(0.5),
]


@pytest.mark.parametrize("payload", LOOKALIKES, ids=lambda it: type(it).__name__)
def test_what_only_resembles_such_a_number_is_sent(payload: Any) -> None:
    body, _ = encode_any(payload)
    assert body == msgspec.json.encode(payload) == json_codec(object).encode(payload)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_messagepack_holds_every_number(value: float) -> None:
    codec = msgpack_codec(Reading)
    assert repr(codec.decode(codec.encode(Reading(value)))) == repr(Reading(value))
