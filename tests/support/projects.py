"""Pytest runs of users' projects, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# Penstock's own run may have chosen these.
_HIDDEN = ("PENSTOCK_TEST_URL", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER_COUNT")


def run_tests(
    folder: Path,
    *arguments: str,
    plugins: Iterable[str] | None = ("penstock",),
    python: str = sys.executable,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder.

    Args:
        folder: The folder.
        *arguments: Further arguments of pytest.
        plugins: The plugins to load, by their entry points, since those that are
            installed here take seconds to load; None loads them all.
        python: The interpreter.
        **environment: Further variables.
    """
    if plugins is not None:
        environment.setdefault("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        arguments = (*(f"-p{name}" for name in plugins), *arguments)
    else:
        arguments = ("-pno:valkey", "-pno:randomly", *arguments)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _HIDDEN and not name.startswith("PYTEST_XDIST")
    }
    return subprocess.run(
        [python, "-m", "pytest", *arguments],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
