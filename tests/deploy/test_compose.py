"""compose.yaml: read by docker-compose 1.29 and Compose v2, where they are here.

Where they are not, the fields are held against those that both know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.cli._values import duration
from support.command_lines import assert_command

ROOT = Path(__file__).parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
PROFILES = ("app", "monitoring")
# What both versions know of a file (but for `x-…`) and of a service.
FILE_FIELDS = {"services", "volumes"}
FIELDS = {
    *("image", "build", "command", "entrypoint", "environment", "ports", "volumes"),
    *("healthcheck", "depends_on", "profiles", "restart", "stop_grace_period"),
    *("read_only", "tmpfs", "cap_drop", "security_opt"),
}
OUR = [name for name, service in SERVICES.items() if service["image"] == "penstock"]


@pytest.mark.parametrize("program", ["docker-compose", "docker compose"])
def test_both_versions_of_compose_read_it(program: str) -> None:
    words = program.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not here")
    there = subprocess.run([*words, "version"], capture_output=True, check=False)
    if there.returncode:
        pytest.skip(f"{program} is not here")
    chosen = [word for profile in PROFILES for word in ("--profile", profile)]
    environment = {**os.environ, "PENSTOCK_CONSOLE_TOKEN": "", "GRAFANA_PASSWORD": ""}
    ran = subprocess.run(
        [*words, *chosen, "config", "--services"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) == set(SERVICES)


def test_all_fields_are_known_to_both_versions() -> None:
    assert {key for key in FILE if not key.startswith("x-")} == FILE_FIELDS
    for name, service in SERVICES.items():
        assert set(service) <= FIELDS, name
    named = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
    }
    assert {name for name in named if "/" not in name} == set(FILE["volumes"])
    for name in named:
        if name.startswith("."):
            assert (ROOT / name).exists(), name


def test_the_profiles_have_their_services() -> None:
    by_profile: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", ["default"]):
            by_profile.setdefault(profile, set()).add(name)
    assert by_profile == {
        "default": {"redis", "valkey"},
        "app": {"worker", "producer", "relay", "exporter", "console"},
        "monitoring": {"prometheus", "grafana"},
    }


def test_ports_are_open_on_loopback_only() -> None:
    ports = [port for each in SERVICES.values() for port in each.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_each_service_is_checked_and_waits_for_what_it_needs() -> None:
    for name, service in SERVICES.items():
        # The check of ours is the image's.
        assert name in OUR or "healthcheck" in service
        for needed in service.get("depends_on", {}).values():
            assert needed == {"condition": "service_healthy"}
    assert all("redis" in SERVICES[name]["depends_on"] for name in OUR)
    assert "prometheus" in SERVICES["grafana"]["depends_on"]


def test_passwords_come_from_the_environment() -> None:
    text = (ROOT / "compose.yaml").read_text()
    found = re.findall(r"^ +(\w*(?:PASSWORD|TOKEN)\w*): (.*)$", text, re.MULTILINE)
    assert [name for name, _ in found] == [
        *("PENSTOCK_CONSOLE_TOKEN", "GF_SECURITY_ADMIN_PASSWORD"),
    ]
    assert all(re.fullmatch(r"\$\{\w+:-\}", value) for _, value in found)


@pytest.mark.parametrize("name", OUR)
def test_a_service_gives_penstock_a_command_that_it_takes(name: str) -> None:
    service = SERVICES[name]
    words = ["penstock", *service["command"]]
    if "entrypoint" in service:
        assert (ROOT / "deploy/example" / service["entrypoint"][-1]).exists()
        return
    assert_command(words)
    if "--grace" in words:
        grace = duration(words[words.index("--grace") + 1], "--grace")
        assert duration(service["stop_grace_period"], "stop") > grace + 5
