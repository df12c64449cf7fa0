"""deploy/Dockerfile: the image builds on a local base, and its containers drain.

It is left out unless PENSTOCK_TEST_BASE names a base image: `.ci/image` makes one, and
runs this.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import KEEP_ALL, Producer
from support.server import server
from support.waiting import eventually

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
BASE = os.environ.get("PENSTOCK_TEST_BASE")
IMAGE = "penstock-test"
MOST = 90_000_000  # bytes above its base

with_docker = pytest.mark.skipif(
    BASE is None, reason="PENSTOCK_TEST_BASE names no base image: run .ci/image"
)


def docker(*arguments: str) -> str:
    ran = subprocess.run(
        ["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def inspect(name: str) -> Any:
    return json.loads(docker("inspect", name))[0]


@pytest.fixture(scope="module")
def image() -> str:
    """Build the image from the folder of the repository."""
    build = ("build", "-q", "-f", "deploy/Dockerfile", "-t", IMAGE)
    docker(*build, "--build-arg", f"BASE={BASE}", ".")
    return IMAGE


@pytest.fixture
def container() -> Iterator[str]:
    name = f"penstock-test-{os.getpid()}"
    yield name
    subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)


@with_docker
@pytest.mark.timeout(180)
async def test_a_container_is_confined_becomes_healthy_and_drains(
    image: str, container: str, tmp_path: Path
) -> None:
    async def healthy() -> bool:
        state = inspect(container)["State"]
        assert state["Running"], docker("logs", container)
        return bool(state["Health"]["Status"] == "healthy")

    async def handled() -> bool:
        (group,) = await client.xinfo_groups("orders")
        return bool(group["entries-read"] == 1 and group["pending"] == 0)

    async with server(tmp_path) as own, own.client() as client:
        await asyncio.to_thread(
            docker,
            *("run", "-d", "--name", container, "--network", "host"),
            *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),  # noqa: S108
            *("--security-opt", "no-new-privileges"),
            *("-v", f"{ROOT / 'deploy' / 'example'}:/app:ro"),
            *("-e", f"PENSTOCK_URL={own.url}"),
            *(image, "run", "shop:router", "--grace", "5s"),
        )
        await eventually(healthy, within=90)
        assert docker("exec", container, "id", "-u").strip() == "10001"
        assert docker("exec", container, "id", "-g").strip() == "10001"
        async with Producer(own.url, retention=KEEP_ALL) as producer:
            await producer.send("orders", b'{"id": 1, "pounds": 2}')
        await eventually(handled, within=30)
        await asyncio.to_thread(docker, "stop", "-t", "20", container)
        assert inspect(container)["State"]["ExitCode"] == 0
        assert "drained: 1 handled, 0 given back, 0 left" in docker("logs", container)


@with_docker
def test_the_image_is_small_and_holds_neither_compiler_nor_cache_nor_secret(
    image: str,
) -> None:
    assert BASE is not None
    assert inspect(image)["Size"] - inspect(BASE)["Size"] <= MOST
    config = inspect(image)["Config"]
    names = {each.partition("=")[0] for each in config["Env"]}
    known = {"PATH", "PENSTOCK_READY_FILE", "PYTHONUNBUFFERED"}
    assert names - {*(each.partition("=")[0] for each in base_environment())} <= {
        *known,
        "PYTHONDONTWRITEBYTECODE",
    }
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "penstock"]
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert not re.search(r"password|secret|token=|://\S+@", history, re.IGNORECASE)
    folders = "/opt /root /home /tmp /app /build"
    looks = f"command -v gcc cc; find {folders} -name '*.whl' -o -path '*/.cache/*'"
    found = docker(
        "run", "--rm", "--entrypoint", "sh", image, "-c", f"{looks} 2>/dev/null; true"
    )
    assert found == ""


def base_environment() -> list[str]:
    return inspect(str(BASE))["Config"]["Env"] or []


def test_the_dockerfile_says_what_orchestrators_need() -> None:
    for line in (
        "ARG BASE=python:3.13-slim-bookworm",
        "USER 10001:10001",
        "STOPSIGNAL SIGTERM",
        'ENTRYPOINT ["tini", "--", "penstock"]',
        'CMD ["test", "-e", "/tmp/penstock-ready"]',
        "PENSTOCK_READY_FILE=/tmp/penstock-ready",
    ):
        assert line in DOCKERFILE
