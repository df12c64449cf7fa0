"""Decode errors: the reason why a payload can't be decoded, without quoting it.

The reason goes to logs and dead letters, so it must not contain any of the payload.
Most of msgspec's texts are what users need:
`Expected `int`, got `str` - at `$.items[3].price``. But some of them quote the
payload, and a sender can make that quote look like a path. So quotes are cut out, and a
path after a quote is kept only if it can't be the sender's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec

from penstock.codecs import PayloadError
from penstock.events import printable

__all__ = ["reason"]

# The path at the end of msgspec's text. Its names are those of the type.
_STEPS: Final = r"(?:\.[^.`\[\]]+|\[[0-9]+\]|\[\.\.\.\])*"
_PATH: Final = rf"(?P<path> - at `(?:key` in `)?\${_STEPS}`)?"
# A value that matches no enum, literal or tag. msgspec quotes the value like Python
# does, so the quote does not end in a backtick.
_VALUE: Final = re.compile(rf"(?P<what>Invalid (?:enum )?value) .*?{_PATH}", re.DOTALL)
# A field's name, which may be any text.
_NAME: Final = re.compile(
    rf"(?P<what>Object contains unknown field) .*?{_PATH}", re.DOTALL
)
_ONLY_PATH: Final = re.compile(_PATH)
_STEP: Final = re.compile(r"\.([^.`\[\]]+)")


def reason(error: BaseException, kind: Any) -> str:
    """Return the reason why a payload could not be decoded.

    Args:
        error: The exception that the codec raised.
        kind: The payload's type as msgspec knows it, if it does.
    """
    if isinstance(error, PayloadError):
        return printable(str(error))
    if isinstance(error, UnicodeDecodeError):
        return f"it is not valid UTF-8: {error.reason} (byte {error.start})"
    if isinstance(error, msgspec.DecodeError):
        return printable(_of_msgspec(error, kind))
    # The exception's text may quote the payload.
    return f"the codec raised {type(error).__name__}"


def _of_msgspec(error: msgspec.DecodeError, kind: Any) -> str:
    text, cause = str(error), error.__cause__
    if cause is not None:
        # An exception from a `__post_init__`. The text begins with that exception's
        # own.
        match = _ONLY_PATH.fullmatch(text.removeprefix(str(cause)))
        return f"the type raised {type(cause).__name__}{_path_of(match)}"
    if value := _VALUE.fullmatch(text):
        return f"{value['what']}{_path_of(value)}"
    if name := _NAME.fullmatch(text):
        path = _path_of(name)
        known = set(_STEP.findall(path)) <= _names(kind)
        return f"{name['what']}{path if known else ''}"
    return text


def _path_of(match: re.Match[str] | None) -> str:
    return (match["path"] or "") if match else ""


@lru_cache(maxsize=100)
def _names(kind: Any) -> frozenset[str]:
    """Return the names of all fields of a type, at any depth."""
    try:
        return frozenset(_properties(msgspec.json.schema(kind)))
    except TypeError:  # a type in it has no JSON Schema
        return frozenset()


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        for part in schema.values():
            yield from _properties(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _properties(part)
