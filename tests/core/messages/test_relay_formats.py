"""What of a message is pushed, and what a format can't express."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.messages.relay_formats import FORMATS, InexpressibleError, copy

ID = b"5-1"
FULL = (b"msg", b'{"a":1}', b"key", b"k", b"content-type", b"application/json")
words = st.text(min_size=1).filter(lambda text: "\ud800" not in text)


def made(name: str, *fields: bytes) -> bytes:
    [value] = FORMATS[name]("orders", ID, fields)
    return value


def test_payload_is_the_bytes_of_the_payload_whatever_they_are() -> None:
    assert made("payload", *FULL) == b'{"a":1}'
    assert made("payload", b"h", b"1", b"msg", b"\xff\x00") == b"\xff\x00"


def test_fields_is_an_object_of_all_fields() -> None:
    assert json.loads(made("fields", *FULL)) == {
        "msg": '{"a":1}',
        "key": "k",
        "content-type": "application/json",
    }
    assert json.loads(made("fields", b"t", b"21")) == {"t": "21"}


def test_envelope_is_an_object_with_what_a_message_has() -> None:
    assert json.loads(made("envelope", *FULL)) == {
        "id": "5-1",
        "stream": "orders",
        "key": "k",
        "headers": {"content-type": "application/json"},
        "payload": '{"a":1}',
    }
    assert json.loads(made("envelope", b"msg", b""))["key"] is None


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("payload", (b"t", b"21"), "no field 'msg'"),
        ("envelope", (b"t", b"21"), "no field 'msg'"),
        ("envelope", (b"msg", b"\xff"), "not text"),
        ("envelope", (b"msg", b"a", b"h", b"1", b"h", b"2"), "same name"),
        ("fields", (b"a", b"\xff"), "not text"),
        ("fields", (b"\xff", b"a"), "not text"),
        ("fields", (b"a", b"1", b"a", b"2"), "same name"),
    ],
)
def test_what_a_format_cannot_express_is_refused(
    name: str, fields: tuple[bytes, ...], why: str
) -> None:
    with pytest.raises(InexpressibleError, match=why) as caught:
        made(name, *fields)
    # The exception that quotes the bytes is not behind it.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@given(st.dictionaries(words, words, min_size=1))
def test_every_text_survives_as_json(pairs: dict[str, str]) -> None:
    encodable = {
        name.encode("utf-8", "replace"): value.encode("utf-8", "replace")
        for name, value in pairs.items()
    }
    fields = [word for pair in encodable.items() for word in pair]
    found = json.loads(made("fields", *fields))
    assert {k.encode(): v.encode() for k, v in found.items()} == encodable


def test_a_copy_has_the_fields_unchanged() -> None:
    assert copy("orders", ID, [b"a", b"\xff", b"a", b"1"]) == (
        b"a",
        b"\xff",
        b"a",
        b"1",
    )
