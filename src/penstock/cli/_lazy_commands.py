"""Commands whose modules are imported when they are called.

All of them take a third of a second of a processor's time, which `penstock run` would
spend before each start and a cron job on each look at a lag.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_group

__all__ = ["LazyCommandGroup"]


class LazyCommandGroup(TyperGroup):
    """A group of commands that know where their functions are.

    Attributes:
        places: By the name of a command, `module:attribute`, which is a function or
            the application of a group of commands.
    """

    places: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _LazyCommands(self.places)


class _LazyCommands(UserDict[str, Any]):
    """Commands by their names, each made when it is asked for first."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, str):
            found = self.data[name] = _command(name, found)
        return found


def _command(name: str, place: str) -> Any:
    function = resolve_name(place)
    parent = typer.Typer()
    if isinstance(function, typer.Typer):
        parent.add_typer(function, name=name)
    else:
        parent.command(name)(function)
    return get_group(parent).commands[name]
