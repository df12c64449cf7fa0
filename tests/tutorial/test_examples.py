"""The examples: each does what its README shows, in a folder of its own."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from penstock.embedded import EmbeddedServer
from support.pages import Terminals, blocks

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", NAMES)
async def test_an_example_does_what_its_readme_shows(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(
        EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    with EmbeddedServer() as server:
        async with Terminals(folder, REDIS_URL=server.url) as terminals:
            async with asyncio.timeout(140):
                for block in blocks((folder / "README.md").read_text()):
                    await terminals.carry_out(block)


def test_the_readme_of_the_examples_names_all_of_them() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [name for name in NAMES if f"]({name}/README.md)" in readme] == NAMES
    assert len(NAMES) == 4
