"""Planted defects: stored plans show them, and show nothing in the client as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from unittest.mock import patch

import msgspec
import pytest

from penstock import EntryId
from penstock._core.protocol.replies import RawEntry
from penstock._core.reading.stream_identity import StreamIdentity
from simulation.explore import carry_out
from simulation.plan import Plan
from simulation.plants import PLANTS, planted

_PLANS: Final = Path(__file__).parent / "plans"

FOUND: Final = {
    "acks_of_anybody": "acked_by_others",
    "commit_for_ever": "hangs",
    "group_at_end": "lost",
    "growth_missed": "unsettled",
    "interrupted_acked": "lost",
    "interrupted_counts": "overcounted",
    "lease_from_booking": "foreign",
    "old_ids": "lost",
    "other_calls_finished": "acked_early",
    "retry_not_timed": "waiting",
    "runs_renumbered": "doubled",
    "transaction_again": "applied_twice",
    "wake_up_lost": "hangs",
}


def _plan(name: str) -> Plan:
    return msgspec.json.decode((_PLANS / f"{name}.json").read_bytes(), type=Plan)


@pytest.mark.parametrize(("plant", "kind"), FOUND.items())
def test_a_plan_shows_a_defect_only_where_it_is_planted(plant: str, kind: str) -> None:
    plan = _plan(plant)
    assert kind in carry_out(plan, plant).kinds
    found = carry_out(plan)
    assert not found.kinds, str(found)


def _remember_above_last(
    self: StreamIdentity, first: EntryId, last: EntryId, entries: Sequence[RawEntry]
) -> None:
    """Remember no entry whose id a description has shown."""
    if not self._samples:
        self._sample(first, entries[0])
    if last > self.last:
        self.last = last
        self._sample(last, entries[-1])


def test_an_entry_is_told_from_another_though_a_description_showed_its_id() -> None:
    plan = _plan("regressions/newest_entry")
    assert not carry_out(plan).kinds
    with patch.object(StreamIdentity, "read", _remember_above_last):
        assert "lost" in carry_out(plan).kinds


def test_an_unknown_plant_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ValueError, match="group_at_end"):
        planted("no such plant")


def test_each_plant_says_what_is_wrong() -> None:
    assert all(plant.__doc__ for plant in PLANTS.values())
