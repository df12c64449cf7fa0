"""Codecs: payloads to bytes and back.

`bytes` and `str` are sent unchanged (`str` as UTF-8). Any other payload type is encoded
as JSON, unless another codec is named: by msgspec, or by pydantic where a part of the
type is pydantic's. A codec is any object with `encode` and `decode`. Nothing is
imported by a name from a message, and nothing from the network is ever executed.

Payloads of a codec with a `content_type` are sent with a header of that name, so that
no consumer decodes them as another type.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, cast

import msgspec

from penstock._payload_types import (
    PayloadError,
    all_finite,
    is_pydantic,
    may_hold_floats,
    read_by_pydantic,
    undecodable_part,
)
from penstock.errors import ConfigurationError

if TYPE_CHECKING:
    from typing_extensions import TypeForm

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


class _Msgpack:
    """MessagePack by msgspec; encoder and decoder are created once and reused."""

    content_type = "application/vnd.msgpack"

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.encode = msgspec.msgpack.Encoder().encode
        self.decode = msgspec.msgpack.Decoder(kind).decode


class _Json:
    """JSON by msgspec; encoder and decoder are created once and reused."""

    content_type = "application/json"

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self._encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(kind).decode
        self.encode: Callable[[Any], bytes] = self._encode
        if may_hold_floats(kind):
            self.encode = self._encode_finite

    def _encode_finite(self, payload: Any, /) -> bytes:
        body = self._encode(payload)
        if _find_null(body) and not all_finite(payload):
            raise _not_finite(payload)
        return body


# msgspec writes NaN and the infinities as null. A regular expression finds it faster
# than `in` does.
_find_null: Final = re.compile(b"null").search


def _not_finite(payload: object) -> ConfigurationError:
    return ConfigurationError(
        f"a payload of type {type(payload).__name__} contains NaN or an infinity, "
        f"which JSON can't hold; replace it, or use msgpack_codec"
    )


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


def json_codec(kind: TypeForm[T]) -> Codec[T]:
    """Create a codec for JSON that decodes and validates as `kind`.

    Its content type is `application/json`.

    Raises:
        ConfigurationError: The type can't be decoded.
    """
    if read_by_pydantic(kind):
        from penstock._pydantic_codecs import PydanticJson  # noqa: PLC0415

        return PydanticJson(kind)
    return _msgspec_codec(_Json, kind)


def msgpack_codec(kind: TypeForm[T]) -> Codec[T]:
    """Create a codec for MessagePack that decodes and validates as `kind`.

    Its content type is `application/vnd.msgpack`, as registered with IANA; the older
    `application/msgpack` and `application/x-msgpack` are accepted too.

    Raises:
        ConfigurationError: The type can't be decoded.
    """
    if read_by_pydantic(kind):
        from penstock._pydantic_codecs import PydanticMsgpack  # noqa: PLC0415

        return PydanticMsgpack(kind)
    return _msgspec_codec(_Msgpack, kind)


def _msgspec_codec(codec: Callable[[Any], Any], kind: Any) -> Codec[Any]:
    try:
        made = codec(kind)
    except (TypeError, NameError) as error:  # NameError: an annotation's name
        raise ConfigurationError(
            f"payload={kind!r:.80} is not a type that msgspec supports ({error}); "
            f"pass a codec of your own as codec="
        ) from error
    part = undecodable_part(kind)
    if part is not None:
        hint = (
            "only a dataclass or another model can hold types of pydantic"
            if is_pydantic(part)
            else "use a dataclass, a msgspec.Struct or a pydantic model"
        )
        raise ConfigurationError(
            f"payload={kind!r:.80} can't be decoded, because msgspec can't create "
            f"{part.__qualname__:.80}; {hint}, or pass a codec of your own as codec="
        )
    return cast("Codec[Any]", made)


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


class _HoldsPydanticError(Exception):
    """Raised within msgspec's encoder at an object that only pydantic can encode."""


def _encode_other(value: object) -> object:
    """Encode what msgspec can't; called by its encoder."""
    if is_pydantic(type(value)):
        raise _HoldsPydanticError
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


_BINARY: Final = (bytes, bytearray, memoryview)
_JSON: Final = _Json.content_type.encode()
_encode_json: Final = msgspec.json.Encoder(enc_hook=_encode_other).encode


def encode_any(payload: object) -> tuple[bytes, bytes | None]:
    """Encode a payload for a producer without a codec, by the payload's own type.

    Raises:
        ConfigurationError: It can't be encoded.
    """
    if type(payload) is bytes:  # the most common type, and a much quicker check
        return payload, None
    if isinstance(payload, str):
        return _utf8(payload), None
    if isinstance(payload, _BINARY):
        return bytes(payload), None
    # msgspec would encode a dataclass of pydantic's, but not as pydantic does.
    if "pydantic" not in sys.modules or not hasattr(payload, "__pydantic_validator__"):
        try:
            body = _encode_json(payload)
        except _HoldsPydanticError:
            pass
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"a payload of type {type(payload).__name__} can't be encoded as JSON "
                f"({error}); pass bytes, or a codec to the producer"
            ) from error
        else:
            if _find_null(body) and not all_finite(payload):
                raise _not_finite(payload)
            return body, _JSON
    from penstock._pydantic_codecs import encode_untyped  # noqa: PLC0415

    return encode_untyped(payload), _JSON
