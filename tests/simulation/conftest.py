"""Fixtures of the simulator's own tests."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _collect_killed_programs() -> Iterator[None]:
    """Collect the programs that were killed in a run, which complain of it.

    Otherwise they are collected in another test, which then fails.
    """
    yield
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
