"""Relay formats: what of a message `penstock relay` pushes to a list or a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from penstock._core.messages import envelope

__all__ = ["FORMATS", "InexpressibleError", "RelayFormat", "copy"]

RelayFormat: TypeAlias = Callable[[str, bytes, Sequence[bytes]], tuple[bytes, ...]]
"""Returns what is pushed for an entry, given its stream, its id and its fields."""

_encode: Final = msgspec.json.encode


class InexpressibleError(ValueError):
    """A format can't express an entry; the text says why, and quotes nothing of it."""


def payload(_stream: str, _id: bytes, fields: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the bytes of the payload.

    Raises:
        InexpressibleError: The entry has no payload.
    """
    return (_payload(fields),)


def fields_of(_stream: str, _id: bytes, fields: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return a JSON object of all fields.

    Raises:
        InexpressibleError: A field is not text, or two have the same name.
    """
    return (_encode(_object(fields)),)


def whole(stream: str, id_: bytes, fields: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return a JSON object with id, stream, key, headers and payload.

    Raises:
        InexpressibleError: The entry has no payload, a part of it is not text, or two
            headers have the same name.
    """
    body = _text(_payload(fields))
    pairs = _object(fields)
    key = pairs.pop(envelope.KEY.decode(), None)
    del pairs[envelope.FIELD]
    facts = {"id": id_.decode(), "stream": stream, "key": key, "headers": pairs}
    return (_encode({**facts, "payload": body}),)


def copy(_stream: str, _id: bytes, fields: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the fields, for another stream."""
    return tuple(fields)


FORMATS: Final[dict[str, RelayFormat]] = {
    "payload": payload,
    "fields": fields_of,
    "envelope": whole,
}
"""The formats of a list's elements, by the names that the option has."""


def _payload(fields: Sequence[bytes]) -> bytes:
    body = envelope.payload(fields)
    if body is None:
        raise InexpressibleError(
            f"it has no field {envelope.FIELD!r}; --format fields pushes all fields"
        )
    return body


def _object(fields: Sequence[bytes]) -> dict[str, Any]:
    pairs = {
        _text(name): _text(value)
        for name, value in zip(fields[::2], fields[1::2], strict=True)
    }
    if 2 * len(pairs) != len(fields):
        raise InexpressibleError("two of its fields have the same name, as JSON can't")
    return pairs


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        pass
    # Raised here, outside of the `except` block: that error quotes the value.
    raise InexpressibleError("a part of it is not text in UTF-8, and JSON has no bytes")
