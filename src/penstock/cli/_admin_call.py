"""What an operator's commands do on a connection, and how they end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, TypeAlias

import typer

from penstock import Event
from penstock.admin import Admin
from penstock.cli._errors import plain_errors

__all__ = ["Json", "Url", "operate", "say"]

Url: TypeAlias = Annotated[
    str | None, typer.Option(help="The server; default: $REDIS_URL.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object a line.")
]


class _Report(list[str]):
    """Says what happens in the background, and keeps the names."""

    def __call__(self, event: Event) -> None:
        self.append(event.name)
        say(str(event))


def operate(
    url: str | None,
    work: Callable[[Admin], Awaitable[bool]],
    *,
    bad: Collection[str] = (),
) -> None:
    """Do something on a connection.

    Args:
        url: The server.
        work: What is done; gives whether all is well.
        bad: Events after which it is not.

    Raises:
        Exit: It is done, or could not be.
    """
    report = _Report()

    async def connected() -> bool:
        async with Admin(url, on_event=report) as admin:
            return await work(admin)

    with plain_errors():
        well = asyncio.run(connected())
    raise typer.Exit(0 if well and not set(bad) & set(report) else 1)


def say(text: str) -> None:
    """Tell something beside the output."""
    print(f"penstock: {text}", file=sys.stderr)
