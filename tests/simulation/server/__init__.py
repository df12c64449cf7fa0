"""A model of Redis and Valkey servers, held against the real ones."""

from __future__ import annotations

from simulation.server import commands
from simulation.server.server import Clock, Peer, Server, Session, Timer
from simulation.server.versions import (
    REDIS_6_2,
    REDIS_7_0,
    REDIS_8_2,
    VALKEY_9,
    VERSIONS,
    Version,
)

__all__ = [
    "REDIS_6_2",
    "REDIS_7_0",
    "REDIS_8_2",
    "VALKEY_9",
    "VERSIONS",
    "Clock",
    "Peer",
    "Server",
    "Session",
    "Timer",
    "Version",
    "commands",
]
