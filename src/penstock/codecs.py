"""Payloads to bytes and back.

`bytes` and `str` go as they are (`str` as UTF-8); any other payload type goes
through msgspec, as JSON unless another codec is named. A codec is any object with
`encode` and `decode`: no import by name, nothing is ever executed from the wire.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from penstock.errors import ConfigurationError

__all__ = ["Codec", "json_codec", "msgpack_codec", "raw_codec", "text_codec"]

T = TypeVar("T")


class Codec(Protocol[T]):
    """Encodes and decodes one payload type.

    `decode` raises `ValueError` (or a subclass, as msgspec does) for bytes that
    are no such payload; its text must not quote the payload.
    """

    def encode(self, payload: T, /) -> bytes:
        """Give the payload's bytes."""

    def decode(self, data: bytes, /) -> T:
        """Give the payload back, or raise `ValueError`."""


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

    def __init__(self, encoder: Any, decoder: Any) -> None:
        self.encode = encoder.encode
        self.decode = decoder.decode


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


def json_codec(kind: type[T]) -> Codec[T]:
    """Make a codec for JSON that decodes and validates as `kind`.

    Raises:
        ConfigurationError: msgspec does not support the type.
    """
    return _msgspec_codec(msgspec.json, kind)


def msgpack_codec(kind: type[T]) -> Codec[T]:
    """Make a codec for MessagePack that decodes and validates as `kind`.

    Raises:
        ConfigurationError: msgspec does not support the type.
    """
    return _msgspec_codec(msgspec.msgpack, kind)


def _msgspec_codec(module: Any, kind: type[T]) -> Codec[T]:
    try:
        decoder = module.Decoder(kind)
    except TypeError as error:
        raise ConfigurationError(
            f"payload={kind!r:.80} is no type that msgspec reads ({error}); "
            f"pass a codec of your own"
        ) from error
    return cast("Codec[T]", _Msgspec(module.Encoder(), decoder))


def codec_for(kind: Any) -> Codec[Any]:
    """Choose the codec of a payload type."""
    if kind is bytes:
        return raw_codec
    if kind is str:
        return text_codec
    return json_codec(kind)


_anything: Final = json_codec(object)


def encode_any(payload: object) -> bytes:
    """Encode what a producer without a codec was given, by the value's own type.

    Raises:
        ConfigurationError: msgspec can't encode it.
    """
    if type(payload) is bytes:  # what most are, and much quicker to see
        return payload
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    if isinstance(payload, str):
        return _utf8(payload)
    try:
        return _anything.encode(payload)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"a payload of type {type(payload).__name__} can't be encoded as JSON "
            f"({error}); pass bytes, or a codec to the producer"
        ) from error
