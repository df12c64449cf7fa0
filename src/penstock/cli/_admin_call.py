"""Admin calls of the operator's commands: connection, reports and exit status."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, TypeAlias

import typer

from penstock import Event
from penstock.admin import Admin
from penstock.cli._errors import plain_errors

__all__ = ["Json", "Url", "confirmed", "on_terminal", "operate", "say"]

Url: TypeAlias = Annotated[
    str | None, typer.Option(help="The server; default: $REDIS_URL.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object per line.")
]


class _Report(list[str]):
    """Prints the events, and keeps their names."""

    def __call__(self, event: Event) -> None:
        self.append(event.name)
        say(str(event))


def operate(
    url: str | None,
    work: Callable[[Admin], Awaitable[bool]],
    *,
    bad: Collection[str] = (),
) -> None:
    """Run a command on a connection, and exit.

    Args:
        url: The server.
        work: The command; returns whether it succeeded.
        bad: The names of events after which it has failed nevertheless.

    Raises:
        Exit: Always, with status 0 if the command succeeded.
    """
    report = _Report()

    async def connected() -> bool:
        async with Admin(url, on_event=report) as admin:
            return await work(admin)

    with plain_errors():
        succeeded = asyncio.run(connected())
    raise typer.Exit(0 if succeeded and not set(bad) & set(report) else 1)


def confirmed(action: str) -> bool:
    """Ask on the terminal whether to do what was announced.

    Raises:
        Exit: With status 2: there is no terminal, so `--yes` is needed.
    """
    if on_terminal():
        return typer.confirm(f"penstock: {action}?", err=True)
    say("nothing was changed; pass --yes if that is intended")
    raise typer.Exit(2)


def on_terminal() -> bool:
    """Return whether there is a person who could answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def say(text: str) -> None:
    """Print a message to standard error."""
    print(f"penstock: {text}", file=sys.stderr)
