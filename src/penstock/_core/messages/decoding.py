"""How a message is read out of an entry's fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from penstock._core.messages import envelope
from penstock._core.messages.decode_errors import reason
from penstock._core.messages.envelope import PAYLOAD
from penstock.codecs import Codec, content_type_of, media_type, raw_codec
from penstock.errors import DecodeError
from penstock.message import Delivered, Fields, Headers

__all__ = ["Decoder", "undecodable"]

T = TypeVar("T")

# Of a media type's characters, those that are told.
_SHOWN: Final = 80


class Decoder(Generic[T]):
    """Reads messages of one payload type.

    Args:
        codec: Decodes payloads; None gives the whole entry as `Fields`.
    """

    __slots__ = ("_codec", "_content_type", "_decode", "_raw")

    def __init__(self, codec: Codec[T] | None) -> None:
        self._codec = codec
        self._decode = None if codec is None else codec.decode
        self._content_type = None if codec is None else content_type_of(codec)
        # Whether payloads are bytes, which need no decoding.
        self._raw = codec is raw_codec

    def payload(self, entry: Delivered, fields: Sequence[bytes]) -> Any:
        """Decode a payload.

        Raises:
            DecodeError: The entry has none, or it is not of the payload type.
        """
        if self._decode is None:
            return Fields(zip(fields[::2], fields[1::2], strict=True))
        # Penstock and SeaStreamer write it first, so the search is for strangers.
        data = fields[1] if fields[0] == PAYLOAD else envelope.payload(fields)
        if data is None:
            raise undecodable(entry, "it has no field 'msg'")
        if self._content_type is not None:
            _check_content_type(entry, fields, self._content_type)
        try:
            return self._decode(data)
        except (SystemExit, KeyboardInterrupt, GeneratorExit):
            raise
        # CancelledError too: nobody cancels what never awaits.
        except BaseException as error:  # noqa: BLE001 - a codec may raise anything
            why = reason(error, getattr(self._codec, "kind", None))
        # Out here it has no `__context__`: a UnicodeDecodeError carries the payload.
        raise undecodable(entry, why)

    def key(self, fields: Sequence[bytes]) -> str | None:
        """Read the key."""
        return envelope.decode_key(envelope.key(fields))

    def headers(self, fields: Sequence[bytes]) -> Headers:
        """Read the headers."""
        return envelope.headers(fields)


def _check_content_type(entry: Delivered, fields: Sequence[bytes], kind: bytes) -> None:
    """Refuse what says another type than the codec's."""
    said = envelope.content_type(fields)
    if said is None or said == kind:
        return
    theirs, ours = media_type(said), media_type(kind)
    if theirs != ours:
        shown = "no media type" if theirs is None else theirs[:_SHOWN]
        raise undecodable(
            entry, f"its content type is {shown}, and the codec reads {ours}"
        )


def undecodable(entry: Delivered, reason: str) -> DecodeError:
    """Say that an entry can't be read."""
    return DecodeError(entry.shard.stream, entry.id.decode(), reason)
