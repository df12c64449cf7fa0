"""Payloads to bytes and back.

`bytes` and `str` go as they are (`str` as UTF-8); any other payload type goes
through msgspec, as JSON unless another codec is named. A codec is any object with
`encode` and `decode`: no import by name, nothing is ever executed from the wire.

What a codec with a `content_type` encodes is sent with a header of that name, so that
no consumer takes it for something else.
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
"""Gives a payload's bytes and their content type, if they have one."""

# RFC 9110, 8.3.1: type and subtype are tokens; what may follow is parameters.
_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_MEDIA_TYPE: Final = re.compile(rf"{_WORD}/{_WORD}(?:[ \t]*;[ -~]*)?")
# MessagePack was registered in May 2024; until then it went by these.
_SAME: Final = {
    "application/msgpack": "application/vnd.msgpack",
    "application/x-msgpack": "application/vnd.msgpack",
}


class Codec(Protocol[T]):
    """Encodes and decodes one payload type.

    It may also have an attribute `content_type`, a media type as text, for example
    `"application/protobuf"`. Then messages are sent with the header `content-type`,
    and one whose header names another type is not decoded. It is looked at once, when
    a producer, outlet or consumer is made.

    `decode` may raise anything for bytes that are no such payload: the message is
    undecodable then, and told of by the exception's type alone, because its text may
    quote the payload. To have a reason told, raise `PayloadError`.

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
        """Give the payload's bytes."""

    def decode(self, data: bytes, /) -> T:
        """Give the payload back, or raise."""


class PayloadError(ValueError):
    """What a codec of your own raises for bytes that it can't decode.

    Its text is told in logs and kept with the dead letter, so it says what does not
    fit and where, and does not quote the payload.
    """


class _Raw:
    """Bytes as they are."""

    def encode(self, payload: Any, /) -> bytes:
        if type(payload) is bytes:
            return payload
        if isinstance(payload, bytes | bytearray | memoryview):
            return bytes(payload)
        raise _wrong_type(payload, "bytes")

    # The type itself, which gives back the very object: no Python call a message.
    decode = bytes


class _Text:
    """Text as UTF-8."""

    def encode(self, payload: Any, /) -> bytes:
        if not isinstance(payload, str):
            raise _wrong_type(payload, "str")
        return _utf8(payload)

    def decode(self, data: bytes, /) -> str:
        return data.decode()


class _Msgspec:
    """A msgspec coder pair; both are made once and used for every message."""

    def __init__(self, encoder: Any, decoder: Any, content_type: str) -> None:
        self.encode = encoder.encode
        self.decode = decoder.decode
        self.kind = decoder.type
        self.content_type = content_type


def _utf8(text: str) -> bytes:
    with suppress(UnicodeEncodeError):
        return text.encode()
    raise ConfigurationError(
        "a payload of type str has a lone surrogate in it, which is no text; remove "
        "it, or send bytes"
    )


def _wrong_type(payload: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        f"a payload of type {type(payload).__name__} can't go as {wanted}; "
        f"pass {wanted}, or name the payload type or a codec"
    )


raw_codec: Final[Codec[bytes]] = _Raw()
text_codec: Final[Codec[str]] = _Text()


@overload
def json_codec(kind: type[T]) -> Codec[T]: ...
@overload
def json_codec(kind: UnionType | type[Any]) -> Codec[Any]: ...
def json_codec(kind: Any) -> Codec[Any]:
    """Make a codec for JSON that decodes and validates as `kind`.

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
    """Make a codec for MessagePack that decodes and validates as `kind`.

    Its content type is `application/vnd.msgpack`, as registered with IANA; the older
    `application/msgpack` and `application/x-msgpack` are read too.

    Raises:
        ConfigurationError: msgspec does not support the type.
    """
    return _msgspec_codec(msgspec.msgpack, kind, "application/vnd.msgpack")


def _msgspec_codec(module: Any, kind: Any, content_type: str) -> Codec[Any]:
    try:
        decoder = module.Decoder(kind)
    except (TypeError, NameError) as error:  # the latter: a name in its annotations
        raise ConfigurationError(
            f"payload={kind!r:.80} is no type that msgspec reads ({error}); "
            f"pass a codec of your own"
        ) from error
    return cast("Codec[Any]", _Msgspec(module.Encoder(), decoder, content_type))


def codec_for(kind: Any) -> Codec[Any]:
    """Choose the codec of a payload type."""
    if kind is bytes:
        return raw_codec
    if kind is str:
        return text_codec
    return json_codec(kind)


def content_type_of(codec: Codec[Any]) -> bytes | None:
    """Give a codec's content type; None if it has none.

    Raises:
        ConfigurationError: It is no media type, or the codec is none.
    """
    if not callable(getattr(codec, "decode", None)):
        raise ConfigurationError(
            f"codec= of type {type(codec).__name__} has no decode(); give an object "
            f"with encode() and decode(), see penstock.codecs"
        )
    kind = getattr(codec, "content_type", None)
    if kind is None:
        return None
    if not isinstance(kind, str) or not _MEDIA_TYPE.fullmatch(kind):
        raise ConfigurationError(
            f"content_type={kind!r:.60} of the codec is no media type; give a text "
            f"such as 'application/json', or leave it out"
        )
    return kind.encode()


def media_type(kind: bytes) -> str | None:
    """Give a content type as it is compared: in lower case, without parameters.

    None for what is none.
    """
    text = kind.decode("ascii", "replace")
    if not _MEDIA_TYPE.fullmatch(text):
        return None
    bare = text.partition(";")[0].rstrip().lower()
    return _SAME.get(bare, bare)


def encoding(codec: Codec[Any]) -> Encode:
    """Give what encodes by a codec and names the content type.

    Raises:
        ConfigurationError: The codec's content type is none.
    """
    encode, kind = codec.encode, content_type_of(codec)

    def encode_typed(payload: object) -> tuple[bytes, bytes | None]:
        body = encode(payload)
        if type(body) is not bytes:
            raise ConfigurationError(
                f"the codec encoded a payload of type {type(payload).__name__} as "
                f"{type(body).__name__}; its encode() has to give bytes"
            )
        return body, kind

    return encode_typed


def unencodable(payload: object, error: Exception) -> ConfigurationError:
    """Say that a codec raised; its own text may quote the payload."""
    return ConfigurationError(
        f"a payload of type {type(payload).__name__} can't be encoded "
        f"({type(error).__name__}); pass what the codec takes, or name another"
    )


_anything: Final = json_codec(object)
_JSON: Final = content_type_of(_anything)


def encode_any(payload: object) -> tuple[bytes, bytes | None]:
    """Encode what a producer without a codec was given, by the value's own type.

    Raises:
        ConfigurationError: msgspec can't encode it.
    """
    if type(payload) is bytes:  # what most are, and much quicker to see
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
