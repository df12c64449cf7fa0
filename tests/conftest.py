"""What the tests share: a server, stream names, a bare client to look behind.

Consumers and producers are opened inside the tests: pytest-asyncio runs a fixture's
setup and teardown in separate tasks, which a task group must not span (anyio,
docs/testing).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool

from penstock import Event

pytest_plugins = ["penstock.testing"]


@pytest.fixture(autouse=True)
def _no_server_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    """A REDIS_URL of the developer's shell must not decide what is tested."""
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def url(penstock_url: str) -> str:
    return penstock_url


@pytest.fixture
def stream(penstock_stream: str) -> str:
    return penstock_stream


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Any]:
    """redis-py's client, for looking at the server from outside."""
    pool = ConnectionPool.from_url(url, socket_timeout=10)
    client = Redis(connection_pool=pool)
    yield client
    await client.aclose()
    await pool.disconnect()


class Events(list[Event]):
    """An `on_event` that keeps what it is told."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def named(self, name: str) -> list[Event]:
        return [event for event in self if event.name == name]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep Penstock's own log out of a passing run's output."""
    caplog.set_level(logging.DEBUG, "penstock")
