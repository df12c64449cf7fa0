"""Commands by family; importing this package registers all of them."""

from __future__ import annotations

from simulation.server.commands import (
    admin,
    client,
    connection,
    group_claims,
    group_reads,
    groups,
    hashes,
    keys,
    lists,
    pubsub,
    replication,
    scripts,
    sets,
    stream_info,
    stream_writes,
    strings,
    transactions,
)

__all__ = [
    "admin",
    "client",
    "connection",
    "group_claims",
    "group_reads",
    "groups",
    "hashes",
    "keys",
    "lists",
    "pubsub",
    "replication",
    "scripts",
    "sets",
    "stream_info",
    "stream_writes",
    "strings",
    "transactions",
]
