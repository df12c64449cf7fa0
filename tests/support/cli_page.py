"""The reference of the command line, from the commands themselves.

`cd tests && python -m support.cli_page` writes docs/reference/cli.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from penstock.cli.app import app

__all__ = ["PAGE", "text"]

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

_INTRODUCTION: Final = """# Command line

`pip install "penstock[cli]"` installs the command `penstock`. This page lists all
commands with their options, as `penstock COMMAND --help` does.
[Operations](../how-to/operations.md) explains how values are written (durations, ids,
positions), where the server's URL comes from, and what `--json` prints.
"""


def text() -> str:
    """Return the text of the page."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="penstock")
    return "\n".join([_INTRODUCTION, *_commands(group, context)])


def _commands(group: Any, context: typer.Context) -> Iterator[str]:
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        inner = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "list_commands"):
            yield from _commands(command, inner)
        else:
            yield from _command(command, inner)


def _command(command: Any, context: typer.Context) -> Iterator[str]:
    yield f"## {context.command_path}\n"
    yield f"{_prose(command.help)}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n"
    rows = [_row(each) for each in command.get_params(context) if not each.hidden]
    yield "| option or argument | meaning |\n|---|---|"
    yield from (f"| {what} | {meaning} |" for what, meaning in rows)
    yield ""


def _row(parameter: Any) -> tuple[str, str]:
    names = ", ".join(
        f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)
    )
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    meaning = _prose(getattr(parameter, "help", None) or "").replace("|", "\\|")
    if default := _default(parameter):
        meaning += f" Default: `{default}`."
    if variable := getattr(parameter, "envvar", None):
        meaning += f" Variable: `{variable}`."
    return names, meaning


def _default(parameter: Any) -> str:
    """Return a default that is worth naming; empty without one."""
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    default = parameter.default
    named = isinstance(default, int | float | str) and not isinstance(default, bool)
    return str(default) if named else ""


def _prose(help_: str | None) -> str:
    """Return a help text as paragraphs without line breaks."""
    paragraphs = (help_ or "").replace("\b", "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


if __name__ == "__main__":
    PAGE.write_text(text())
