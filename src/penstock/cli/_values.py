"""Parsing of the values of options."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from penstock import ConfigurationError, EntryId

__all__ = ["bound", "duration"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
# A month, or a day without hyphens. Each is also an id, but one of 1970.
_DATE_OR_ID: Final = re.compile(r"(19|20)[0-9]{2}(-(0[1-9]|1[0-2])|[0-9]{4})?")
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhdw]?)")


def bound(text: str, what: str) -> datetime | EntryId:
    """Return the id or the moment that a text means.

    Args:
        text: The value of the option.
        what: The owner of the id, for the exception.

    Raises:
        ConfigurationError: The text is neither, or may be both.
    """
    if _DATE_OR_ID.fullmatch(text):
        raise ConfigurationError(
            f"--before {text} could be a date or an id; write a time like "
            f"2026-03-01T12:00:00+00:00, or an id like 1678280595282-0"
        )
    try:
        return EntryId.parse(text)
    except ConfigurationError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--before {text!a:.60} is not a time; write one like "
            f"2026-03-01T12:00:00+00:00, or {what} id"
        ) from None


def duration(text: str, option: str) -> float:
    """Return a duration in seconds; a number without a unit is in seconds.

    Args:
        text: The value of the option.
        option: The name of the option, for the exception.

    Raises:
        ConfigurationError: The text is no duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f"{option} {text!a:.60} is not a duration; write one like 30s, 15m, 12h, "
            f"7d or 2w"
        )
    return float(match[1]) * _UNITS[match[2] or "s"]
