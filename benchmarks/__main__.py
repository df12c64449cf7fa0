"""`python -m benchmarks COMMAND …`, see README.md beside this file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import (
    consume,
    cost,
    latency,
    limit,
    loops,
    memory,
    metrics,
    produce,
    realtime,
    recovery,
    relay,
    scaling,
    sharded,
    store,
    versus,
)
from benchmarks.harness import Settings, server
from benchmarks.report import page

# Ways in one process, in turn: ratios for who changes the code.
COMPARISONS = {
    "consume": consume,
    "realtime": realtime,
    "produce": produce,
    "metrics": metrics,
    "relay": relay,
}
# Each run in a process of its own, and results that are kept.
KEPT = {
    "versus": versus,
    "latency": latency,
    "scaling": scaling,
    "cost": cost,
    "limit": limit,
    "recovery": recovery,
}
# What `all` measures, and what is enough to see that it works.
ALL = (
    "limit",
    "versus --job consume",
    "versus --job send",
    "versus --job consume --loop uvloop --rounds 3",
    "versus --job send --loop uvloop --rounds 3",
    "versus --job consume --delay 1 --rounds 3",
    "versus --job consume --delay 5 --rounds 3",
    "versus --job send --delay 1 --rounds 3",
    "latency",
    "scaling",
    "cost",
    "recovery",
)
QUICK = (
    "limit --rounds 2",
    "versus --rounds 2 --only raw penstock redis-py",
    "versus --job send --rounds 2 --only raw penstock redis-py",
    "latency --seconds 2 --rounds 1",
    "scaling --only processes waiting --rounds 1",
    "cost --seconds 5 --rounds 1",
    "recovery --rounds 2",
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks")
    benchmarks = made.add_subparsers(dest="benchmark", required=True)
    for name in COMPARISONS:
        chosen = benchmarks.add_parser(name)
        shared(chosen, messages=200_000)
        chosen.add_argument("--rounds", type=int, default=5)
        chosen.add_argument("--uvloop", action="store_true", help="on uvloop")
    chosen = benchmarks.add_parser("memory")
    shared(chosen, messages=5_000_000)
    chosen.add_argument("--mode", choices=(*memory.MODES, "both"), default="both")
    chosen.set_defaults(rounds=1, uvloop=False)
    for name, module in KEPT.items():
        chosen = benchmarks.add_parser(name)
        module.add_arguments(chosen)
        keeps(chosen)
    sharded.add_arguments(benchmarks.add_parser("sharded"))
    chosen = benchmarks.add_parser("all")
    chosen.add_argument("--quick", action="store_true", help="little, without peers")
    keeps(chosen)
    keeps(benchmarks.add_parser("report"))
    return made


def shared(parser: argparse.ArgumentParser, *, messages: int) -> None:
    """Add the options of all comparisons."""
    parser.add_argument("--messages", type=int, default=messages)
    parser.add_argument("--url", help="a server; default: an embedded one")
    parser.add_argument("--json", action="store_true", help="one object a line")


def keeps(parser: argparse.ArgumentParser) -> None:
    """Add where results are kept."""
    parser.add_argument(
        "--results", type=Path, default=store.FOLDER, help="folder of results"
    )


async def compare(given: argparse.Namespace) -> None:
    async with server(given.url) as url:
        settings = Settings(url, given.messages, given.rounds, given.json)
        if given.benchmark == "memory":
            both = given.mode == "both"
            await memory.main(settings, memory.MODES if both else [given.mode])
        else:
            await COMPARISONS[given.benchmark].main(settings)


def several(given: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """What `all` stands for."""
    for command in QUICK if given.quick else ALL:
        words = [*command.split(), "--results", str(given.results)]
        print(f"\n== {command}", flush=True)
        yield parser().parse_args(words)


def main(given: argparse.Namespace) -> None:
    if given.benchmark == "report":
        page.main(given.results, store.load(given.results))
    elif given.benchmark == "sharded":
        sharded.main(given)
    elif given.benchmark == "all":
        for each in several(given):
            main(each)
    elif given.benchmark in KEPT:
        KEPT[given.benchmark].main(given, given.results)
    else:
        loops.run(compare(given), "uvloop" if given.uvloop else "asyncio")


if __name__ == "__main__":
    main(parser().parse_args())
