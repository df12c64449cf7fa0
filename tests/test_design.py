"""docs/design.md stays true where that can be checked."""

from __future__ import annotations

import re
from pathlib import Path

from penstock._core.entry import TRANSITIONS

ROOT = Path(__file__).parent.parent
DESIGN = (ROOT / "docs" / "design.md").read_text()


def test_the_ledger_s_table_is_the_ledger_s_table() -> None:
    told = set(
        re.findall(r"^\| ([\w ]+) \| ([A-Z]+) \| ([A-Z]+) \|$", DESIGN, re.MULTILINE)
    )
    coded = {
        (event, source.name, target.name)
        for event, table in TRANSITIONS.items()
        for source, target in table.items()
    }
    assert told == coded


def test_every_room_of_core_link_and_tasks_is_told_of() -> None:
    for folder in ("_core", "_link", "_tasks"):
        for path in (ROOT / "src" / "penstock" / folder).glob("*.py"):
            if path.name not in {"__init__.py", "bells.py", "lifetime.py"}:
                assert f"`{path.name}`" in DESIGN or f"{folder}/{path.name}" in DESIGN
