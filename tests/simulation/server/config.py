"""Configuration: the directives that clients ask for or that change the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from simulation.server.acl import matches
from simulation.server.resp import Refusal
from simulation.server.streams import Limits

if TYPE_CHECKING:
    from simulation.server.server import Server

__all__ = ["USED_MEMORY", "Config"]

USED_MEMORY: Final = 1_000_000
"""The bytes that the server claims to use, whatever it holds."""

_DEFAULTS: Final = {
    "appendfsync": "everysec",
    "appendonly": "no",
    "client-query-buffer-limit": "1073741824",
    "databases": "16",
    "hz": "10",
    "lua-time-limit": "5000",
    "maxclients": "10000",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "min-replicas-max-lag": "10",
    "min-replicas-to-write": "0",
    "notify-keyspace-events": "",
    "port": "6379",
    "proto-max-bulk-len": "536870912",
    "replica-serve-stale-data": "yes",
    "requirepass": "",
    "save": "",
    "stop-writes-on-bgsave-error": "yes",
    "stream-node-max-bytes": "4096",
    "stream-node-max-entries": "100",
    "timeout": "0",
}
_UNITS: Final = {"kb": 1024, "mb": 1024**2, "gb": 1024**3}


class Config:
    """The directives of a server.

    Attributes:
        values: The directives' values by name.
        limits: The sizes of streams' nodes.
        replicas_to_write: `min-replicas-to-write`.
    """

    def __init__(self, server: Server, given: Mapping[str, str]) -> None:
        self._server = server
        self.values = dict(_DEFAULTS)
        self.limits = Limits()
        self.replicas_to_write = 0
        self._given = {name.lower(): value for name, value in given.items()}

    def apply_given(self) -> None:
        """Set what was given when the server was made."""
        for name, value in self._given.items():
            self.set(name, value)

    def get(self, patterns: list[bytes]) -> dict[bytes, bytes]:
        """Return the directives whose names match one of the patterns."""
        return {
            name.encode(): value.encode()
            for name, value in self.values.items()
            if any(matches(pattern.lower(), name.encode()) for pattern in patterns)
        }

    def set(self, name: str, value: str) -> None:
        """Set a directive.

        Raises:
            Refusal: There is none of this name.
        """
        if name not in self.values:
            old = b"ERR Unsupported CONFIG parameter: %b"
            new = b"ERR Unknown option or number of arguments for CONFIG SET - '%b'"
            text = new if self._server.version.subcommands else old
            raise Refusal(text % name.encode())
        if name == "maxmemory":
            value = str(_bytes(value))
        self.values[name] = value
        self._take_effect(name, value)

    def _take_effect(self, name: str, value: str) -> None:
        if name == "maxmemory":
            self._server.guards.out_of_memory = 0 < int(value) < USED_MEMORY
        elif name == "min-replicas-to-write":
            self.replicas_to_write = int(value)
        elif name == "requirepass":
            user = self._server.users.default
            user.apply([b"resetpass", b">" + value.encode()] if value else [b"nopass"])
        elif name.startswith("stream-node-max-"):
            self.limits = Limits(
                int(self.values["stream-node-max-entries"]),
                int(self.values["stream-node-max-bytes"]),
            )


def _bytes(value: str) -> int:
    text = value.lower()
    for unit, size in _UNITS.items():
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * size
    return int(text)
