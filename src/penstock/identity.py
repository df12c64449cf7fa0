"""Identity: default names for groups and consumers, from the host and the process."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Final

from penstock import _chance

__all__ = ["consumer_name", "host_id"]

# Docker and containerd write the container's id, 64 hex digits, into its mounts.
_CONTAINER: Final = re.compile(r"/containers?/([0-9a-f]{64})/")
_MOUNTS: Final = Path("/proc/self/mountinfo")


def host_id() -> str:
    """Return `HOST_ID` if set, else the container's id, else the MAC address.

    A container's id is cut to its first 12 digits, as Docker shows it. The order is
    SeaStreamer's.
    """
    return os.environ.get("HOST_ID") or _container_id() or f"{uuid.getnode():012x}"


def consumer_name() -> str:
    """Return a unique consumer name: `<host id>:<pid>:<random>`."""
    return f"{host_id()}:{os.getpid()}:{_chance.token(4)}"


def _container_id() -> str | None:
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # not Linux
    match = _CONTAINER.search(mounts)
    return match[1][:12] if match else None
