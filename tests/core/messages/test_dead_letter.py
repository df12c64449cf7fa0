"""Dead letters: their format, and what can be read from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock._core.messages import dead_letter
from penstock._core.messages.dead_letter import NAMES, Origin
from penstock.message import Shard

ORIGIN = Origin(
    shard=Shard("orders", 3, b"orders:3"),
    id="1678280595282-7",
    group="billing",
    consumer="host:1:ab",
    attempts=5,
    reason="its handler raised ValueError 5 times",
    error="ValueError",
    traceback="Traceback (most recent call last): ...",
    time="2026-03-01T12:00:00.000+00:00",
)

# Names and values of an entry that were no UTF-8 on the server.
texts = st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
plain = texts.filter(lambda text: dead_letter._bytes(text) == raw_of(text))
names = st.sampled_from([*NAMES, b"msg", b"key", b""]) | st.binary()
entries = st.lists(st.tuples(names, st.binary()), min_size=1).map(
    lambda pairs: [part for pair in pairs for part in pair]
)
u64 = st.integers(0, 2**64 - 1)
origins = st.builds(
    Origin,
    shard=st.builds(Shard, plain, u64, st.binary()),
    id=st.builds("{}-{}".format, u64, u64),
    group=plain,
    consumer=plain,
    attempts=u64,
    reason=plain.map(lambda text: text[:1000]),
    error=plain.map(lambda text: text[:200]),
    traceback=plain.map(lambda text: text[-8000:]),
    time=plain,
)


def raw_of(text: str) -> bytes | None:
    """Return the bytes that decode to a text; None if there are none."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    return raw if raw.decode("utf-8", "surrogateescape") == text else None


@given(entries, origins)
@example(
    list(dead_letter.write([b"msg", b"x"], ORIGIN)), ORIGIN
)  # a dead letter of a dead letter
@example([word for name in NAMES for word in (name, b"1")], ORIGIN)
@settings(max_examples=300, deadline=None)
def test_an_entry_is_read_from_its_dead_letter_unchanged(
    fields: list[bytes], origin: Origin
) -> None:
    written = dead_letter.write(fields, origin)
    assert all(type(word) is bytes for word in written)
    assert dead_letter.read(written) == (fields, origin)
    assert dead_letter.read(tuple(written)) == (fields, origin)


@given(
    entries, origins, st.integers(0, 21), st.binary() | st.integers().map(b"%d".__mod__)
)
@settings(max_examples=300, deadline=None)
def test_a_dead_letter_with_any_changed_field_is_valid_or_none_but_never_an_error(
    fields: list[bytes], origin: Origin, position: int, word: bytes
) -> None:
    written = dead_letter.write(fields, origin)
    written[len(fields) + position] = word
    read = dead_letter.read(written)
    assert read is None or read[0] == fields


def test_the_fields_of_the_entry_come_first_and_unchanged() -> None:
    fields = [b"msg", b"\x00\xff", b"msg", b"", b"dead.id", b"9-9"]
    written = dead_letter.write(fields, ORIGIN)
    assert written[:6] == fields
    assert tuple(written[6::2]) == NAMES
    assert written[7::2] == [
        b"orders",
        b"3",
        b"orders:3",
        b"1678280595282-7",
        b"billing",
        b"host:1:ab",
        b"5",
        b"its handler raised ValueError 5 times",
        b"ValueError",
        b"Traceback (most recent call last): ...",
        b"2026-03-01T12:00:00.000+00:00",
    ]


def test_a_dead_letter_of_a_dead_letter_is_opened_one_at_a_time() -> None:
    inner = dead_letter.write([b"msg", b"x"], ORIGIN)
    again = replace(ORIGIN, shard=Shard("orders.dead", 0, b"orders.dead"), attempts=1)
    read = dead_letter.read(dead_letter.write(inner, again))
    assert read == (inner, again)
    assert dead_letter.read(read[0]) == ([b"msg", b"x"], ORIGIN)


@pytest.mark.parametrize("count", range(24))
def test_a_truncated_dead_letter_is_none(count: int) -> None:
    written = dead_letter.write([b"msg", b"x"], ORIGIN)
    assert dead_letter.read(written[:count]) is None
    # Without the fields of the entry there is nothing to redrive.
    assert dead_letter.read(written[24 - count :]) is None


def forged(name: bytes, value: bytes) -> list[bytes]:
    written = dead_letter.write([b"msg", b"x"], ORIGIN)
    written[written.index(name) + 1] = value
    return written


@pytest.mark.parametrize("name", [b"dead.shard", b"dead.attempts"])
@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b" 1", b"1\n", b"x", "٣".encode(), b"\xff", b"1" * 21]
)
def test_a_malformed_number_makes_no_dead_letter(name: bytes, value: bytes) -> None:
    assert dead_letter.read(forged(name, value)) is None


@pytest.mark.parametrize(
    "value", [b"", b"1-", b"1-1-1", b"*", b"1-99999999999999999999"]
)
def test_a_malformed_id_makes_no_dead_letter(value: bytes) -> None:
    assert dead_letter.read(forged(b"dead.id", value)) is None


def test_other_names_or_another_order_make_no_dead_letter() -> None:
    written = dead_letter.write([b"msg", b"x"], ORIGIN)
    assert dead_letter.read([*written, b"more", b"x"]) is None
    assert (
        dead_letter.read([*written[:2], *written[4:6], *written[2:4], *written[6:]])
        is None
    )
    assert (
        dead_letter.read([b"Dead.stream" if w == NAMES[0] else w for w in written])
        is None
    )
    assert dead_letter.read([b"odd", *written]) is None


def test_a_key_that_is_not_text_is_kept_byte_for_byte() -> None:
    origin = replace(ORIGIN, shard=Shard("orders", 0, b"orders:\xff\x00"))
    read = dead_letter.read(dead_letter.write([b"a", b"b"], origin))
    assert read == ([b"a", b"b"], origin)


def test_reason_error_and_traceback_are_cut_and_a_traceback_keeps_its_end() -> None:
    long = replace(
        ORIGIN, reason="r" * 5000, error="e" * 5000, traceback="x" * 9000 + "end"
    )
    read = dead_letter.read(dead_letter.write([b"msg", b"x"], long))
    assert read is not None
    _, origin = read
    assert origin.reason == "r" * 1000
    assert origin.error == "e" * 200
    assert len(origin.traceback) == 8000
    assert origin.traceback.endswith("xend")


def test_a_lone_surrogate_in_a_traceback_is_written_as_an_escape() -> None:
    odd = replace(ORIGIN, traceback="ValueError: \ud800")
    read = dead_letter.read(dead_letter.write([b"msg", b"x"], odd))
    assert read is not None
    assert read[1].traceback == "ValueError: \\ud800"


def test_the_dead_letters_of_all_shards_are_in_one_stream() -> None:
    # With a dot: after a colon SeaStreamer would take it for a shard.
    assert dead_letter.default_stream("orders") == "orders.dead"
