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
    encode_any,
    json_codec,
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
def test_bytes_go_as_they_are(payload: bytes) -> None:
    assert raw_codec.encode(payload) == payload
    assert raw_codec.decode(payload) is payload


def test_what_holds_bytes_goes_as_bytes() -> None:
    for payload in (bytearray(b"ab"), memoryview(b"xab")[1:]):
        encoded = raw_codec.encode(payload)  # type: ignore[arg-type]
        assert type(encoded) is bytes
        assert encoded == b"ab"

    class Special(bytes):
        __slots__ = ()

    assert type(raw_codec.encode(Special(b"ab"))) is bytes


@pytest.mark.parametrize("payload", ["text", 1, None, [1]])
def test_what_is_no_bytes_is_refused_by_type_and_not_by_value(payload: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        raw_codec.encode(payload)
    assert type(payload).__name__ in str(caught.value)
    assert "name the payload type or a codec" in str(caught.value)


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_text_goes_as_utf_8(payload: str) -> None:
    assert text_codec.encode(payload) == payload.encode()
    assert text_codec.decode(payload.encode()) == payload


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="type bytes can't go as str"):
        text_codec.encode(b"secret")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="utf-8"):
        text_codec.decode(b"\xff")


@pytest.mark.parametrize("make", [json_codec, msgpack_codec])
def test_a_struct_goes_and_comes_back_validated(
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


def test_json_and_messagepack_are_what_they_say() -> None:
    assert json_codec(Order).encode(Order(1)) == b'{"number":1,"note":""}'
    assert msgspec.msgpack.decode(msgpack_codec(Order).encode(Order(1))) == {
        "number": 1,
        "note": "",
    }


@pytest.mark.parametrize("make", [json_codec, msgpack_codec])
def test_a_type_that_msgspec_does_not_read_is_refused_at_once(
    make: Callable[[Any], object],
) -> None:
    with pytest.raises(ConfigurationError, match="pass a codec of your own"):
        make("Order")


def test_the_payload_type_chooses_the_codec() -> None:
    assert codec_for(bytes) is raw_codec
    assert codec_for(str) is text_codec
    assert codec_for(Order).decode(b'{"number":1}') == Order(1)
    assert codec_for(dict[str, int]).decode(b'{"a":1}') == {"a": 1}
    # A subclass is another type, and JSON's.
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
def test_without_a_codec_a_payload_goes_by_its_own_type(
    payload: object, expected: bytes
) -> None:
    encoded = encode_any(payload)
    assert type(encoded) is bytes
    assert encoded == expected


@pytest.mark.parametrize(
    "payload", [object(), {"a": object()}, {(1, 2): 3}, {"a": "\ud800"}]
)
def test_what_can_not_be_encoded_is_refused_with_the_way_out(payload: object) -> None:
    with pytest.raises(ConfigurationError, match="pass bytes, or a codec"):
        encode_any(payload)
