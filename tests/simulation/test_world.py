"""The simulated world: its clock, event loops, network and processes."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest

from simulation.network import Conditions, Network, Peer
from simulation.process import Process
from simulation.world import World


class Echo:
    """A server that sends back what it receives, in capitals."""

    def __init__(self) -> None:
        self.received_data = b""
        self.peers: list[Peer] = []
        self.closed_count = 0

    def connected(self, peer: Peer) -> Session:
        self.peers.append(peer)
        return Session(self, peer)


class Session:
    def __init__(self, server: Echo, peer: Peer) -> None:
        self._server = server
        self._peer = peer

    def received(self, data: bytes) -> None:
        self._server.received_data += data
        self._peer.send(data.upper())

    def closed(self) -> None:
        self._server.closed_count += 1


class Bench:
    """A world with an echo server."""

    def __init__(self, seed: int = 1) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.server = Echo()
        self.network.listeners["server", 6379] = self.server
        self._processes: list[Process] = []

    def start(
        self, main: Callable[[], Coroutine[Any, Any, Any]], name: str = "p"
    ) -> Process:
        process = Process(self.network, name, main)
        self._processes.append(process)
        process.start()
        return process

    def run(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Process:
        process = self.start(main)
        assert self.world.run(lambda: not process.alive, 10_000), "it did not end"
        if process.error is not None:
            raise process.error
        return process

    def close(self) -> None:
        for process in self._processes:
            process.loop.close()


class Client(asyncio.Protocol):
    """A connection to the server."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost: Exception | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._arrived = asyncio.Event()

    @classmethod
    async def opened(cls, host: str = "server") -> Client:
        loop = asyncio.get_running_loop()
        client: Client = (await loop.create_connection(cls, host, 6379))[1]
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self._arrived.set()

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    async def read(self, count: int) -> bytes:
        while len(self.data) < count:
            if self.lost is not None:
                raise self.lost
            await self._arrived.wait()
            self._arrived.clear()
        found = bytes(self.data[:count])
        del self.data[:count]
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_time_jumps_to_what_happens_next(bench: Bench) -> None:
    woken = list[tuple[int, float]]()

    async def main() -> None:
        async def sleep(seconds: int) -> None:
            await anyio.sleep(seconds)
            woken.append((seconds, round(bench.world.elapsed, 2)))

        async with anyio.create_task_group() as group:
            for seconds in (3600, 1, 60):
                group.start_soon(sleep, seconds)

    bench.run(main)
    assert woken == [(1, 1.0), (60, 60.0), (3600, 3600.0)]


def test_timeouts_and_cancellation_work_as_they_do_in_asyncio(bench: Bench) -> None:
    seen = list[str]()

    async def main() -> None:
        with anyio.move_on_after(5):
            await anyio.sleep_forever()
        seen.append("moved on")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.Event().wait()
        task = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())

    async def fail() -> None:
        raise ValueError

    process = bench.run(main)
    assert seen == ["moved on"]
    assert process.left() == []
    assert 6 <= bench.world.elapsed < 6.1


def test_callbacks_run_in_the_order_in_which_they_were_scheduled(bench: Bench) -> None:
    order = list[int]()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(50):
            loop.call_soon(order.append, number)
        await asyncio.sleep(1)

    bench.run(main)
    assert order == [*range(50)]


def test_a_loop_that_waits_for_a_moment_without_an_await_ends(bench: Bench) -> None:

    async def main() -> None:
        while bench.world.monotonic() < 1000.001:
            pass

    bench.run(main)


def test_bytes_arrive_in_order_whatever_the_pieces_and_delays(bench: Bench) -> None:
    bench.network.set_conditions("p", Conditions(delay=0.01, jitter=0.1, pieces=1.0))
    sent = bytes(range(97, 123)) * 40

    async def main() -> None:
        client = await Client.opened()
        for start in range(0, len(sent), 13):
            client.write(sent[start : start + 13])
        assert await client.read(len(sent)) == sent.upper()
        client.close()

    process = bench.run(main)
    bench.world.run(lambda: False, 10)
    assert bench.server.received_data == sent
    assert bench.server.closed_count == 1
    assert process.left() == []


@pytest.mark.parametrize("count", range(6))
def test_a_connection_breaks_at_any_byte_of_a_reply(bench: Bench, count: int) -> None:
    got = bytearray()

    async def main() -> None:
        client = await Client.opened()
        bench.network.connections[0].down.break_after(count)
        client.write(b"hello!")
        with pytest.raises(ConnectionResetError):
            while True:
                got.extend(await client.read(1))

    bench.run(main)
    assert bytes(got) == b"HELLO!"[:count]
    assert bench.server.received_data == b"hello!"
    assert bench.server.closed_count == 1


def test_a_request_that_is_cut_off_reaches_the_server_in_part(bench: Bench) -> None:

    async def main() -> None:
        client = await Client.opened()
        bench.network.connections[0].up.break_after(3)
        client.write(b"hello!")
        with pytest.raises(ConnectionResetError):
            await client.read(6)

    bench.run(main)
    assert bench.server.received_data == b"hel"


def test_what_is_sent_into_a_silence_arrives_when_it_is_over(bench: Bench) -> None:

    async def main() -> None:
        client = await Client.opened()
        bench.network.connections[0].down.silence(7)
        client.write(b"a")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(6):
                await client.read(1)
        assert await client.read(1) == b"A"
        assert 7 <= bench.world.elapsed < 7.1

    bench.run(main)


def test_connections_can_be_refused_and_left_without_an_answer(bench: Bench) -> None:
    conditions = bench.network.conditions("p")

    async def main() -> None:
        conditions.refused_until = bench.world.time() + 1
        with pytest.raises(ConnectionRefusedError):
            await Client.opened()
        await asyncio.sleep(1)
        await Client.opened()
        conditions.silent_until = bench.world.time() + 5
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await Client.opened()
        with pytest.raises(ConnectionRefusedError):
            await Client.opened("nowhere")

    bench.run(main)


def test_a_process_that_stands_still_finds_its_bytes_and_timers_afterwards(
    bench: Bench,
) -> None:
    seen = list[str]()

    async def main() -> None:
        client = await Client.opened()
        asyncio.get_running_loop().call_later(0.5, seen.append, "timer")
        client.write(b"a")
        assert await client.read(1) == b"A"
        seen.append("byte")

    process = bench.start(main)
    bench.world.run(lambda: bool(bench.server.peers), 1)
    process.freeze(3)
    bench.world.run(lambda: False, 2.9)
    assert seen == []
    bench.world.run(lambda: process.ended, 1)
    bench.world.run(lambda: False, 1)
    # The sockets are read before the timers, and what waits for them runs afterwards.
    assert seen == ["timer", "byte"]


def test_nothing_of_a_killed_process_runs_any_more_and_its_connections_end(
    bench: Bench,
) -> None:
    seen = list[str]()

    async def main() -> None:
        await Client.opened()
        try:
            await asyncio.sleep(1)
        finally:
            seen.append("ran on")

    process = bench.start(main)
    bench.world.run(lambda: bool(bench.server.peers), 1)
    process.kill()
    bench.world.run(lambda: False, 10)
    assert seen == []
    assert not process.alive
    assert bench.server.closed_count == 1


def test_a_machine_that_vanishes_leaves_its_connections_open(bench: Bench) -> None:

    async def main() -> None:
        await Client.opened()
        await asyncio.sleep(100)

    process = bench.start(main)
    bench.world.run(lambda: bool(bench.server.peers), 1)
    process.kill(machine=True)
    bench.world.run(lambda: False, 10)
    assert bench.server.closed_count == 0


def test_sigterm_calls_the_handler_of_the_process(bench: Bench) -> None:

    async def main() -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        await over.wait()

    process = bench.start(main)
    bench.world.run(lambda: False, 1)
    process.terminate()
    assert bench.world.run(lambda: process.ended, 1)


def test_what_a_process_leaves_behind_is_listed(bench: Bench) -> None:
    kept = list[object]()

    async def main() -> None:
        kept.append(asyncio.create_task(asyncio.sleep(1000), name="forgotten"))
        kept.append(await Client.opened())
        asyncio.get_running_loop().call_exception_handler({"message": "odd"})

    left = "\n".join(bench.run(main).left())
    assert "forgotten" in left
    assert "timer" in left
    assert "connection 1" in left
    assert "odd" in left


def test_what_a_process_leaves_behind_never_runs_to_its_end() -> None:
    ran = list[str]()

    async def forget() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ran.append("its end")

    async def main() -> None:
        asyncio.get_running_loop().create_task(forget())
        ran.append("it")
        await asyncio.sleep(1)

    bench = Bench()
    bench.run(main)
    bench.close()
    del bench
    gc.collect()
    assert ran == ["it"]


def test_processes_run_side_by_side(bench: Bench) -> None:
    order = list[str]()

    async def main(name: str) -> None:
        for _ in range(20):
            order.append(name)
            await asyncio.sleep(0)

    one = bench.start(lambda: main("one"), "one")
    two = bench.start(lambda: main("two"), "two")
    assert bench.world.run(lambda: one.ended and two.ended, 1)
    assert order != sorted(order)


def test_the_same_seed_gives_the_same_run() -> None:
    def fingerprint(seed: int) -> str:
        bench = Bench(seed)

        async def main() -> None:
            client = await Client.opened()
            for _ in range(5):
                client.write(b"x" * 100)
                await client.read(100)

        bench.run(main)
        bench.close()
        return bench.world.fingerprint

    assert fingerprint(1) == fingerprint(1)
    assert fingerprint(1) != fingerprint(2)
