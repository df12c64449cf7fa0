"""Simulate runs from seeds, report findings, and replay them.

python -m simulation --seconds 60 --seed 1
python -m simulation --seconds 3600 --findings 20 --shrink 0
python -m simulation --seed 17 --rounds 1 --timeline
python -m simulation --replay FILE
python -m simulation --owned --seconds 60
python -m simulation --plants --jobs 1 --seconds 300
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from simulation.explore import carry_out, explore, plan_of, pool, shrunk
from simulation.owned_plants import OWNED_PLANTS
from simulation.plan import Plan
from simulation.plants import PLANTS

# Lines of a timeline that are shown.
_SHOWN: Final = 200


def report(options: argparse.Namespace) -> int:
    """Explore, and report what was found."""
    began = time.perf_counter()
    found = explore(
        options.seed,
        seconds=options.seconds,
        rounds=options.rounds,
        jobs=options.jobs,
        plant=options.plant,
        findings=options.findings,
        owned=options.owned,
        report=partial(print, flush=True),
    )
    elapsed = time.perf_counter() - began
    print(
        f"{found.runs} runs in {elapsed:.0f} s: {60 * found.runs / elapsed:.0f} a "
        f"minute, {found.simulated / max(found.spent, 0.001):.0f} simulated seconds a "
        f"second of one core; {len(found.findings)} findings"
    )
    if not found.findings:
        return 0
    finding = min(found.findings, key=lambda finding: finding.seed)
    print(f"{finding}\n{finding.text}")
    if options.shrink:
        with pool(1) as processes:
            work = partial(
                shrunk, finding, options.plant, options.shrink, owned=options.owned
            )
            plan = processes.submit(work).result()
        keep(plan, options)
    return 1


def hunt(options: argparse.Namespace) -> int:
    """Look for each planted defect, and report the work that it took to find it."""
    missed = 0
    for plant in PLANTS:
        found = explore(
            options.seed,
            seconds=options.seconds,
            rounds=options.rounds,
            jobs=options.jobs,
            plant=plant,
            owned=True if plant in OWNED_PLANTS else options.owned,
        )
        kinds = sorted({kind for each in found.findings for kind in each.kinds})
        shown = ", ".join(kinds) or "not found"
        spent = f"{found.spent:4.0f} s of one core {found.runs:5} runs"
        print(f"{plant:22} {spent}  {shown}", flush=True)
        missed += not kinds
    return int(missed > 0)


def keep(plan: Plan, options: argparse.Namespace) -> None:
    """Store a plan that fails, show what happens in it, and say how to replay it."""
    path = Path(options.keep) / f"finding-{plan.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan)) + b"\n")
    print(f"\nthe smallest plan found, in {path}:\n{path.read_text()}")
    show(plan, options.plant, timeline=True)
    plant = f" --plant {options.plant}" if options.plant else ""
    print(
        f"replay it: cd tests && python -m simulation --replay {path.resolve()}{plant}"
    )


def show(plan: Plan, plant: str, *, timeline: bool) -> int:
    """Carry out one plan, and show what came of it."""
    result = carry_out(plan, plant)
    lines = result.world.timeline
    if timeline:
        if len(lines) > _SHOWN:
            print(f"... {len(lines) - _SHOWN} lines before")
        print("\n".join(map(str, lines[-_SHOWN:])))
    print(f"{result}\nfingerprint {result.world.fingerprint}")
    return int(bool(result.kinds))


def main() -> int:
    """Parse the command line and do what it asks for."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60, help="how long to simulate"
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument(
        "--rounds", type=int, help="the number of runs, instead of --seconds"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument(
        "--findings", type=int, default=1, help="after how many findings to stop"
    )
    parser.add_argument(
        "--plant", default="", choices=["", *PLANTS], help="a defect to plant"
    )
    parser.add_argument(
        "--plants", action="store_true", help="plant all defects, one after the other"
    )
    parser.add_argument(
        "--shrink", type=float, default=60, help="seconds for shrinking"
    )
    parser.add_argument(
        "--owned",
        action="store_const",
        const=True,
        help="only plans in which consumers own shards",
    )
    parser.add_argument("--keep", default="findings", help="the folder for findings")
    parser.add_argument("--replay", type=Path, help="a stored plan to carry out")
    parser.add_argument("--timeline", action="store_true", help="show what happens")
    options = parser.parse_args()
    if options.plants:
        return hunt(options)
    if options.replay:
        plan = msgspec.json.decode(options.replay.read_bytes(), type=Plan)
        return show(plan, options.plant, timeline=options.timeline)
    if options.rounds == 1:
        return show(
            plan_of(options.seed, owned=options.owned),
            options.plant,
            timeline=options.timeline,
        )
    return report(options)


if __name__ == "__main__":
    # Sets of text are in the same order in each run only if hashes are.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]])
    sys.exit(main())
