"""The pytest plugin: the server and the stream names that users' tests get."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from penstock import Consumer, Producer
from penstock.embedded import EmbeddedServer
from support.projects import run_tests

ROOT = Path(__file__).parent.parent.parent

# Each test looks for what the one before has left.
TESTS = """
import asyncio
import pytest
from penstock import Producer, admin

async def send(url):
    found = await admin.streams(url=url)
    async with Producer(url) as producer:
        await producer.send("orders", b"x")
    return found

@pytest.mark.parametrize("turn", [1, 2, 3])
def test_theirs(penstock_url, turn):
    assert asyncio.run(send(penstock_url)) == []

@pytest.fixture
def client(penstock_url):
    return penstock_url

@pytest.mark.parametrize("turn", [1, 2])
def test_by_another_fixture(client, turn):
    assert asyncio.run(send(client)) == []

@pytest.mark.parametrize("turn", [1, 2])
def test_by_name(request, turn):
    url = request.getfixturevalue("penstock_url")
    assert asyncio.run(send(url)) == []
"""
UNUSED = """
import sys

def test_theirs():
    assert "pytest_penstock" in sys.modules
    assert not [name for name in sys.modules if name.split(".")[0] == "penstock"]
"""
WITH_PYTEST_ASYNCIO = """
import pytest
from penstock import Consumer, Producer

@pytest.mark.asyncio
@pytest.mark.parametrize("turn", [1, 2])
async def test_theirs(penstock_url, penstock_stream, turn):
    async with (
        Consumer(penstock_stream, url=penstock_url, group="g") as consumer,
        Producer(penstock_url) as producer,
    ):
        await producer.send(penstock_stream, str(turn))
        assert (await consumer.next()).payload == b"%d" % turn
        assert await consumer.next(timeout=0.01) is None
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_theirs.py").write_text(TESTS)
    return tmp_path


@pytest.fixture
def named() -> Iterator[EmbeddedServer]:
    """Start a server for PENSTOCK_TEST_URL to name."""
    with EmbeddedServer() as server:
        yield server


def keys(server: EmbeddedServer, database: int = 0) -> int:
    """Return the number of keys of a database."""
    return int(ask(server, f"SELECT {database}", "DBSIZE")[1:])


def ask(server: EmbeddedServer, *commands: str) -> bytes:
    """Return the reply to the last of the inline commands."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(server.url.removeprefix("unix://"))
        reply = b""
        for command in commands:
            connection.sendall(command.encode() + b"\r\n")
            reply = connection.recv(1024)
    return reply


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "src/pytest_penstock.py" in wheel["packages"]
    [found] = entry_points(group="pytest11", name="penstock")
    assert found.value == "pytest_penstock"


def test_importing_the_plugin_imports_nothing_but_itself() -> None:
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import pytest_penstock\n"
        "new = set(sys.modules) - before\n"
        "assert new == {'pytest_penstock'}, new\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_needs_no_pytest_and_has_what_it_lists() -> None:
    code = (
        "import sys, penstock.testing as testing\n"
        "assert not {'pytest', 'pytest_penstock'} & set(sys.modules)\n"
        "assert len(testing.__all__) == len(set(testing.__all__))\n"
        "assert all(getattr(testing, name).__doc__ for name in testing.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_penstock_is_not_imported_until_a_fixture_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(UNUSED)
    done = run_tests(tmp_path, plugins=None)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_test_finds_the_server_empty(project: Path) -> None:
    done = run_tests(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


def test_the_workers_of_xdist_have_servers_of_their_own(project: Path) -> None:
    done = run_tests(project, "-n2", plugins=["penstock", "xdist"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


@pytest.mark.parametrize("conftest", ["", 'pytest_plugins = ["penstock.testing"]\n'])
def test_the_fixtures_serve_with_and_without_being_named(
    tmp_path: Path, conftest: str
) -> None:
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_theirs.py").write_text(WITH_PYTEST_ASYNCIO)
    done = run_tests(tmp_path, plugins=None)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_fixtures_can_be_named_where_plugins_are_not_loaded(project: Path) -> None:
    (project / "conftest.py").write_text('pytest_plugins = ["penstock.testing"]\n')
    done = run_tests(project, plugins=[])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


@pytest.mark.parametrize("conftest", ["", 'pytest_plugins = ["penstock.testing"]\n'])
def test_the_plugin_can_be_switched_off(project: Path, conftest: str) -> None:
    (project / "conftest.py").write_text(conftest)
    done = run_tests(project, "-pno:penstock", plugins=None)
    assert "fixture 'penstock_url' not found" in done.stdout


def test_isolation_can_be_switched_off(project: Path) -> None:
    (project / "pytest.ini").write_text("[pytest]\npenstock_isolation = none\n")
    done = run_tests(project)
    assert "1 passed" in done.stdout
    assert "6 failed" in done.stdout


def test_another_isolation_is_refused(project: Path) -> None:
    (project / "pytest.ini").write_text("[pytest]\npenstock_isolation = module\n")
    done = run_tests(project)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "penstock_isolation = 'module' is unknown; write 'test'" in done.stderr


def test_a_named_database_is_emptied_between_tests_and_after_them(
    project: Path, named: EmbeddedServer
) -> None:
    ask(named, "SELECT 1", "SET theirs 1")
    done = run_tests(project, PENSTOCK_TEST_URL=named.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout
    assert keys(named) == 0
    assert keys(named, 1) == 1


@pytest.mark.parametrize("test", ["test_theirs", "test_by_another", "test_by_name"])
def test_a_named_database_with_keys_is_refused_and_kept(
    project: Path, named: EmbeddedServer, test: str
) -> None:
    ask(named, "MSET theirs 1 others 2")
    done = run_tests(project, "-k", test, PENSTOCK_TEST_URL=named.url)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "has 2 keys" in done.stdout + done.stderr
    assert "passed" not in done.stdout
    assert keys(named) == 2


def test_a_named_database_is_not_shared_by_the_workers_of_xdist(
    project: Path, named: EmbeddedServer
) -> None:
    ask(named, "SET theirs 1")
    with_xdist = ["penstock", "xdist"]
    done = run_tests(project, "-n2", plugins=with_xdist, PENSTOCK_TEST_URL=named.url)
    assert "2 failed, 5 errors" in done.stdout
    assert "run with -n 0" in done.stdout
    assert "passed" not in done.stdout
    assert keys(named) == 1


def test_a_named_database_keeps_its_keys_without_isolation(
    project: Path, named: EmbeddedServer
) -> None:
    (project / "pytest.ini").write_text("[pytest]\npenstock_isolation = none\n")
    ask(named, "SET theirs 1")
    done = run_tests(project, "-k", "test_theirs", PENSTOCK_TEST_URL=named.url)
    assert "1 passed" in done.stdout
    assert keys(named) == 2


def test_a_named_database_is_not_asked_where_no_test_uses_it(
    tmp_path: Path, named: EmbeddedServer
) -> None:
    ask(named, "SET theirs 1")
    (tmp_path / "test_theirs.py").write_text(UNUSED)
    done = run_tests(tmp_path, PENSTOCK_TEST_URL=named.url)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_that_a_test_has_ended_is_reported_by_the_next(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_theirs.py").write_text(
        "import socket\n"
        "def test_ends(penstock_url):\n"
        "    with socket.socket(socket.AF_UNIX) as connection:\n"
        "        connection.connect(penstock_url.removeprefix('unix://'))\n"
        "        connection.sendall(b'SHUTDOWN NOSAVE\\r\\n')\n"
        "        connection.recv(10)\n"
        "def test_next(penstock_url):\n"
        "    pass\n"
    )
    done = run_tests(tmp_path)
    assert "1 passed, 1 error" in done.stdout
    assert "may have ended during an earlier test" in done.stdout


async def test_a_server_from_an_image_serves(container_url: str, stream: str) -> None:
    """Runs where PENSTOCK_TEST_IMAGE names an image and Docker answers."""
    async with (
        Consumer(stream, url=container_url, group="g") as consumer,
        Producer(container_url) as producer,
    ):
        await producer.send(stream, b"x")
        assert (await consumer.next()).payload == b"x"
