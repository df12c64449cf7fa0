"""Kinds of faults: each affects a rig for a while, and is over when it returns.

All choices are made by the given `Random`, so that a seed repeats them.
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
async def _admin_of_groups(rig: Rig) -> AsyncIterator[Any]:
    """Provide an admin for commands that fail while a group is not recreated yet."""
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


# The server process


async def kill_server(rig: Rig, chance: Random) -> None:
    """SIGKILL the server, and restart it with its append-only file."""
    async with rig.lock:
        rig.server.kill()
        await asyncio.sleep(chance.uniform(0, 1.5))
        await rig.server.start()


async def freeze_server(rig: Rig, chance: Random) -> None:
    """SIGSTOP the server, sometimes for longer than timeouts and leases."""
    async with rig.lock:
        rig.server.send_signal(signal.SIGSTOP)
        await asyncio.sleep(chance.choice([0.3, 1.0, 3.5]))
        rig.server.send_signal(signal.SIGCONT)


async def pause_clients(rig: Rig, chance: Random) -> None:
    """Pause clients by CLIENT PAUSE."""
    async with rig.lock, _admin(rig) as client:
        ms = int(1000 * chance.uniform(0.2, 2.5))
        kind = chance.choice(["ALL", "WRITE"])
        await client.execute_command("CLIENT", "PAUSE", ms, kind)
        await asyncio.sleep(ms / 1000)


async def busy_script(rig: Rig, chance: Random) -> None:
    """Run an endless script, and kill it."""
    async with rig.lock, stuck(rig.server):
        await asyncio.sleep(chance.uniform(0.3, 1.5))


async def no_memory(rig: Rig, chance: Random) -> None:
    """Let the server refuse commands that need memory."""
    async with rig.lock, _admin(rig) as client:
        await client.config_set("maxmemory", 1)
        await asyncio.sleep(chance.uniform(0.2, 2))
        await client.config_set("maxmemory", 0)


async def no_disk(rig: Rig, chance: Random) -> None:
    """Let the server refuse writes because a snapshot failed: MISCONF."""
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
    """Make the server a replica of a missing master, and a master again."""
    async with rig.lock, _admin(rig) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await asyncio.sleep(chance.uniform(0.2, 2))
        await client.execute_command("REPLICAOF", "NO", "ONE")


# Connections


async def kill_clients(rig: Rig, chance: Random) -> None:
    """Kill all connections by CLIENT KILL, several times."""
    async with rig.lock, _admin(rig) as client:
        for _ in range(chance.randint(1, 8)):
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.2)


async def cut(rig: Rig, chance: Random) -> None:
    """Cut all connections of workers or senders, and refuse new ones for a while."""
    async with rig.proxy_lock:
        proxy = chance.choice([rig.worker_proxy, rig.sender_proxy])
        await proxy.stop()
        await asyncio.sleep(chance.choice([0.0, 0.3, 1.5]))
        await proxy.start()


async def lose_reply(rig: Rig, chance: Random) -> None:
    """Cut a connection when a certain command was executed."""
    async with rig.proxy_lock:
        word = chance.choice(
            [b"XADD", b"XACK", b"XREADGROUP", b"XCLAIM", b"XAUTOCLAIM", b"EVAL", b""]
        )
        proxy = rig.sender_proxy if word == b"XADD" else rig.worker_proxy
        proxy.cut_on, proxy.cut_next_reply = word, True
        await asyncio.sleep(1)
        proxy.cut_next_reply = False


async def black_hole(rig: Rig, chance: Random) -> None:
    """Drop all bytes in one direction, without an error."""
    async with rig.proxy_lock:
        proxy = chance.choice([rig.worker_proxy, rig.sender_proxy])
        direction = chance.choice(["drop_replies", "drop_requests"])
        setattr(proxy, direction, True)
        await asyncio.sleep(chance.uniform(0.3, 3.5))
        proxy.cut()
        setattr(proxy, direction, False)


async def slow_down(rig: Rig, chance: Random) -> None:
    """Delay bytes, or forward them in small portions."""
    async with rig.proxy_lock:
        proxy = chance.choice([rig.worker_proxy, rig.sender_proxy])
        proxy.delay, proxy.portion = chance.choice(
            [(0.1, 65536), (0.0, 16), (0.005, 500)]
        )
        await asyncio.sleep(chance.uniform(0.5, 2))
        proxy.delay, proxy.portion = 0.0, 65536


async def corrupt_replies(rig: Rig, chance: Random) -> None:
    """Corrupt some replies."""
    async with rig.proxy_lock:
        proxy = chance.choice([rig.worker_proxy, rig.sender_proxy])
        proxy.chance = Random(chance.random())
        for _ in range(chance.randrange(1, 10)):
            proxy.corrupt_next_reply = True
            await asyncio.sleep(0.1)
        proxy.corrupt_next_reply = False


# Streams and groups


async def destroy_group(rig: Rig, chance: Random) -> None:
    """Delete a group by XGROUP DESTROY."""
    key, group = chance.choice(rig.observer.keys), chance.choice(rig.groups)
    async with _admin_of_groups(rig) as client:
        since = time.monotonic()
        await client.xgroup_destroy(key, group)
        rig.excuse(since, "again")


async def rewind_group(rig: Rig, chance: Random) -> None:
    """Rewind a group by XGROUP SETID 0."""
    key, group = chance.choice(rig.observer.keys), chance.choice(rig.groups)
    async with _admin_of_groups(rig) as client:
        since = time.monotonic()
        await client.xgroup_setid(key, group, "0")
        rig.excuse(since, "again")


async def wrong_type(rig: Rig, chance: Random) -> None:
    """Replace a stream by a string for a while."""
    key = chance.choice(rig.observer.keys)
    async with rig.lock, _admin(rig) as client:
        since = time.monotonic()
        if not await client.exists(key):
            return  # flushed, and nothing sent since
        replacing = client.pipeline(transaction=True)
        await replacing.rename(key, "elsewhere").set(key, "x").execute()
        await asyncio.sleep(chance.uniform(0.2, 2))
        restoring = client.pipeline(transaction=True)
        await restoring.delete(key).rename("elsewhere", key).execute()
        # Acknowledgements of that time were not recorded anywhere.
        rig.excuse(since, "again")


# Faults that lose messages; they write down which ones they excuse


async def flush_all(rig: Rig, chance: Random) -> None:
    """Delete everything by FLUSHALL."""
    async with rig.lock, _admin(rig) as client:
        since = time.monotonic()
        await client.flushall()
        # Dead letters too; and the entries look as if they had been acknowledged.
        rig.excuse(since, "loss", "ack", "again")


async def trim(rig: Rig, chance: Random) -> None:
    """Trim a stream to nothing by XTRIM."""
    key = chance.choice(rig.observer.keys)
    async with _admin_of_groups(rig) as client:
        since = time.monotonic()
        await client.xtrim(key, maxlen=0, approximate=False)
        rig.excuse(since, "loss", "ack")


async def delete_some(rig: Rig, chance: Random) -> None:
    """Delete entries by XDEL that may just be read or handled."""
    number = chance.randrange(len(rig.observer.keys))
    key = rig.observer.keys[number]
    async with _admin_of_groups(rig) as client:
        newest = [id_ for id_, _ in await client.xrevrange(key, count=40)]
        ids = chance.sample(newest, len(newest) // 2)
        since = time.monotonic()
        if ids:
            await client.xdel(key, *ids)
        _excuse(rig, since, number, ids)


async def ack_for_others(rig: Rig, chance: Random) -> None:
    """Acknowledge pending entries by XACK from another client."""
    number = chance.randrange(len(rig.observer.keys))
    key, group = rig.observer.keys[number], chance.choice(rig.groups)
    async with _admin_of_groups(rig) as client:
        lines = await client.xpending_range(key, group, "-", "+", 1000)
        ids = [line["message_id"] for line in lines]
        since = time.monotonic()
        if ids:
            await client.xack(key, group, *ids)
        _excuse(rig, since, number, ids)


async def delete_consumer(rig: Rig, chance: Random) -> None:
    """Delete a running consumer by XGROUP DELCONSUMER."""
    number = chance.randrange(len(rig.observer.keys))
    key, group = rig.observer.keys[number], chance.choice(rig.groups)
    async with _admin_of_groups(rig) as client:
        names = [each["name"] for each in await client.xinfo_consumers(key, group)]
        for name in names[:1]:
            pipeline = client.pipeline(transaction=True)
            pipeline.xpending_range(key, group, "-", "+", 1000)
            pipeline.xgroup_delconsumer(key, group, name)
            since = time.monotonic()
            lines, _ = await pipeline.execute()
            _excuse(rig, since, number, [line["message_id"] for line in lines])


def _excuse(rig: Rig, since: float, number: int, ids: list[bytes]) -> None:
    if ids:
        entries = tuple(f"{number} {id_.decode()}" for id_ in ids)
        rig.excuse(since, "loss", "ack", ids=entries)


async def move_away(rig: Rig, chance: Random) -> None:
    """RENAME a stream away and back, which replaces entries added meanwhile."""
    key = chance.choice(rig.observer.keys)
    async with rig.lock, _admin(rig) as client:
        since = time.monotonic()
        with suppress(ResponseError):  # it may not exist, before or meanwhile
            await client.rename(key, "elsewhere")
            await asyncio.sleep(chance.uniform(0.2, 2))
            await client.rename("elsewhere", key)
        rig.excuse(since, "loss", "ack", "again", "order")


# Processes


async def kill_worker(rig: Rig, chance: Random) -> None:
    """SIGKILL a worker, and restart it."""
    await _replace(rig, chance, signal.SIGKILL)


async def end_worker(rig: Rig, chance: Random) -> None:
    """SIGTERM a worker, and restart it."""
    await _replace(rig, chance, signal.SIGTERM)


async def _replace(rig: Rig, chance: Random, how: signal.Signals) -> None:
    process = chance.choice([each for each in rig.workers if each.replaceable])
    wait, renamed = chance.choice([0.0, 0.5, 3.0]), chance.random() < 0.5
    async with process.lock:
        code = await process.end(how)
        assert how is signal.SIGKILL or code == 0, f"{process.name} ended with {code}"
        await asyncio.sleep(wait)
        await process.start(renamed=renamed)


async def stop_worker(rig: Rig, chance: Random) -> None:
    """SIGSTOP a worker, sometimes for longer than its lease, and continue it."""
    await _pause(chance.choice(rig.workers), chance)


async def stop_sender(rig: Rig, chance: Random) -> None:
    """SIGSTOP a sender, and continue it."""
    await _pause(chance.choice(rig.senders), chance)


async def _pause(process: Any, chance: Random) -> None:
    seconds = chance.choice([0.2, 1.0, 3.5])
    async with process.lock:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGCONT)


async def kill_sender(rig: Rig, chance: Random) -> None:
    """SIGKILL a sender, and start another one."""
    process = chance.choice(rig.senders)
    async with process.lock:
        await process.end(signal.SIGKILL)
        await process.start()


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
    "connections": (
        kill_clients,
        cut,
        lose_reply,
        black_hole,
        slow_down,
        corrupt_replies,
    ),
    "groups": (destroy_group, rewind_group, wrong_type),
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
"""The names of the faults of each family; only the last one may lose messages."""

KINDS: Final = {
    fault.__name__: fault for faults in _FAMILIES.values() for fault in faults
}
"""All faults by their names."""
