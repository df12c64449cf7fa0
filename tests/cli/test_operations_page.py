"""docs/how-to/operations.md: what its examples print is what the commands print."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.cli.app import app
from penstock.monitor.model import GroupState
from support.looking import divide, fill
from support.server import server
from support.terminal import plain
from support.waiting import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "operations.md").read_text()
BLOCKS = re.findall(r"^```\n(\$ .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, list[str]]]:
    """Return each command of the page with the lines that it prints."""
    found = []
    for block in BLOCKS:
        for part in re.split(r"^\$ penstock ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            found.append((command, lines))
    return found


def normal(lines: list[str]) -> list[list[str]]:
    """Return the words of lines, with one for every id and duration."""
    text = "\n".join(lines)
    text = re.sub(r"[0-9]{13}-[0-9]+", "ID", text)
    text = re.sub(r"\b[0-9]+m [0-9]+s|\b[0-9]+m\b|\b[0-9.]+s\b", "D", text)
    return [line.split() for line in text.splitlines() if line.strip()]


@pytest.mark.slow
async def test_the_examples_of_the_page_print_what_it_says(tmp_path: Path) -> None:
    """Once the consumers, which have asked, are silent."""
    async with server(tmp_path) as own, own.client() as redis:
        await fill(redis, "orders", hostile="")
        await divide(redis, "clicks", 4)
        for number in range(4):
            await redis.xgroup_destroy(f"clicks:{number}", "g")

        async def are_silent() -> bool:
            consumers = await redis.xinfo_consumers("orders", "billing")
            return all(one["idle"] > 10_500 for one in consumers)

        await eventually(are_silent, 30)
        for command, expected in examples():
            result = await asyncio.to_thread(run, command, own.url)
            printed = plain(result.stdout).splitlines() + result.stderr.splitlines()
            assert normal(printed) == normal(expected), command
    assert len(examples()) >= 8


def run(command: str, url: str) -> Any:
    variables = {"PENSTOCK_URL": url, "FORCE_COLOR": "1", "COLUMNS": "200"}
    return CliRunner().invoke(app, shlex.split(command), env=variables)


def test_the_page_has_the_rules_of_all_states() -> None:
    _, _, section = PAGE.partition("| state | rule |")
    states = re.findall(r"^\| `([a-z ]+)` \|", section, re.MULTILINE)
    assert states == [state.value for state in GroupState]
