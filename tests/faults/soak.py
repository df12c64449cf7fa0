"""Faults of all kinds, at random, for as long as is asked for.

`python -m faults.soak --seconds 1800 --seed 7` runs rounds of half a minute, each on a
server of its own with a seed of its own, which is printed: `--rounds 1` with that seed
brings the same faults again. What is found wrong leaves its journals behind.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from faults import mix
from faults.kinds import KINDS

_ROUND = 30.0


def main() -> int:
    """Run rounds; gives 1 if a promise was broken in one."""
    asked = _arguments()
    until = time.monotonic() + asked.seconds
    bad: list[int] = []
    number = 0
    while time.monotonic() < until and number != asked.rounds:
        seed = asked.seed + number
        number += 1
        if not _round(seed, asked):
            bad.append(seed)
    print(f"{number} rounds, {len(bad)} bad: seeds {bad}")
    return bool(bad)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=-1, help="that many at most")
    parser.add_argument("--kinds", nargs="*", choices=sorted(KINDS), default=[])
    parser.add_argument("--folder", type=Path, help="where journals are left")
    return parser.parse_args()


def _round(seed: int, asked: argparse.Namespace) -> bool:
    print(f"== seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-", dir=asked.folder))
    try:
        outcome = asyncio.run(mix.run(folder, seed, _ROUND, asked.kinds))
    except Exception:  # noqa: BLE001 - the next round goes on
        # What the harness did not expect is a finding too.
        traceback.print_exc()
        faultless = False
    else:
        print(outcome, flush=True)
        faultless = outcome.faultless
    if faultless:
        shutil.rmtree(folder)
    else:
        print(f"journals are in {folder}", flush=True)
    return faultless


if __name__ == "__main__":
    sys.exit(main())
