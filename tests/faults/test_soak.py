"""The soak: what it leaves behind when it is ended by a signal."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import eventually

TESTS = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)


def processes(mark: str, folder: Path) -> dict[int, bytes]:
    """Return the command lines of the processes of a soak.

    Workers inherit a variable. A server overwrites its environment, and works in a
    folder of its own.
    """
    found = {}
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and (
                mark.encode() in (path / "environ").read_bytes()
                or (path / "cwd").resolve().is_relative_to(folder)
            ):
                found[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_the_soak_with_its_workers_and_its_server(
    tmp_path: Path, number: signal.Signals
) -> None:
    name, value = "PENSTOCK_TEST_MARK", secrets.token_hex(8)
    soak = subprocess.Popen(
        [*(sys.executable, "-m", "faults.soak", "--folder", str(tmp_path))],
        cwd=TESTS,
        env={**os.environ, name: value},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    mark = f"{name}={value}"

    async def at_work() -> bool:
        assert soak.poll() is None
        lines = b"\n".join(processes(mark, tmp_path).values())
        return b"faults.worker" in lines and b"-server" in lines

    try:
        await eventually(at_work, within=100)
        soak.send_signal(number)
        assert await asyncio.to_thread(soak.wait, 30) == 128 + number
        assert processes(mark, tmp_path) == {}
    finally:
        for pid in processes(mark, tmp_path):
            os.kill(pid, signal.SIGKILL)
        soak.wait()
