"""What a server says about itself, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from penstock.events import printable

__all__ = ["SETTINGS", "Replica", "ServerFacts", "lines"]

SETTINGS: Final = (
    "appendfsync",
    "appendonly",
    "client-output-buffer-limit",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "save",
    "stop-writes-on-bgsave-error",
    "tcp-keepalive",
    "timeout",
)
"""The settings that are asked for."""

_IN_INFO: Final = {"maxmemory": "maxmemory", "maxmemory-policy": "maxmemory_policy"}
_VERSION: Final = re.compile(r"(\d{1,5})\.(\d{1,5})")
_FORK: Final = re.compile(r"(dragonfly|keydb|garnet|memurai|kvrocks|tendis)_version")


class Replica(NamedTuple):
    """A replica, as its primary sees it.

    Attributes:
        address: Host and port.
        online: Whether it has all data, and follows.
        lag: Seconds since it was heard of; None if that is not known.
    """

    address: str
    online: bool
    lag: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says about itself, and what its connection is like.

    Attributes:
        address: `host:port`, or the socket's path.
        local: Whether it is on this machine.
        tls: Whether the connection is encrypted.
        login: Whether there is a user or a password.
        user: The name of this connection's user; None if it is not known.
        database: The number of the database.
        protocol: The version of RESP; None if it is not known.
        resp2_asked: Whether the URL asks for RESP2.
        round_trips: Seconds that replies to PING took.
        info: The lines of INFO; None if this user may not ask.
        settings: The settings that CONFIG GET returned.
        scripts: Why scripts are refused; empty if they are not.
        client: Why CLIENT ID is refused; empty if it is not.
        clock: The seconds by which the server's clock is ahead of this machine's;
            None if it does not say.
    """

    address: str = "localhost:6379"
    local: bool = True
    tls: bool = False
    login: bool = False
    user: str | None = None
    database: int = 0
    protocol: int | None = 3
    resp2_asked: bool = False
    round_trips: tuple[float, ...] = ()
    info: Mapping[str, str] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    scripts: str = ""
    client: str = ""
    clock: float | None = None

    def line(self, name: str) -> str | None:
        """Return a line of INFO; None if it is not there."""
        return None if self.info is None else self.info.get(name)

    def number(self, name: str) -> int | None:
        """Return a line of INFO that is a number; None if it is not there."""
        return _number(self.line(name))

    def setting(self, name: str) -> str | None:
        """Return a setting from CONFIG GET, or else from INFO; None if not known."""
        found = self.settings.get(name)
        if found is None and name in _IN_INFO:
            return self.line(_IN_INFO[name])
        if found is None and name == "appendonly":
            return {"1": "yes", "0": "no"}.get(self.line("aof_enabled") or "")
        return found

    def size(self, name: str) -> int | None:
        """Return a setting that is a number; None if it is not known."""
        return _number(self.setting(name))

    @property
    def fork(self) -> str | None:
        """The server's name: `Redis`, `Valkey` or another; None if not known."""
        if self.info is None:
            return None
        if "valkey_version" in self.info:
            return "Valkey"
        for name in self.info:
            if match := _FORK.fullmatch(name):
                return match[1].capitalize()
        name = self.info.get("server_name", "redis")
        if name != "redis":
            return printable(name, 40)
        return "Redis" if "redis_version" in self.info else None

    @property
    def version_text(self) -> str | None:
        """The server's own version; None if it is not known."""
        for name in ("valkey_version", f"{(self.fork or '').lower()}_version"):
            if (found := self.line(name)) is not None:
                return printable(found, 40)
        return None

    @property
    def version(self) -> tuple[int, int] | None:
        """The version of Redis, which Valkey gives as 7.2; None if not known."""
        match = _VERSION.match(self.line("redis_version") or "")
        return None if match is None else (int(match[1]), int(match[2]))

    @property
    def replicas(self) -> list[Replica]:
        """The replicas that are connected."""
        found = []
        for name, text in (self.info or {}).items():
            if not re.fullmatch(r"slave\d+", name):
                continue
            parts = dict(part.partition("=")[::2] for part in text.split(","))
            address = printable(f"{parts.get('ip', '?')}:{parts.get('port', '?')}")
            lag = _number(parts.get("lag"))
            found.append(Replica(address, parts.get("state") == "online", lag))
        return found


def lines(info: bytes) -> dict[str, str]:
    """Return the lines of a reply to INFO, by name."""
    text = info.decode("utf-8", "replace")
    pairs = (line.partition(":")[::2] for line in text.split("\r\n") if ":" in line)
    return dict(pairs)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,19}", text) else None
