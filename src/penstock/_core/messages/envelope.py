"""Envelope: a message as an entry's field list, and back.

One field has the payload. Its name is `msg` unless `field=` chooses another one. That
is SeaStreamer's default, so each library can read the other's messages. Field `key` has
the key, if there is one. Every other field is a header. The first header is
`content-type`, if the codec has one.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, Sequence
from typing import Final

from penstock._core.messages import dead_letter
from penstock.codecs import media_type
from penstock.errors import ConfigurationError
from penstock.fields import Headers

__all__ = [
    "CONTENT_TYPE",
    "FIELD",
    "KEY",
    "PAYLOAD",
    "content_type",
    "field_of",
    "headers",
    "key",
    "pack",
    "payload",
    "size",
]

FIELD: Final = "msg"
PAYLOAD: Final = FIELD.encode()
KEY: Final = b"key"
CONTENT_TYPE: Final = b"content-type"
_CONTENT_TYPE: Final = CONTENT_TYPE.decode()
# The number of words of a payload; and of a payload with its key.
_ALONE: Final = 2
_KEYED: Final = 4
# The names that fields have which are no payloads.
_TAKEN: Final = frozenset((KEY, CONTENT_TYPE, *dead_letter.NAMES))


def field_of(name: str) -> bytes:
    """Return the name of the payload's field, as it is in entries.

    Raises:
        ConfigurationError: The name is no text, is empty or can't be encoded, or
            another part of a message has that name.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"field={name!a:.60} is not the name of a field; pass a string, as in "
            f"field='data'"
        )
    try:
        field = name.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"field={name!a:.60} contains a lone surrogate, which can't be encoded; "
            f"pass another name"
        ) from None
    if field in _TAKEN:
        raise ConfigurationError(
            f"field={name!a:.60} is the name of another part of a message; the payload "
            f"needs a field of its own, so pass another name"
        )
    return field


def pack(
    body: bytes,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    kind: bytes | None = None,
    field: bytes = PAYLOAD,
) -> tuple[bytes, ...]:
    """Return a message's fields.

    Args:
        body: The payload.
        key: The key, or None.
        headers: The headers.
        kind: The payload's content type, if its codec has one.
        field: The name of the payload's field.

    Raises:
        ConfigurationError: The headers are no mapping; or one has a reserved name, is
            not text, or names another content type than the codec's.
    """
    typed = () if kind is None else (CONTENT_TYPE, kind)
    if key is None:
        fields: tuple[bytes, ...] = (field, body, *typed)
    else:
        fields = (field, body, KEY, _encode(key, "the key"), *typed)
    if headers:
        reserved = (field.decode(), "key")
        for name, value in _items(headers):
            if name in reserved:
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


def size(fields: Sequence[bytes], field: bytes = PAYLOAD) -> int:
    """Return a message's bytes: the names and values of all its fields.

    The name of the payload's field does not count, so that a message of a payload alone
    has the size of that payload.
    """
    return sum(map(len, fields)) - len(field)


def content_type(fields: Sequence[bytes]) -> bytes | None:
    """Return the content type that the payload's sender declared, or None."""
    # Penstock writes the content type after payload and key. The search is for entries
    # of other writers.
    if len(fields) > _ALONE and fields[0] != CONTENT_TYPE:
        if fields[2] == CONTENT_TYPE:
            return fields[3]
        if len(fields) > _KEYED and fields[2] == KEY and fields[4] == CONTENT_TYPE:
            return fields[5]
    return _find(fields, CONTENT_TYPE) if CONTENT_TYPE in fields else None


def payload(fields: Sequence[bytes], field: bytes = PAYLOAD) -> bytes | None:
    """Return the payload; None if another program wrote the entry and it has none."""
    return _find(fields, field)


def key(fields: Sequence[bytes]) -> bytes | None:
    """Return the key's bytes, or None."""
    if len(fields) == 2:  # noqa: PLR2004
        return None
    # Penstock writes the key second. The search is for entries of other writers.
    return fields[3] if fields[2] == KEY and fields[0] != KEY else _find(fields, KEY)


def headers(fields: Sequence[bytes], field: bytes = PAYLOAD) -> Headers:
    """Return all fields except payload and key, as text."""
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return Headers(
        [
            (name.decode("utf-8", "surrogateescape"), _decode(value))
            for name, value in pairs
            if name not in (field, KEY)
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
