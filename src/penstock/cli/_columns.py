"""Columns of tables, by the kind of value that they show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from penstock.cli import _format
from penstock.cli._output import Column

__all__ = ["count_column", "duration_column", "text_column"]

R = TypeVar("R")


def text_column(
    name: str, raw: Callable[[R], str | None], priority: int = 0
) -> Column[R]:
    """Return a column of texts from the server: escaped, and cut on a terminal."""
    return Column(name, raw, lambda row: _format.text(raw(row)), priority=priority)


def count_column(
    name: str, raw: Callable[[R], int | None], priority: int = 0
) -> Column[R]:
    """Return a column of numbers, with thousands separators on a terminal."""
    return Column(
        name, raw, lambda row: _format.count(raw(row)), priority=priority, right=True
    )


def duration_column(
    name: str, raw: Callable[[R], float | None], priority: int = 0
) -> Column[R]:
    """Return a column of durations: seconds, and in two units on a terminal."""
    return Column(
        name, raw, lambda row: _format.duration(raw(row)), priority=priority, right=True
    )
