"""Output: tables that fit the terminal, columns in a pipe, JSON by its schema."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from penstock.cli._output import Column, fit
from penstock.cli.app import app
from support.looking import fill
from support.terminal import plain, terminal

WIDTHS = [60, 80, 200]


@pytest.fixture
async def filled(redis: Any, stream: str) -> str:
    await fill(redis, stream)
    return stream


def commands(stream: str) -> list[list[str]]:
    return [
        ["streams", stream],
        ["info", stream],
        ["groups", stream],
        ["consumers", stream, "billing"],
        ["pending", stream, "billing"],
        ["pending", stream, "billing", "--summary"],
        ["lag", stream],
        ["top", stream, "--once", "--interval", "100ms"],
        ["owners", stream, "billing"],
        ["trim", stream, "--max-len", "100", "--dry-run"],
        ["dead", "list", stream],
    ]


@pytest.mark.parametrize("columns", WIDTHS)
async def test_no_row_is_split_whatever_the_width(
    filled: str, url: str, columns: int
) -> None:
    for words in commands(filled):
        # With FORCE_COLOR, rich takes any output for a terminal.
        result = await asyncio.to_thread(
            CliRunner().invoke,
            app,
            words,
            env={"PENSTOCK_URL": url, "FORCE_COLOR": "1", "COLUMNS": str(columns)},
        )
        assert result.exit_code == 0, result.output
        lines = plain(result.stdout).splitlines()
        assert "\t" not in result.stdout
        assert all(len(line.rstrip()) <= columns for line in lines), result.stdout
        if words[0] in {"groups", "lag", "top"}:
            rows = [line for line in lines if " audit " in f" {line} "]
            assert len(lines) == 4, result.stdout
            assert len(rows) == 1
        if words[0] == "pending" and "--summary" not in words:
            assert len([line for line in lines if re.match(r"[0-9]{13}-0", line)]) == 8


@pytest.mark.parametrize("columns", WIDTHS)
async def test_a_table_is_as_wide_as_a_terminal_allows(
    filled: str, url: str, columns: int
) -> None:
    def shown() -> tuple[int, list[str]]:
        variables = {"PENSTOCK_URL": url}
        with terminal(
            "groups", filled, columns=columns, environment=variables
        ) as screen:
            return screen.end(), screen.text.splitlines()

    status, lines = await asyncio.to_thread(shown)
    assert (status, len(lines)) == (0, 4)
    assert all(len(line.rstrip()) <= columns for line in lines)
    head = lines[0].split()
    assert head[:5] == ["GROUP", "STATE", "LAG", "PENDING", "OLDEST"]
    # On 200 columns nothing is left out.
    whole = head[5:] == ["CONSUMERS", "LAST", "DELIVERED"] and "ago)" in lines[1]
    assert whole == (columns == 200)


async def test_columns_are_left_out_by_priority_and_names_last(
    filled: str, url: str
) -> None:
    async def head(columns: int) -> list[str]:
        result = await asyncio.to_thread(
            CliRunner().invoke,
            app,
            ["groups", filled],
            env={"PENSTOCK_URL": url, "FORCE_COLOR": "1", "COLUMNS": str(columns)},
        )
        return plain(result.stdout).splitlines()[0].split()

    assert await head(48) == ["GROUP", "STATE", "LAG", "PENDING", "OLDEST"]
    assert await head(32) == ["GROUP", "STATE", "LAG"]
    assert await head(8) == ["GROUP"]


@pytest.mark.parametrize("how", ["--no-color", "NO_COLOR"])
async def test_colours_can_be_switched_off(filled: str, url: str, how: str) -> None:
    def raw(*options: str, **variables: str) -> str:
        own = {"PENSTOCK_URL": url, **variables}
        with terminal("groups", filled, *options, environment=own) as screen:
            screen.end()
            return screen.raw

    colours = r"\x1b\[[0-9;]*3[0-9]m"
    assert re.search(colours, await asyncio.to_thread(raw))
    plain = (
        await asyncio.to_thread(raw, how)
        if how.startswith("-")
        else await asyncio.to_thread(lambda: raw(NO_COLOR="1"))
    )
    assert not re.search(colours, plain)


@given(
    widths=st.lists(st.integers(1, 80), min_size=1, max_size=9),
    priorities=st.lists(st.integers(0, 4), min_size=9, max_size=9),
    width=st.integers(20, 200),
)
def test_what_is_kept_fits_and_as_much_as_fits_is_kept(
    widths: list[int], priorities: list[int], width: int
) -> None:
    columns: list[Column[Any]] = [
        Column(f"C{n}", repr, priority=priorities[n] if n else 0)
        for n in range(len(widths))
    ]
    kept = fit(columns, widths, width)
    assert 0 in kept
    total = sum(kept.values()) + 2 * (len(kept) - 1)
    droppable = [n for n in kept if columns[n].priority]
    assert total <= width or not droppable
    left_out = [n for n in range(len(widths)) if n not in kept]
    if left_out and droppable:
        # Nothing that is kept could have gone before what was left out.
        least = min(columns[n].priority for n in left_out)
        assert max(columns[n].priority for n in droppable) <= least


async def test_a_closed_pipe_ends_a_command_silently_with_0(
    filled: str, url: str
) -> None:
    def first_line(words: list[str]) -> tuple[int, bytes]:
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "penstock.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PENSTOCK_URL": url},
        ) as process:
            assert process.stdout
            assert process.stderr
            # Closed before the first line, which is then refused in any case.
            process.stdout.close()
            return process.wait(30), process.stderr.read()

    for words in (
        ["streams", filled],
        ["lag", filled, "--json"],
        ["dead", "list", filled],
    ):
        found = await asyncio.to_thread(first_line, words)
        assert found == (0, b""), words


# -- memory ----------------------------------------------------------------------------

# Not `ru_maxrss`: that of a child is at least what its parent had when it started it.
_MEASURED = """
import re, sys
from pathlib import Path
from penstock.cli.__main__ import main
sys.argv = ["penstock", *sys.argv[1:]]
try:
    main()
except SystemExit as error:
    assert not error.code, error.code
[most] = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(most) // 1024, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.timeout(280)
async def test_ten_thousand_groups_take_less_than_100_mb(
    redis: Any, url: str, stream: str
) -> None:
    await redis.xadd(stream, {"msg": "x"})
    pipe = redis.pipeline(transaction=False)
    for number in range(10_000):
        pipe.xgroup_create(stream, f"group-{number}", "0")
        pipe.execute_command("XGROUP", "CREATECONSUMER", stream, f"group-{number}", "c")
    await pipe.execute()
    for words in (["groups"], ["streams", "--json"], ["top", "--json"]):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _MEASURED, *words, stream],
            capture_output=True,
            text=True,
            env={**os.environ, "PENSTOCK_URL": url},
            timeout=120,
            check=True,
        )
        assert done.stdout.count("\n") >= (1 if words[0] == "streams" else 10_000)
        megabytes = int(done.stderr.splitlines()[-1])
        assert megabytes < 100, (words, megabytes)
