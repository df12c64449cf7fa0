"""Decode errors: no part of a payload is in the reason, whoever wrote it."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock._core.messages.decode_errors import reason
from penstock.codecs import PayloadError, json_codec, msgpack_codec, text_codec

CANARY = "hunter2"


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Checked(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        raise ValueError(f"no such name: {self.name}")


@dataclasses.dataclass
class CheckedToo:
    name: str

    def __post_init__(self) -> None:
        raise TypeError(self.name)


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag="hound"):
    tricks: int


class One(msgspec.Struct, tag=1):
    a: int = 0


class Two(msgspec.Struct, tag=2):
    a: int = 0


class Place(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    loud: bool


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    price: int = 0
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    word: Literal["yes", "no"] = "yes"
    names: dict[str, int] = {}
    colours: dict[Colour, int] = {}
    pet: Cat | Dog | None = None
    number: One | Two | None = None
    place: Place = Place(0, 0)
    options: Options = {}
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]{3}$", max_length=5)] = "abc"
    checked: list[Checked] = []
    too: CheckedToo | None = None
    within: list[Strict] = []


class Odd(msgspec.Struct, forbid_unknown_fields=True):
    thing: object = None


class Outer(msgspec.Struct):
    odd: Odd


TYPES: list[Any] = [
    Strict,
    Cat | Dog,
    One | Two,
    Colour,
    Level,
    Literal["yes", "no"],
    Checked,
    CheckedToo,
    Place,
    Options,
    dict[Literal["a"], int],
    list[Strict],
    dict[str, Strict],
    int,
]

NAMES = [name for name in Strict.__struct_fields__ if name != "within"]
HOSTILE = st.sampled_from(
    [
        CANARY,
        f"x - at `$.{CANARY}`",
        f"x` - at `$.{CANARY}",
        f"x` - at `$.{CANARY}` - at `$.price",
        f"' - at `$[{CANARY}]",
        f"` - at `key` in `$.{CANARY}",
        f"x` - at `$.price - at {CANARY}",
        f"\n{CANARY}\n - at `$.price`",
        f"Expected `{CANARY}`",
    ]
) | st.text(max_size=5).map(lambda text: text + CANARY + text)
LEAVES = HOSTILE | st.none() | st.booleans() | st.integers(-5, 5) | st.just(7_654_321)
KEYS = HOSTILE | st.sampled_from([*NAMES, "within", "type", "loud", "lives", "name"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(TYPES), VALUES)
@example(Strict, {f"x` - at `$.{CANARY}": 1})
@example(Strict, {f"x` - at `$.{CANARY}.price": 1})
@example(Strict, {"within": [{f"x` - at `$.{CANARY}": 1}]})
@example(Strict, {"colour": f"x - at `$.{CANARY}`"})
@example(Strict, {"colours": {f"x` - at `$.{CANARY}": 1}})
@example(Strict, {"checked": [{"name": f" - at `$.{CANARY}`"}]})
@example(Checked, {"name": f" - at `$.{CANARY}`"})
@example(CheckedToo, {"name": CANARY})
@example(Cat | Dog, {"type": f"x - at `$.{CANARY}`"})
@example(One | Two, {"type": 7_654_321})
@example(Level, 7_654_321)
def test_no_part_of_a_payload_is_in_the_reason(kind: Any, sent: Any) -> None:
    for codec in (json_codec(kind), msgpack_codec(kind)):
        body = codec.encode(sent)
        try:
            codec.decode(body)
        except Exception as error:  # noqa: BLE001 - whatever it raises
            found = reason(error, kind)
            assert CANARY not in found
            assert "7654321" not in found
            assert found.isprintable()


@pytest.mark.parametrize(
    ("kind", "sent", "expected"),
    [
        (Strict, {"price": "x"}, "Expected `int`, got `str` - at `$.price`"),
        (
            Strict,
            {"within": [{}, {"price": "x"}]},
            "Expected `int`, got `str` - at `$.within[1].price`",
        ),
        (Strict, {"colour": "x"}, "Invalid enum value - at `$.colour`"),
        (Strict, {"pet": {"type": "x"}}, "Invalid value - at `$.pet.type`"),
        (
            Strict,
            {"names": {"x": "y"}},
            "Expected `int`, got `str` - at `$.names[...]`",
        ),
        (Strict, {"colours": {"x": 1}}, "Invalid enum value - at `key` in `$.colours`"),
        (Strict, {"x": 1}, "Object contains unknown field"),
        (list[Strict], [{"x": 1}], "Object contains unknown field - at `$[0]`"),
        (
            Strict,
            {"within": [{"x": 1}]},
            "Object contains unknown field - at `$.within[0]`",
        ),
        (Strict, {"x` - at `$.y": 1}, "Object contains unknown field"),
        (
            Strict,
            {"pet": {"type": "Cat"}},
            "missing required field `lives` - at `$.pet`",
        ),
        (
            Strict,
            {"checked": [{"name": "x"}]},
            "the type raised ValueError - at `$.checked[0]`",
        ),
        (CheckedToo, {"name": "x"}, "the type raised TypeError"),
        (Place, [1], "Expected `array` of length 2"),
        (Strict, {"code": "x"}, "matching regex '^[a-z]{3}$' - at `$.code`"),
    ],
)
def test_the_reason_says_what_does_not_fit_and_where(
    kind: Any, sent: Any, expected: str
) -> None:
    codec = json_codec(kind)
    with pytest.raises(msgspec.ValidationError) as caught:
        codec.decode(codec.encode(sent))
    found = reason(caught.value, kind)
    assert found.startswith(expected) or found.endswith(expected)


def test_a_type_without_a_schema_still_has_reasons() -> None:
    codec = json_codec(Outer)
    with pytest.raises(msgspec.ValidationError) as caught:
        codec.decode(b'{"odd":{"hunter2":1}}')
    assert reason(caught.value, Outer) == "Object contains unknown field"


def test_invalid_text_is_described_by_the_position_of_the_error() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        text_codec.decode(b"hunter2 \xff")
    found = reason(caught.value, None)
    assert found == "it is not valid UTF-8: invalid start byte (byte 8)"


def test_the_message_of_a_codec_is_reported_only_for_a_payload_error() -> None:
    with pytest.raises(ValueError, match=CANARY) as caught:
        int(CANARY)
    assert reason(caught.value, None) == "the codec raised ValueError"
    found = reason(PayloadError("no such field\r\n" * 100), None)
    assert found.startswith("no such field\\r\\n")
    assert len(found) == 200
