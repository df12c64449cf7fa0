"""Lease clock: a clock that also advances while the machine is suspended.

The server's clock keeps running while a laptop sleeps or a virtual machine is paused,
but `time.monotonic` on Linux does not (clock_gettime(2), CLOCK_BOOTTIME).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

__all__ = ["now"]

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", None)

now: Final[Callable[[], float]] = (
    time.monotonic
    if _BOOT is None or sys.platform != "linux"
    else partial(time.clock_gettime, _BOOT)
)
"""Return the seconds since some moment in the past, as `time.monotonic` does.

On systems other than Linux this is `time.monotonic` itself.
"""
