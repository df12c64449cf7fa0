"""Faults of all kinds at random, for a given time.

`python -m faults.soak --seconds 1800 --seed 7` runs rounds of half a minute, each on
its own server with its own seed, which is printed: `--rounds 1` with that seed repeats
the faults. A round that finds an error leaves its journals behind.
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
    """Run rounds; return 1 if a promise was broken in one of them."""
    arguments = _arguments()
    until = time.monotonic() + arguments.seconds
    failed: list[int] = []
    number = 0
    while time.monotonic() < until and number != arguments.rounds:
        seed = arguments.seed + number
        number += 1
        if not _round(seed, arguments):
            failed.append(seed)
    print(f"{number} rounds, {len(failed)} bad: seeds {failed}")
    return bool(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--rounds", type=int, default=-1, help="the maximum number of rounds"
    )
    parser.add_argument("--kinds", nargs="*", choices=sorted(KINDS), default=[])
    parser.add_argument("--folder", type=Path, help="the folder for journals")
    return parser.parse_args()


def _round(seed: int, arguments: argparse.Namespace) -> bool:
    print(f"== seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-", dir=arguments.folder))
    try:
        outcome = asyncio.run(mix.run(folder, seed, _ROUND, arguments.kinds))
    except Exception:  # noqa: BLE001 - the next round has to run
        # An error that the harness did not expect is a finding too.
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
