"""deploy/kubernetes: valid by the schemas of Kubernetes, and as strict as it should be.

Kinds that operators bring (PodMonitor, ScaledObject) have no schema here; their fields
are held against those that the operators know.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.cli._values import duration
from support.command_lines import assert_command

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
OF_OPERATORS = {"PodMonitor", "ScaledObject"}
VERSIONS = ("1.29", "1.34")


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(FOLDER.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from yaml.safe_load_all(path.read_text())


ALL = {(each["kind"], each["metadata"]["name"]): each for each in manifests()}
DEPLOYMENTS = [name for kind, name in ALL if kind == "Deployment"]


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = ALL["Deployment", name]["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_in_strict_mode(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for (kind, _), manifest in ALL.items():
        if kind not in OF_OPERATORS:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_builds_both_folders() -> None:
    kinds = {}
    for name in ("base", "operators"):
        ran = subprocess.run(
            ["kubectl", "kustomize", FOLDER / name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        built = yaml.safe_load_all(ran.stdout)
        kinds[name] = sorted((each["kind"], each["metadata"]["name"]) for each in built)
    assert kinds["operators"] == sorted(ALL)
    assert kinds["base"] == sorted(key for key in ALL if key[0] not in OF_OPERATORS)


def test_kustomizations_name_all_files() -> None:
    for folder in (FOLDER / "base", FOLDER / "operators"):
        read = yaml.safe_load((folder / "kustomization.yaml").read_text())
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in read["resources"] if name != "../base"} == files


def test_there_is_a_deployment_for_each_command() -> None:
    assert {container(name)["args"][0] for name in DEPLOYMENTS} == {
        *("run", "exporter", "relay", "console"),
    }


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_container_is_confined(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["runAsUser"] == 10001
    assert pod(name)["automountServiceAccountToken"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_container_is_probed_has_limits_and_reads_its_secrets_from_files(
    name: str,
) -> None:
    found = container(name)
    assert found["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    assert found["livenessProbe"]["httpGet"] == {"path": "/live", "port": "http"}
    assert {"requests", "limits"} == set(found["resources"])
    mounted = {each["mountPath"] for each in found["volumeMounts"]}
    assert "/tmp" in mounted  # noqa: S108 - where the ready file is
    for each in found["env"]:
        assert each["name"].endswith("_FILE")
        assert str(Path(each["value"]).parent) in mounted
    port = next(each for each in found["args"] if each.startswith("--port="))
    assert found["ports"] == [
        {"name": "http", "containerPort": int(port.partition("=")[2])}
    ]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_container_gives_penstock_a_command_that_it_takes(name: str) -> None:
    words = container(name)["args"]
    assert_command(["penstock", *words])


@pytest.mark.parametrize("name", ["shop-worker", "shop-relay"])
def test_what_drains_has_more_time_than_its_grace(name: str) -> None:
    grace = next(each for each in container(name)["args"] if "--grace" in each)
    seconds = duration(grace.partition("=")[2], "--grace")
    assert pod(name)["terminationGracePeriodSeconds"] > seconds + 5
    startup = container(name)["startupProbe"]
    assert startup["httpGet"]["path"] == "/ready"
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


def test_budget_monitor_and_service_select_the_pods() -> None:
    labels = {
        name: ALL["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        for name in DEPLOYMENTS
    }
    for name in DEPLOYMENTS:
        wanted = ALL["Deployment", name]["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= labels[name].items()
    budget = ALL["PodDisruptionBudget", "shop-worker"]["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels["shop-worker"].items()
    service = ALL["Service", "shop-console"]["spec"]
    assert service["selector"].items() <= labels["shop-console"].items()
    monitor = ALL["PodMonitor", "shop"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "http", "path": "/metrics", "interval": "15s"}
    selector = monitor["spec"]["selector"]
    (among,) = selector["matchExpressions"]
    selected = {
        name
        for name, own in labels.items()
        if selector["matchLabels"].items() <= own.items()
        and own[among["key"]] in among["values"]
    }
    assert selected == {"shop-worker", "shop-relay", "shop-exporter"}


def test_the_autoscaler_reads_the_backlog() -> None:
    scaled = ALL["ScaledObject", "shop-worker"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    assert set(spec) <= {
        *("scaleTargetRef", "pollingInterval", "cooldownPeriod", "minReplicaCount"),
        *("maxReplicaCount", "fallback", "triggers"),
    }
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in ALL
    assert "replicas" not in ALL["Deployment", "shop-worker"]["spec"]
    assert set(spec["fallback"]) == {"failureThreshold", "replicas"}
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    metadata = trigger["metadata"]
    assert set(metadata) == {
        *("serverAddress", "query", "threshold", "activationThreshold"),
        "ignoreNullValues",
    }
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["query"] == (
        "sum(max by (stream, group) "
        '(penstock_group_backlog{stream="orders",group="billing"}))'
    )
