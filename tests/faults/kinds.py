"""Kinds of faults: each is done to a rig, lasts a while, and is over when it returns.

What is chosen is chosen by the given `Random`, so that a seed brings it again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final, TypeAlias

from redis.exceptions import ResponseError

from faults.rig import Rig
from support.server import stuck

__all__ = ["FAMILIES", "KINDS", "Fault"]

Fault: TypeAlias = Callable[[Rig, Random], Awaitable[None]]


@asynccontextmanager
async def _meddling(rig: Rig) -> AsyncIterator[Any]:
    """An admin, for what can't be done where a group is not made anew yet."""
    async with rig.lock, _admin(rig) as client:
        with suppress(ResponseError):
            yield client


@asynccontextmanager
async def _admin(rig: Rig) -> AsyncIterator[Any]:
    client = rig.server.client()
    try:
        yield client
    finally:
        await client.aclose()


# The server's process


async def kill_server(rig: Rig, chance: Random) -> None:
    """SIGKILL it, and start it again with its append-only file."""
    async with rig.lock:
        rig.server.kill()
        await asyncio.sleep(chance.uniform(0, 1.5))
        await rig.server.start()


async def freeze_server(rig: Rig, chance: Random) -> None:
    """Stand still, at times for longer than timeouts and leases."""
    async with rig.lock:
        rig.server.send_signal(signal.SIGSTOP)
        await asyncio.sleep(chance.choice([0.3, 1.0, 3.5]))
        rig.server.send_signal(signal.SIGCONT)


async def pause_clients(rig: Rig, chance: Random) -> None:
    """CLIENT PAUSE."""
    async with rig.lock, _admin(rig) as client:
        ms = int(1000 * chance.uniform(0.2, 2.5))
        kind = chance.choice(["ALL", "WRITE"])
        await client.execute_command("CLIENT", "PAUSE", ms, kind)
        await asyncio.sleep(ms / 1000)


async def busy_script(rig: Rig, chance: Random) -> None:
    """A script that does not end, until it is killed."""
    async with rig.lock, stuck(rig.server):
        await asyncio.sleep(chance.uniform(0.3, 1.5))


async def no_memory(rig: Rig, chance: Random) -> None:
    """Refuse what needs memory."""
    async with rig.lock, _admin(rig) as client:
        await client.config_set("maxmemory", 1)
        await asyncio.sleep(chance.uniform(0.2, 2))
        await client.config_set("maxmemory", 0)


async def no_disk(rig: Rig, chance: Random) -> None:
    """Refuse writes because a snapshot failed: MISCONF."""
    place = rig.server.folder / "dump.rdb"
    async with rig.lock, _admin(rig) as client:
        if place.is_file():
            place.unlink()
        place.mkdir()
        await client.config_set("save", "100000 1")
        await client.bgsave()
        await asyncio.sleep(chance.uniform(0.5, 2))
        await client.config_set("save", "")
        place.rmdir()


async def demote(rig: Rig, chance: Random) -> None:
    """Become a replica of nobody, and a master again."""
    async with rig.lock, _admin(rig) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await asyncio.sleep(chance.uniform(0.2, 2))
        await client.execute_command("REPLICAOF", "NO", "ONE")


# Connections


async def kill_clients(rig: Rig, chance: Random) -> None:
    """CLIENT KILL, several times."""
    async with rig.lock, _admin(rig) as client:
        for _ in range(chance.randint(1, 8)):
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.2)


async def cut(rig: Rig, chance: Random) -> None:
    """Cut all connections of one side, and refuse new ones for a while."""
    async with rig.wires:
        by = chance.choice([rig.workers_by, rig.senders_by])
        await by.stop()
        await asyncio.sleep(chance.choice([0.0, 0.3, 1.5]))
        await by.start()


async def lose_reply(rig: Rig, chance: Random) -> None:
    """Cut a connection when a certain command has been done."""
    async with rig.wires:
        word = chance.choice(
            [b"XADD", b"XACK", b"XREADGROUP", b"XCLAIM", b"XAUTOCLAIM", b"EVAL", b""]
        )
        by = rig.senders_by if word == b"XADD" else rig.workers_by
        by.cut_on, by.cut_next_reply = word, True
        await asyncio.sleep(1)
        by.cut_next_reply = False


async def black_hole(rig: Rig, chance: Random) -> None:
    """Have bytes vanish, one way, without a word."""
    async with rig.wires:
        by = chance.choice([rig.workers_by, rig.senders_by])
        way = chance.choice(["mute", "deaf"])
        setattr(by, way, True)
        await asyncio.sleep(chance.uniform(0.3, 3.5))
        by.cut()
        setattr(by, way, False)


async def slow_down(rig: Rig, chance: Random) -> None:
    """Let bytes through late and in small portions."""
    async with rig.wires:
        by = chance.choice([rig.workers_by, rig.senders_by])
        by.delay, by.portion = chance.choice([(0.1, 65536), (0.0, 16), (0.005, 500)])
        await asyncio.sleep(chance.uniform(0.5, 2))
        by.delay, by.portion = 0.0, 65536


async def spoil(rig: Rig, chance: Random) -> None:
    """Spoil some replies."""
    async with rig.wires:
        by = chance.choice([rig.workers_by, rig.senders_by])
        by.chance = Random(chance.random())
        for _ in range(chance.randrange(1, 10)):
            by.spoil_next_reply = True
            await asyncio.sleep(0.1)
        by.spoil_next_reply = False


# Streams and groups


async def destroy_group(rig: Rig, chance: Random) -> None:
    """XGROUP DESTROY."""
    key, group = chance.choice(rig.observer.keys), chance.choice(rig.groups)
    async with _meddling(rig) as client:
        since = time.monotonic()
        await client.xgroup_destroy(key, group)
        rig.excuse(since, "again")


async def set_group_back(rig: Rig, chance: Random) -> None:
    """XGROUP SETID 0."""
    key, group = chance.choice(rig.observer.keys), chance.choice(rig.groups)
    async with _meddling(rig) as client:
        since = time.monotonic()
        await client.xgroup_setid(key, group, "0")
        rig.excuse(since, "again")


async def wrong_type(rig: Rig, chance: Random) -> None:
    """Have something else where a stream should be."""
    key = chance.choice(rig.observer.keys)
    async with rig.lock, _admin(rig) as client:
        since = time.monotonic()
        if not await client.exists(key):
            return  # flushed, and nothing sent since
        there = client.pipeline(transaction=True)
        await there.rename(key, "elsewhere").set(key, "x").execute()
        await asyncio.sleep(chance.uniform(0.2, 2))
        back = client.pipeline(transaction=True)
        await back.delete(key).rename("elsewhere", key).execute()
        # What was acknowledged meanwhile was acknowledged nowhere.
        rig.excuse(since, "again")


# What loses messages: by it, and only as far as it must


async def flush_all(rig: Rig, chance: Random) -> None:
    """FLUSHALL."""
    async with rig.lock, _admin(rig) as client:
        since = time.monotonic()
        await client.flushall()
        # Also dead letters; and what was there looks as if it were acknowledged.
        rig.excuse(since, "loss", "ack", "again")


async def trim(rig: Rig, chance: Random) -> None:
    """XTRIM to nothing."""
    key = chance.choice(rig.observer.keys)
    async with _meddling(rig) as client:
        since = time.monotonic()
        await client.xtrim(key, maxlen=0, approximate=False)
        rig.excuse(since, "loss", "ack")


async def delete_some(rig: Rig, chance: Random) -> None:
    """XDEL of what may just be read or handled."""
    number = chance.randrange(len(rig.observer.keys))
    key = rig.observer.keys[number]
    async with _meddling(rig) as client:
        newest = [id_ for id_, _ in await client.xrevrange(key, count=40)]
        ids = chance.sample(newest, len(newest) // 2)
        since = time.monotonic()
        if ids:
            await client.xdel(key, *ids)
        _excuse(rig, since, number, ids)


async def ack_for_others(rig: Rig, chance: Random) -> None:
    """XACK by a stranger of what is pending."""
    number = chance.randrange(len(rig.observer.keys))
    key, group = rig.observer.keys[number], chance.choice(rig.groups)
    async with _meddling(rig) as client:
        lines = await client.xpending_range(key, group, "-", "+", 1000)
        ids = [line["message_id"] for line in lines]
        since = time.monotonic()
        if ids:
            await client.xack(key, group, *ids)
        _excuse(rig, since, number, ids)


async def delete_consumer(rig: Rig, chance: Random) -> None:
    """XGROUP DELCONSUMER of one that lives."""
    number = chance.randrange(len(rig.observer.keys))
    key, group = rig.observer.keys[number], chance.choice(rig.groups)
    async with _meddling(rig) as client:
        names = [each["name"] for each in await client.xinfo_consumers(key, group)]
        for name in names[:1]:
            both = client.pipeline(transaction=True)
            both.xpending_range(key, group, "-", "+", 1000)
            both.xgroup_delconsumer(key, group, name)
            since = time.monotonic()
            lines, _ = await both.execute()
            _excuse(rig, since, number, [line["message_id"] for line in lines])


def _excuse(rig: Rig, since: float, number: int, ids: list[bytes]) -> None:
    if ids:
        entries = tuple(f"{number} {id_.decode()}" for id_ in ids)
        rig.excuse(since, "loss", "ack", ids=entries)


async def move_away(rig: Rig, chance: Random) -> None:
    """RENAME a stream away and back, over what has come meanwhile."""
    key = chance.choice(rig.observer.keys)
    async with rig.lock, _admin(rig) as client:
        since = time.monotonic()
        with suppress(ResponseError):  # it may be gone, before or meanwhile
            await client.rename(key, "elsewhere")
            await asyncio.sleep(chance.uniform(0.2, 2))
            await client.rename("elsewhere", key)
        rig.excuse(since, "loss", "ack", "again", "order")


# Processes


async def kill_worker(rig: Rig, chance: Random) -> None:
    """SIGKILL a worker, and start it again."""
    await _replace(rig, chance, signal.SIGKILL)


async def end_worker(rig: Rig, chance: Random) -> None:
    """SIGTERM a worker, and start it again."""
    await _replace(rig, chance, signal.SIGTERM)


async def _replace(rig: Rig, chance: Random, how: signal.Signals) -> None:
    post = chance.choice([post for post in rig.workers if post.replaceable])
    wait, renamed = chance.choice([0.0, 0.5, 3.0]), chance.random() < 0.5
    async with post.lock:
        code = await post.end(how)
        assert how is signal.SIGKILL or code == 0, f"{post.name} ended with {code}"
        await asyncio.sleep(wait)
        await post.man(renamed=renamed)


async def stop_worker(rig: Rig, chance: Random) -> None:
    """SIGSTOP a worker, at times for longer than its lease, and let it go on."""
    await _halt(chance.choice(rig.workers), chance)


async def stop_sender(rig: Rig, chance: Random) -> None:
    """SIGSTOP a sender and let it go on."""
    await _halt(chance.choice(rig.senders), chance)


async def _halt(post: Any, chance: Random) -> None:
    seconds = chance.choice([0.2, 1.0, 3.5])
    async with post.lock:
        post.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        post.send_signal(signal.SIGCONT)


async def kill_sender(rig: Rig, chance: Random) -> None:
    """SIGKILL a sender, and start another one."""
    post = chance.choice(rig.senders)
    async with post.lock:
        await post.end(signal.SIGKILL)
        await post.man()


_FAMILIES: Final[dict[str, tuple[Fault, ...]]] = {
    "server": (
        kill_server,
        freeze_server,
        pause_clients,
        busy_script,
        no_memory,
        no_disk,
        demote,
    ),
    "connections": (kill_clients, cut, lose_reply, black_hole, slow_down, spoil),
    "groups": (destroy_group, set_group_back, wrong_type),
    "processes": (kill_worker, end_worker, stop_worker, stop_sender, kill_sender),
    "losses": (
        flush_all,
        trim,
        delete_some,
        ack_for_others,
        delete_consumer,
        move_away,
    ),
}

FAMILIES: Final = {
    family: [fault.__name__ for fault in faults] for family, faults in _FAMILIES.items()
}
"""The names of faults that are of a kind; no message may be lost but by the last."""

KINDS: Final = {
    fault.__name__: fault for faults in _FAMILIES.values() for fault in faults
}
"""All by their names."""
