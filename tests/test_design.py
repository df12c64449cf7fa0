"""docs/design.md stays true where that can be checked."""

from __future__ import annotations

import re
from pathlib import Path

from penstock._core.ledger.states import TRANSITIONS

ROOT = Path(__file__).parent.parent
DESIGN = (ROOT / "docs" / "design.md").read_text()


def test_the_ledger_s_table_is_the_ledger_s_table() -> None:
    told = set(
        re.findall(r"^\| ([\w -]+) \| ([A-Z_]+) \| ([A-Z_]+) \|$", DESIGN, re.MULTILINE)
    )
    coded = {
        (event, source.name, target.name)
        for event, table in TRANSITIONS.items()
        for source, target in table.items()
    }
    assert told == coded


def test_the_tree_lists_every_module_behind_the_public_ones() -> None:
    tree = DESIGN.partition("```")[2].partition("```")[0].split()
    for layer in ("_core", "_connection", "_tasks", "_routing"):
        for path in (ROOT / "src" / "penstock" / layer).rglob("*.py"):
            name = f"{path.parent.name}/" if path.stem == "__init__" else path.stem
            assert name in tree, path
