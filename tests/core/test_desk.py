from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from penstock._core.desk import FrontDesk
from penstock._core.entry import Entry
from penstock._core.ledger import Ledger
from penstock._core.window import Window
from penstock.codecs import Codec, json_codec, raw_codec, text_codec
from penstock.errors import ClosedError, DecodeError, UsageError
from penstock.message import Fields, Message, Shard


def ledger() -> Ledger:
    return Ledger(
        Window(100, 10**6, 1.0),
        max_pending=10,
        lease=60.0,
        acks=True,
        on_room=lambda: None,
        on_outcomes=lambda: None,
        on_ready=lambda: None,
    )


def running(books: Ledger, *fields: bytes) -> Entry:
    books.received(Shard("orders", 0, b"orders"), [[b"1-1", fields]], 0.0, 10)
    entry = books.take()
    assert entry is not None
    return entry


def message(codec: Codec[Any] | None, *fields: bytes) -> Message[Any]:
    books = ledger()
    entry = running(books, *fields)
    return Message(entry, FrontDesk(books, codec, no_ack=None), entry.fields)


def test_a_payload_is_decoded_by_the_codec_wherever_it_is_in_the_entry() -> None:
    assert message(raw_codec, b"msg", b"a").payload == b"a"
    assert message(text_codec, b"h", b"v", b"msg", "für".encode()).payload == "für"
    assert message(json_codec(dict[str, int]), b"msg", b'{"a":1}').payload == {"a": 1}


def test_raw_bytes_are_not_copied() -> None:
    body = b"x" * 1000
    assert message(raw_codec, b"msg", body).payload is body


def test_the_first_payload_counts() -> None:
    assert message(raw_codec, b"msg", b"a", b"msg", b"b").payload == b"a"
    assert message(raw_codec, b"h", b"", b"msg", b"a", b"msg", b"b").payload == b"a"


def test_without_a_codec_the_whole_entry_is_the_payload() -> None:
    whole = message(None, b"t", b"1", b"msg", b"x", b"t", b"2").payload
    assert type(whole) is Fields
    assert whole == ((b"t", b"1"), (b"msg", b"x"), (b"t", b"2"))


def test_key_and_headers_are_read_from_the_entry() -> None:
    mine = message(raw_codec, b"msg", b"a", b"key", b"k\xff", b"h", b"v")
    assert mine.key == "k\udcff"
    assert dict(mine.headers) == {"h": "v"}
    other = message(raw_codec, b"msg", b"a")
    assert other.key is None
    assert dict(other.headers) == {}


def test_an_entry_that_somebody_else_wrote_can_not_be_decoded() -> None:
    with pytest.raises(DecodeError, match="it has no field 'msg'") as caught:
        _ = message(raw_codec, b"temp", b"21").payload
    assert (caught.value.stream, caught.value.id) == ("orders", "1-1")


@pytest.mark.parametrize(
    ("codec", "data", "reason"),
    [
        (json_codec(int), b'"hunter2"', "Expected `int`, got `str`"),
        (json_codec(int), b"{hunter2", "got `object`"),
        (json_codec(int), b"", "truncated"),
        (text_codec, b"hunter2 \xff", "invalid start byte"),
    ],
)
def test_a_wrong_payload_raises_what_does_not_fit_and_not_the_payload(
    codec: Codec[Any], data: bytes, reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason) as caught:
        _ = message(codec, b"msg", data).payload
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


class Broken:
    """A codec of the user's own."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def encode(self, payload: Any, /) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes, /) -> Any:
        raise self.error


def test_what_a_codec_says_is_made_printable_and_cut() -> None:
    with pytest.raises(DecodeError) as caught:
        _ = message(Broken(ValueError("\x1b[31m\r\n" * 1000)), b"msg", b"").payload
    assert str(caught.value).isprintable()
    assert len(caught.value.reason) == 200


def test_a_codec_that_fails_in_another_way_is_the_users_own_bug() -> None:
    with pytest.raises(ZeroDivisionError):
        _ = message(Broken(ZeroDivisionError()), b"msg", b"").payload


def test_a_payload_that_could_not_be_decoded_is_tried_again_when_asked_again() -> None:
    wrong = message(json_codec(int), b"msg", b"x")
    for _ in range(2):
        with pytest.raises(DecodeError):
            _ = wrong.payload


def test_acknowledging_is_recorded_in_the_ledger() -> None:
    books = ledger()
    entry = running(books, b"msg", b"a")
    FrontDesk(books, raw_codec, no_ack=None).ack(entry)
    assert books.to_confirm() == [entry]


def test_where_nothing_is_acknowledged_by_hand_the_user_is_told_why() -> None:
    books = ledger()
    entry = running(books, b"msg", b"a")
    with pytest.raises(UsageError, match=r"^leave ack\(\) out$"):
        FrontDesk(books, raw_codec, no_ack="leave ack() out").ack(entry)
    assert books.uncommitted == 0


def test_a_message_that_was_given_back_can_not_be_acknowledged() -> None:
    books = ledger()
    entry = running(books, b"msg", b"a")
    list(books.release())
    with pytest.raises(ClosedError, match="this consumer is not open"):
        FrontDesk(books, raw_codec, no_ack=None).ack(entry)


def test_the_desk_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fields: Sequence[bytes] = (b"msg", b"secret")
    with caplog.at_level(logging.DEBUG), pytest.raises(DecodeError):
        _ = message(json_codec(int), *fields).payload
    assert not caplog.records
