"""Owned facts: what the oracle knows of owned shards and of the members of a group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from simulation.owned_division import Holder
from simulation.process import Process

__all__ = ["Member", "Place", "Shard"]

Place: TypeAlias = tuple[int, str]
"""The number of a shard, and a group."""


@dataclass
class Shard:
    """What is known of a shard of a group.

    Attributes:
        holder: What the server said last.
        token: The token under which entries were started last.
        started: The entries that were.
    """

    holder: Holder | None = None
    token: bytes = b""
    started: set[int] = field(default_factory=set)


@dataclass
class Member:
    """A process that owns shards.

    Attributes:
        name: Its name in the group.
        told: What it was told last of each shard.
        process: The process itself.
        hurried: Whether it has little time to give up its shards when it closes.
        incomplete: Whether it had no time for that.
    """

    name: bytes
    process: Process
    hurried: bool
    told: dict[Place, str] = field(default_factory=dict)
    incomplete: bool = False
