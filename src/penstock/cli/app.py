"""The application that has all commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import typer

from penstock import __version__
from penstock.cli._lazy_commands import LazyCommandGroup

__all__ = ["Commands", "app"]


class Commands(LazyCommandGroup):
    """All commands, in the order in which the help lists them."""

    places: ClassVar[Mapping[str, str]] = {
        "run": "penstock.cli.run.command:run",
        "relay": "penstock.cli.relay.command:relay",
        "top": "penstock.cli.top.command:top",
        "streams": "penstock.cli.looking.streams:streams",
        "info": "penstock.cli.looking.info:info",
        "groups": "penstock.cli.looking.streams:groups",
        "consumers": "penstock.cli.looking.consumers:consumers",
        "pending": "penstock.cli.looking.consumers:pending",
        "lag": "penstock.cli.looking.lag:lag",
        "doctor": "penstock.cli.looking.doctor:doctor",
        "owners": "penstock.cli.owners.command:owners",
        "send": "penstock.cli.messages.send:send",
        "read": "penstock.cli.messages.read:read",
        "tail": "penstock.cli.messages.read:tail",
        "reset": "penstock.cli.changing.reset:reset",
        "claim": "penstock.cli.changing.claim:claim",
        "trim": "penstock.cli.trim.command:trim",
        "exporter": "penstock.cli.exporter.command:exporter",
        "console": "penstock.console.command:console",
        "schema": "penstock.cli.schema.command:schema",
        "demo": "penstock.cli.demo.command:demo",
        "delete": "penstock.cli.changing.delete:delete",
        "dead": "penstock.cli.dead.command:dead",
    }


# Local variables in a traceback could include a URL with its password.
app = typer.Typer(
    name="penstock",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if not wanted:
        return
    print(f"penstock {__version__}")
    raise typer.Exit


@app.callback()
def penstock(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Asyncio streaming on Redis Streams and Valkey."""
