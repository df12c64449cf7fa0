"""Codecs, and the content types of payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.codecs import (
    Codec,
    codec_for,
    content_type_of,
    encode_any,
    encoding,
    json_codec,
    media_type,
    msgpack_codec,
    raw_codec,
    text_codec,
)
from penstock.errors import ConfigurationError


class Order(msgspec.Struct):
    number: int
    note: str = ""


@given(st.binary())
@settings(max_examples=50, deadline=None)
def test_bytes_are_sent_unchanged(payload: bytes) -> None:
    assert raw_codec.encode(payload) == payload
    assert raw_codec.decode(payload) is payload


def test_bytes_like_objects_are_sent_as_bytes() -> None:
    for payload in (bytearray(b"ab"), memoryview(b"xab")[1:]):
        encoded = raw_codec.encode(payload)  # type: ignore[arg-type]
        assert type(encoded) is bytes
        assert encoded == b"ab"

    class Special(bytes):
        __slots__ = ()

    assert type(raw_codec.encode(Special(b"ab"))) is bytes


@pytest.mark.parametrize("payload", ["text", 1, None, [1]])
def test_a_payload_that_is_not_bytes_is_refused_and_its_type_is_named(
    payload: Any,
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        raw_codec.encode(payload)
    assert type(payload).__name__ in str(caught.value)
    assert "name the payload type or a codec" in str(caught.value)


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_text_is_sent_as_utf_8(payload: str) -> None:
    assert text_codec.encode(payload) == payload.encode()
    assert text_codec.decode(payload.encode()) == payload


def test_a_payload_that_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="type bytes can't be sent as str"):
        text_codec.encode(b"secret")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="utf-8"):
        text_codec.decode(b"\xff")


@pytest.mark.parametrize("make", [json_codec, msgpack_codec])
def test_a_struct_is_encoded_and_validated_when_decoded(
    make: Callable[[type[Order]], Codec[Order]],
) -> None:
    codec = make(Order)
    order = Order(7, "für dich")
    assert codec.decode(codec.encode(order)) == order
    wrong = {"number": "seven"}
    encode: Any = msgspec.json if make is json_codec else msgspec.msgpack
    with pytest.raises(ValueError, match=r"Expected `int`, got `str` - at `\$.number`"):
        codec.decode(encode.encode(wrong))
    with pytest.raises(ValueError, match=r"."):
        codec.decode(b"")


def test_json_and_messagepack_are_encoded_as_such() -> None:
    assert json_codec(Order).encode(Order(1)) == b'{"number":1,"note":""}'
    assert msgspec.msgpack.decode(msgpack_codec(Order).encode(Order(1))) == {
        "number": 1,
        "note": "",
    }


@pytest.mark.parametrize("make", [json_codec, msgpack_codec])
def test_a_type_that_msgspec_cannot_read_is_refused_at_once(
    make: Callable[[Any], object],
) -> None:
    with pytest.raises(ConfigurationError, match="pass a codec of your own"):
        make("Order")


def test_a_type_with_an_undefined_annotation_is_refused_at_once() -> None:
    class Lost(msgspec.Struct):
        of: Nowhere  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(ConfigurationError, match="'Nowhere' is not defined"):
        json_codec(Lost)


def test_the_payload_type_selects_the_codec() -> None:
    assert codec_for(bytes) is raw_codec
    assert codec_for(str) is text_codec
    assert codec_for(Order).decode(b'{"number":1}') == Order(1)
    assert codec_for(dict[str, int]).decode(b'{"a":1}') == {"a": 1}
    # Other types, subclasses included, are decoded as JSON.
    assert codec_for(int).decode(b"5") == 5


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        ("für", "für".encode()),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        (Order(1), b'{"number":1,"note":""}'),
        (None, b"null"),
        (5, b"5"),
    ],
)
def test_without_a_codec_a_payload_is_encoded_by_its_own_type(
    payload: object, expected: bytes
) -> None:
    encoded, kind = encode_any(payload)
    assert type(encoded) is bytes
    assert encoded == expected
    as_it_is = isinstance(payload, bytes | bytearray | memoryview | str)
    assert kind == (None if as_it_is else b"application/json")


@pytest.mark.parametrize(
    "payload", [object(), {"a": object()}, {(1, 2): 3}, {"a": "\ud800"}]
)
def test_a_payload_that_cannot_be_encoded_is_refused_with_advice(
    payload: object,
) -> None:
    with pytest.raises(ConfigurationError, match="pass bytes, or a codec"):
        encode_any(payload)


# -- content types -----------------------------------------------------------------


class Typed:
    """A codec of a user."""

    def __init__(self, content_type: Any, encoded: Any = b"x") -> None:
        self.content_type = content_type
        self.encoded = encoded

    def encode(self, payload: Any, /) -> bytes:
        encoded: bytes = self.encoded
        return encoded

    def decode(self, data: bytes, /) -> Any:
        return data


class Plain:
    """The minimal codec."""

    def encode(self, payload: int, /) -> bytes:
        return b"%d" % payload

    def decode(self, data: bytes, /) -> int:
        return int(data)


@pytest.mark.parametrize(
    ("codec", "kind"),
    [
        (raw_codec, None),
        (text_codec, None),
        (json_codec(Order), b"application/json"),
        (msgpack_codec(Order), b"application/vnd.msgpack"),
        (Plain(), None),
        (Typed(None), None),
        (Typed("text/x-upper;charset=utf-8"), b"text/x-upper;charset=utf-8"),
    ],
)
def test_a_codec_provides_its_content_type(
    codec: Codec[Any], kind: bytes | None
) -> None:
    assert content_type_of(codec) == kind
    payload: Any = {raw_codec: b"x", text_codec: "x"}.get(codec, 1)
    assert encoding(codec)(payload) == (codec.encode(payload), kind)


@pytest.mark.parametrize(
    "wrong", ["json", "", "a/b/c", "a /b", "text/plain\r\n", "é/x", b"a/b", 5, "a/b;\n"]
)
def test_an_invalid_content_type_is_refused(wrong: Any) -> None:
    for use in (content_type_of, encoding):
        with pytest.raises(ConfigurationError, match="not a media type; use a string"):
            use(Typed(wrong))


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/json", "application/json"),
        (b"Application/JSON", "application/json"),
        (b"application/json;charset=utf-8", "application/json"),
        (b"application/json ; charset=utf-8", "application/json"),
        (b"application/msgpack", "application/vnd.msgpack"),
        (b"application/x-msgpack", "application/vnd.msgpack"),
        (b"application/vnd.acme.order+json", "application/vnd.acme.order+json"),
        (b"json", None),
        (b"", None),
        (b"\xff/\xfe", None),
        (b"text/plain\n", None),
    ],
)
def test_media_types_are_compared_without_case_and_parameters(
    content_type: bytes, expected: str | None
) -> None:
    assert media_type(content_type) == expected


@pytest.mark.parametrize("wrong", ["text", bytearray(b"x"), None, 5])
def test_a_codec_that_returns_no_bytes_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"its encode\(\) has to return bytes"):
        encoding(Typed(None, wrong))("hunter2")


def test_a_union_is_a_type_too() -> None:
    class Cat(msgspec.Struct, tag=True):
        lives: int

    class Dog(msgspec.Struct, tag=True):
        tricks: int

    for make in (json_codec, msgpack_codec):
        codec: Codec[Any] = make(Cat | Dog)
        for pet in (Cat(9), Dog(3)):
            assert codec.decode(codec.encode(pet)) == pet


def test_an_object_without_decode_is_not_a_codec() -> None:
    wrong: Any = object()
    with pytest.raises(ConfigurationError, match="has no decode"):
        content_type_of(wrong)
