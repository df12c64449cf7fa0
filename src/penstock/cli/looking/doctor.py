"""`penstock doctor`: checks of the server, of permissions, and of streams."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer
from rich.text import Text

from penstock.cli import _format
from penstock.cli._options import stream_option
from penstock.cli._output import Column, Output, quiet_pipe
from penstock.cli._server import Server, on_server
from penstock.cli.looking.shared import collector, look, report
from penstock.monitor import Collector, Finding, Level, Role

__all__ = ["doctor"]

_FAILED: Final = 3
"""The status of a check that has failed."""
_STYLES: Final = {
    Level.OK: "green",
    Level.NOTE: "cyan",
    Level.WARN: "yellow",
    Level.FAIL: "bold red",
}
_INDENT: Final = 6  # columns of a level and the space behind it
_WIDEST: Final = 100  # columns, beyond which lines are hard to read
_LONGEST: Final = 2000  # characters of a remedy
_COLUMNS: Final[list[Column[Finding]]] = [
    Column("LEVEL", lambda f: f.level),
    Column("CHECK", lambda f: f.check),
    Column("FOUND", lambda f: f.found),
    Column("MEANING", lambda f: f.meaning),
    Column("REMEDY", lambda f: f.remedy),
]


@on_server
def doctor(
    *,
    server: Server,
    stream: Annotated[
        str | None,
        stream_option("--stream", "Check only this stream; default: all streams."),
    ] = None,
    role: Annotated[
        Role | None,
        typer.Option(help="Check whether this user may do what such a role does."),
    ] = None,
) -> None:
    """Check the server, this user's permissions, and streams, and print repairs.

    It reads, and changes nothing. Each result has a level: ok, note, warn or fail; what
    was found; what it means for messages; and the command that repairs it. What
    this user may not ask is a note.

    Exit status: 0 nothing has failed; 1 no connection, or no such stream; 2 wrong
    usage; 3 a check has failed.
    """
    watched = collector(server, [] if stream is None else [stream])

    async def work(opened: Collector) -> int:
        findings = await opened.examine(role)
        _print(server.out, findings)
        if any(finding.level is Level.FAIL for finding in findings):
            return _FAILED
        if stream is None or not (snapshot := await opened.poll()).missing:
            return 0
        await report(opened, snapshot, [stream])
        return 1

    look(watched, work)


def _print(out: Output, findings: Sequence[Finding]) -> None:
    if not out.is_table:
        out.rows(_COLUMNS, findings)
        return
    width = min(out.console.width, _WIDEST)
    with quiet_pipe():
        for finding in findings:
            for line in _lines(finding, width):
                out.console.print(line, soft_wrap=True)


def _lines(finding: Finding, width: int) -> Iterator[Text]:
    """Yield the lines of a finding; a remedy is one, so that it can be copied."""
    found = f"{finding.check}: {_format.text(finding.found, _LONGEST)}"
    first, *rest = _wrapped(found, width)
    level = f"{finding.level.value:<{_INDENT}}"
    yield Text.assemble((level, _STYLES[finding.level]), first)
    for line in (*rest, *_wrapped(_format.text(finding.meaning, _LONGEST), width)):
        yield Text(" " * _INDENT + line)
    if finding.remedy is not None:
        remedy = _format.text(finding.remedy, _LONGEST)
        yield Text(f"{' ' * _INDENT}$ {remedy}", "bold")


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width - _INDENT, 1), break_long_words=False, break_on_hyphens=False
    )
