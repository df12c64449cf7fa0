"""Members of a group, in this process, that own shards, and what their handlers did."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from penstock import Consumer, Message, Producer, Shard
from penstock._core.messages.shard_keys import numbered
from penstock._core.ownership.keys import owner_key
from support.events import Events
from support.waiting import eventually

Handler: TypeAlias = Callable[[Message[bytes]], Awaitable[None]]


@dataclass(frozen=True)
class Start:
    """A start of a handler.

    Attributes:
        member: The name of the member that has started it.
        shard: The number of the shard.
        epoch: The number of the ownership.
        key: The message's key.
        number: The number of the message.
        attempt: The number of the attempt.
    """

    member: str
    shard: int
    epoch: int
    key: str | None
    number: int
    attempt: int


class Member:
    """A consumer that owns shards, and its run.

    Args:
        group: Its group.
        name: Its name, which is not given to the consumer unless it is static.
        handle: Called with each message after its start was recorded.
        run: The arguments of `run`.
        options: The options of the consumer.
    """

    def __init__(
        self,
        group: OwnedGroup,
        name: str,
        handle: Handler,
        run: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        self.label = name
        self.events = Events()
        self.calls: list[tuple[str, tuple[Shard, ...]]] = []
        self._group = group
        self._handle = handle
        self._run = run
        self.consumer: Consumer[bytes] = Consumer(
            group.stream, **{"on_event": self.events, **options}
        )
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the consumer, and run the handler."""
        await self.consumer.start()
        self.running = asyncio.create_task(
            self.consumer.run(self._recorded, **self._run)
        )

    async def _recorded(self, message: Message[bytes]) -> None:
        group, number = self._group, int(message.payload)
        group.starts.append(
            Start(
                self.label,
                message.shard,
                message.epoch,
                message.key,
                number,
                message.attempt,
            )
        )
        await self._handle(message)
        group.ended.append(number)

    @property
    def owned(self) -> int:
        """How many shards the member owns."""
        return self.consumer.statistics().owned

    async def close(self) -> None:
        """Close the consumer; raise what its run raised."""
        await self.consumer.aclose()
        if self.running is not None:
            await self.running


@dataclass
class OwnedGroup:
    """Members of group `g` of a stream.

    Attributes:
        url: The URL of the server.
        stream: The stream.
        redis: A client of redis-py.
        shards: How many shards the stream has.
        handle: The handler of members that are given none.
        run: The arguments of `run`.
        starts: All starts of handlers in their order.
        ended: The numbers of the messages whose handlers have ended.
        members: The members that were opened and not closed by `leave`.
    """

    url: str
    stream: str
    redis: Any
    shards: int
    handle: Handler
    run: dict[str, Any] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    sent: int = 0

    async def join(
        self, label: str, handle: Handler | None = None, **options: Any
    ) -> Member:
        """Open a member, and run its handler."""
        given = {"url": self.url, "group": "g", "ownership": "owned", **options}
        member = Member(self, label, handle or self.handle, self.run, given)
        self.members.append(member)
        await member.start()
        return member

    async def leave(self, member: Member) -> None:
        """Close a member."""
        self.members.remove(member)
        await member.close()

    async def send(self, count: int, keys: int = 20) -> None:
        """Send so many more messages, numbered on, with keys in turn."""
        async with Producer(self.url, shards=self.shards) as producer:
            for number in range(self.sent, self.sent + count):
                key = f"k{number % keys}"
                await producer.enqueue(self.stream, b"%d" % number, key=key)
        self.sent += count

    # -- who owns what -----------------------------------------------------------------

    def owner_keys(self) -> list[bytes]:
        """Return the keys of the shards' hashes."""
        shards = (numbered(self.stream, number) for number in range(self.shards))
        return [owner_key(shard.key, "g") for shard in shards]

    async def owners(self) -> dict[int, str]:
        """Return the member's name of each shard that is owned, by the server."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            for key in self.owner_keys():
                pipeline.hget(key, "owner")
            replies = await pipeline.execute()
        return {n: owner.decode() for n, owner in enumerate(replies) if owner}

    async def epochs(self) -> dict[int, int]:
        """Return the number of each shard's present or last ownership."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            for key in self.owner_keys():
                pipeline.hget(key, "number")
            replies = await pipeline.execute()
        return {n: int(number) for n, number in enumerate(replies) if number}

    async def is_settled(self, loads: Iterable[int] | None = None) -> bool:
        """Return whether the members own and read all shards, in balance.

        Args:
            loads: How many shards the members have, in any order; by default as many
                each, give or take one.
        """
        if loads is None:
            share, more = divmod(self.shards, len(self.members))
            loads = [share + (n < more) for n in range(len(self.members))]
        owners = Counter((await self.owners()).values())
        names = [str(member.consumer.name) for member in self.members]
        said = [member.owned for member in self.members]
        read = [len(member.consumer.shards) for member in self.members]
        known = [owners[name] for name in names]
        return known == said == read and sorted(said) == sorted(loads)

    async def settle(self, loads: Iterable[int] | None = None) -> float:
        """Wait until it is settled; return the seconds that it took."""
        wanted = None if loads is None else list(loads)
        try:
            return await eventually(lambda: self.is_settled(wanted), within=30)
        except AssertionError as error:
            said = [(m.label, m.consumer.name, m.owned) for m in self.members]
            raise AssertionError(f"{said}, {await self.owners()}") from error

    # -- what was handled --------------------------------------------------------------

    async def all_ended(self) -> bool:
        """Return whether every message that was sent has been handled."""
        return set(self.ended) >= set(range(self.sent))

    async def finish(self) -> None:
        """Wait until every message that was sent has been handled."""
        try:
            await eventually(self.all_ended, within=30)
        except AssertionError as error:
            missing = sorted(set(range(self.sent)) - set(self.ended))
            said = [(m.label, m.consumer.name, m.owned) for m in self.members]
            facts = f"{missing[:20]}, {said}, {await self.owners()}"
            raise AssertionError(f"not handled: {facts}") from error

    def numbers(self) -> list[int]:
        """Return the numbers of all starts, sorted."""
        return sorted(start.number for start in self.starts)

    def disorder(self) -> list[Start]:
        """Return the first starts that came after one of a later message of the key."""
        found: list[Start] = []
        seen: set[int] = set()
        last: defaultdict[str | None, int] = defaultdict(lambda: -1)
        for start in self.starts:
            if start.number in seen:
                continue
            seen.add(start.number)
            if start.number < last[start.key]:
                found.append(start)
            last[start.key] = max(last[start.key], start.number)
        return found


async def do_nothing(_: Message[bytes]) -> None: ...


@asynccontextmanager
async def open_group(
    url: str,
    stream: str,
    redis: Any,
    shards: int,
    handle: Handler = do_nothing,
    **run: Any,
) -> AsyncIterator[OwnedGroup]:
    """Provide a group without members, and a stream with a message; close all."""
    async with Producer(url, shards=shards) as producer:
        await producer.send(stream, b"0", key="k0")
    group = OwnedGroup(url, stream, redis, shards, handle, run, sent=1)
    try:
        yield group
    finally:
        for member in group.members:
            await member.consumer.aclose()
            if member.running is not None:
                await asyncio.wait([member.running])
