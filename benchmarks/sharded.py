"""Reading many shards: in one slot, in as many slots, shared and owned.

A server in cluster mode reads each slot on a connection of its own, and so does a
consumer that owns its shards. The client's CPU per message, beside that of the same
shards read by one command, shows what this costs. Keys are drawn at random, by a seed.

With `--latency`, messages are sent at a fixed pace instead, and the time from before a
message is sent until its handler begins is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, Final

from redis import Redis

from benchmarks import filling, table
from benchmarks.server import check_settled, connect
from penstock import Consumer, Message, Ownership, Producer
from penstock._core.messages import shard_record
from penstock.embedded import EmbeddedServer

GROUP: Final = "bench"
KEYS: Final = 10_000
PAYLOAD: Final = b"x" * 200
# Messages, and the seconds between two, where the latency is measured.
PACED: Final = 1500
PACE: Final = 0.002


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
    waits: list[float] = field(default_factory=list)

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
    parser.add_argument("--latency", action="store_true", help="at 500 a second")
    parser.add_argument("--json", action="store_true", help="one object a line")


def main(given: argparse.Namespace) -> None:
    chosen = [way for way in ways() if not given.only or way.name in given.only]
    with servers(chosen) as urls:
        for _ in range(given.rounds):
            for way in chosen:
                url = urls[way.in_cluster_mode]
                if given.latency:
                    fill(url, way, given.shards, 0)
                    asyncio.run(measure_latency(url, way, given.shards))
                else:
                    fill(url, way, given.shards, given.messages)
                    asyncio.run(measure(url, way, given.messages))
    (show_latency if given.latency else show)(chosen, as_json=given.json)


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
        keys = way.keys(shards)
        for key in keys:
            redis.xgroup_create(key, GROUP, id="0", mkstream=True)
        draw = random.Random(1)  # noqa: S311 - no secret
        numbers = [draw.randrange(KEYS) for _ in range(min(messages, 2 * KEYS))]
        if numbers:
            filling.execute(redis, [add(keys, number) for number in numbers], messages)
        redis.config_resetstat()


def add(keys: Sequence[str], number: int) -> bytes:
    """Return the command that adds a message with the key of a number."""
    shard, key = keys[number % len(keys)], b"%d" % number
    return filling.pack_command((b"XADD", shard, b"*", b"msg", PAYLOAD, b"key", key))


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


async def measure_latency(url: str, way: Way, shards: int) -> None:
    """Send messages at a fixed pace for some seconds; note how long each one took."""
    draw, waits = random.Random(1), list[float]()  # noqa: S311 - no secret
    done = asyncio.Event()

    async def handle(message: Message[bytes]) -> None:
        waits.append(time.perf_counter() - float(message.payload))
        if len(waits) == PACED:
            done.set()

    async with (
        Consumer(way.stream, url=url, group=GROUP, ownership=way.ownership) as consumer,
        Producer(url, shards=shards) as producer,
    ):
        running = asyncio.create_task(
            consumer.run(handle, concurrency=16, ordering="key")
        )
        await asyncio.sleep(1)  # until owners have their shards
        began = time.perf_counter()
        for number in range(PACED):
            await asyncio.sleep(max(0, began + number * PACE - time.perf_counter()))
            sent = b"%f" % time.perf_counter()
            await producer.enqueue(way.stream, sent, key=str(draw.randrange(KEYS)))
        await producer.flush()
        await done.wait()
        await consumer.aclose()
        await running
    way.waits += waits


def calls(url: str) -> int:
    """Return how many reads the server has executed; nothing may be pending."""
    redis: Any
    with connect(url) as redis:
        check_settled(redis)
        return int(redis.info("commandstats")["cmdstat_xreadgroup"]["calls"])


def show_latency(chosen: Sequence[Way], *, as_json: bool) -> None:
    """Print the latencies of all rounds."""
    rows = []
    for way in chosen:
        parts = quantiles(way.waits, n=100)
        rows.append((way.name, parts[49] * 1e6, parts[98] * 1e6))
    if as_json:
        for name, p50, p99 in rows:
            figures = {"p50_us": round(p50), "p99_us": round(p99)}
            print(json.dumps({"way": name, **figures}))
        return
    cells = [(name, f"{p50:,.0f}", f"{p99:,.0f}") for name, p50, p99 in rows]
    print(table.plain(("way", "p50 us", "p99 us"), cells))


def show(chosen: Sequence[Way], *, as_json: bool) -> None:
    """Print the rates, and the least CPU with its ratio to the first way's."""
    rows = [
        (
            way.name,
            round(max(way.rates)),
            round(median(way.rates)),
            min(way.cpu),
            round(median(way.entries)),
        )
        for way in chosen
    ]
    if as_json:
        for name, best, rate, cpu, entries in rows:
            rates = {"messages_per_second": rate, "best": best}
            figures = {"client_cpu_us": round(cpu, 2), "entries_per_read": entries}
            print(json.dumps({"way": name, **rates, **figures}))
        return
    least = rows[0][3]
    cells = [
        (
            name,
            f"{best:,}",
            f"{rate:,}",
            f"{cpu:.2f}",
            f"{cpu / least:.2f}",
            f"{all_:,}",
        )
        for name, best, rate, cpu, all_ in rows
    ]
    heads = (
        "way",
        "best msg/s",
        "median",
        "client CPU us",
        "of the first",
        "entries a read",
    )
    print(table.plain(heads, cells))
