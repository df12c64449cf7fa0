"""Chance: the only place where Penstock asks for random numbers and names.

The functions are looked up in this module at each call, so that a test can put others
in their place. None of the numbers is used for security: fractions decide jitter and
shards, and tokens only have to differ.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable

__all__ = ["below", "fraction", "token"]

fraction: Callable[[], float] = random.random
"""Return a number from 0 up to, but not including, 1."""

below: Callable[[int], int] = random.randrange
"""Return a whole number from 0 up to, but not including, a number."""

token: Callable[[int], str] = secrets.token_hex
"""Return a text that no other call returns, of twice as many hexadecimal digits."""
