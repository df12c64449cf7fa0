"""`penstock.testing`: fixtures for users' own tests; and servers from images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from penstock import Consumer, Producer

USERS_TESTS = """
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


def test_the_fixtures_provide_a_server_and_a_stream_to_tests_of_users(
    tmp_path: Path,
) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["penstock.testing"]\n')
    (tmp_path / "test_theirs.py").write_text(USERS_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:valkey"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


async def test_a_server_from_an_image_serves(container_url: str, stream: str) -> None:
    """Runs where PENSTOCK_TEST_IMAGE names an image and Docker answers."""
    async with (
        Consumer(stream, url=container_url, group="g") as consumer,
        Producer(container_url) as producer,
    ):
        await producer.send(stream, b"x")
        assert (await consumer.next()).payload == b"x"
