"""Watches folders for changed Python files, for `penstock run --reload`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["watch"]

_LOGGER: Final = logging.getLogger("penstock.run")
_MOST_NAMED: Final = 3


async def watch(folders: Sequence[Path], on_change: Callable[[], None]) -> None:
    """Call a function whenever Python files have changed, until cancelled.

    Args:
        folders: The folders; those below them are watched too.
        on_change: The function.
    """
    # Imported here: it needs an extra.
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415

    changes = awatch(*folders, watch_filter=PythonFilter())
    async for found in changes:
        _LOGGER.info("changed: %s", _named({path for _, path in found}))
        on_change()


def _named(paths: Iterable[str]) -> str:
    first, *others = sorted(paths)
    named = [first, *others[: _MOST_NAMED - 1]]
    left_out = len(others) + 1 - len(named)
    shown = ", ".join(map(_short, named))
    return f"{shown} and {left_out} more" if left_out else shown


def _short(path: str) -> str:
    here = Path.cwd()
    found = Path(path)
    return str(found.relative_to(here)) if found.is_relative_to(here) else path
