"""A message as an entry's field list, and back.

Field `msg` holds the payload (SeaStreamer's default, so either side can read the
other), field `key` the key where there is one; every other field is a header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from penstock.errors import ConfigurationError
from penstock.message import Headers

__all__ = ["KEY", "PAYLOAD", "headers", "key", "pack", "payload"]

PAYLOAD: Final = b"msg"
KEY: Final = b"key"
_RESERVED: Final = frozenset((PAYLOAD.decode(), KEY.decode()))


def pack(
    body: bytes, key: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[bytes, ...]:
    """Lay out a message's fields.

    Raises:
        ConfigurationError: A header's name is reserved, or one is no text.
    """
    fields: tuple[bytes, ...] = (PAYLOAD, body)
    if key is not None:
        fields += (KEY, _encode(key, "the key"))
    if headers:
        for name, value in headers.items():
            if name in _RESERVED:
                raise ConfigurationError(
                    f"header {name!r} is reserved for the message itself; rename it"
                )
            fields += (_encode(name, "a header's name"), _encode(value, "a header"))
    return fields


def payload(fields: Sequence[bytes]) -> bytes | None:
    """Find the payload; None where somebody else wrote the entry."""
    return _find(fields, PAYLOAD)


def key(fields: Sequence[bytes]) -> bytes | None:
    """Find the key, or None."""
    if len(fields) == 2:  # noqa: PLR2004
        return None
    # Where Penstock writes it; the search is for strangers.
    return (
        fields[3] if fields[2] == KEY and fields[0] == PAYLOAD else _find(fields, KEY)
    )


def headers(fields: Sequence[bytes]) -> Headers:
    """Give all fields but payload and key, as text."""
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return Headers(
        [
            (name.decode("utf-8", "surrogateescape"), _decode(value))
            for name, value in pairs
            if name not in (PAYLOAD, KEY)
        ]
    )


def decode_key(raw: bytes | None) -> str | None:
    """Give a key as text."""
    return None if raw is None else _decode(raw)


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _encode(text: str, what: str) -> bytes:
    if not isinstance(text, str):
        raise ConfigurationError(
            f"{what} is of type {type(text).__name__}; keys and headers are text"
        )
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{what} has a lone surrogate in it, which is no text; remove it"
        ) from None


def _find(fields: Sequence[bytes], name: bytes) -> bytes | None:
    for index in range(0, len(fields) - 1, 2):
        if fields[index] == name:
            return fields[index + 1]
    return None
