"""Command lines in docs and manifests: whether `penstock` would take them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import typer

from penstock.cli.app import app

__all__ = ["assert_command"]


def assert_command(line: str | Sequence[str]) -> None:
    """Check that a command exists and takes these arguments, and don't run it."""
    words = shlex.split(line, comments=True) if isinstance(line, str) else [*line]
    assert words[0] == "penstock"
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        assert (rest or [""])[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    # Raises an error with the reason.
    command.make_context(" ".join(words[:2]), rest)
