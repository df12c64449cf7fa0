"""Message decoding: the payload, key and headers from an entry's fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from penstock._core.messages import envelope
from penstock._core.messages.decode_errors import reason
from penstock._core.messages.envelope import PAYLOAD
from penstock.codecs import Codec, content_type_of, media_type, raw_codec
from penstock.errors import DecodeError
from penstock.fields import Fields, Headers
from penstock.message import Delivered

__all__ = ["Decoder", "undecodable"]

T = TypeVar("T")

# The characters of a media type, or of a field's name, that an error shows at most.
_SHOWN: Final = 80


class Decoder(Generic[T]):
    """Reads messages of one payload type.

    Args:
        codec: Decodes payloads; with None the payload is the whole entry as `Fields`.
        field: The name of the payload's field.
    """

    __slots__ = ("_codec", "_content_type", "_decode", "_field", "_raw")

    def __init__(self, codec: Codec[T] | None, field: bytes = PAYLOAD) -> None:
        self._codec = codec
        self._field = field
        self._decode = None if codec is None else codec.decode
        self._content_type = None if codec is None else content_type_of(codec)
        # Whether payloads are bytes, which need no decoding.
        self._raw = codec is raw_codec

    def payload(self, entry: Delivered, fields: Sequence[bytes]) -> Any:
        """Return the decoded payload of an entry.

        Raises:
            DecodeError: The entry has no payload, or one that is not of the payload
                type.
        """
        if self._decode is None:
            return Fields(zip(fields[::2], fields[1::2], strict=True))
        # Penstock and SeaStreamer write the payload first. The search is for entries of
        # other writers.
        field = self._field
        data = fields[1] if fields[0] == field else envelope.payload(fields, field)
        if data is None:
            name = field.decode()
            raise undecodable(entry, f"it has no field {name!a:.{_SHOWN}}")
        if self._content_type is not None:
            _check_content_type(entry, fields, self._content_type)
        try:
            return self._decode(data)
        except (SystemExit, KeyboardInterrupt, GeneratorExit):
            raise
        # CancelledError is caught too: nobody cancels code that never awaits.
        except BaseException as error:  # noqa: BLE001 - a codec may raise anything
            why = reason(error, getattr(self._codec, "kind", None))
        # The error is raised outside the except block, so that it has no `__context__`:
        # a UnicodeDecodeError contains the payload.
        raise undecodable(entry, why)

    def key(self, fields: Sequence[bytes]) -> str | None:
        """Return the key of a message, or None."""
        return envelope.decode_key(envelope.key(fields))

    def headers(self, fields: Sequence[bytes]) -> Headers:
        """Return the headers of a message."""
        return envelope.headers(fields, self._field)


def _check_content_type(entry: Delivered, fields: Sequence[bytes], kind: bytes) -> None:
    """Check that an entry does not name another content type than the codec's."""
    declared = envelope.content_type(fields)
    if declared is None or declared == kind:
        return
    theirs, ours = media_type(declared), media_type(kind)
    if theirs != ours:
        shown = "not a media type" if theirs is None else theirs[:_SHOWN]
        raise undecodable(
            entry, f"its content type is {shown}, but the codec reads {ours}"
        )


def undecodable(entry: Delivered, reason: str) -> DecodeError:
    """Return the error for an entry that can't be decoded."""
    return DecodeError(entry.shard.stream, entry.id.decode(), reason)
