"""Numbers, durations and texts as people read them, and as programs do."""

from __future__ import annotations

from typing import Final

from penstock.events import printable

__all__ = ["NAME", "count", "duration", "rate", "size", "text"]

NAME: Final = 60
"""The most characters of a name on a terminal."""

_UNITS: Final = (("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_KILO: Final = 1024
_BYTES: Final = "BKMGT"
_PRECISE: Final = 60.0  # seconds, below which a tenth of a second is shown


def text(value: str | None, limit: int = NAME) -> str:
    """Return a text from the server: escaped and cut, and `-` if there is none."""
    if value is None:
        return "-"
    return printable(value, limit) or "-"


def count(number: int | None, *, exact: bool = True) -> str:
    """Return a number with thousands separators; with `≤` if it is only a bound."""
    if number is None:
        return "?"
    return f"{number:,}" if exact else f"≤ {number:,}"


def duration(seconds: float | None) -> str:
    """Return a duration in its two highest units, `3m 12s`; `-` if there is none."""
    if seconds is None:
        return "-"
    if (tenths := round(max(seconds, 0), 1)) < _PRECISE:
        return f"{tenths:g}s"
    left = round(seconds)
    for place, (unit, size) in enumerate(_UNITS):
        whole, left = divmod(left, size)
        if whole:
            if place + 1 == len(_UNITS):
                return f"{whole}{unit}"
            lower, length = _UNITS[place + 1]
            part = left // length
            return f"{whole}{unit} {part}{lower}" if part else f"{whole}{unit}"
    raise AssertionError  # ten seconds at least have a unit


def size(number: int | None) -> str:
    """Return a number of bytes in the unit that fits, `412M`; `-` without one."""
    if number is None:
        return "-"
    left, place = float(number), 0
    while left >= _KILO and place < len(_BYTES) - 1:
        left, place = left / _KILO, place + 1
    unit = _BYTES[place]
    return f"{left:.0f}{unit}" if left >= 10 or unit == "B" else f"{left:.1f}{unit}"  # noqa: PLR2004


def rate(per_second: float | None) -> str:
    """Return a rate per second; `-` if it is not known."""
    if per_second is None:
        return "-"
    return f"{per_second:,.1f}" if 0 < per_second < 10 else f"{per_second:,.0f}"  # noqa: PLR2004
