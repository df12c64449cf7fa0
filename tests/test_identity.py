"""Default names of consumers: the host's part."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import pytest

from penstock import identity

CONTAINER = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _unnamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take the names from no variable, container or interface of this machine."""
    monkeypatch.delenv("HOST_ID", raising=False)
    monkeypatch.setattr(identity, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(identity, "_INTERFACES", tmp_path / "net")


def interface(
    tmp_path: Path, name: str, index: int, address: str, *, kind: int | None = 0
) -> None:
    """Describe a network interface as Linux does."""
    folder = tmp_path / "net" / name
    folder.mkdir(parents=True)
    (folder / "ifindex").write_text(f"{index}\n")
    (folder / "address").write_text(f"{address}\n")
    if kind is not None:
        (folder / "addr_assign_type").write_text(f"{kind}\n")


def test_the_variable_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mountinfo").write_text(f"/containers/{CONTAINER}/hostname")
    monkeypatch.setenv("HOST_ID", "web-1")
    assert identity.host_id() == "web-1"
    # SeaStreamer takes the empty name.
    monkeypatch.setenv("HOST_ID", "")
    assert identity.host_id() == CONTAINER[:12]


def test_the_container_comes_before_the_interface(tmp_path: Path) -> None:
    interface(tmp_path, "eth0", 2, "02:fc:00:00:00:01")
    mounts = f"1 2 0:1 /docker/containers/{CONTAINER}/hostname /etc/hostname rw"
    (tmp_path / "mountinfo").write_text(mounts)
    assert identity.host_id() == CONTAINER[:12]


def test_the_first_interface_with_an_address_counts_in_upper_case(
    tmp_path: Path,
) -> None:
    interface(tmp_path, "lo", 1, "00:00:00:00:00:00")
    interface(tmp_path, "ib0", 2, ":".join(["80"] * 20))
    interface(tmp_path, "tun0", 3, "")
    interface(tmp_path, "eth9", 10, "02:fc:00:00:00:0a")
    interface(tmp_path, "wlan0", 9, "02:fc:00:00:00:ab", kind=None)
    (tmp_path / "net" / "bonding_masters").write_text("bond0\n")
    assert identity.host_id() == "02FC000000AB"


def test_an_address_that_changes_with_each_start_comes_last(tmp_path: Path) -> None:
    interface(tmp_path, "ifb0", 2, "72:3e:0e:86:65:e9", kind=1)
    assert identity.host_id() == "723E0E8665E9"
    interface(tmp_path, "eth0", 4, "02:fc:00:00:00:01")
    assert identity.host_id() == "02FC00000001"


def test_elsewhere_the_address_is_what_python_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uuid, "getnode", lambda: 0x02FC000000AB)
    assert identity.host_id() == "02FC000000AB"


def test_a_consumer_is_named_after_host_and_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOST_ID", "web-1")
    names = {identity.consumer_name() for _ in range(10)}
    assert len(names) == 10
    for name in names:
        assert re.fullmatch(rf"web-1:{os.getpid()}:\w+", name)
