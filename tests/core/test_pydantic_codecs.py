"""Codecs of pydantic's types: what they write they read, and errors quote nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from math import inf, isnan, nan
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    PlainValidator,
    PositiveInt,
    RootModel,
    computed_field,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from penstock import PayloadError
from penstock.codecs import codec_for, encode_any, json_codec, msgpack_codec
from penstock.errors import ConfigurationError

T = TypeVar("T")
SECRET = "hunter2"


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    sku: str
    price: Decimal = Decimal("1.20")


class Order(BaseModel):
    id: int
    at: datetime | None = None
    lines: list[Line] = []
    colour: Colour = Colour.RED
    labels: dict[str, int] = {}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    at: datetime
    every: timedelta
    price: Decimal
    ids: set[UUID]
    pair: tuple[int, Colour]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> Decimal:
        return self.price * 2


class Aliased(BaseModel):
    order_id: int = Field(alias="orderId")


class ReadUnderOthers(BaseModel):
    order_id: int = Field(validation_alias=AliasChoices("orderId", AliasPath("o", 0)))
    model_config = ConfigDict(populate_by_name=True)


class WrittenOnly(BaseModel):
    order_id: int = Field(serialization_alias="orderId")


class Later(BaseModel):
    model_config = ConfigDict(defer_build=True)
    line: Line


class Tree(BaseModel):
    children: list[Tree] = []


class Page(BaseModel, Generic[T]):
    items: list[T]


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: int = 1


class WithJson(BaseModel):
    numbers: Json[list[int]]


class Ids(RootModel[list[int]]):
    pass


@dataclasses.dataclass
class Basket:
    order: Order
    more: list[Order] = dataclasses.field(default_factory=list)
    data: bytes = b"ab"


@dataclasses.dataclass
class Many(Generic[T]):
    items: list[T]


@pydantic.dataclasses.dataclass
class Checked:
    count: PositiveInt
    data: bytes = b"ab"


@dataclasses.dataclass
class Limited:
    count: Annotated[int, Field(gt=0)]


class Pair(NamedTuple):
    order: Order
    number: int


class Keys(TypedDict):
    order: Order


Wrapped = NewType("Wrapped", Order)
ORDER = Order(
    id=7,
    at=datetime(2026, 3, 1, tzinfo=UTC),
    lines=[Line(sku="a")],
    labels={"x": 1},
)
PAYLOADS: list[tuple[Any, Any]] = [
    (Order, ORDER),
    (
        Strict,
        Strict(
            at=datetime(2026, 3, 1, tzinfo=UTC),
            every=timedelta(seconds=90),
            price=Decimal("12.30"),
            ids={UUID(int=7)},
            pair=(1, Colour.RED),
        ),
    ),
    (Aliased, Aliased(orderId=7)),
    (ReadUnderOthers, ReadUnderOthers(order_id=7)),
    (WrittenOnly, WrittenOnly(order_id=7)),
    (Later, Later(line=Line(sku="a"))),
    (Tree, Tree(children=[Tree()])),
    (Page[Order], Page[Order](items=[ORDER])),
    (WithJson, WithJson.model_validate({"numbers": "[1, 2]"})),
    (Ids, Ids([1, 2])),
    (Basket, Basket(ORDER, [ORDER])),
    (Many[Order], Many([ORDER])),
    (Checked, Checked(3)),
    (Limited, Limited(3)),
    (Pair, Pair(ORDER, 3)),
    (Keys, {"order": ORDER}),
    (Wrapped, ORDER),
    (Cat | Dog, Dog()),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
    (Order | None, None),
    (Order | int | None, 5),
    (list[Order], [ORDER]),
    (dict[str, Order], {"a": ORDER}),
    (tuple[Order, ...], (ORDER,)),
    (PositiveInt, 3),
    (HttpUrl, HttpUrl("http://localhost/")),
]
MAKERS: list[Any] = [json_codec, msgpack_codec]


@pytest.mark.parametrize("create", MAKERS)
@pytest.mark.parametrize(("kind", "payload"), PAYLOADS, ids=lambda it: str(it)[:30])
def test_what_is_written_of_a_type_is_read_as_it_was(
    create: Any, kind: Any, payload: Any
) -> None:
    codec = create(kind)
    body = codec.encode(payload)
    assert type(body) is bytes
    found = codec.decode(body)
    assert found == payload
    assert type(found) is type(payload)


@pytest.mark.parametrize(("kind", "payload"), PAYLOADS, ids=lambda it: str(it)[:30])
def test_a_producer_without_a_type_writes_the_same(kind: Any, payload: Any) -> None:
    body, content_type = encode_any(payload)
    assert content_type == b"application/json"
    if kind is not HttpUrl:
        assert body == json_codec(kind).encode(payload)
    assert codec_for(kind).decode(body) == payload


def test_the_wire_has_json_and_messagepack_as_pydantic_writes_them() -> None:
    order = Order(id=7, at=datetime(2026, 3, 1, tzinfo=UTC))
    assert json_codec(Order).encode(order) == order.model_dump_json().encode()
    packed = msgspec.msgpack.decode(msgpack_codec(Order).encode(order))
    assert packed == order.model_dump(mode="json")
    assert json_codec(Aliased).encode(Aliased(orderId=7)) == b'{"orderId":7}'
    # Its own types in MessagePack, from another program.
    foreign = {"id": 7, "at": order.at, "lines": [{"sku": "a", "price": 1.5}]}
    found = msgpack_codec(Order).decode(msgspec.msgpack.encode(foreign))
    assert (found.at, found.lines[0].price) == (order.at, Decimal("1.5"))


def test_aliases_are_written_if_a_model_asks_for_them() -> None:
    class Asks(WrittenOnly):
        model_config = ConfigDict(serialize_by_alias=True)

    assert json_codec(Asks).encode(Asks(order_id=7)) == b'{"orderId":7}'


def test_a_constraint_of_pydantic_is_enforced_in_any_type() -> None:
    for kind in (Limited, Checked):
        with pytest.raises(PayloadError, match=r"greater_than - at `\$\.count`"):
            json_codec(kind).decode(b'{"count":0}')
    with pytest.raises(PayloadError, match="greater_than"):
        msgpack_codec(PositiveInt).decode(b"\x00")


# -- types that pydantic can't decode ------------------------------------------------


class Plain:
    pass


class Arbitrary(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    part: Plain


class Calls(BaseModel):
    on_done: list[Callable[[], None]] = []


@dataclasses.dataclass
class Holds:
    order: Order
    part: Plain


class Incomplete(BaseModel):
    part: Nowhere  # type: ignore[name-defined] # noqa: F821


class Struct(msgspec.Struct):
    order: Order


class StructOfData(msgspec.Struct):
    checked: Checked


@pytest.mark.parametrize("create", MAKERS)
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Arbitrary, "it holds .*Plain"),
        (list[Arbitrary], "it holds .*Plain"),
        (Calls, "it holds callable"),
        (Holds, "Plain"),
        (Order | Plain, "Plain"),
        (Incomplete, "Nowhere|not fully defined"),
        (list[Incomplete], "Nowhere|not fully defined"),
        (Struct, "Order; only a dataclass or another model can hold"),
        (StructOfData, "Checked; only a dataclass or another model can hold"),
    ],
)
def test_a_type_that_pydantic_cannot_decode_is_refused(
    create: Any, kind: Any, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{why}.*codec=") as caught:
        create(kind)
    assert caught.value.__context__ is None


def test_an_old_pydantic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydantic, "VERSION", "2.10.6")
    with pytest.raises(ConfigurationError, match=r"2\.10\.6 is too old.* 2\.11 or"):
        json_codec(Order)


class Converted(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    before: Annotated[Plain, BeforeValidator(lambda _: Plain())]
    plain: Annotated[Plain, PlainValidator(lambda _: Plain())]
    after: Annotated[int, AfterValidator(lambda number: -number)]
    hook: Callable[[], None] | None = Field(default=None, exclude=True)


def test_a_part_with_a_validator_of_its_own_is_decoded() -> None:
    found = json_codec(Converted).decode(b'{"before":0,"plain":0,"after":1}')
    assert type(found.before) is type(found.plain) is Plain
    assert found.after == -1


# -- errors --------------------------------------------------------------------------


class Picky(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int = 0
    by_name: dict[str, int] = {}
    by_number: dict[int, int] = {}
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    site: HttpUrl | None = None
    word: str = ""

    @field_validator("word")
    @classmethod
    def _check(cls, word: str) -> str:
        if word == "custom":
            raise PydanticCustomError("hunter2", "hunter2")  # a type of its own
        if word:
            raise ValueError(f"{word} is a bad word")
        return word


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"number":"hunter2"}', "int_parsing - at `$.number`"),
        (b'{"hunter2":1}', "extra_forbidden - at `$[...]`"),
        (b'{"by_name":{"hunter2":"x"}}', "int_parsing - at `$.by_name[...]`"),
        (b'{"by_number":{"4111":"x"}}', "int_parsing - at `$.by_number[...]`"),
        (b'{"pets":[{"kind":"hunter2"}]}', "union_tag_invalid - at `$.pets[0]`"),
        (b'{"pets":[{"kind":"cat","lives":""}]}', "at `$.pets[0].cat.lives`"),
        (b'{"word":"hunter2"}', "value_error - at `$.word`"),
        (b'{"word":"custom"}', "a custom error - at `$.word`"),
        (b'{"site":"hunter2"}', "url_parsing - at `$.site`"),
        (b"hunter2", "json_invalid - at `$`"),
        (b"\xff", "json_invalid - at `$`"),
    ],
)
def test_an_error_says_what_is_wrong_and_where_and_quotes_nothing(
    body: bytes, reason: str
) -> None:
    codec = json_codec(Picky)
    with pytest.raises(PayloadError) as caught:
        codec.decode(body)
    error = caught.value
    assert str(error).startswith("pydantic: ")
    assert str(error).endswith(reason)
    assert SECRET not in str(error)
    # Neither is there an error of pydantic's behind it, which holds the payload.
    assert error.__context__ is None
    assert error.__cause__ is None


def test_a_million_errors_are_only_counted() -> None:
    body = b"[" + b",".join([b'"x"'] * 1_000_000) + b"]"
    start = time.process_time()
    with pytest.raises(PayloadError, match="1000000 errors"):
        json_codec(list[PositiveInt]).decode(body)
    assert time.process_time() - start < 10


class Leaky(BaseModel):
    value: object = None

    @field_serializer("value")
    def _write(self, value: object) -> object:
        if value == SECRET:
            raise ValueError(f"{value} can't be written")
        return value


WRONG: list[tuple[Any, Any]] = [
    (Order, Order.model_construct(id=SECRET)),
    (Order, {"id": SECRET}),
    (Order, SECRET),
    (Leaky, Leaky(value=SECRET)),
    (list[Order], [Order.model_construct(id=SECRET)]),
    (dict[str, Any] | Order, {SECRET: object()}),
]


@pytest.mark.parametrize("create", MAKERS)
@pytest.mark.parametrize(("kind", "payload"), WRONG)
def test_a_payload_that_could_not_be_read_is_refused_and_not_quoted(
    create: Any, kind: Any, payload: Any
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create(kind).encode(payload)
    assert SECRET not in str(caught.value)
    assert f"type {type(payload).__name__} can't be encoded" in str(caught.value)
    assert caught.value.__context__ is None


def test_without_a_type_it_is_refused_and_not_quoted_either() -> None:
    for payload in (Leaky(value=SECRET), [Leaky(value=SECRET)], [ORDER, object()]):
        with pytest.raises(ConfigurationError) as caught:
            encode_any(payload)
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None


def test_what_pydantic_only_warns_of_is_sent_if_it_can_be_read() -> None:
    for create in MAKERS:
        codec = create(Order)
        assert codec.decode(codec.encode({"id": 7})) == Order(id=7)
        assert codec.decode(codec.encode(Order.model_construct(id="7"))).id == 7


# -- NaN and the infinities --------------------------------------------------------


class Reading(BaseModel):
    value: float
    note: str | None = None


class AsText(Reading):
    model_config = ConfigDict(ser_json_inf_nan="strings")


class AsConstants(Reading):
    model_config = ConfigDict(ser_json_inf_nan="constants")


def type_of(payload: Any) -> Any:
    kinds: dict[type, Any] = {
        list: list[Reading],
        dict: dict[str, list[Reading | float]],
    }
    return kinds.get(type(payload), Reading)


@pytest.mark.parametrize(
    "payload",
    [Reading(value=nan), [Reading(value=inf)], {"a": [Reading(value=1), -inf]}],
    ids=repr,
)
def test_a_number_that_json_cannot_hold_is_refused(payload: Any) -> None:
    for encode in (encode_any, json_codec(type_of(payload)).encode):
        with pytest.raises(ConfigurationError, match="NaN or an infinity"):
            encode(payload)


@pytest.mark.parametrize("kind", [AsText, AsConstants])
def test_a_model_may_write_them_in_another_way(kind: Any) -> None:
    found = json_codec(kind).decode(json_codec(kind).encode(kind(value=nan)))
    assert isnan(found.value)
    assert found.note is None


def test_messagepack_holds_every_number() -> None:
    codec = msgpack_codec(Reading)
    assert isnan(codec.decode(codec.encode(Reading(value=nan))).value)


# -- without pydantic ----------------------------------------------------------------


def test_pydantic_is_imported_by_its_user_alone() -> None:
    code = (
        "import dataclasses, sys, msgspec, penstock\n"
        "from penstock.codecs import encode_any\n"
        "class Order(msgspec.Struct): id: int\n"
        "@dataclasses.dataclass\n"
        "class Point: x: int\n"
        "penstock.Consumer('a', payload=list[Order])\n"
        "penstock.Producer().to('a', payload=Point | None)\n"
        "encode_any([Order(1), Point(2)])\n"
        "assert not {'pydantic', 'pydantic_core'} & set(sys.modules)\n"
        "sys.modules['pydantic'] = None\n"  # as if it were not installed
        "try: penstock.Consumer('a', payload=complex)\n"
        "except penstock.ConfigurationError as error: assert 'codec=' in str(error)\n"
        "else: raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
