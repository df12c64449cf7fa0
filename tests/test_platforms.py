"""Windows and macOS, as far as a Linux without their missing parts can tell."""

from __future__ import annotations

import asyncio
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock import _clock
from penstock._connection import endpoint
from penstock.cli.app import Commands
from support.server import Server, server

TESTS = Path(__file__).parent
COMMAND_LINE = (
    "import sys\n"
    "from penstock.cli.__main__ import main\n"
    "sys.argv[0] = 'penstock'\n"
    "main()\n"
)


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start code in a process that lacks what Windows lacks."""
    return subprocess.Popen(
        [sys.executable, "-m", "support.windows", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS,
    )


def on_windows(code: str, *arguments: str) -> tuple[int, str, str]:
    """Return the status, and what was printed to standard output and error."""
    process = started(code, *arguments)
    output, errors = process.communicate(timeout=50)
    return process.returncode, output, errors


@pytest.fixture
async def tcp(tmp_path: Path) -> AsyncIterator[Server]:
    async with server(tmp_path) as running:
        yield running


def test_every_module_is_imported_on_windows() -> None:
    assert on_windows("print('imported')") == (0, "imported\n", "")


def test_every_command_has_its_help_on_windows() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from penstock.cli.app import app\n"
        "for words in ([], *([name] for name in sys.argv[1:])):\n"
        "    done = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert done.exit_code == 0, (words, done.output)\n"
        "    assert 'Usage: ' in done.output, words\n"
        "print('all')\n"
    )
    assert on_windows(code, *Commands.places) == (0, "all\n", "")


def test_what_windows_lacks_is_refused_in_a_sentence() -> None:
    run, relay, demo, unix, embedded = refusals(
        *("run shop", "relay --stream orders --queue jobs", "demo"),
        *("streams --url unix:///run/redis.sock", "streams --url embedded://"),
    )
    assert run.startswith("penstock: penstock run needs Linux or macOS")
    assert relay.startswith("penstock: penstock relay needs Linux or macOS")
    assert demo.startswith("penstock: penstock demo needs Linux or macOS")
    assert "names a Unix socket, and Python has none on this system" in unix
    assert "the embedded server needs Linux or macOS" in embedded


def refusals(*commands: str) -> list[str]:
    """Return the lines with which commands are refused as wrong usage."""
    code = (
        "import sys\n"
        "from penstock.cli.__main__ import main\n"
        "for command in sys.argv[1:]:\n"
        "    sys.argv = ['penstock', *command.split()]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as ended:\n"
        "        assert ended.code == 2, command\n"
    )
    status, output, errors = on_windows(code, *commands)
    assert (status, output) == (0, ""), errors
    return errors.splitlines()


def test_leases_count_the_time_in_which_a_mac_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    boottime = runpy.run_path(_clock.__file__)["boottime"]
    assert boottime.func is time.clock_gettime
    assert boottime.args == (time.CLOCK_MONOTONIC,)


def test_a_peer_that_has_vanished_is_noticed_on_a_mac(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    option = socket.TCP_KEEPIDLE
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", option, raising=False)
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    with socket.socket() as peer:
        endpoint._keep_alive(asyncio.BaseTransport({"socket": peer}))
        assert peer.getsockopt(socket.IPPROTO_TCP, option) == 30


async def test_messages_are_sent_and_handled_on_windows(tcp: Server) -> None:
    code = (
        "import asyncio, sys\n"
        "from penstock import KEEP_ALL, Consumer, Producer\n"
        "async def main(url):\n"
        "    async with Producer(url, retention=KEEP_ALL) as producer:\n"
        "        await producer.send('orders', b'one')\n"
        "    async with Consumer('orders', url=url, group='billing') as consumer:\n"
        "        async for message in consumer:\n"
        "            print(message.payload)\n"
        "            break\n"
        "asyncio.run(main(sys.argv[1]))\n"
    )
    assert on_windows(code, tcp.url) == (0, "b'one'\n", "")


@pytest.mark.parametrize(
    ("command", "ready"), [("exporter", "serving http"), ("console", "http://")]
)
async def test_a_server_for_operators_ends_by_a_signal_on_windows(
    tcp: Server, tmp_path: Path, command: str, ready: str
) -> None:
    file = tmp_path / "ready"
    words = (command, "--url", tcp.url, "--port", "0", "--ready-file", str(file))
    process = started(COMMAND_LINE, *words)
    assert process.stderr is not None
    line = process.stderr.readline()
    while ready not in line:
        assert line, "it has ended"
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
