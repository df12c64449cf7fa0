"""What is told of a payload that can't be decoded: what does not fit, and where.

It goes to logs and dead letters, so nothing of the payload may be in it. msgspec says
`Expected `int`, got `str` - at `$.items[3].price``, which is what one wants; but some
of its sentences quote what was sent, and who sends may make that look like a path. So
quotes are cut out, and a path behind one counts only if it can be none of the sender's.
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

# Where msgspec says something is: the end of its sentence. Names are the type's own.
_STEPS: Final = r"(?:\.[^.`\[\]]+|\[[0-9]+\]|\[\.\.\.\])*"
_PATH: Final = rf"(?P<path> - at `(?:key` in `)?\${_STEPS}`)?"
# A value of no enum, literal or tag. It is quoted as Python does, so that it does not
# end in a backtick.
_VALUE: Final = re.compile(rf"(?P<what>Invalid (?:enum )?value) .*?{_PATH}", re.DOTALL)
# A name, which may be anything at all.
_NAME: Final = re.compile(
    rf"(?P<what>Object contains unknown field) .*?{_PATH}", re.DOTALL
)
_ONLY_PATH: Final = re.compile(_PATH)
_STEP: Final = re.compile(r"\.([^.`\[\]]+)")


def reason(error: BaseException, kind: Any) -> str:
    """Say why a payload could not be decoded.

    Args:
        error: What the codec raised.
        kind: The payload's type as msgspec knows it, if it does.
    """
    if isinstance(error, PayloadError):
        return printable(str(error))
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text in UTF-8: {error.reason} (byte {error.start})"
    if isinstance(error, msgspec.DecodeError):
        return printable(_of_msgspec(error, kind))
    # Its text may quote the payload.
    return f"the codec raised {type(error).__name__}"


def _of_msgspec(error: msgspec.DecodeError, kind: Any) -> str:
    text, cause = str(error), error.__cause__
    if cause is not None:
        # What a `__post_init__` raised, its own text first.
        path = _ONLY_PATH.fullmatch(text.removeprefix(str(cause)))
        return f"the type raised {type(cause).__name__}{_told(path)}"
    if value := _VALUE.fullmatch(text):
        return f"{value['what']}{_told(value)}"
    if name := _NAME.fullmatch(text):
        told = _told(name)
        known = set(_STEP.findall(told)) <= _names(kind)
        return f"{name['what']}{told if known else ''}"
    return text


def _told(match: re.Match[str] | None) -> str:
    return (match["path"] or "") if match else ""


@lru_cache(maxsize=100)
def _names(kind: Any) -> frozenset[str]:
    """Give all names that the fields of a type have, however deep."""
    try:
        return frozenset(_properties(msgspec.json.schema(kind)))
    except TypeError:  # it has a type in it that JSON Schema has no word for
        return frozenset()


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        for part in schema.values():
            yield from _properties(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _properties(part)
