"""Servers that lose their power: what was not synced to the disk is gone."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.server import Server

__all__ = ["COMPILER", "PoweredServer", "powered"]

COMPILER = shutil.which("cc")


class PoweredServer(Server):
    """A server of which it is known what is on its disk.

    Args:
        folder: The folder of its files.
        *settings: Further arguments of the command line.
        binary: The program; by default the embedded one.
    """

    def __init__(self, folder: Path, *settings: str, binary: str | None) -> None:
        library = folder / "power.so"
        assert COMPILER is not None
        source = Path(__file__).with_name("power.c")
        options = ["-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run([COMPILER, *options], check=True)
        self._synced = folder / "synced"
        self._stall = folder / "synced.stall"
        self._stalled = folder / "synced.stalled"
        environment = {"LD_PRELOAD": str(library), "PENSTOCK_SYNCED": str(self._synced)}
        super().__init__(folder, *settings, binary=binary, environment=environment)

    def stall_syncs(self) -> None:
        """Let no sync end, as on a disk that is very slow."""
        self._stall.touch()

    @property
    def stalled(self) -> bool:
        """Whether a sync has begun that does not end."""
        return self._stalled.exists()

    async def lose_power(self) -> None:
        """End at once, lose what was not synced, and start again."""
        self.kill()
        lines = self._synced.read_text().splitlines() if self._synced.exists() else []
        sizes = {path: int(size) for size, _, path in (x.partition(" ") for x in lines)}
        for file in (self.folder / "appendonlydir").glob("*.aof"):
            os.truncate(file, min(file.stat().st_size, sizes.get(str(file), 0)))
        await self.start()

    async def die(self) -> None:
        """End by SIGKILL, and start again."""
        self.kill()
        await self.start()

    async def start(self, *settings: str, ready: bytes = b"+PONG") -> None:
        """Start, on a disk that works."""
        for file in (self._stall, self._stalled):
            file.unlink(missing_ok=True)
        await super().start(*settings, ready=ready)


@asynccontextmanager
async def powered(
    folder: Path, *settings: str, binary: str | None
) -> AsyncIterator[PoweredServer]:
    """Start a server; kill it in the end."""
    folder.mkdir()
    made = await asyncio.to_thread(
        lambda: PoweredServer(folder, *settings, binary=binary)
    )
    await made.start()
    try:
        yield made
    finally:
        made.kill()
