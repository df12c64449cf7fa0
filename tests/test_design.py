"""docs/design.md: its table of states and its tree of modules are up to date."""

from __future__ import annotations

import re
from pathlib import Path

from penstock._core.ledger.states import TRANSITIONS

ROOT = Path(__file__).parent.parent
DESIGN = (ROOT / "docs" / "design.md").read_text()


def test_the_documented_table_of_states_is_that_of_the_ledger() -> None:
    documented = set(
        re.findall(r"^\| ([\w -]+) \| ([A-Z_]+) \| ([A-Z_]+) \|$", DESIGN, re.MULTILINE)
    )
    coded = {
        (event, source.name, target.name)
        for event, table in TRANSITIONS.items()
        for source, target in table.items()
    }
    assert documented == coded


def test_the_tree_lists_every_private_module() -> None:
    tree = DESIGN.partition("```")[2].partition("```")[0].split()
    for layer in ("_core", "_connection", "_tasks", "_routing"):
        for path in (ROOT / "src" / "penstock" / layer).rglob("*.py"):
            name = f"{path.parent.name}/" if path.stem == "__init__" else path.stem
            assert name in tree, path
