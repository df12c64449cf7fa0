"""Identity: default names for groups and consumers, from the host and the process."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from penstock import _chance

__all__ = ["consumer_name", "host_id"]

# Docker and containerd write the container's id, 64 hex digits, into its mounts.
_CONTAINER: Final = re.compile(r"/containers?/([0-9a-f]{64})/")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_INTERFACES: Final = Path("/sys/class/net")
# The kernel's NET_ADDR_RANDOM: the address is another one after each start.
_RANDOM: Final = "1"
_DIGITS: Final = 12


def host_id() -> str:
    """Return `HOST_ID` if set, else the container's id, else the MAC address.

    A container's id is cut to its first 12 digits, as Docker shows it. The MAC address
    is that of the first network interface, in upper case. The page
    docs/migrating/seastreamer.md says where SeaStreamer takes another name.
    """
    return os.environ.get("HOST_ID") or _container_id() or _mac_address()


def consumer_name() -> str:
    """Return a unique consumer name: `<host id>:<pid>:<random>`."""
    return f"{host_id()}:{os.getpid()}:{_chance.token(4)}"


def _container_id() -> str | None:
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # not Linux
    match = _CONTAINER.search(mounts)
    return match[1][:_DIGITS] if match else None


def _mac_address() -> str:
    addresses = sorted(_addresses())
    if addresses:
        _, _, digits = addresses[0]
        return digits
    return f"{uuid.getnode():012X}"  # not Linux


def _addresses() -> Iterator[tuple[bool, int, str]]:
    """Yield the interfaces' addresses; the one to take is the lowest.

    Yields:
        Whether the address is random, the number of the interface, and the digits.
    """
    try:
        interfaces = list(_INTERFACES.iterdir())
    except OSError:
        return
    for interface in interfaces:
        index = _line(interface / "ifindex")
        digits = _line(interface / "address").replace(":", "").upper()
        # The loopback's address is zero, a tunnel has none, InfiniBand a longer one.
        if index.isdecimal() and len(digits) == _DIGITS and digits.strip("0"):
            random = _line(interface / "addr_assign_type") == _RANDOM
            yield random, int(index), digits


def _line(path: Path) -> str:
    """Return a file's only line; empty if it can't be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
