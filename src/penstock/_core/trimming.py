"""Retention as words of an XADD."""

from __future__ import annotations

from penstock._core.commands import Command
from penstock.options import seconds
from penstock.retention import MaxLen, Retention

__all__ = ["trim"]


def trim(retention: Retention | None, now: int) -> Command:
    """Word how much of a stream to keep, as seen at `now`, milliseconds since 1970."""
    if retention is None:
        return ()
    how = b"=" if retention.exact else b"~"
    if isinstance(retention, MaxLen):
        return (b"MAXLEN", how, retention.messages)
    age = round(seconds(retention.age, "age") * 1000)
    return (b"MINID", how, max(0, now - age))
