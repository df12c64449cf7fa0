"""Messages, entry ids, receipts, headers and fields."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigurationError
from penstock.fields import Fields, Headers
from penstock.message import EntryId, Message, Receipt, Shard
from penstock.transaction import Transaction

MAX = 2**64 - 1

parts = st.integers(0, MAX)
ids = st.builds(EntryId, parts, parts)


# -- EntryId -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ms", "seq"),
    [
        ("0-0", 0, 0),
        ("1-1", 1, 1),
        ("1678280595282-7", 1678280595282, 7),
        ("18446744073709551615-18446744073709551615", MAX, MAX),
        ("5", 5, 0),
        ("007-08", 7, 8),
    ],
)
def test_an_id_is_read_from_text_and_from_bytes(text: str, ms: int, seq: int) -> None:
    assert EntryId.parse(text) == EntryId(ms, seq)
    assert EntryId.parse(text.encode()) == EntryId(ms, seq)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "-1",
        "1-",
        "-1-1",
        "1--1",
        "a-1",
        "1-a",
        "1-0x1",
        "1-1-1",
        "1.0-0",
        "1.5",
        "1e3",
        "1_000-0",
        " 1-1",
        "1-1 ",
        "1 - 1",
        "+1-1",
        "1-+1",
        "\u0661-\u0661",  # Arabic-Indic digits, which int() would take
        "\uff11-\uff11",  # full-width ones too
        "1\u00b2-1",
        "1-1\n",
        "1\n-1",
        "1-1\x00",
        "$",
        ">",
        "*",
        "1-*",
        "18446744073709551616-0",
        "0-18446744073709551616",
        "99999999999999999999-0",
        "100000000000000000000-0",
        "0" * 21 + "-0",
    ],
)
def test_invalid_ids_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        EntryId.parse(text)
    with pytest.raises(ConfigurationError):
        EntryId.parse(text.encode())


def test_bytes_that_are_not_ascii_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="is not an entry id"):
        EntryId.parse(b"\xff-1")


def test_a_huge_invalid_id_is_cut_in_the_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        EntryId.parse("x" * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("part", [-1, MAX + 1, 1.0, "1", None, True])
def test_an_id_consists_of_two_unsigned_64_bit_integers(part: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a part of an entry id"):
        EntryId(part, 0)
    with pytest.raises(ConfigurationError, match="not a part of an entry id"):
        EntryId(0, part)


@given(ids)
@settings(max_examples=100, deadline=None)
def test_an_id_survives_text_and_bytes(entry_id: EntryId) -> None:
    assert EntryId.parse(str(entry_id)) == entry_id
    assert EntryId.parse(bytes(entry_id)) == entry_id
    assert bytes(entry_id) == str(entry_id).encode()


@given(ids, ids)
@settings(max_examples=100, deadline=None)
def test_ids_are_ordered_as_pairs_of_numbers(one: EntryId, other: EntryId) -> None:
    assert (one < other) == ((one.ms, one.seq) < (other.ms, other.seq))
    assert (one == other) == ((one.ms, one.seq) == (other.ms, other.seq))


def test_ids_are_not_ordered_as_text_and_not_as_floats() -> None:
    assert EntryId.parse("9-0") < EntryId.parse("10-0")
    assert EntryId.parse("1-9") < EntryId.parse("1-10")
    # Doubles can't tell these apart.
    assert EntryId(2**53) < EntryId(2**53 + 1)
    assert EntryId(1, 2**64 - 2) < EntryId(1, 2**64 - 1)
    assert hash(EntryId(2**53)) != hash(EntryId(2**53 + 1))


@given(ids.filter(lambda entry_id: entry_id != EntryId.MAX))
@settings(max_examples=100, deadline=None)
def test_next_and_previous_undo_each_other(entry_id: EntryId) -> None:
    assert entry_id < entry_id.next()
    assert entry_id.next().previous() == entry_id


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (EntryId(0, 0), EntryId(0, 1)),
        (EntryId(4, 9), EntryId(4, 10)),
        (EntryId(4, MAX), EntryId(5, 0)),
        (EntryId(MAX, MAX - 1), EntryId.MAX),
    ],
)
def test_neighbours_carry_over_the_millisecond(low: EntryId, high: EntryId) -> None:
    assert low.next() == high
    assert high.previous() == low


def test_nothing_comes_after_the_last_id_or_before_the_first() -> None:
    with pytest.raises(ConfigurationError):
        EntryId.MAX.next()
    assert EntryId.MIN.previous() == EntryId.MIN == EntryId(0, 0)


def test_an_aware_datetime_gives_the_first_id_of_its_millisecond() -> None:
    moment = datetime(2023, 3, 8, 13, 3, 15, 282_999, tzinfo=UTC)
    assert EntryId.at(moment) == EntryId(1678280595282, 0)
    east = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert EntryId.at(east) == EntryId(1678280595282, 0)
    assert EntryId.at(datetime(1970, 1, 1, tzinfo=UTC)) == EntryId.MIN


def test_a_naive_datetime_is_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match=r"datetime\.now\(UTC\)"):
        EntryId.at(datetime(2023, 3, 8))  # noqa: DTZ001 - the test is of this


def test_a_datetime_before_1970_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        EntryId.at(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


@given(st.integers(0, 253_402_300_799_999))
@settings(max_examples=100, deadline=None)
def test_a_timestamp_is_exact_to_the_millisecond_up_to_the_year_9999(ms: int) -> None:
    moment = EntryId(ms, 3).timestamp
    assert moment.tzinfo is UTC
    assert EntryId.at(moment) == EntryId(ms)


def test_a_time_beyond_the_year_9999_overflows() -> None:
    with pytest.raises(OverflowError):
        _ = EntryId(10**17 - 1).timestamp


def test_a_large_id_counts_nanoseconds() -> None:
    moment = datetime(2023, 3, 8, 13, 3, 15, 282_123, tzinfo=UTC)
    assert EntryId(1_678_280_595_282_123_999, 1).timestamp == moment
    assert EntryId(10**17).timestamp == datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)
    assert EntryId.MAX.timestamp.year == 2554


def test_a_datetime_gives_the_first_id_of_its_microsecond_in_nanoseconds() -> None:
    moment = datetime(2023, 3, 8, 13, 3, 15, 282_123, tzinfo=UTC)
    first = EntryId.at(moment, nanoseconds=True)
    assert first == EntryId(1_678_280_595_282_123_000, 0)
    assert (first.counts_nanoseconds, first.timestamp) == (True, moment)
    assert not EntryId.at(moment).counts_nanoseconds
    # These ids end in 2554.
    assert EntryId.at(datetime(9999, 1, 1, tzinfo=UTC), nanoseconds=True) == EntryId(
        EntryId.MAX.ms, 0
    )
    for wrong in (
        datetime(1969, 12, 31, tzinfo=UTC),
        datetime(2023, 3, 8),  # noqa: DTZ001 - the test is of this
    ):
        with pytest.raises(ConfigurationError):
            EntryId.at(wrong, nanoseconds=True)


def test_an_id_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        EntryId(1).ms = 2  # type: ignore[misc]


# -- Receipt, Headers, Fields ------------------------------------------------------


def test_a_receipt_has_id_and_time() -> None:
    receipt = Receipt("orders", 3, b"1678280595282-7")
    assert receipt.id == EntryId(1678280595282, 7)
    assert receipt.timestamp == EntryId(1678280595282).timestamp
    assert repr(receipt) == "Receipt(stream='orders', shard=3, id=1678280595282-7)"
    assert receipt == Receipt("orders", 3, b"1678280595282-7")
    assert receipt != Receipt("orders", 3, b"1678280595282-8")


def test_of_headers_with_the_same_name_the_first_counts_and_pairs_has_all() -> None:
    headers = Headers([("b", "1"), ("a", "2"), ("b", "3")])
    assert headers["b"] == "1"
    assert list(headers) == ["b", "a"]
    assert len(headers) == 2
    assert dict(headers) == {"b": "1", "a": "2"}
    assert headers.pairs == (("b", "1"), ("a", "2"), ("b", "3"))


def test_headers_are_a_mapping() -> None:
    assert Headers([("a", "1")]) == {"a": "1"}
    assert Headers() == {}
    assert not Headers()
    assert "a" in Headers([("a", "1")])
    assert Headers([("a", "1")]).get("b") is None
    with pytest.raises(KeyError):
        _ = Headers()["a"]


def test_headers_show_names_escaped_and_cut_and_no_values() -> None:
    headers = Headers([("token", "hunter2"), ("\x1b[31m\udcff", "x"), ("n" * 99, "y")])
    shown = repr(headers)
    assert shown.startswith(r"Headers('token', '\x1b[31m\udcff', 'nnn")
    assert "hunter2" not in shown
    assert len(shown) < 100
    assert repr(Headers()) == "Headers()"


def test_fields_keep_duplicates_and_order_and_show_no_values() -> None:
    fields = Fields([(b"temp", b"21"), (b"unit", b"C"), (b"temp", b"22")])
    assert fields.get(b"temp") == b"21"
    assert fields.get(b"unit") == b"C"
    assert fields.get(b"none") is None
    assert fields[2] == (b"temp", b"22")
    assert repr(fields) == "Fields(3 pairs)"


# -- Message -----------------------------------------------------------------------


class Delivery:
    """An entry of the ledger."""

    def __init__(self, raw: bytes = b"1678280595282-7", stream: str = "orders") -> None:
        self.shard = Shard(stream, 2, stream.encode("utf-8", "surrogateescape"))
        self.id = raw
        self.deliveries = 3
        self.epoch = 0
        self.fields: Sequence[bytes] = (b"msg", b"body")


class Settlement:
    """A settlement that records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.acked: list[Any] = []
        self.refused: list[tuple[Any, Sequence[bytes], Any]] = []

    def payload(self, entry: Any, fields: Sequence[bytes]) -> list[bytes]:
        self.calls.append("payload")
        return [fields[1]]

    def key(self, fields: Sequence[bytes]) -> str | None:
        self.calls.append("key")
        return fields[0].decode()

    def headers(self, fields: Sequence[bytes]) -> Headers:
        self.calls.append("headers")
        return Headers([("n", str(len(fields)))])

    def ack(self, entry: Any) -> bool:
        self.acked.append(entry)
        return True

    def nack(self, entry: Any, fields: Sequence[bytes], delay: float | None) -> bool:
        self.refused.append((entry, fields, delay))
        return True

    def reject(self, entry: Any, fields: Sequence[bytes], reason: str) -> bool:
        self.refused.append((entry, fields, reason))
        return True

    def transaction(self, entry: Any, fields: Sequence[bytes]) -> Transaction[Receipt]:
        self.calls.append("transaction")
        sink: Any = (entry, fields)
        return Transaction(sink)

    def lost(self, entry: Any) -> bool:
        return not entry.fields

    def lease_left(self, entry: Any) -> float:
        return float(entry.deliveries)


def test_a_message_shows_its_stream_shard_id_and_attempt() -> None:
    entry = Delivery()
    message = Message(entry, Settlement(), entry.fields)
    assert message.stream == "orders"
    assert message.shard == 2
    assert message.id == EntryId(1678280595282, 7)
    assert message.timestamp == EntryId(1678280595282).timestamp
    assert message.attempt == 3


def test_a_message_decodes_nothing_until_accessed_and_its_payload_once() -> None:
    entry, settler = Delivery(), Settlement()
    message = Message(entry, settler, entry.fields)
    assert settler.calls == []
    assert message.payload is message.payload
    assert message.payload == [b"body"]
    assert settler.calls == ["payload"]
    assert message.key == "msg"
    assert message.headers == {"n": "2"}
    assert settler.calls == ["payload", "key", "headers"]


def test_a_message_can_be_read_after_the_ledger_dropped_its_fields() -> None:
    entry = Delivery()
    message = Message(entry, Settlement(), entry.fields)
    entry.fields = ()
    assert message.payload == [b"body"]
    assert message.key == "msg"
    assert message.headers == {"n": "2"}


def test_a_payload_of_none_is_kept_too() -> None:
    class Nothing(Settlement):
        def payload(self, entry: Any, fields: Sequence[bytes]) -> Any:
            self.calls.append("payload")

    settler = Nothing()
    message = Message(Delivery(), settler, ())
    assert message.payload is None
    assert message.payload is None
    assert settler.calls == ["payload"]


def test_an_ack_is_passed_to_the_settlement() -> None:
    entry, settler = Delivery(), Settlement()
    message = Message(entry, settler, entry.fields)
    message.ack()
    assert settler.acked == [entry]


def test_a_refusal_is_passed_to_the_settlement_with_the_original_fields() -> None:
    entry, settler = Delivery(), Settlement()
    fields = entry.fields
    message = Message(entry, settler, fields)
    entry.fields = ()
    message.nack()
    message.nack(delay=5)
    message.reject()
    message.reject("no such order")
    assert settler.refused == [
        (entry, fields, None),
        (entry, fields, 5),
        (entry, fields, "rejected"),
        (entry, fields, "no such order"),
    ]


def test_a_message_asks_the_settlement_for_its_lease() -> None:
    entry = Delivery()
    message = Message(entry, Settlement(), entry.fields)
    assert not message.lost
    assert message.lease_left() == 3.0
    entry.fields = ()
    assert message.lost


def test_the_repr_of_a_message_has_no_payload() -> None:
    entry = Delivery()
    message = Message(entry, Settlement(), entry.fields)
    shown = "<Message 1678280595282-7 of 'orders' shard 2, attempt 3>"
    assert repr(message) == shown
    assert message.payload
    assert repr(message) == shown


def test_the_repr_of_a_message_has_no_control_characters() -> None:
    entry = Delivery(raw=b"1-\xff", stream="a\r\n\x1b[31m" + "x" * 500)
    shown = repr(Message(entry, Settlement(), ()))
    assert shown.isprintable()
    assert len(shown) < 200


def test_a_transaction_comes_from_the_settlement() -> None:
    entry, settler = Delivery(), Settlement()
    made = Message(entry, settler, entry.fields).transaction()
    assert settler.calls == ["transaction"]
    assert repr(made) == "<Transaction not entered>"
