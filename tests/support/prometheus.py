"""A Prometheus of a test, which scrapes processes on loopback."""

from __future__ import annotations

import math
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import yaml

from support.server import free_port
from support.waiting import eventually

__all__ = ["Prometheus", "prometheus"]


class Prometheus:
    """A running Prometheus, asked by a client."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def query(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of all series of which the expression gives a number."""
        reply = await self._client.get("/api/v1/query", params={"query": expression})
        assert reply.status_code == 200, f"{expression}\n{reply.text}"
        return [
            each["metric"]
            for each in reply.json()["data"]["result"]
            if math.isfinite(float(each["value"][1]))
        ]

    async def is_ready(self) -> bool:
        try:
            return (await self._client.get("/-/ready")).status_code == 200
        except httpx.ConnectError:
            return False


@asynccontextmanager
async def prometheus(
    folder: Path, targets: Mapping[str, int]
) -> AsyncIterator[Prometheus]:
    """Run a Prometheus.

    Args:
        folder: A folder for its data.
        targets: The ports on loopback that it scrapes each second, by job.
    """
    config = folder / "prometheus.yml"
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        for job, port in targets.items()
    ]
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs})
    )
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            running = Prometheus(client)
            await eventually(running.is_ready, within=30)
            yield running
    finally:
        process.kill()
        process.wait()
