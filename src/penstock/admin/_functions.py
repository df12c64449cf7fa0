"""Functions for streams and groups, each call on a connection of its own."""

from __future__ import annotations

from penstock.admin._owners import Owners
from penstock.admin._shard_moves import ShardMove
from penstock.admin._trim_losses import TrimLoss
from penstock.admin._trimming import Trimmed, TrimTo
from penstock.admin.client import Admin
from penstock.admin.groups import GroupState
from penstock.credentials import Credentials
from penstock.durations import Duration
from penstock.options import StartAt
from penstock.sharding import Sharder, ShardRecord

__all__ = [
    "group_state",
    "move",
    "owners",
    "reset_group",
    "set_shards",
    "streams",
    "trim",
    "trim_losses",
]


async def group_state(
    stream: str,
    group: str,
    *,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> GroupState:
    """Return how far a group has read a stream, on a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        url: The server, see `Admin`.
        credentials: Returns user and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.group_state`.
    """
    async with Admin(url, credentials=credentials) as admin:
        return await admin.group_state(stream, group)


async def reset_group(
    stream: str,
    group: str,
    to: StartAt | str,
    *,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> None:
    """Set the position of a group in a stream, on a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        to: The position, see `Admin.reset_group`.
        url: The server, see `Admin`.
        credentials: Returns user and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.reset_group`.
    """
    async with Admin(url, credentials=credentials) as admin:
        await admin.reset_group(stream, group, to)


async def trim(
    stream: str,
    to: TrimTo,
    *,
    ignore_idle: Duration | None = None,
    dry_run: bool = False,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> list[Trimmed]:
    """Delete old entries from a stream, on a connection of its own.

    Args:
        stream: The stream's name.
        to: The entries to keep, see `Admin.trim`.
        ignore_idle: The groups to exclude, see `Admin.trim`.
        dry_run: Whether only to count.
        url: The server, see `Admin`.
        credentials: Returns user and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.trim`.
    """
    async with Admin(url, credentials=credentials) as admin:
        return await admin.trim(stream, to, ignore_idle=ignore_idle, dry_run=dry_run)


async def trim_losses(
    stream: str,
    to: TrimTo,
    *,
    ignore_idle: Duration | None = None,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> list[TrimLoss]:
    """Return what groups would lose by `trim`, on a connection of its own.

    Args:
        stream: The stream's name.
        to: The entries to keep, see `Admin.trim`.
        ignore_idle: The groups to exclude, see `Admin.trim`.
        url: The server, see `Admin`.
        credentials: Returns user and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.trim`.
    """
    async with Admin(url, credentials=credentials) as admin:
        return await admin.trim_losses(stream, to, ignore_idle=ignore_idle)


async def set_shards(
    stream: str,
    number: int,
    *,
    sharder: Sharder | str | None = None,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> ShardRecord:
    """Record how many shards a stream has, on a connection of its own.

    Args:
        stream: The stream's name.
        number: The number of shards, see `Admin.set_shards`.
        sharder: The sharder, see `Admin.set_shards`.
        url: The server, see `Admin`.
        credentials: User and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.set_shards`.
    """
    async with Admin(url, credentials=credentials) as admin:
        return await admin.set_shards(stream, number, sharder=sharder)


async def owners(
    stream: str,
    group: str,
    *,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> Owners:
    """Return which members of a group own which shards, on a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        url: The server, see `Admin`.
        credentials: User and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.owners`.
    """
    async with Admin(url, credentials=credentials) as admin:
        return await admin.owners(stream, group)


async def move(
    stream: str,
    group: str,
    shard: int,
    to: str | None = None,
    *,
    force: bool = False,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> ShardMove:
    """Change which member of a group should own a shard, on a connection of its own.

    Args:
        stream: The stream's name.
        group: The group's name.
        shard: The shard's number.
        to: The name of the member that gets it, see `Admin.move`.
        force: Whether to take the shard away from its owner, see `Admin.move`.
        url: The server, see `Admin`.
        credentials: User and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.move`.
    """
    async with Admin(url, credentials=credentials) as admin:
        return await admin.move(stream, group, shard, to, force=force)


async def streams(
    *, url: str | None = None, credentials: Credentials | None = None
) -> list[str]:
    """Return the names of all streams of the database, on a connection of its own.

    Args:
        url: The server, see `Admin`.
        credentials: User and password, see `Admin`.

    Raises:
        PenstockError: See `Admin` and `Admin.streams`.
    """
    async with Admin(url, credentials=credentials) as admin:
        return await admin.streams()
