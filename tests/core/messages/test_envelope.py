"""Envelope: the fields of an entry that hold payload, key and headers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.messages import dead_letter, envelope
from penstock.errors import ConfigurationError

JSON = b"application/json"
texts = st.text()
names = texts.filter(lambda name: name not in {"msg", "key"})
typed_names = st.sampled_from([b"content-type", b"msg", b"key", b"a"])
raw_names = st.sampled_from([b"msg", b"key", b"a", b"b", b"\xff"]) | st.binary()


@given(
    st.binary(),
    st.none() | texts,
    st.dictionaries(names, texts),
)
@settings(max_examples=200, deadline=None)
def test_a_packed_message_can_be_read_again(
    body: bytes, key: str | None, headers: dict[str, str]
) -> None:
    fields = envelope.pack(body, key, headers)
    assert all(type(field) is bytes for field in fields)
    assert envelope.payload(fields) == body
    assert envelope.decode_key(envelope.key(fields)) == key
    found = envelope.headers(fields)
    assert list(found.items()) == list(headers.items())
    assert len(found.pairs) == len(headers)


@given(st.lists(st.tuples(raw_names, st.binary()), min_size=1))
@settings(max_examples=200, deadline=None)
def test_any_entry_can_be_read_and_the_first_field_of_a_name_counts(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    fields = [part for pair in pairs for part in pair]
    first = dict(reversed(pairs))
    assert envelope.payload(fields) == first.get(b"msg")
    # An entry of one field is searched for a payload only.
    expected = first.get(b"key") if len(pairs) > 1 else None
    assert envelope.key(fields) == expected
    headers = envelope.headers(fields)
    back = [
        tuple(text.encode("utf-8", "surrogateescape") for text in pair)
        for pair in headers.pairs
    ]
    assert back == [pair for pair in pairs if pair[0] not in {b"msg", b"key"}]


def test_the_payload_is_written_first_then_the_key_then_the_headers() -> None:
    fields = envelope.pack(b"body", "k", {"b": "1", "a": "2"})
    assert fields == (b"msg", b"body", b"key", b"k", b"b", b"1", b"a", b"2")
    assert envelope.pack(b"body") == (b"msg", b"body")
    assert envelope.pack(b"", None, {}) == (b"msg", b"")


def test_an_empty_key_is_a_key() -> None:
    fields = envelope.pack(b"", "")
    assert envelope.key(fields) == b""
    assert envelope.decode_key(envelope.key(fields)) == ""


def test_a_value_is_never_taken_for_a_name() -> None:
    fields = [b"a", b"msg", b"b", b"key", b"c", b"x"]
    assert envelope.payload(fields) is None
    assert envelope.key(fields) is None
    assert dict(envelope.headers(fields)) == {"a": "msg", "b": "key", "c": "x"}


@pytest.mark.parametrize("name", ["msg", "key"])
def test_a_header_cannot_have_a_reserved_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"header '{name}' is reserved"):
        envelope.pack(b"", None, {name: "x"})


@pytest.mark.parametrize("name", ["MSG", "Key", "msg ", ""])
def test_a_name_that_only_resembles_a_reserved_one_is_allowed(name: str) -> None:
    assert dict(envelope.headers(envelope.pack(b"", None, {name: "x"}))) == {name: "x"}


# The last two are what `surrogateescape` makes of bytes that are not UTF-8.
@pytest.mark.parametrize("lone", ["\ud800", "a\udfff", "b\udc80", "c\udcc3\udca9"])
def test_a_lone_surrogate_is_not_text(lone: str) -> None:
    wrong: list[tuple[str | None, dict[str, str]]] = [
        (lone, {}),
        (None, {lone: "x"}),
        (None, {"x": lone}),
    ]
    for key, headers in wrong:
        with pytest.raises(ConfigurationError, match="lone surrogate") as caught:
            envelope.pack(b"", key, headers)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("wrong", [1, b"bytes", 1.5, object()])
def test_keys_and_headers_that_are_no_text_are_refused_by_type(wrong: Any) -> None:
    kind = type(wrong).__name__
    with pytest.raises(ConfigurationError, match=f"the key is of type {kind}"):
        envelope.pack(b"", wrong)
    with pytest.raises(ConfigurationError, match=f"a header's name is of type {kind}"):
        envelope.pack(b"", None, {wrong: "x"})
    with pytest.raises(ConfigurationError, match=f"a header is of type {kind}"):
        envelope.pack(b"", None, {"x": wrong})


@pytest.mark.parametrize("wrong", [["a"], "text", 5, [("a", "b")]])
def test_headers_that_are_no_mapping_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="mapping"):
        envelope.pack(b"", headers=wrong)


def test_a_message_without_a_key_has_no_key() -> None:
    assert envelope.key(envelope.pack(b"key")) is None
    assert envelope.key(envelope.pack(b"x", None, {"h": "key"})) is None
    assert envelope.decode_key(None) is None


# -- the name of the payload's field -----------------------------------------------

field_names = st.text(min_size=1).filter(
    lambda name: name.encode() not in {b"key", b"content-type", *dead_letter.NAMES}
)


@given(
    field_names,
    st.binary(),
    st.none() | texts,
    st.dictionaries(texts.filter(lambda name: name != "key"), texts),
)
@settings(max_examples=200, deadline=None)
def test_a_message_with_another_payload_field_can_be_read_again(
    name: str, body: bytes, key: str | None, headers: dict[str, str]
) -> None:
    field = envelope.field_of(name)
    headers.pop(name, None)
    fields = envelope.pack(body, key, headers, None, field)
    assert fields[:2] == (field, body)
    assert envelope.payload(fields, field) == body
    assert envelope.decode_key(envelope.key(fields)) == key
    assert list(envelope.headers(fields, field).items()) == list(headers.items())
    assert envelope.size(fields, field) == sum(map(len, fields)) - len(name.encode())


def test_only_the_chosen_field_is_reserved_besides_the_key() -> None:
    fields = envelope.pack(b"", None, {"msg": "x"}, None, b"data")
    assert dict(envelope.headers(fields, b"data")) == {"msg": "x"}
    for name in ("data", "key"):
        with pytest.raises(ConfigurationError, match=f"header '{name}' is reserved"):
            envelope.pack(b"", None, {name: "x"}, None, b"data")


def test_the_content_type_is_found_behind_any_payload_field() -> None:
    for key in (None, "k"):
        fields = envelope.pack(b"b", key, {"h": "v"}, JSON, b"data")
        assert envelope.content_type(fields) == JSON


@pytest.mark.parametrize("wrong", ["", None, b"data", 1, ["data"]])
def test_a_payload_field_needs_a_name_that_is_text(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not the name of a field"):
        envelope.field_of(wrong)


@pytest.mark.parametrize("taken", ["key", "content-type", "dead.stream", "dead.time"])
def test_a_payload_field_is_not_called_like_another_part_of_a_message(
    taken: str,
) -> None:
    with pytest.raises(
        ConfigurationError, match=f"field='{taken}' is the name of anot"
    ):
        envelope.field_of(taken)


def test_the_name_of_a_payload_field_can_be_encoded() -> None:
    with pytest.raises(ConfigurationError, match="lone surrogate") as caught:
        envelope.field_of("\udcff")
    assert caught.value.__suppress_context__
    assert envelope.field_of("Größe") == "Größe".encode()


# -- content types -----------------------------------------------------------------


def test_the_content_type_follows_payload_and_key() -> None:
    assert envelope.pack(b"b", None, None, JSON) == (
        *(b"msg", b"b"),
        *(b"content-type", JSON),
    )
    assert envelope.pack(b"b", "k", {"h": "v"}, JSON) == (
        *(b"msg", b"b", b"key", b"k"),
        *(b"content-type", JSON),
        *(b"h", b"v"),
    )


def test_a_header_may_repeat_the_content_type_of_the_codec_but_not_contradict_it() -> (
    None
):
    for same in ("application/json", "Application/JSON", "application/json; charset=x"):
        fields = envelope.pack(b"", None, {"content-type": same, "h": "v"}, JSON)
        assert fields == (b"msg", b"", b"content-type", JSON, b"h", b"v")
    for other in ("text/json", "application/json/x", "", "application/vnd.msgpack"):
        with pytest.raises(
            ConfigurationError, match="does not match the codec"
        ) as caught:
            envelope.pack(b"", None, {"content-type": other}, JSON)
        assert "application/json; leave the header out" in str(caught.value)


def test_a_header_may_set_the_content_type_of_bytes() -> None:
    fields = envelope.pack(b"<a/>", None, {"content-type": "text/xml"})
    assert envelope.size(fields) == 24
    assert envelope.content_type(fields) == b"text/xml"
    assert dict(envelope.headers(fields)) == {"content-type": "text/xml"}


@given(st.lists(st.tuples(typed_names, typed_names), min_size=1))
@settings(max_examples=300, deadline=None)
def test_of_several_content_types_the_first_counts_and_a_value_is_none(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    fields = [part for pair in pairs for part in pair]
    expected = dict(reversed(pairs)).get(b"content-type")
    assert envelope.content_type(fields) == expected


@given(
    st.binary(),
    st.none() | texts,
    st.dictionaries(names, texts),
    st.none() | st.just(JSON),
)
@settings(max_examples=200, deadline=None)
def test_the_size_is_that_of_payload_key_and_headers(
    body: bytes, key: str | None, headers: dict[str, str], kind: bytes | None
) -> None:
    headers.pop("content-type", None)
    header_texts = [text for pair in headers.items() for text in pair]
    parts = [body, *[text.encode("utf-8", "surrogateescape") for text in header_texts]]
    if key is not None:
        parts += [b"key", key.encode()]
    if kind is not None:
        parts += [b"content-type", kind]
    fields = envelope.pack(body, key, headers, kind)
    assert envelope.size(fields) == sum(map(len, parts))
