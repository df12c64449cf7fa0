"""`python -m benchmarks consume|realtime|produce|memory [--json] [--messages N] …`."""

from __future__ import annotations

import argparse
import asyncio

from benchmarks import consume, memory, produce, realtime
from benchmarks.harness import Settings, server

COMPARISONS = {"consume": consume, "realtime": realtime, "produce": produce}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    for name in COMPARISONS:
        chosen = benchmarks.add_parser(name)
        shared(chosen, messages=200_000)
        chosen.add_argument("--rounds", type=int, default=5)
        chosen.add_argument("--uvloop", action="store_true", help="on uvloop")
    chosen = benchmarks.add_parser("memory")
    shared(chosen, messages=5_000_000)
    chosen.add_argument("--mode", choices=(*memory.MODES, "both"), default="both")
    chosen.set_defaults(rounds=1, uvloop=False)
    return parser.parse_args()


def shared(parser: argparse.ArgumentParser, *, messages: int) -> None:
    """Add the options of all benchmarks."""
    parser.add_argument("--messages", type=int, default=messages)
    parser.add_argument("--url", help="a server; default: an embedded one")
    parser.add_argument("--json", action="store_true", help="one object a line")


async def main(given: argparse.Namespace) -> None:
    async with server(given.url) as url:
        settings = Settings(url, given.messages, given.rounds, given.json)
        if given.benchmark == "memory":
            both = given.mode == "both"
            await memory.main(settings, memory.MODES if both else [given.mode])
        else:
            await COMPARISONS[given.benchmark].main(settings)


if __name__ == "__main__":
    given = arguments()
    if given.uvloop:
        import uvloop

        uvloop.run(main(given))
    else:
        asyncio.run(main(given))
