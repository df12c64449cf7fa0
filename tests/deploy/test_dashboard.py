"""deploy/grafana: each expression of the dashboard, asked of a real Prometheus.

There is no Grafana here, so the file is checked without one. The row about the server
itself shows what redis_exporter exports. Its expressions are asked only where Debian's
prometheus-redis-exporter is installed; otherwise they are left out.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock import KEEP_ALL, Producer
from support.prometheus import Prometheus, prometheus
from support.run_process import Run
from support.server import free_port
from support.waiting import eventually, send

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
BOARD: dict[str, Any] = json.loads((FOLDER / "dashboards/penstock.json").read_text())
REDIS_EXPORTER = shutil.which("prometheus-redis-exporter")
LEGEND = re.compile(r"{{(\w+)}}")
LABEL_VALUES = re.compile(r"label_values\((.*), (\w+)\)")


def panels() -> list[dict[str, Any]]:
    """Return all panels, those of collapsed rows too."""
    return [panel for one in BOARD["panels"] for panel in (one, *one.get("panels", ()))]


def targets() -> list[dict[str, Any]]:
    return [target for panel in panels() for target in panel.get("targets", ())]


def fill(expression: str, stream: str) -> str:
    """Put values in the place of the variables, as Grafana does."""
    values = {"stream": f"{stream}|{stream}.charged", "group": ".*"}
    values["__rate_interval"] = "1m"
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


class Asked:
    """An expression and what is expected of it."""

    def __init__(self, expression: str, labels: set[str]) -> None:
        self.expression = expression
        self.labels = labels

    async def of(self, running: Prometheus) -> bool:
        """Return whether it gives numbers with the labels that are shown."""
        found = await running.query(self.expression)
        return any(self.labels <= each.keys() for each in found)


def is_exported(expression: str) -> bool:
    """Return whether there is a program here that exports its metrics."""
    return "redis_" not in expression or REDIS_EXPORTER is not None


def asked(stream: str) -> list[Asked]:
    """Return what the dashboard asks for."""
    found = [
        Asked(fill(one["expr"], stream), set(LEGEND.findall(one["legendFormat"])))
        for one in targets()
        if is_exported(one["expr"])
    ]
    for variable in BOARD["templating"]["list"][1:]:
        query = LABEL_VALUES.fullmatch(variable["query"]["query"])
        assert query is not None
        found.append(Asked(fill(query[1], stream), {query[2]}))
    return found


def programs(url: str, stream: str) -> dict[str, tuple[int, list[str]]]:
    """Return what is scraped beside the workers: the port and the command by job."""
    penstock = (sys.executable, "-m", "penstock.cli")
    exporter, relay, redis = free_port(), free_port(), free_port()
    found = {
        "exporter": (
            exporter,
            [
                # Other tests may have left more streams than --max-series allows.
                *(*penstock, "exporter", f"{stream}*", "--url", url),
                *("--port", str(exporter), "--interval", "1s"),
            ],
        ),
        "relay": (
            relay,
            [
                *(*penstock, "relay", "--url", url, "--port", str(relay)),
                *("--stream", stream, "--queue", f"{stream}.queue"),
            ],
        ),
    }
    if REDIS_EXPORTER:
        at = f"127.0.0.1:{redis}"
        command = [REDIS_EXPORTER, "-redis.addr", url, "-web.listen-address", at]
        found["redis"] = (redis, command)
    return found


@contextmanager
def exporters(url: str, stream: str, folder: Path) -> Iterator[dict[str, int]]:
    """Run these programs; give their ports by job."""
    chosen = programs(url, stream)
    with (folder / "exporters.log").open("wb") as log:
        started = [
            subprocess.Popen(command, stdout=log, stderr=log)
            for _, command in chosen.values()
        ]
    try:
        yield {job: port for job, (port, _) in chosen.items()}
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


@pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="no Prometheus here: Debian's package",
)
@pytest.mark.timeout(180)
async def test_each_expression_of_the_dashboard_gives_data(
    run: Run, url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    port = free_port()
    # The lag of the worker's group may be zero at each look; this one falls.
    charged = f"{stream}.charged"
    await redis.xgroup_create(charged, "later", "0", mkstream=True)
    await send(url, charged, *range(2000))
    await run.ready("--port", str(port), target="support.dashboard_app")
    wanted = asked(stream)
    assert len(wanted) > 50

    async def all_give_data() -> bool:
        for payload in (b"one", b"fail"):
            await producer.send(stream, payload)
        await redis.xreadgroup("later", "c", {charged: ">"}, count=10, noack=True)
        await asyncio.sleep(0.5)  # between two looks, each of many questions
        wanted[:] = [one for one in wanted if not await one.of(running)]
        return not wanted

    with exporters(url, stream, tmp_path) as ports:
        async with (
            Producer(url, retention=KEEP_ALL) as producer,
            prometheus(tmp_path, {"workers": port, **ports}) as running,
        ):
            await producer.send(stream, b"crash")
            try:
                await eventually(all_give_data, within=120)
            except AssertionError:
                missing = "\n\n".join(each.expression for each in wanted)
                pytest.fail(f"these give no data:\n\n{missing}")


def test_grafana_finds_datasource_and_dashboard() -> None:
    provisioning = FOLDER / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())
    assert [each["type"] for each in sources["datasources"]] == ["prometheus"]
    boards = yaml.safe_load((provisioning / "dashboards/penstock.yml").read_text())
    assert boards["providers"][0]["type"] == "file"
    assert (BOARD["uid"], BOARD["schemaVersion"], BOARD["id"]) == ("penstock", 39, None)


def test_the_dashboard_has_its_variables_and_rows() -> None:
    names = [each["name"] for each in BOARD["templating"]["list"]]
    assert names == ["datasource", "stream", "group"]
    rows = [each["title"] for each in BOARD["panels"] if each["type"] == "row"]
    assert rows == [
        *("Attention", "Flow", "Delay", "Handlers", "Failures", "Producers"),
        *("Workers", "Server (redis_exporter)"),
    ]


def test_each_panel_has_an_id_a_place_of_its_own_and_the_chosen_data_source() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert {each["refId"] for each in panel["targets"]}
            for one in (panel, *panel["targets"]):
                assert one["datasource"]["uid"] == "${datasource}"
