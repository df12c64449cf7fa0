"""Settlement: entries are opened as messages, and their outcomes recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from penstock._core.handling.settlement import Settler
from penstock._core.ledger.entry import SIZED_ABOVE, Entry
from penstock._core.ledger.failure_policy import (
    NACKED,
    DeadLettered,
    Disposition,
    Dropped,
    RetryAt,
    Stopped,
)
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import State
from penstock.codecs import (
    Codec,
    PayloadError,
    json_codec,
    msgpack_codec,
    raw_codec,
    text_codec,
)
from penstock.errors import ClosedError, DecodeError, UsageError
from penstock.fields import Fields
from penstock.message import EntryId, Message, Shard
from support.ledger import SpyLedger, only, state_of


class FakeFailureOutcomes:
    """Refuses entries with a given disposition, and records the calls."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.disposition: Disposition = RetryAt(1.0, 10.0)
        self.calls: list[tuple[str, Any]] = []

    def nack(self, entry: Entry, fields: Sequence[bytes], delay: float | None) -> None:
        self.calls.append(("nack", delay))
        self.ledger.refuse(entry, self.disposition, fields)

    def reject(self, entry: Entry, fields: Sequence[bytes], reason: str) -> None:
        self.calls.append(("reject", reason))
        self.ledger.refuse(entry, self.disposition, fields)

    def undecodable(self, entry: Entry, error: DecodeError) -> None:
        self.calls.append(("undecodable", error))
        self.ledger.fail(entry, DeadLettered(error.reason))

    def lease_left(self, entry: Entry) -> float:
        return self.ledger.leases.left(entry, 20.0)

    def watch(self, entry: Entry, tell: object) -> None:
        self.calls.append(("watch", (entry.id, tell)))


class Harness:
    """A settler with its ledger and failure outcomes, and entries to delivered."""

    def __init__(
        self,
        codec: Codec[Any] | None = raw_codec,
        why_no_ack: str | None = None,
        *,
        on_loop_thread: bool = True,
        most: int = 1_000_000,
    ) -> None:
        self.ledger = SpyLedger()
        self.failures = FakeFailureOutcomes(self.ledger)
        self.settler: Settler[Any] = Settler(
            self.ledger,
            codec,
            self.failures,
            max_message_bytes=most,
            why_no_ack=why_no_ack,
            on_loop_thread=lambda: on_loop_thread,
        )

    def running(self, *fields: bytes) -> Entry:
        shard = Shard("orders", 0, b"orders")
        self.ledger.deliveries.received(
            shard, [[b"1-1", fields or (b"msg", b"a")]], 0.0, 10
        )
        return self.ledger.start_next()

    def deliver(self, *fields: bytes) -> Message[Any]:
        entry = self.running(*fields)
        return Message(entry, self.settler, entry.fields)


def message(codec: Codec[Any] | None, *fields: bytes) -> Message[Any]:
    return Harness(codec).deliver(*fields)


def test_a_watch_goes_to_what_decides_about_failures() -> None:
    harness = Harness()
    harness.settler.watch(harness.running(), print)
    assert harness.failures.calls == [("watch", (b"1-1", print))]


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
    own = message(raw_codec, b"msg", b"a", b"key", b"k\xff", b"h", b"v")
    assert own.key == "k\udcff"
    assert dict(own.headers) == {"h": "v"}
    other = message(raw_codec, b"msg", b"a")
    assert other.key is None
    assert dict(other.headers) == {}


def test_an_entry_without_a_payload_field_cannot_be_decoded() -> None:
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
def test_a_decode_error_names_the_mismatch_and_does_not_quote_the_payload(
    codec: Codec[Any], data: bytes, reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason) as caught:
        _ = message(codec, b"msg", data).payload
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


class Broken:
    """A codec of the user's that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def encode(self, payload: Any, /) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes, /) -> Any:
        raise self.error


def test_the_reason_of_a_codec_is_made_printable_and_cut() -> None:
    with pytest.raises(DecodeError) as caught:
        _ = message(Broken(PayloadError("\x1b[31m\r\n" * 1000)), b"msg", b"").payload
    assert str(caught.value).isprintable()
    assert len(caught.value.reason) == 200


@pytest.mark.parametrize(
    "error", [ValueError("hunter2"), RecursionError("hunter2")], ids=repr
)
def test_any_other_exception_of_a_codec_is_a_decode_error_too(
    error: Exception,
) -> None:
    with pytest.raises(DecodeError) as caught:
        _ = message(Broken(error), b"msg", b"").payload
    assert caught.value.reason == f"the codec raised {type(error).__name__}"
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_payload_that_is_nested_too_deep_cannot_be_decoded() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(DecodeError, match="the codec raised RecursionError"):
        _ = message(json_codec(Any), b"msg", deep).payload


def test_a_codec_that_raises_an_exit_ends_the_process() -> None:
    class Ends(Broken):
        def decode(self, data: bytes, /) -> Any:
            raise SystemExit

    with pytest.raises(SystemExit):
        _ = message(Ends(ValueError()), b"msg", b"").payload


def test_a_payload_that_failed_to_decode_is_decoded_again_at_each_access() -> None:
    wrong = message(json_codec(int), b"msg", b"x")
    for _ in range(2):
        with pytest.raises(DecodeError):
            _ = wrong.payload


# -- content types and sizes -------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b"APPLICATION/JSON",
    ],
)
@pytest.mark.parametrize("before", [(), (b"key", b"k"), (b"h", b"content-type")])
def test_an_entry_with_the_content_type_of_the_codec_is_decoded(
    content_type: bytes, before: tuple[bytes, ...]
) -> None:
    fields = (b"msg", b"7", *before, b"content-type", content_type)
    assert message(json_codec(int), *fields).payload == 7


def test_an_entry_without_a_content_type_is_decoded() -> None:
    for fields in ((), (b"key", b"k"), (b"h", b"content-type")):
        assert message(json_codec(int), b"msg", b"7", *fields).payload == 7


@pytest.mark.parametrize(
    ("codec", "content_type", "reason"),
    [
        (
            json_codec(int),
            b"text/xml",
            "text/xml, but the codec reads application/json",
        ),
        (
            msgpack_codec(int),
            b"application/json",
            "application/json, but the codec reads application/vnd.msgpack",
        ),
        (json_codec(int), b"hunter2", "not a media type, but"),
        (json_codec(int), b"a/" + b"b" * 1000, f"a/{'b' * 78}, but"),
        (json_codec(int), b"", "not a media type, but"),
    ],
)
@pytest.mark.parametrize("before", [(), (b"key", b"k"), (b"h", b"v", b"i", b"w")])
def test_an_entry_with_another_content_type_is_not_decoded(
    codec: Codec[Any], content_type: bytes, reason: str, before: tuple[bytes, ...]
) -> None:
    fields = (b"msg", b"7", *before, b"content-type", content_type)
    with pytest.raises(DecodeError) as caught:
        _ = message(codec, *fields).payload
    assert caught.value.reason.startswith(f"its content type is {reason}")


def test_the_first_content_type_counts() -> None:
    types = (b"content-type", b"text/xml", b"content-type", b"application/json")
    with pytest.raises(DecodeError, match="its content type is text/xml"):
        _ = message(json_codec(int), b"msg", b"7", *types).payload


def test_bytes_text_and_whole_entries_are_read_with_any_content_type() -> None:
    fields = (b"msg", b"7", b"content-type", b"text/xml")
    assert message(raw_codec, *fields).payload == b"7"
    assert message(text_codec, *fields).payload == "7"
    assert len(message(None, *fields).payload) == 2


def test_a_settler_for_another_codec_uses_the_content_type_of_that_codec() -> None:
    harness = Harness(json_codec(int))
    entry = harness.running(
        b"msg", b"\x07", b"content-type", b"application/vnd.msgpack"
    )
    other = harness.settler.with_codec(msgpack_codec(int))
    assert Message(entry, other, entry.fields).payload == 7
    with pytest.raises(DecodeError, match="its content type"):
        _ = Message(entry, harness.settler, entry.fields).payload


@pytest.mark.parametrize("codec", [raw_codec, text_codec, None, json_codec(Any)])
@pytest.mark.parametrize(
    "fields",
    [
        (b"msg", b"1234567890"),
        (b"msg", b"123456", b"k", b"abc"),
        (b"msg", b"12", b"k", b"abc", b"h", b"abc"),
        (b"k", b"12", b"msg", b"1234567"),
    ],
)
def test_an_entry_that_is_too_large_is_not_decoded(
    codec: Codec[Any] | None, fields: tuple[bytes, ...]
) -> None:
    most = sum(map(len, fields)) - len(b"msg")
    fits = Harness(codec, most=most)
    assert fits.settler.open(fits.running(*fields)) is not None
    small = Harness(codec, most=most - 1)
    assert small.settler.open(small.running(*fields)) is None
    [(call, error)] = small.failures.calls
    assert call == "undecodable"
    reason = f"its {most} bytes are more than max_message_bytes={most - 1}"
    assert error.reason == reason


def test_if_replies_are_bounded_anyway_only_large_entries_are_measured() -> None:
    """The size of an entry from a small reply is its share of the reply."""
    most = SIZED_ABOVE
    harness = Harness(most=most)
    entry = harness.running(b"msg", b"x" * (most + 1))
    assert harness.settler.open(entry) is not None  # its share was 10 bytes
    entry.size = most + 4
    assert harness.settler.open(entry) is None
    entry.fields = (b"msg", b"x" * most)
    assert harness.settler.open(entry) is not None
    typed = Harness(json_codec(int), most=most)
    opened = typed.settler.open(typed.running(b"msg", b"7"))
    assert opened is not None
    assert opened.payload == 7


# -- opening -----------------------------------------------------------------------


class Counting(Broken):
    """A codec that counts what it decodes."""

    def __init__(self) -> None:
        super().__init__(ValueError())
        self.times = 0

    def decode(self, data: bytes, /) -> Any:
        self.times += 1
        return data


@pytest.mark.parametrize(
    ("codec", "fields", "payload"),
    [
        (raw_codec, (b"msg", b"a"), b"a"),
        (raw_codec, (b"h", b"v", b"msg", b"a"), b"a"),
        (text_codec, (b"msg", b"a"), "a"),
        (None, (b"t", b"1"), Fields([(b"t", b"1")])),
    ],
)
def test_an_opened_message_is_decoded(
    codec: Codec[Any] | None, fields: tuple[bytes, ...], payload: object
) -> None:
    harness = Harness(codec)
    opened = harness.settler.open(harness.running(*fields))
    assert opened is not None
    assert opened.payload == payload
    assert (opened.id, opened.stream) == (EntryId(1, 1), "orders")
    assert harness.failures.calls == []


def test_an_opened_message_is_decoded_once() -> None:
    codec = Counting()
    harness = Harness(codec)
    opened = harness.settler.open(harness.running())
    assert opened is not None
    assert opened.payload is opened.payload
    assert codec.times == 1


@pytest.mark.parametrize("fields", [(b"msg", b"x"), (b"temp", b"21")])
def test_an_undecodable_entry_is_passed_to_the_failure_outcomes(
    fields: tuple[bytes, ...],
) -> None:
    harness = Harness(json_codec(int))
    entry = harness.running(*fields)
    assert harness.settler.open(entry) is None
    [(call, error)] = harness.failures.calls
    assert call == "undecodable"
    assert isinstance(error, DecodeError)
    assert state_of(entry) is State.TO_DEAD_LETTER


def test_raw_bytes_need_a_payload_field_too() -> None:
    harness = Harness(raw_codec)
    assert harness.settler.open(harness.running(b"temp", b"21")) is None
    assert [call for call, _ in harness.failures.calls] == ["undecodable"]


# -- outcomes ----------------------------------------------------------------------


def test_acknowledging_is_recorded_in_the_ledger() -> None:
    harness = Harness()
    entry = harness.running()
    harness.settler.ack(entry)
    harness.settler.ack(entry)
    assert harness.ledger.shards.unconfirmed() == [entry]


def test_a_nack_and_a_reject_are_passed_to_the_failure_outcomes() -> None:
    harness = Harness()
    one, two = harness.deliver(), Harness()
    one.nack(delay=2)
    assert harness.failures.calls == [("nack", 2)]
    two.deliver().reject("no such order")
    assert two.failures.calls == [("reject", "no such order")]


@pytest.mark.parametrize("call", ["ack", "nack", "reject"])
def test_without_manual_acknowledgements_a_call_raises_the_reason(call: str) -> None:
    harness = Harness(why_no_ack="leave ack() out")
    with pytest.raises(UsageError, match=r"^leave ack\(\) out$"):
        getattr(harness.deliver(), call)()
    assert harness.ledger.acks.uncommitted == 0
    assert harness.failures.calls == []


@pytest.mark.parametrize("call", ["ack", "nack", "reject"])
def test_a_call_in_another_thread_is_refused(call: str) -> None:
    harness = Harness(on_loop_thread=False)
    with pytest.raises(
        UsageError, match=rf"^{call}\(\) was called outside the consumer's thread"
    ):
        getattr(harness.deliver(), call)()
    assert harness.ledger.acks.uncommitted == 0
    assert harness.failures.calls == []


@pytest.mark.parametrize("call", ["ack", "nack", "reject"])
def test_a_released_message_can_be_neither_acked_nor_refused(call: str) -> None:
    harness = Harness()
    delivered = harness.deliver()
    list(harness.ledger.removals.release())
    with pytest.raises(ClosedError, match="this consumer is not open"):
        getattr(delivered, call)()
    assert harness.failures.calls == []


DISPOSITIONS: list[Disposition] = [
    RetryAt(1.0, 10.0),
    DeadLettered("why"),
    Dropped("why"),
    Stopped("why"),
]


@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("disposition", DISPOSITIONS, ids=lambda v: type(v).__name__)
def test_a_message_has_one_outcome_and_repeating_it_is_not_an_event(
    disposition: Disposition,
    handled: bool,  # noqa: FBT001
) -> None:
    postponed = isinstance(disposition, RetryAt)
    again, other = ("nack", "reject") if postponed else ("reject", "nack")
    harness = Harness()
    harness.failures.disposition = disposition
    delivered = harness.deliver()
    [entry] = harness.ledger.held_entries()
    getattr(delivered, again)()
    if handled:
        harness.ledger.finish(entry, ack=True)
    getattr(delivered, again)()
    assert len(harness.failures.calls) == 1
    for call in (other, "ack"):
        with pytest.raises(UsageError, match=rf"^{call}\(\) came too late: .* nacked"):
            getattr(delivered, call)()
    assert len(harness.failures.calls) == 1
    assert harness.ledger.counters.acked == 0


@pytest.mark.parametrize("call", ["nack", "reject"])
@pytest.mark.parametrize("confirmed", [False, True])
def test_an_acknowledged_message_cannot_be_refused(
    call: str,
    confirmed: bool,  # noqa: FBT001
) -> None:
    harness = Harness()
    delivered = harness.deliver()
    delivered.ack()
    if confirmed:
        harness.ledger.ack_confirmed(only(harness.ledger.acks.to_send()))
    with pytest.raises(
        UsageError, match=rf"^{call}\(\) came too late: .* acknowledged"
    ):
        getattr(delivered, call)()
    assert harness.failures.calls == []


@pytest.mark.parametrize("call", ["ack", "nack", "reject"])
def test_a_call_on_a_message_that_another_consumer_has_claimed_has_no_effect(
    call: str,
) -> None:
    harness = Harness()
    delivered = harness.deliver()
    [entry] = harness.ledger.held_entries()
    assert not delivered.lost
    harness.ledger.removals.lose(entry)
    assert delivered.lost
    getattr(delivered, call)()
    assert harness.ledger.counters.late == 1
    assert harness.ledger.shards.unconfirmed() == []


def test_a_lease_has_time_left_as_long_as_the_message_has_no_outcome() -> None:
    harness = Harness()
    delivered = harness.deliver()
    assert delivered.lease_left() == 40.0
    delivered.nack()
    assert delivered.lease_left() == 40.0, "its handler still runs"
    [entry] = harness.ledger.held_entries()
    harness.ledger.finish(entry, ack=False)
    assert delivered.lease_left() == 0.0


def test_the_settler_does_not_log(caplog: pytest.LogCaptureFixture) -> None:
    fields: Sequence[bytes] = (b"msg", b"secret")
    with caplog.at_level(logging.DEBUG), pytest.raises(DecodeError):
        _ = message(json_codec(int), *fields).payload
    assert not caplog.records


def test_a_nack_that_was_the_last_attempt_may_be_repeated_too() -> None:
    harness = Harness()
    harness.failures.disposition = DeadLettered(NACKED)
    delivered = harness.deliver()
    delivered.nack()
    delivered.nack(5.0)
    assert harness.failures.calls == [("nack", None)]
    with pytest.raises(UsageError, match="too late"):
        delivered.ack()


# -- by id -----------------------------------------------------------------------------


def shards_with(harness: Harness, *places: tuple[str, int, bytes]) -> None:
    """Record an entry in each of some shards, given by stream, number and id."""
    for stream, number, id_ in places:
        shard = Shard(stream, number, f"{stream}:{number}".encode())
        harness.ledger.deliveries.received(shard, [[id_, (b"msg", b"a")]], 0.0, 10)


def test_a_message_that_was_handed_out_is_acknowledged_by_its_id() -> None:
    harness = Harness()
    shards_with(harness, ("orders", 0, b"1-1"), ("orders", 1, b"2-1"))
    entry = harness.ledger.start_next()
    settler = harness.settler
    assert settler.ack_by_id("orders", 0, b"1-1")
    assert entry.state is State.TO_ACK
    assert settler.ack_by_id("orders", None, b"1-1")  # twice is once
    # Nobody has this one yet.
    assert not settler.ack_by_id("orders", None, b"2-1")
    harness.ledger.start_next()
    assert settler.ack_by_id("orders", None, b"2-1")


def test_what_is_not_held_is_not_acknowledged_by_its_id() -> None:
    harness = Harness()
    shards_with(harness, ("orders", 0, b"1-1"))
    entry = harness.ledger.start_next()
    for stream, number, id_ in (
        ("others", None, b"1-1"),
        ("orders", 1, b"1-1"),
        ("orders", 0, b"1-2"),
    ):
        assert not harness.settler.ack_by_id(stream, number, id_)
    assert entry.state is State.RUNNING


def test_an_id_that_several_shards_have_needs_the_shard_s_number() -> None:
    harness = Harness()
    shards_with(harness, ("orders", 0, b"1-1"), ("orders", 1, b"1-1"))
    first, second = harness.ledger.start_next(), harness.ledger.start_next()
    with pytest.raises(UsageError, match="several shards"):
        harness.settler.ack_by_id("orders", None, b"1-1")
    assert harness.settler.ack_by_id("orders", second.shard.number, b"1-1")
    assert first.state is State.RUNNING
    assert second.state is State.TO_ACK


def test_an_id_can_t_be_acknowledged_where_nothing_can_be() -> None:
    with pytest.raises(UsageError, match="not here"):
        Harness(why_no_ack="not here").settler.ack_by_id("orders", 0, b"1-1")
    with pytest.raises(UsageError, match="outside the consumer's thread"):
        Harness(on_loop_thread=False).settler.ack_by_id("orders", 0, b"1-1")
