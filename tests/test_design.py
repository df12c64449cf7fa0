"""The page of the design: its tables of states and its tree are up to date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from penstock._core.ledger.states import TRANSITIONS
from penstock._core.ownership.states import MEMBER, SHARD

ROOT = Path(__file__).parent.parent
DESIGN = (ROOT / "docs" / "explanation" / "design.md").read_text()


@pytest.mark.parametrize(
    ("title", "transitions"),
    [
        ("The ledger", TRANSITIONS),
        ("A member of a group", MEMBER),
        ("An owned shard", SHARD),
    ],
)
def test_the_documented_table_of_states_is_that_of_the_code(
    title: str, transitions: Mapping[str, Mapping[Enum, Enum]]
) -> None:
    _, _, section = DESIGN.partition(f"# {title}\n")
    section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    row = r"^\| ([\w -]+) \| ([A-Z_]+) \| ([A-Z_]+) \|$"
    documented = set(re.findall(row, section, re.MULTILINE))
    coded = {
        (event, source.name, target.name)
        for event, table in transitions.items()
        for source, target in table.items()
    }
    assert documented == coded


def test_the_tree_lists_every_private_module() -> None:
    tree = DESIGN.partition("```")[2].partition("```")[0].split()
    for layer in ("_core", "_connection", "_tasks", "_routing"):
        for path in (ROOT / "src" / "penstock" / layer).rglob("*.py"):
            name = f"{path.parent.name}/" if path.stem == "__init__" else path.stem
            assert name in tree, path
