"""`penstock run` in a process, for tests."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from penstock import Producer
from support.waiting import eventually

TESTS = Path(__file__).parent.parent


class Run:
    """`penstock run` in a process, with a marker that its children inherit."""

    def __init__(self, url: str, stream: str, folder: Path) -> None:
        self.mark = f"PENSTOCK_TEST_MARK={secrets.token_hex(8)}"
        name, _, value = self.mark.partition("=")
        self.journal = folder / "journal"
        self.log = folder / "log"
        self.ready_file = folder / "ready"
        self.env = {
            **os.environ,
            name: value,
            "PYTHONWARNINGS": "error",
            "REDIS_URL": url,
            "TEST_STREAM": stream,
            "TEST_JOURNAL": str(self.journal),
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, *arguments: str, target: str = "support.run_app", cwd: Path = TESTS
    ) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "error", "-m", "penstock.cli", "run"),
                    *(target, "--ready-file", str(self.ready_file), *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=cwd,
                start_new_session=True,
            )
        self.processes.append(process)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    async def ready(self, *arguments: str, **more: Any) -> None:
        """Start it, and wait until all workers are ready."""
        self.start(*arguments, **more)
        await eventually(self.is_ready, within=20)

    async def is_ready(self) -> bool:
        assert self.process.poll() is None, self.output()
        return self.ready_file.exists()

    async def is_not_ready(self) -> bool:
        return not self.ready_file.exists()

    def output(self) -> str:
        return self.log.read_text()

    async def prints(self, words: str) -> None:
        async def output() -> bool:
            return words in self.output()

        await eventually(output, within=20)

    def handled(self) -> list[str]:
        return (
            self.journal.read_text().split("\n")[:-1] if self.journal.exists() else []
        )

    async def has_handled(self, count: int) -> None:
        async def enough() -> bool:
            assert self.process.poll() is None, self.output()
            return len(self.handled()) >= count

        await eventually(enough, within=20)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self, status: int) -> None:
        """Wait for the end, check the status, and wait until nothing is left behind."""
        code = await asyncio.to_thread(self.process.wait, 30)
        assert code == status, self.output()
        await eventually(self.nothing_is_left)

    async def nothing_is_left(self) -> bool:
        return not self.running() and not self.ready_file.exists()

    def running(self, program: bytes = b"") -> list[int]:
        """Return the ids of its running processes, or of those of one program."""
        return [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit()
            and self.mark.encode() in read(path / "environ")
            and program in read(path / "cmdline")
        ]

    def workers(self) -> list[int]:
        return self.running(b"cli.run.worker")


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def send_words(url: str, stream: str, *words: str) -> None:
    async with Producer(url) as producer:
        for word in words:
            await producer.send(stream, word.encode())


async def get(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    return reply


async def probe(port: int, path: str) -> tuple[int, str]:
    reply = await get(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()
