"""`python -m benchmarks consume|produce [--json] [--messages N] [--rounds N]`."""

from __future__ import annotations

import argparse
import asyncio

from benchmarks import consume, produce
from benchmarks.harness import Settings, server

BENCHMARKS = {"consume": consume, "produce": produce}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="a server; default: an embedded one")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop")
    return parser.parse_args()


async def main(given: argparse.Namespace) -> None:
    async with server(given.url) as url:
        settings = Settings(url, given.messages, given.rounds, given.json)
        await BENCHMARKS[given.benchmark].main(settings)


if __name__ == "__main__":
    given = arguments()
    if given.uvloop:
        import uvloop

        uvloop.run(main(given))
    else:
        asyncio.run(main(given))
