"""Codecs: payloads to bytes and back.

`bytes` and `str` are sent unchanged (`str` as UTF-8); any other payload type is encoded
by msgspec, as JSON unless another codec is named. A codec is any object with `encode`
and `decode`. Nothing is imported by a name from a message, and nothing from the network
is ever executed.

Payloads of a codec with a `content_type` are sent with a header of that name, so that
no consumer decodes them as another type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from types import UnionType
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast, overload

import msgspec

from penstock.errors import ConfigurationError

__all__ = [
    "Codec",
    "PayloadError",
    "json_codec",
    "msgpack_codec",
    "raw_codec",
    "text_codec",
]

T = TypeVar("T")

Encode: TypeAlias = Callable[[Any], tuple[bytes, bytes | None]]
"""Returns a payload's bytes and their content type, if they have one."""

# RFC 9110, 8.3.1: type and subtype are tokens; parameters may follow.
_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_MEDIA_TYPE: Final = re.compile(rf"{_WORD}/{_WORD}(?:[ \t]*;[ -~]*)?")
# MessagePack was registered in May 2024; before that, these names were in use.
_SAME: Final = {
    "application/msgpack": "application/vnd.msgpack",
    "application/x-msgpack": "application/vnd.msgpack",
}


class Codec(Protocol[T]):
    """Encodes and decodes one payload type.

    A codec may also have an attribute `content_type`, a media type as text, for example
    `"application/protobuf"`. Then messages are sent with the header `content-type`, and
    a message whose header names another type is not decoded. The attribute is read
    once, when a producer, outlet or consumer is created.

    `decode` may raise any exception for bytes that are not such a payload. The message
    then counts as undecodable, and only the exception's type is reported, because its
    text may quote the payload. To have a reason reported, raise `PayloadError`.

    Example:
        ```python
        class Upper:
            content_type = "text/x-upper"

            def encode(self, payload: str, /) -> bytes:
                return payload.upper().encode()

            def decode(self, data: bytes, /) -> str:
                return data.decode().lower()
        ```
    """

    def encode(self, payload: T, /) -> bytes:
        """Return the payload as bytes."""

    def decode(self, data: bytes, /) -> T:
        """Return the payload, or raise an exception."""


class PayloadError(ValueError):
    """Raised by a codec of your own for bytes that it can't decode.

    Its text is logged and kept with the dead letter, so it should say what does not fit
    and where, and must not quote the payload.
    """


class _Raw:
    """The codec of bytes, which leaves them unchanged."""

    def encode(self, payload: Any, /) -> bytes:
        if type(payload) is bytes:
            return payload
        if isinstance(payload, bytes | bytearray | memoryview):
            return bytes(payload)
        raise _wrong_type(payload, "bytes")

    # The type itself, which returns the same object: it saves a Python call a message.
    decode = bytes


class _Text:
    """The codec of text, as UTF-8."""

    def encode(self, payload: Any, /) -> bytes:
        if not isinstance(payload, str):
            raise _wrong_type(payload, "str")
        return _utf8(payload)

    def decode(self, data: bytes, /) -> str:
        return data.decode()


class _Msgspec:
    """A pair of msgspec encoder and decoder; both are created once and reused."""

    def __init__(self, encoder: Any, decoder: Any, content_type: str) -> None:
        self.encode = encoder.encode
        self.decode = decoder.decode
        self.kind = decoder.type
        self.content_type = content_type


def _utf8(text: str) -> bytes:
    with suppress(UnicodeEncodeError):
        return text.encode()
    raise ConfigurationError(
        "a payload of type str contains a lone surrogate, which can't be encoded; "
        "remove it, or send bytes"
    )


def _wrong_type(payload: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        f"a payload of type {type(payload).__name__} can't be sent as {wanted}; "
        f"pass {wanted}, or name the payload type or a codec"
    )


raw_codec: Final[Codec[bytes]] = _Raw()
text_codec: Final[Codec[str]] = _Text()


@overload
def json_codec(kind: type[T]) -> Codec[T]: ...
@overload
def json_codec(kind: UnionType | type[Any]) -> Codec[Any]: ...
def json_codec(kind: Any) -> Codec[Any]:
    """Create a codec for JSON that decodes and validates as `kind`.

    Its content type is `application/json`.

    Raises:
        ConfigurationError: msgspec does not support the type.
    """
    return _msgspec_codec(msgspec.json, kind, "application/json")


@overload
def msgpack_codec(kind: type[T]) -> Codec[T]: ...
@overload
def msgpack_codec(kind: UnionType | type[Any]) -> Codec[Any]: ...
def msgpack_codec(kind: Any) -> Codec[Any]:
    """Create a codec for MessagePack that decodes and validates as `kind`.

    Its content type is `application/vnd.msgpack`, as registered with IANA; the older
    `application/msgpack` and `application/x-msgpack` are accepted too.

    Raises:
        ConfigurationError: msgspec does not support the type.
    """
    return _msgspec_codec(msgspec.msgpack, kind, "application/vnd.msgpack")


def _msgspec_codec(module: Any, kind: Any, content_type: str) -> Codec[Any]:
    try:
        decoder = module.Decoder(kind)
    except (TypeError, NameError) as error:  # NameError: an annotation's name
        raise ConfigurationError(
            f"payload={kind!r:.80} is not a type that msgspec supports ({error}); "
            f"pass a codec of your own"
        ) from error
    return cast("Codec[Any]", _Msgspec(module.Encoder(), decoder, content_type))


def codec_for(kind: Any) -> Codec[Any]:
    """Return the codec for a payload type."""
    if kind is bytes:
        return raw_codec
    if kind is str:
        return text_codec
    return json_codec(kind)


def content_type_of(codec: Codec[Any]) -> bytes | None:
    """Return a codec's content type; None if it has none.

    Raises:
        ConfigurationError: The content type is not a media type, or the object is not a
            codec.
    """
    if not callable(getattr(codec, "decode", None)):
        raise ConfigurationError(
            f"codec= of type {type(codec).__name__} has no decode(); pass an object "
            f"with encode() and decode(), see penstock.codecs"
        )
    kind = getattr(codec, "content_type", None)
    if kind is None:
        return None
    if not isinstance(kind, str) or not _MEDIA_TYPE.fullmatch(kind):
        raise ConfigurationError(
            f"content_type={kind!r:.60} of the codec is not a media type; use a "
            f"string such as 'application/json', or leave it out"
        )
    return kind.encode()


def media_type(kind: bytes) -> str | None:
    """Return a content type in the form for comparison: lower case, without parameters.

    None if it is not a media type.
    """
    text = kind.decode("ascii", "replace")
    if not _MEDIA_TYPE.fullmatch(text):
        return None
    bare = text.partition(";")[0].rstrip().lower()
    return _SAME.get(bare, bare)


def encoding(codec: Codec[Any]) -> Encode:
    """Return a function that encodes with a codec, and returns the content type too.

    Raises:
        ConfigurationError: The codec's content type is not a media type.
    """
    encode, kind = codec.encode, content_type_of(codec)

    def encode_typed(payload: object) -> tuple[bytes, bytes | None]:
        body = encode(payload)
        if type(body) is not bytes:
            raise ConfigurationError(
                f"the codec encoded a payload of type {type(payload).__name__} as "
                f"{type(body).__name__}; its encode() has to return bytes"
            )
        return body, kind

    return encode_typed


def unencodable(payload: object, error: Exception) -> ConfigurationError:
    """Return the error for a codec that raised; its text may quote the payload."""
    return ConfigurationError(
        f"a payload of type {type(payload).__name__} can't be encoded "
        f"({type(error).__name__}); pass what the codec accepts, or use another"
    )


_anything: Final = json_codec(object)
_JSON: Final = content_type_of(_anything)


def encode_any(payload: object) -> tuple[bytes, bytes | None]:
    """Encode a payload for a producer without a codec, by the payload's own type.

    Raises:
        ConfigurationError: msgspec can't encode it.
    """
    if type(payload) is bytes:  # the most common type, and a much quicker check
        return payload, None
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload), None
    if isinstance(payload, str):
        return _utf8(payload), None
    try:
        return _anything.encode(payload), _JSON
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"a payload of type {type(payload).__name__} can't be encoded as JSON "
            f"({error}); pass bytes, or a codec to the producer"
        ) from error
