"""A connection to a server of each version, with the commands of a shard's owner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from penstock._core.protocol import ownership_scripts as scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.protocol.reply_parsing import parse
from simulation.real_servers import binary
from simulation.server import Version
from support.server import server

__all__ = ["KEY", "LEASE", "MEMBERS", "OWNER", "Rig", "open_rig"]

KEY, OWNER, MEMBERS = b"orders:0", b"{orders:0}.owner:g", b"{orders}.members:g"
LEASE = 10_000


class Rig:
    """A plain connection, and the commands as a member sends them."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis

    async def call(self, command: Command) -> Any:
        try:
            reply = await self.redis.execute_command(*command)
        except ResponseError as error:
            reply = ErrorReply(str(error))
        return parse([command], [reply])[0]

    async def take(self, member: str, serial: int = 1, **changes: Any) -> Any:
        given = {"version": 1, "run": f"run-{member}", "least": 0, "lease": LEASE}
        words = {**given, **changes, "serial": serial}
        return await self.call(scripts.take(KEY, OWNER, "g", member, **words))

    async def token(self) -> bytes:
        return bytes(await self.redis.hget(OWNER, "token") or b"")

    async def guard(self, token: bytes, consumer: str, **words: Any) -> Any:
        command = scripts.guard(KEY, OWNER, "g", token, consumer=consumer, **words)
        return await self.call(command)

    async def beat(self, member: str, **changes: Any) -> Any:
        given = {"lease": LEASE, "known": 0, "join": True, "weight": 1}
        return await self.call(scripts.beat(MEMBERS, member, **{**given, **changes}))

    async def read(self, consumer: str, count: int) -> list[bytes]:
        found = await self.redis.xreadgroup("g", consumer, {KEY: ">"}, count=count)
        return [id_ for _, rows in found for id_, _ in rows]

    async def pending(self) -> list[tuple[bytes, bytes, int]]:
        """Return the pending entries: id, consumer, deliveries."""
        rows = await self.redis.xpending_range(KEY, "g", "-", "+", 5000)
        return [
            (row["message_id"], row["consumer"], row["times_delivered"]) for row in rows
        ]

    async def add(self, count: int) -> None:
        pipe = self.redis.pipeline()
        for number in range(1, count + 1):
            pipe.xadd(KEY, {"a": "b"}, id=f"{number}-0")
        await pipe.execute()

    async def age(self, milliseconds: int) -> None:
        """Make every beat and the time since when silence counts older."""
        for name, value in (await self.redis.hgetall(MEMBERS)).items():
            if name == b"since":
                await self.redis.hset(MEMBERS, name, int(value) - milliseconds)
            elif name.startswith(b"m:"):
                at, _, weight = value.partition(b" ")
                aged = b"%d %b" % (int(at) - milliseconds, weight)
                await self.redis.hset(MEMBERS, name, aged)


@asynccontextmanager
async def open_rig(version: Version, folder: Path) -> AsyncIterator[Rig]:
    """Run a server of a version, with a group of a stream; skip if it is missing."""
    program = binary(version)
    if program is None:
        pytest.skip(f"{version.label} is not installed")
    async with server(folder, "--appendonly", "no", binary=program) as own:
        async with own.client() as redis:
            await redis.xgroup_create(KEY, "g", "0", mkstream=True)
            yield Rig(redis)
