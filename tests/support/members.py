"""Members of a group that own shards: what they send, on a plain connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.exceptions import ResponseError

from penstock._core.ownership.keys import OWN_KEY, members_key, owner_key
from penstock._core.ownership.target import Target, decode, encode
from penstock._core.protocol import ownership_scripts as scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.reply_parsing import parse
from support.waiting import record_shards

LEASE = 10_000


class Members:
    """Sends the scripts of a group's members.

    Args:
        redis: A client of redis-py.
        stream: The stream's name.
        shards: The number of shards in the stream's record; 0 for a stream that has
            none, and is one key.
        group: The group's name.
    """

    def __init__(
        self, redis: Any, stream: str, shards: int = 0, group: str = "g"
    ) -> None:
        self.redis = redis
        self.stream = stream
        self.shards = shards
        self.group = group
        self.key = members_key(stream.encode(), group)

    async def open(self, target: Mapping[int, str]) -> None:
        """Create the shards with their group, the members of a target, and the target.

        Each member takes its shards.
        """
        if self.shards:
            await record_shards(self.redis, self.stream, self.shards)
        for number in range(self.shards or 1):
            key = self.shard(number)
            with suppress(ResponseError):  # the group exists
                await self.redis.xgroup_create(key, self.group, "0", mkstream=True)
        for name in sorted(set(target.values())):
            await self.beat(name)
        await self.assign(target)
        for number, name in target.items():
            await self.take(number, name)

    def shard(self, number: int) -> bytes:
        name = f"{self.stream}:{number}" if self.shards else self.stream
        return name.encode()

    def owner(self, number: int) -> bytes:
        return owner_key(self.shard(number), self.group)

    async def call(self, command: Command) -> Any:
        reply = await self.redis.execute_command(*command)
        return parse([command], [reply])[0]

    async def beat(self, name: str, weight: int = 1) -> Any:
        return await self.call(
            scripts.beat(self.key, name, lease=LEASE, known=0, join=True, weight=weight)
        )

    async def leave(self, name: str) -> None:
        await self.call(scripts.leave(self.key, name))

    async def version(self) -> int:
        return int(await self.redis.hget(self.key, "v") or 0)

    async def assign(self, target: Target, least: int = 0) -> None:
        if not self.shards:
            target = {OWN_KEY: target[0]}
        packed = encode(target)
        seen = await self.version()
        await self.call(scripts.assign(self.key, seen=seen, least=least, target=packed))

    async def target(self) -> Target:
        target = decode(await self.redis.hget(self.key, "a"))
        assert target is not None
        return target

    async def take(
        self, number: int, name: str, *, lease: int = LEASE, serial: int = 1
    ) -> Any:
        return await self.call(
            scripts.take(
                self.shard(number),
                self.owner(number),
                self.group,
                name,
                version=await self.version(),
                run=f"run-{name}",
                serial=serial,
                least=0,
                lease=lease,
            )
        )

    async def token(self, number: int) -> bytes:
        return bytes(await self.redis.hget(self.owner(number), "token") or b"")

    async def free(self, number: int) -> None:
        token = await self.token(number)
        await self.call(scripts.free(self.owner(number), token))

    async def read(self, number: int, count: int) -> None:
        """Have the owner of a shard read so many new entries."""
        for _ in range(count):
            await self.redis.xadd(self.shard(number), {"msg": b"x"})
        epoch, name, _ = (await self.token(number)).decode().split(":")
        reader, streams = f"{name}#{epoch}", {self.shard(number): ">"}
        await self.redis.xreadgroup(self.group, reader, streams, count=count)


@asynccontextmanager
async def for_example(redis: Any, code: str) -> AsyncIterator[None]:
    """Give the stream `orders` two members, if an example of the docs is about them."""
    members = Members(redis, "orders", group="billing")
    if "admin.owners(" in code or "admin.move(" in code:
        await members.open({0: "billing-1"})
        await members.beat("billing-2")
    try:
        yield
    finally:
        await redis.delete(members.key, members.owner(0))
