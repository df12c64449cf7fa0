"""Clocks: the only place where Penstock asks for the time, apart from timers.

Timers are the event loop's. The functions are looked up in this module at each call, so
that a test can put others in their place.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

__all__ = ["boottime", "monotonic", "utc", "wall", "wall_ns"]

# Clocks that count sleep too, where `time.monotonic` does not.
_NAMES: Final = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}
_COUNTS_SLEEP: Final = getattr(time, _NAMES.get(sys.platform, ""), None)

monotonic: Callable[[], float] = time.monotonic
"""Return the seconds since some moment in the past."""

boottime: Callable[[], float] = (
    time.monotonic
    if _COUNTS_SLEEP is None
    else partial(time.clock_gettime, _COUNTS_SLEEP)
)
"""Return the seconds since some moment in the past, also while the machine slept.

Leases are measured by it: the server's clock keeps running while a laptop sleeps or a
virtual machine is paused, but `time.monotonic` stops on Linux (clock_gettime(2),
CLOCK_BOOTTIME) and on macOS (clock_gettime(3), CLOCK_MONOTONIC). On other systems this
is `time.monotonic` itself, which counts sleep on Windows.
"""

wall: Callable[[], float] = time.time
"""Return the seconds since 1970."""

wall_ns: Callable[[], int] = time.time_ns
"""Return the nanoseconds since 1970."""


def utc() -> datetime:
    """Return the date and time."""
    return datetime.fromtimestamp(wall(), UTC)
