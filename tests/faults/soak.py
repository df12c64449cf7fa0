"""Faults of all kinds at random, for a given time.

`python -m faults.soak --seconds 1800 --seed 7` runs rounds of half a minute, each on
its own server with its own seed, which is printed: `--rounds 1` with that seed repeats
the faults. A round that finds an error leaves its journals behind. A signal ends the
round with its server and processes, and the status is 128 + its number.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from faults import mix
from faults.kinds import KINDS

T = TypeVar("T")

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
        outcome = asyncio.run(
            _interruptible(mix.run(folder, seed, _ROUND, arguments.kinds))
        )
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


async def _interruptible(work: Awaitable[T]) -> T:
    """Wait for the work; a signal cancels it, so that it cleans up, and exits.

    Raises:
        SystemExit: A signal has ended the work.
    """
    caught: list[signal.Signals] = []
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def end(number: signal.Signals) -> None:
        # A second one must not interrupt the cleaning up.
        if not caught:
            task.cancel()
        caught.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await work
    except BaseException:
        if not caught:
            raise
    print(f"ended by {caught[0].name}", flush=True)
    sys.exit(128 + caught[0])


if __name__ == "__main__":
    sys.exit(main())
