"""Findings: what was found, what it means for messages, and what mends it."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

__all__ = ["Finding", "Level", "config_set", "fail", "note", "ok", "warn"]


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    """As it should be."""
    NOTE = "note"
    """Worth knowing; also what is not known because this user may not ask."""
    WARN = "warn"
    """Messages are late, repeated or lost when something else happens as well."""
    FAIL = "fail"
    """Messages can't be sent or read, or are lost by what is ordinary."""


class Finding(Struct, frozen=True, kw_only=True):
    """One result of an examination.

    Attributes:
        check: The check: `connection`, `persistence`, `streams` and so on.
        level: How bad it is: `ok`, `note`, `warn` or `fail`.
        found: The fact.
        meaning: What it means for messages.
        remedy: The command that mends it; null if there is nothing to mend, or no
            command that does.
    """

    check: str
    level: Level
    found: str
    meaning: str
    remedy: str | None = None


def ok(check: str, found: str, meaning: str) -> Finding:
    """Return a finding of what is as it should be."""
    return Finding(check=check, level=Level.OK, found=found, meaning=meaning)


def note(check: str, found: str, meaning: str, remedy: str | None = None) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(
        check=check, level=Level.NOTE, found=found, meaning=meaning, remedy=remedy
    )


def warn(check: str, found: str, meaning: str, remedy: str | None = None) -> Finding:
    """Return a finding that should be mended."""
    return Finding(
        check=check, level=Level.WARN, found=found, meaning=meaning, remedy=remedy
    )


def fail(check: str, found: str, meaning: str, remedy: str | None = None) -> Finding:
    """Return a finding that has to be mended."""
    return Finding(
        check=check, level=Level.FAIL, found=found, meaning=meaning, remedy=remedy
    )


def config_set(setting: str, value: str) -> str:
    """Return the command that changes a setting of the server."""
    return f"redis-cli CONFIG SET {setting} {value}"
