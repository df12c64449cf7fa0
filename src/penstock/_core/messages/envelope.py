"""Envelope: a message as an entry's field list, and back.

Field `msg` has the payload. That is SeaStreamer's default, so each library can read the
other's messages. Field `key` has the key, if there is one. Every other field is a
header. The first header is `content-type`, if the codec has one.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, Sequence
from typing import Final

from penstock.codecs import media_type
from penstock.errors import ConfigurationError
from penstock.message import Headers

__all__ = [
    "CONTENT_TYPE",
    "KEY",
    "PAYLOAD",
    "content_type",
    "headers",
    "key",
    "pack",
    "payload",
    "size",
]

PAYLOAD: Final = b"msg"
KEY: Final = b"key"
CONTENT_TYPE: Final = b"content-type"
_CONTENT_TYPE: Final = CONTENT_TYPE.decode()
# The payload's field name does not count towards a message's size: a message of a
# payload alone has the size of that payload.
_FREE: Final = len(PAYLOAD)
# The number of words of a payload; and of a payload with its key.
_ALONE: Final = 2
_KEYED: Final = 4
_RESERVED: Final = frozenset((PAYLOAD.decode(), KEY.decode()))


def pack(
    body: bytes,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    kind: bytes | None = None,
) -> tuple[bytes, ...]:
    """Return a message's fields.

    Args:
        body: The payload.
        key: The key, or None.
        headers: The headers.
        kind: The payload's content type, if its codec has one.

    Raises:
        ConfigurationError: The headers are no mapping; or one has a reserved name, is
            not text, or names another content type than the codec's.
    """
    typed = () if kind is None else (CONTENT_TYPE, kind)
    if key is None:
        fields: tuple[bytes, ...] = (PAYLOAD, body, *typed)
    else:
        fields = (PAYLOAD, body, KEY, _encode(key, "the key"), *typed)
    if headers:
        for name, value in _items(headers):
            if name in _RESERVED:
                raise ConfigurationError(
                    f"header {name!r} is reserved for the message itself; rename it"
                )
            encoded = _encode(value, "a header")
            if kind is not None and name == _CONTENT_TYPE:
                _check_same(encoded, kind)
                continue
            fields += (_encode(name, "a header's name"), encoded)
    return fields


def _items(headers: Mapping[str, str]) -> ItemsView[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigurationError(
            f"headers of type {type(headers).__name__} can't be sent; pass a mapping "
            f"of names to values"
        )
    return headers.items()


def size(fields: Sequence[bytes]) -> int:
    """Return a message's bytes: the names and values of all fields, without `msg`."""
    return sum(map(len, fields)) - _FREE


def content_type(fields: Sequence[bytes]) -> bytes | None:
    """Return the content type that the payload's sender declared, or None."""
    # Penstock writes the content type after payload and key. The search is for entries
    # of other writers.
    if len(fields) > _ALONE and fields[0] == PAYLOAD:
        if fields[2] == CONTENT_TYPE:
            return fields[3]
        if len(fields) > _KEYED and fields[2] == KEY and fields[4] == CONTENT_TYPE:
            return fields[5]
    return _find(fields, CONTENT_TYPE) if CONTENT_TYPE in fields else None


def payload(fields: Sequence[bytes]) -> bytes | None:
    """Return the payload; None if another program wrote the entry and it has none."""
    return _find(fields, PAYLOAD)


def key(fields: Sequence[bytes]) -> bytes | None:
    """Return the key's bytes, or None."""
    if len(fields) == 2:  # noqa: PLR2004
        return None
    # Penstock writes the key second. The search is for entries of other writers.
    return (
        fields[3] if fields[2] == KEY and fields[0] == PAYLOAD else _find(fields, KEY)
    )


def headers(fields: Sequence[bytes]) -> Headers:
    """Return all fields except payload and key, as text."""
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return Headers(
        [
            (name.decode("utf-8", "surrogateescape"), _decode(value))
            for name, value in pairs
            if name not in (PAYLOAD, KEY)
        ]
    )


def decode_key(raw: bytes | None) -> str | None:
    """Return a key as text."""
    return None if raw is None else _decode(raw)


def _check_same(declared: bytes, kind: bytes) -> None:
    if media_type(declared) != media_type(kind):
        raise ConfigurationError(
            f"header {_CONTENT_TYPE!r} does not match the codec, which writes "
            f"{kind.decode()}; leave the header out, or send bytes"
        )


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _encode(text: str, what: str) -> bytes:
    if not isinstance(text, str):
        raise ConfigurationError(
            f"{what} is of type {type(text).__name__}; keys and headers must be strings"
        )
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{what} contains a lone surrogate, which can't be encoded; remove it"
        ) from None


def _find(fields: Sequence[bytes], name: bytes) -> bytes | None:
    for index in range(0, len(fields) - 1, 2):
        if fields[index] == name:
            return fields[index + 1]
    return None
