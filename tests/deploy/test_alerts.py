"""deploy/prometheus: the alerts, as Prometheus' own tool reads and tests them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.command_lines import assert_command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PAGE = (ROOT / "docs" / "how-to" / "alerts.md").read_text()
BASE = "https://penstock.example/docs/how-to/alerts/#"

with_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: Debian's prometheus"
)


def rules() -> list[dict[str, Any]]:
    read = yaml.safe_load((FOLDER / "penstock-alerts.yml").read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


def promtool(*arguments: str) -> None:
    ran = subprocess.run(
        ["promtool", *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@with_promtool
def test_prometheus_reads_the_configuration_and_the_alerts() -> None:
    promtool("check", "config", "--lint-fatal", "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", "penstock-alerts.yml")


@with_promtool
def test_each_alert_fires_when_it_should() -> None:
    promtool("test", "rules", "penstock-alerts_test.yml")


def test_each_alert_is_tested_both_firing_and_silent() -> None:
    tests = yaml.safe_load((FOLDER / "penstock-alerts_test.yml").read_text())["tests"]
    asked = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in tests
        for case in test["alert_rule_test"]
    }
    names = {rule["alert"] for rule in rules()}
    assert asked == {(name, fires) for name in names for fires in (True, False)}


def test_each_alert_has_a_summary_a_number_and_a_section_of_the_page() -> None:
    sections = re.findall(
        r"^## (Penstock\w+)\n\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert [name for name, _ in sections] == re.findall(
        r"^\| \[(\w+)\]", PAGE, re.MULTILINE
    )
    for rule in rules():
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}
        assert "$value" in notes["description"]
        assert notes["runbook_url"] == BASE + rule["alert"].lower()
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "```" in dict(sections)[rule["alert"]], "says what to run"
        row = re.search(rf"^\| \[{rule['alert']}\].*$", PAGE, re.MULTILINE)
        assert row is not None
        assert row[0].endswith(f"| {rule['labels']['severity']} |")


def test_alerts_use_metrics_that_are_documented() -> None:
    docs = "".join(
        (ROOT / "docs" / name).read_text()
        for name in ("reference/metrics.md", "how-to/exporter.md")
    )
    documented = set(re.findall(r"`(penstock_\w+)`", docs))
    used = {
        name for rule in rules() for name in re.findall(r"\bpenstock_\w+", rule["expr"])
    }
    assert used
    assert used <= documented


def test_the_page_names_commands_that_exist() -> None:
    commands = re.findall(r"^(penstock (?!run|exporter).*)$", PAGE, re.MULTILINE)
    assert len(commands) > 15
    for line in commands:
        assert_command(line)
