"""The oracle that holds starts of handlers against the server's own data."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import msgspec

from simulation.explore import carry_out
from simulation.oracle_facts import Life
from simulation.plan import Plan

_PLANS = Path(__file__).parent / "plans"


def _plan(name: str) -> Plan:
    return msgspec.json.decode((_PLANS / f"{name}.json").read_bytes(), type=Plan)


def test_an_entry_may_start_though_the_servers_clock_has_ended_its_lease() -> None:
    plan = _plan("clock_ends_leases")
    found = carry_out(plan)
    assert not found.kinds, str(found)
    # Without a lease that goes on by the consumer's own clock, it might not.
    with patch.object(Life, "lease", 0):
        assert carry_out(plan).kinds == {"foreign"}


def test_no_call_is_missed_while_a_message_has_to_run_alone() -> None:
    found = carry_out(_plan("held_by_a_task"))
    assert not found.kinds, str(found)
