"""Calls of the operator's commands: connection, reports, questions and exit status."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection
from difflib import get_close_matches
from typing import Final

import typer

from penstock import Event, PenstockError
from penstock.admin import Admin
from penstock.cli._errors import INTERRUPTED, plain_errors
from penstock.cli._output import say
from penstock.cli._server import Server
from penstock.errors import StreamMissing

__all__ = ["confirmed", "near", "on_terminal", "operate", "perform", "say", "say_event"]

# The most names that are listed when a name is not found.
_MOST: Final = 10


def say_event(event: Event) -> None:
    """Print an event to standard error."""
    say(str(event))


class _Report(list[str]):
    """Prints the events, and keeps their names."""

    def __call__(self, event: Event) -> None:
        self.append(event.name)
        say_event(event)


def operate(
    server: Server,
    work: Callable[[Admin], Awaitable[bool]],
    *,
    bad: Collection[str] = (),
    interrupted: Callable[[], int] | None = None,
) -> None:
    """Run a command on a connection, and exit.

    Args:
        server: The server.
        work: The command; returns whether it succeeded.
        bad: The names of events after which it has failed nevertheless.
        interrupted: Returns the status after Ctrl-C; default: 130.

    Raises:
        Exit: Always, with status 0 if the command succeeded.
    """
    report = _Report()

    async def connected() -> int:
        async with Admin(server.url, on_event=report) as admin:
            try:
                succeeded = await work(admin)
            except StreamMissing as error:
                say(str(error))
                say(near(error.stream, await _names(admin)))
                return 1
        return 0 if succeeded and not set(bad) & set(report) else 1

    perform(connected, interrupted)


def perform(
    work: Callable[[], Awaitable[int]],
    interrupted: Callable[[], int] | None = None,
) -> None:
    """Run a command in an event loop, and exit with the status that it returns.

    Args:
        work: The command.
        interrupted: Returns the status after Ctrl-C; default: 130.

    Raises:
        Exit: Always.
    """

    async def main() -> int:
        return await work()

    with plain_errors():
        try:
            status = asyncio.run(main())
        except KeyboardInterrupt:
            if interrupted is None:
                raise
            status = interrupted()
    raise typer.Exit(status)


async def _names(admin: Admin) -> list[str] | None:
    try:
        return await admin.streams()
    except PenstockError:
        return None  # this user may not list them


def near(name: str, names: list[str] | None, what: str = "stream") -> str:
    """Return a sentence with the names that exist, those like another one first.

    Args:
        name: The name that was not found.
        names: The names that exist; None if that is not known.
        what: What they name.
    """
    if names is None:
        return f"this user may not list the {what}s that there are"
    if not names:
        return f"there are no {what}s"
    found = get_close_matches(name, names, _MOST, 0.5)
    listed = [*found, *(each for each in names if each not in found)][:_MOST]
    shown = ", ".join(f"{each!a:.80}"[1:-1] for each in listed)
    more = f", and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    return f"there are: {shown}{more}"


def confirmed(action: str) -> bool:
    """Ask on the terminal whether to do what was announced.

    Raises:
        Exit: With status 2: there is no terminal, so `--yes` is needed. With 130 after
            Ctrl-C.
    """
    if not on_terminal():
        say("nothing was changed; pass --yes if that is intended")
        raise typer.Exit(2)
    try:
        return typer.confirm(f"penstock: {action}?", err=True)
    except typer.Abort as error:
        # The end of the input is no answer, and counts as no.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise typer.Exit(INTERRUPTED) from None
        return False


def on_terminal() -> bool:
    """Return whether there is a person who could answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()
