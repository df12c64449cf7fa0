"""Where and with what a result was had."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT

# Taken when this is loaded: later on it is the benchmarks' own.
BUSY = os.getloadavg()[0]


def machine() -> dict[str, str]:
    """The machine, and how busy it was."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory >> 30} GiB",
        "system": platform.platform(terse=True),
        "load before": f"{BUSY:.2f}",
    }


def processor() -> str:
    """Its name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def versions(redis: Any) -> dict[str, str]:
    """What all benchmarks run on."""
    info = redis.info("server")
    kind = info.get("server_name", "redis")
    return {
        "penstock": commit(),
        "python": platform.python_version(),
        "server": f"{kind} {info.get(f'{kind}_version', info['redis_version'])}",
        "redis": version("redis"),
        "hiredis": version("hiredis"),
    }


def commit() -> str:
    """The commit that is measured, and whether something was changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return told.stdout.decode().strip() or "no commit"
