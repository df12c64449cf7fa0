"""Regressions: plans that showed a defect of the client, each until that was mended."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import pytest

from simulation.explore import carry_out
from simulation.plan import Plan

_PLANS: Final = sorted(Path(__file__).parent.glob("plans/regressions/*.json"))


@pytest.mark.parametrize("path", _PLANS, ids=lambda path: path.stem)
def test_a_plan_that_showed_a_defect_shows_none_any_more(path: Path) -> None:
    found = carry_out(msgspec.json.decode(path.read_bytes(), type=Plan))
    assert not found.kinds, str(found)
