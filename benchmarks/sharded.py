"""Reading many shards: in one slot, in as many slots, shared and owned.

A server in cluster mode reads each slot on a connection of its own, and so does a
consumer that owns its shards. What that costs is said by the client's CPU per message
beside the same shards read by one command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from redis import Redis

from benchmarks import filling, table
from benchmarks.server import check_settled, connect
from penstock import Consumer, Message, Ownership
from penstock._core.messages import shard_record
from penstock.embedded import EmbeddedServer

GROUP: Final = "bench"
KEYS: Final = 1000
PAYLOAD: Final = b"x" * 200


@dataclass
class Way:
    """One way to read the shards of a stream, and what it took in each round."""

    name: str
    stream: str
    ownership: Ownership
    in_cluster_mode: bool
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    entries: list[float] = field(default_factory=list)

    def keys(self, shards: int) -> list[str]:
        return [f"{self.stream}:{number}" for number in range(shards)]


def ways() -> list[Way]:
    return [
        Way("one slot", "{bench}", Ownership.SHARED, in_cluster_mode=True),
        Way("as many slots", "bench", Ownership.SHARED, in_cluster_mode=True),
        Way("shared", "bench", Ownership.SHARED, in_cluster_mode=False),
        Way("owned", "bench", Ownership.OWNED, in_cluster_mode=False),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[way.name for way in ways()])
    parser.add_argument("--json", action="store_true", help="one object a line")


def main(given: argparse.Namespace) -> None:
    chosen = [way for way in ways() if not given.only or way.name in given.only]
    with servers(chosen) as urls:
        for _ in range(given.rounds):
            for way in chosen:
                url = urls[way.in_cluster_mode]
                fill(url, way, given.shards, given.messages)
                asyncio.run(measure(url, way, given.messages))
    show(chosen, as_json=given.json)


@contextmanager
def servers(chosen: Sequence[Way]) -> Iterator[dict[bool, str]]:
    """Start the servers; gives their URLs by whether they are in cluster mode."""
    urls: dict[bool, str] = {}
    with ExitStack() as stack:
        for cluster in {way.in_cluster_mode for way in chosen}:
            bus = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
            own = EmbeddedServer(port=free_port(), config=bus if cluster else {})
            stack.enter_context(own)
            assert own.tcp_url is not None  # noqa: S101 - it was asked for
            urls[cluster] = own.tcp_url
            if cluster:
                take_all_slots(own.tcp_url)
        yield urls


def take_all_slots(url: str) -> None:
    with connect(url) as redis:
        redis.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        while b"cluster_state:ok" not in redis.execute_command("CLUSTER", "INFO"):
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def fill(url: str, way: Way, shards: int, messages: int) -> None:
    """Have the messages in the shards, and the number of shards recorded."""
    with Redis.from_url(url) as redis:
        redis.flushall()
        record = shard_record.dump(shards, "", time.time())
        redis.set(shard_record.key(way.stream), record)
        adds = [
            filling.pack_command((b"XADD", key, b"*", b"msg", PAYLOAD, b"key", name))
            for number, key in enumerate(way.keys(shards) * (KEYS // shards + 1))
            for name in [b"%d" % number]
        ]
        for key in way.keys(shards):
            redis.xgroup_create(key, GROUP, id="0", mkstream=True)
        filling.execute(redis, adds, messages)
        redis.config_resetstat()


async def measure(url: str, way: Way, messages: int) -> None:
    """Handle all messages; note what it took, opening and closing included."""
    began, cpu = time.perf_counter(), time.process_time()
    done = asyncio.Event()
    left = messages

    async def handle(_: Message[bytes]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    async with Consumer(
        way.stream, url=url, group=GROUP, ownership=way.ownership
    ) as consumer:
        running = asyncio.create_task(
            consumer.run(handle, concurrency=16, ordering="key")
        )
        await done.wait()
        await consumer.aclose()
        await running
    way.rates.append(messages / (time.perf_counter() - began))
    way.cpu.append((time.process_time() - cpu) / messages * 1e6)
    way.entries.append(messages / calls(url))


def calls(url: str) -> int:
    """Return how many reads the server has executed; nothing may be pending."""
    redis: Any
    with connect(url) as redis:
        check_settled(redis)
        return int(redis.info("commandstats")["cmdstat_xreadgroup"]["calls"])


def show(chosen: Sequence[Way], *, as_json: bool) -> None:
    """Print medians, and the least CPU with its ratio to the first way's."""
    rows = [
        (way.name, round(median(way.rates)), min(way.cpu), round(median(way.entries)))
        for way in chosen
    ]
    if as_json:
        for name, rate, cpu, entries in rows:
            figures = {"client_cpu_us": round(cpu, 2), "entries_per_read": entries}
            print(json.dumps({"way": name, "messages_per_second": rate, **figures}))
        return
    least = rows[0][2]
    cells = [
        (name, f"{rate:,}", f"{cpu:.2f}", f"{cpu / least:.2f}", f"{entries:,}")
        for name, rate, cpu, entries in rows
    ]
    heads = ("way", "msg/s", "client CPU us", "of the first", "entries a read")
    print(table.plain(heads, cells))
