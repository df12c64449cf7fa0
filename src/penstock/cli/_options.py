"""Options and arguments whose values the grammar of `_values.py` reads.

A value that is refused ends the command with a sentence and status 2, before anything
is connected to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import typer

from penstock.cli import _values
from penstock.cli._errors import plain_errors

__all__ = [
    "Parser",
    "age_or_id_option",
    "duration_option",
    "group_argument",
    "id_argument",
    "id_option",
    "ids_argument",
    "position_option",
    "stream_argument",
    "stream_option",
    "streams_argument",
]

T = TypeVar("T")


class Parser(Generic[T]):
    """Reads the text of one option or argument.

    Args:
        kind: The kind of value, as the help texts name it.
        name: The name of the option or argument, for refusals.
        read: Returns the value of a text, given the name too.
    """

    def __init__(self, kind: str, name: str, read: Callable[[str, str], T]) -> None:
        self.kind = kind
        self.name = name
        self._read = read
        self.__name__ = kind  # typer asks for it

    def __call__(self, text: Any) -> Any:
        """Return the value; a default, which is one already, is returned as it is.

        Raises:
            Exit: With status 2: the text is refused.
        """
        if not isinstance(text, str):
            return text
        with plain_errors():
            return self._read(text, self.name)


def duration_option(
    name: str,
    text: str,
    *,
    default: str | None = None,
    most: float = _values.LONGEST,
    zero: bool = True,
    **more: Any,
) -> Any:
    """Return an option that takes a DURATION; its value is seconds.

    Args:
        name: The name of the option.
        text: The help text.
        default: The default, for the help text.
        most: The longest duration, in seconds; default: a century.
        zero: Whether it may be 0.
        **more: Further arguments of `typer.Option`.
    """
    read = partial(_values.duration, zero=zero, most=most)
    return typer.Option(
        name,
        parser=Parser("DURATION", name, read),
        metavar="DURATION",
        help=text,
        show_default=default or False,
        **more,
    )


def id_option(name: str, text: str) -> Any:
    """Return an option that takes an ID."""
    parser = Parser("ID", name, _values.entry_id)
    return typer.Option(name, parser=parser, metavar="ID", help=text)


def id_argument(text: str) -> Any:
    """Return an argument that is an ID."""
    parser = Parser("ID", "ID", _values.entry_id)
    return typer.Argument(parser=parser, metavar="ID", help=text)


def ids_argument(text: str) -> Any:
    """Return an argument that is one ID or several."""
    parser = Parser("ID", "ID", _values.entry_id)
    return typer.Argument(parser=parser, metavar="ID...", help=text)


def age_or_id_option(name: str, text: str) -> Any:
    """Return an option that takes the POSITION before which entries are selected."""
    parser = Parser("POSITION", name, _values.bound)
    return typer.Option(name, parser=parser, metavar="POSITION", help=text)


def position_option(name: str, text: str, *, default: str | None = None) -> Any:
    """Return an option that takes a POSITION, with its default for the help text."""
    parser = Parser("POSITION", name, _values.position)
    return typer.Option(
        name,
        parser=parser,
        metavar="POSITION",
        help=text,
        show_default=default or False,
    )


def stream_argument(text: str) -> Any:
    """Return an argument that is the exact name of a STREAM."""
    parser = Parser("STREAM", "STREAM", _values.stream_name)
    return typer.Argument(parser=parser, metavar="STREAM", help=text)


def stream_option(name: str, text: str, **more: Any) -> Any:
    """Return an option that takes the exact name of a STREAM.

    Args:
        name: The name of the option.
        text: The help text.
        **more: Further arguments of `typer.Option`.
    """
    parser = Parser("STREAM", name, _values.stream_name)
    return typer.Option(name, parser=parser, metavar="STREAM", help=text, **more)


def streams_argument(text: str) -> Any:
    """Return an argument that may be repeated, and takes names and shell patterns."""
    return typer.Argument(metavar="[PATTERN]...", help=text, show_default=False)


def group_argument(text: str = "The group.") -> Any:
    """Return an argument that is the name of a group."""
    return typer.Argument(metavar="GROUP", help=text)
