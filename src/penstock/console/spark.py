"""Sparklines: lags as the points of an SVG polyline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["points"]

_WIDTH: Final = 100
_HEIGHT: Final = 20
_EDGE: Final = 2  # so that the line's width fits


def points(lags: Sequence[int]) -> str:
    """Return lags as points in a box of 100 by 20; the highest one is at the top."""
    if len(lags) < 2:  # noqa: PLR2004 - a line has two points
        return ""
    most = max(*lags, 1)
    step = _WIDTH / (len(lags) - 1)
    usable = _HEIGHT - 2 * _EDGE
    return " ".join(
        f"{place * step:.1f},{_HEIGHT - _EDGE - lag * usable / most:.1f}"
        for place, lag in enumerate(lags)
    )
