"""One contender's one run, in a process of its own.

`python -m benchmarks.contender PEER WAY` reads a `Job` from its input and writes what
it took, and the versions of what it ran on, to its output; a line of JSON each.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version

from benchmarks import loops
from benchmarks.clock import Clock
from benchmarks.job import Job


def main(peer: str, way: str) -> None:
    """Run it."""
    job = Job(**json.loads(sys.stdin.readline()))
    logging.disable(logging.WARNING)
    module = import_module(f"benchmarks.peers.{peer}")
    clock = Clock(job.direct)
    gc.collect()
    loops.run(module.WAYS[way](job, clock), job.loop)
    assert clock.run is not None  # noqa: S101 - every way times itself
    versions = {package: version(package) for package in module.PACKAGES}
    if job.loop == "uvloop":
        versions["uvloop"] = version("uvloop")
    print(json.dumps({"run": asdict(clock.run), "versions": versions}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
