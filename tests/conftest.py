"""Fixtures of all tests: a server, stream names, and a client to inspect the server.

Consumers and producers are opened inside the tests: pytest-asyncio runs a fixture's
setup and teardown in separate tasks, which a task group must not span (anyio,
docs/testing).
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool

from penstock._tasks import session
from support.events import Events
from support.run_process import Run

pytest_plugins = ["penstock.testing"]

# A process that a script starts in the background ignores SIGINT, and one that nohup
# starts ignores SIGHUP; so would all processes that the tests start.
for _number, _default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)


if os.environ.get("PENSTOCK_TEST_LOOP") == "uvloop":
    import uvloop

    def pytest_asyncio_loop_factories() -> dict[str, Any]:
        """Run async tests on uvloop's event loop."""
        return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _without_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the URL of the developer's shell, so that it chooses no server."""
    for name in ("PENSTOCK_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


@pytest.fixture(autouse=True)
def _unobserved(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have no outcomes recorded, as in programs that don't import penstock.testing."""
    if not {"testing", "test_docs.py", "test_docstrings.py"} & {*request.path.parts}:
        monkeypatch.setattr(session, "observers", [])


@pytest.fixture(autouse=True)
def _unlimited_log() -> None:
    """Leave no lines out because the test before wrote as many in this second."""
    for pace in logging.getLogger("penstock").filters:
        pace._seconds.clear()  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def container_url() -> Iterator[str]:
    """Provide the URL of a server from the image PENSTOCK_TEST_IMAGE, in Docker."""
    image = os.environ.get("PENSTOCK_TEST_IMAGE")
    if not image:
        pytest.skip("PENSTOCK_TEST_IMAGE names no image, for example redis:8")
    docker = pytest.importorskip("docker")
    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import PortWaitStrategy

    container = DockerContainer(image).with_exposed_ports(6379)
    with container.waiting_for(PortWaitStrategy(6379)) as running:
        host = running.get_container_host_ip()
        yield f"redis://{host}:{running.get_exposed_port(6379)}"


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Provide the URL of the server under test."""
    in_docker = "PENSTOCK_TEST_IMAGE" in os.environ
    return str(
        request.getfixturevalue("container_url" if in_docker else "penstock_url")
    )


@pytest.fixture
def stream(penstock_stream: str) -> str:
    return penstock_stream


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Any]:
    """Provide a client of redis-py, to inspect and change the server."""
    pool = ConnectionPool.from_url(url, socket_timeout=10)
    client = Redis(connection_pool=pool)
    yield client
    await client.aclose()
    await pool.disconnect()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep Penstock's own log out of a passing run's output."""
    caplog.set_level(logging.DEBUG, "penstock")


@pytest.fixture
async def run(url: str, stream: str, tmp_path: Path) -> AsyncIterator[Run]:
    created = Run(url, stream, tmp_path)
    yield created
    for process in created.processes:
        process.kill()
        process.wait()
    for pid in created.running():
        os.kill(pid, signal.SIGKILL)
