"""The application that has all commands."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from penstock.cli.dead.command import dead
from penstock.cli.demo.command import demo
from penstock.cli.owners.command import owners
from penstock.cli.run.command import run
from penstock.cli.trim.command import trim

__all__ = ["app"]

# Local variables in a traceback could include a URL with its password.
app = typer.Typer(
    name="penstock", no_args_is_help=True, pretty_exceptions_show_locals=False
)
app.command()(run)
app.command()(demo)
app.command()(trim)
app.command()(owners)
app.add_typer(dead, name="dead")


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if not wanted:
        return
    try:
        version = metadata.version("penstock")
    except metadata.PackageNotFoundError:
        version = "(run from its source, not installed)"
    print(f"penstock {version}")
    raise typer.Exit


@app.callback()
def penstock(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Asyncio streaming on Redis Streams and Valkey."""
