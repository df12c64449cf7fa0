"""Runs are determined by their seed, whatever the process that they happen in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from simulation.explore import carry_out, plan_of
for seed in range(200, 208):
    # The last two have consumers that own shards.
    plan = plan_of(seed, owned=seed > 205)
    print(seed, carry_out(plan).world.fingerprint)
"""


def fingerprints(hash_seed: str) -> str:
    """Carry out plans in a process of its own; return what determines their runs."""
    here = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(here)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    """Byte for byte on all connections, also if hashes differ."""
    first = fingerprints("1")
    assert len(first.splitlines()) == 8
    assert fingerprints("2") == first
