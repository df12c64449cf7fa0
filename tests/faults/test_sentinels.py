"""Failover by sentinels: clients follow to the new primary, and leave the old one."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from penstock import Consumer, Message, Producer, SendFailed, SendUnknown
from penstock.admin import Admin
from penstock.embedded import find_server
from penstock.errors import AccessError
from support.events import Events
from support.failing import running
from support.server import Server, free_port, server
from support.waiting import eventually, pending

PASSWORD = "hunter2"


@dataclass
class Deployment:
    """A primary, its replica, and the sentinels that watch them."""

    servers: list[Server]
    sentinels: list[int]
    asked: int = 0
    answer: list[Any] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL by which clients find the primary; one sentinel in it is missing."""
        hosts = [free_port(), *self.sentinels]
        listed = ",".join(f"127.0.0.1:{port}" for port in hosts)
        options = f"socket_timeout=1&sentinel_password={PASSWORD}"
        return f"redis+sentinel://{listed}/main?{options}"

    async def primary(self) -> Server | None:
        """Return the server that is the primary according to a sentinel and itself."""
        client: Any = Redis(port=self.sentinels[0], password=PASSWORD, socket_timeout=5)
        async with client:
            answer = await client.execute_command(
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"
            )
        [found] = [own for own in self.servers if own.port == int(answer[1])]
        redis: Any = Redis.from_url(found.url, socket_timeout=0.5)
        async with redis:
            try:
                role = await redis.role()
            except RedisError:
                return None
        return found if role[0] == b"master" else None

    async def moved(self, since: Server) -> bool:
        """Return whether another server is the primary now."""
        found = await self.primary()
        return found is not None and found is not since

    async def replicated(self) -> bool:
        """Return whether the replica has all data of the primary."""
        found = []
        for own in self.servers:
            async with own.client() as redis:
                found.append(await redis.info("replication"))
        offsets = {one["master_repl_offset"] for one in found}
        return len(offsets) == 1 and {one["role"] for one in found} == {
            "master",
            "slave",
        }

    async def known(self) -> bool:
        """Return whether the sentinels know each other and the replica."""
        for port in self.sentinels:
            client: Any = Redis(port=port, password=PASSWORD, socket_timeout=5)
            async with client:
                # In RESP2 the reply is a flat list of pairs.
                words = await client.execute_command("SENTINEL", "MASTER", "main")
            facts = words if isinstance(words, dict) else _pairs(words)
            text = {_text(name): _text(value) for name, value in facts.items()}
            if (text["num-slaves"], text["num-other-sentinels"]) != ("1", "2"):
                return False
        return True


def _pairs(words: Any) -> dict[Any, Any]:
    return dict(zip(words[::2], words[1::2], strict=True))


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


@asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[Deployment]:
    for name in ("one", "two"):
        (folder / name).mkdir()
    soon = ("--repl-diskless-sync-delay", "0")
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(server(folder / "one", *soon))
        follow = (*soon, "--replicaof", "127.0.0.1", str(one.port))
        two = await stack.enter_async_context(server(folder / "two", *follow))
        created = Deployment([one, two], [free_port() for _ in range(3)])
        await eventually(created.replicated)
        for port in created.sentinels:
            stack.callback(_end, _sentinel(folder, port, one.port))
        await eventually(lambda: _up(created.known), within=15)
        yield created


async def _up(condition: Any) -> bool:
    try:
        return bool(await condition())
    except RedisError:
        return False


def _sentinel(folder: Path, port: int, primary: int) -> subprocess.Popen[bytes]:
    own = folder / f"sentinel-{port}"
    own.mkdir()
    (own / "conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {own}\nrequirepass {PASSWORD}\n"
        f"sentinel sentinel-pass {PASSWORD}\n"
        f"sentinel monitor main 127.0.0.1 {primary} 2\n"
        f"sentinel down-after-milliseconds main 500\n"
        f"sentinel failover-timeout main 2000\n"
    )
    with (own / "log").open("ab") as log:
        return subprocess.Popen(
            [str(find_server()), str(own / "conf"), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


class Seen(Counter[int]):
    """A handler that counts messages."""

    async def __call__(self, message: Message[bytes]) -> None:
        self[int(message.payload)] += 1
        await asyncio.sleep(0.001)

    async def have(self, *wanted: int) -> bool:
        return set(wanted) <= set(self)


async def was_sent(producer: Producer, stream: str, number: int) -> bool:
    """Send a message; return whether this attempt was confirmed."""
    try:
        await producer.send(stream, b"%d" % number)
    except (SendFailed, SendUnknown):
        return False
    return True


async def fail_over(servers: Deployment, how: str, primary: Server) -> None:
    """Let the primary be replaced, and wait for that."""
    if how == "killed":
        primary.kill()
    elif how == "frozen":
        primary.send_signal(signal.SIGSTOP)
    else:
        client: Any = Redis(port=servers.sentinels[0], password=PASSWORD)
        async with client:
            await client.execute_command("SENTINEL", "FAILOVER", "main")
    await eventually(lambda: servers.moved(primary), within=15)
    if how == "requested":
        # Until the old primary is demoted, it accepts messages that will be discarded.
        await eventually(lambda: _up(servers.replicated), within=20)


@pytest.mark.parametrize("how", ["killed", "frozen", "requested"])
async def test_clients_follow_the_primary(
    tmp_path: Path, stream: str, events: Events, how: str
) -> None:
    seen = Seen()
    async with deployment(tmp_path) as servers:
        url, before = servers.url, servers.servers[0]
        consumer = Consumer(stream, url=url, group="g", on_event=events)
        async with (
            running(consumer, seen, concurrency=4),
            Producer(url, on_event=events) as producer,
        ):
            await producer.send_many(stream, (b"%d" % n for n in range(500)))
            await eventually(servers.replicated)
            await fail_over(servers, how, before)
            await eventually(lambda: was_sent(producer, stream, 500), within=5)
            await eventually(lambda: seen.have(*range(501)), within=5)
            if how == "frozen":
                # It considers itself the primary until it is demoted, ten seconds
                # later.
                before.send_signal(signal.SIGCONT)
            assert await was_sent(producer, stream, 501)
            await eventually(lambda: seen.have(501))
            after = await servers.primary()
            assert after is servers.servers[1]
            async with after.client() as redis:
                await eventually(lambda: none_pending(redis, stream))
                assert await redis.xlen(stream) >= 502
        async with Admin(url) as admin:
            assert (await admin.group_state(stream, "g")).pending == 0
    moved = events.named("primary_moved")
    assert len(moved) == 2  # the consumer's connector and the producer's
    assert {str(each.facts["to"]).rpartition(":")[2] for each in moved} == {
        str(servers.servers[1].port)
    }


async def none_pending(redis: Any, stream: str) -> bool:
    return await pending(redis, stream, "g") == 0


async def test_sentinels_that_refuse_the_login_cause_an_error_at_once(
    tmp_path: Path, stream: str
) -> None:
    async with deployment(tmp_path) as servers:
        url = servers.url.replace(PASSWORD, "wrong")
        with pytest.raises(AccessError) as caught:
            async with Producer(url):
                raise AssertionError
        assert "wrong" not in str(caught.value)
