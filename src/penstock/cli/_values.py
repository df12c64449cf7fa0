"""The grammar of values: durations, ids, times, positions and names of streams.

Every option and argument that takes such a value is read by these functions, through
`_options.py`.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Final

from penstock import ConfigurationError, EntryId, _clock, after
from penstock.options import Start

__all__ = [
    "LONGEST",
    "bound",
    "duration",
    "entry_id",
    "is_pattern",
    "position",
    "stream_name",
]

_UNITS: Final = {
    "ms": 0.001,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86_400,
    "w": 7 * 86_400,
}
_NUMBER: Final = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_PART: Final = re.compile(rf"({_NUMBER})(ms|[smhdw])")
_DURATION: Final = re.compile(rf"0|(?:{_NUMBER}(?:ms|[smhdw]))+")
_BARE_NUMBER: Final = re.compile(_NUMBER)
_ID: Final = re.compile(r"[0-9]+(-[0-9]+)?")
# Fewer digits are an id of 1970, and may be a date: a month, or a day without hyphens.
_SHORT_ID: Final = re.compile(r"[0-9]{1,10}|(?:19|20)[0-9]{2}-(?:0[1-9]|1[0-2])")
LONGEST: Final = 100 * 366 * 86_400.0  # seconds

# What a shell pattern is made of, and how these characters are written in a name.
_WILDCARD: Final = re.compile(r"[*?]|\[[^\]]+\]")
_LITERAL: Final = re.compile(r"\[([*?\[])\]")

_A_TIME: Final = "2026-03-01T12:00Z"
_AN_ID: Final = "1772366400250-0"


def duration(
    text: str, option: str, *, most: float = LONGEST, zero: bool = True
) -> float:
    """Return a duration in seconds.

    Args:
        text: A number with a unit (`ms`, `s`, `m`, `h`, `d`, `w`), or several of them:
            `250ms`, `1h30m`. 0 needs no unit.
        option: The name of the option, for the exception.
        most: The longest duration, in seconds.
        zero: Whether it may be 0.

    Raises:
        ConfigurationError: The text is no duration, or has no unit.
    """
    if not _DURATION.fullmatch(text):
        if _BARE_NUMBER.fullmatch(text):
            raise ConfigurationError(
                f"{option} {text} has no unit; write {text}s, {text}m, {text}h or "
                f"{text}d"
            )
        raise ConfigurationError(
            f"{option} {text!a:.60} is not a duration; write one like 250ms, 30s, "
            f"1h30m or 7d"
        )
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if total > most:
        raise ConfigurationError(
            f"{option} {text:.60} is too long; write at most {most:.0f}s"
        )
    if total == 0 and not zero:
        raise ConfigurationError(f"{option} can't be 0; write a longer time, like 10s")
    return total


def entry_id(text: str, option: str) -> EntryId:
    """Return the id that a text means.

    Args:
        text: `ms-seq`, or `ms` of at least 11 digits.
        option: The name of the option, for the exception.

    Raises:
        ConfigurationError: The text is no id, or may be a date.
    """
    if _SHORT_ID.fullmatch(text):
        raise ConfigurationError(
            f"{option} {text} could be a date or an id; write a time like {_A_TIME}, "
            f"or an id like {_AN_ID}"
        )
    try:
        # Its parts may have more than the 64 bits of an id.
        found = EntryId.parse(text) if _ID.fullmatch(text) else None
    except ConfigurationError:
        found = None
    if found is None:
        raise ConfigurationError(
            f"{option} {text!a:.60} is not an id; write one like {_AN_ID}"
        )
    return found


def position(text: str, option: str) -> Start | EntryId | datetime:
    """Return the position in a stream that a text means.

    Args:
        text: `earliest`, `latest`, an id (included), `after:ID`, a time with a zone, or
            a duration, which means that long ago.
        option: The name of the option, for the exception.

    Raises:
        ConfigurationError: The text is none of these, or may be several.
    """
    if text in {"earliest", "latest"}:
        return Start(text)
    if text.startswith("after:"):
        return after(entry_id(text.removeprefix("after:"), option))
    if _ID.fullmatch(text):
        return entry_id(text, option)
    if _DURATION.fullmatch(text):
        return _clock.utc() - timedelta(seconds=duration(text, option))
    return _time(text, option)


def bound(text: str, option: str) -> EntryId | datetime:
    """Return the position before which entries are selected.

    Raises:
        ConfigurationError: See `position`; or it selects all entries, or none.
    """
    found = position(text, option)
    if isinstance(found, Start):
        raise ConfigurationError(
            f"{option} {text} selects all or nothing; write a time like {_A_TIME}, an "
            f"age like 7d, or an id like {_AN_ID}"
        )
    return found


def is_pattern(text: str) -> bool:
    """Return whether a text is a shell pattern, which may match several streams."""
    return _WILDCARD.search(_LITERAL.sub("", text)) is not None


def stream_name(text: str, option: str) -> str:
    """Return the exact name of a stream that a text means.

    Args:
        text: The name. `[*]`, `[?]` and `[[]` stand for these characters themselves, as
            in a pattern.
        option: The name of the option, for the exception.

    Raises:
        ConfigurationError: The text is empty, or a pattern.
    """
    if not text:
        raise ConfigurationError(
            f"{option} is empty; write the name of a stream, like orders"
        )
    if is_pattern(text):
        literal = re.sub(r"([*?\[])", r"[\1]", text)
        raise ConfigurationError(
            f"{option} {text!a:.80} is a pattern, and one stream is needed here; write "
            f"its name, like orders (`penstock streams` lists those that match; a "
            f"stream that has this very name is written {literal!a:.120})"
        )
    return _LITERAL.sub(r"\1", text)


def _time(text: str, option: str) -> datetime:
    """Return the moment that a text means.

    Raises:
        ConfigurationError: The text is no time, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text!a:.60} is not a time; write one like {_A_TIME}, an age "
            f"like 7d, or an id like {_AN_ID}"
        ) from None
    if moment.utcoffset() is None:
        raise ConfigurationError(
            f"{option} {text} has no time zone; write {_in_utc(text)} if it is UTC"
        )
    return moment


def _in_utc(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        return f"{text.replace(' ', 'T')}Z"
    return f"{text}T00:00Z"
