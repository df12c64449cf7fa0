"""Plants: defects that are put into the client, which the simulator has to find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["planted"]


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a defect for a while; none if the name is empty."""
    yield
