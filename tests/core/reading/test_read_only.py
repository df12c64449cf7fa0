"""Read-only messages, which have no outcome."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from penstock import DecodeError, EntryId, Fields, Shard, UsageError
from penstock._core.reading.read_only import ReadOnlySettlement
from penstock.codecs import Codec, codec_for, raw_codec

SHARD = Shard("orders", 3, b"orders:3")
PENSTOCK_FIELDS = [b"msg", b"5", b"key", b"k", b"h", b"v"]
FOREIGN_FIELDS = [b"a", b"1", b"msg", b"6"]


@pytest.mark.parametrize(
    ("codec", "fields", "payload"),
    [
        (raw_codec, PENSTOCK_FIELDS, b"5"),
        (raw_codec, FOREIGN_FIELDS, b"6"),
        (codec_for(int), PENSTOCK_FIELDS, 5),
        (None, FOREIGN_FIELDS, Fields([(b"a", b"1"), (b"msg", b"6")])),
    ],
)
def test_a_message_is_read_from_its_entry(
    codec: Codec[Any] | None, fields: list[bytes], payload: object
) -> None:
    message = ReadOnlySettlement(codec).open(SHARD, [b"5-1", fields])
    assert message.payload == payload
    assert (message.stream, message.shard, message.id) == ("orders", 3, EntryId(5, 1))


def test_a_payload_is_decoded_when_it_is_accessed() -> None:
    message = ReadOnlySettlement(codec_for(int)).open(
        SHARD, [b"5-1", [b"msg", b"SECRET"]]
    )
    with pytest.raises(DecodeError, match="entry 5-1 of stream 'orders'") as caught:
        _ = message.payload
    assert "SECRET" not in str(caught.value)
    foreign = ReadOnlySettlement(raw_codec).open(SHARD, [b"5-1", [b"a", b"1"]])
    with pytest.raises(DecodeError, match="no field 'msg'"):
        _ = foreign.payload


def test_a_read_only_message_has_no_outcome_and_no_lease() -> None:
    message = ReadOnlySettlement(raw_codec).open(SHARD, [b"5-1", PENSTOCK_FIELDS])
    with pytest.raises(UsageError, match="nothing to acknowledge"):
        message.ack()
    with pytest.raises(UsageError, match="nothing to acknowledge"):
        message.nack(5)
    with pytest.raises(UsageError, match="nothing to acknowledge"):
        message.reject("no")
    with pytest.raises(UsageError, match="nothing to acknowledge"):
        message.transaction()
    assert (message.attempt, message.lost, message.lease_left()) == (1, False, inf)
