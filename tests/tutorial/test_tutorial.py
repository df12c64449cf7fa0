"""The tutorial: its programs and commands do what its pages show."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.pages import Terminals, blocks

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
PAGES = (
    *("install", "producer", "consumer", "handlers", "service", "testing"),
    *("recovery", "dead-letters", "shards"),
)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_programs_and_commands_of_the_tutorial_do_what_it_shows(
    tmp_path: Path,
) -> None:
    async with Terminals(tmp_path) as terminals, asyncio.timeout(220):
        for page in PAGES:
            for block in blocks((TUTORIAL / f"{page}.md").read_text()):
                await terminals.carry_out(block)


def test_its_first_page_names_all_others() -> None:
    index = (TUTORIAL / "index.md").read_text()
    assert [f"]({page}.md)" in index for page in PAGES] == [True] * len(PAGES)
    assert {path.stem for path in TUTORIAL.glob("*.md")} == {"index", *PAGES}
