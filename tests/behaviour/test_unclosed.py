"""Objects dropped without being closed: they warn and close, and print nothing else.

Each program runs in its own process, since asyncio and Python write to standard error
when they destroy remaining objects.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

from penstock import Consumer, Message, Producer, Router
from support.proxy import proxy
from support.server import server
from support.storm import nothing_left
from support.waiting import eventually, pending, read, send

LOOPS = ["asyncio", *(["uvloop"] if sys.platform != "win32" else [])]

OPENINGS = {
    "producer": "Producer(url)",
    "consumer": "Consumer(stream, url=url, group='g')",
    "owned": "Consumer(stream, url=url, group='o', ownership='owned')",
    "realtime": "Consumer(stream, url=url)",
    "delayed": "Consumer(stream, url=url, group='g', auto_commit=DELAYED)",
    "router": "router_of(url, stream)",
    "admin": "Admin(url)",
}

HEAD = """
import asyncio, gc, sys, time
from penstock import DELAYED, KEEP_ALL, Consumer, Producer, Router
from penstock.admin import Admin
url, stream, loop_name = sys.argv[1:]
if loop_name == "uvloop":
    import uvloop
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

def router_of(url, stream):
    router = Router(url)

    @router.handler(stream, group="g")
    async def handle(payload: bytes) -> None: ...

    return router
"""


async def run(
    program: str, url: str, stream: str, loop: str, within: float = 45
) -> str:
    """Run a program; return what it wrote to standard error."""
    source = HEAD + textwrap.dedent(program)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "always", "-c", source, url, stream, loop),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(within):
        out, errors = await process.communicate()
    text = errors.decode()
    assert process.returncode == 0, text
    assert out == b"done\n", text
    return text


def only_warnings(text: str, name: str) -> None:
    """Check that there was a warning with this name, and no other output.

    What is cut off may leave a shard taken for a lease, which is reported.
    """
    lines = [line for line in text.splitlines() if not line.startswith("  ")]
    lines = [line for line in lines if not line.startswith("shards_not_freed ")]
    warned = [line for line in lines if "ResourceWarning" in line]
    assert any(name in line for line in warned), text
    assert not [
        line for line in lines if line not in warned and "unbounded" not in line
    ]


NAMES = {
    "router": "Running",
    **dict.fromkeys(("owned", "realtime", "delayed"), "Consumer"),
}


async def run_for_each(
    program: str, openings: dict[str, str], url: str, stream: str, loop: str
) -> None:
    """Run a program's `one(open)` for each kind of object; each has to warn."""
    source = textwrap.dedent(program) + textwrap.dedent(f"""
    for kind, opening in {openings!r}.items():
        print("=", kind, file=sys.stderr, flush=True)
        one(lambda: eval(opening))
    print("done")
    """)
    text = await run(source, url, stream, loop)
    parts = [part.split("\n", 1) for part in text.split("= ")[1:]]
    assert [kind for kind, _ in parts] == list(openings), text
    for kind, output in parts:
        only_warnings(output, NAMES.get(kind, kind.capitalize()))


@pytest.mark.parametrize("loop", LOOPS)
async def test_the_end_of_asyncio_run_closes_open_objects(
    url: str, stream: str, redis: Any, loop: str
) -> None:
    program = """
    kept = []

    async def main(create):
        kept.append(create())
        await kept[-1].start()

    def one(create):
        asyncio.run(main(create))
    """
    async with nothing_left(redis):
        await run_for_each(program, OPENINGS, url, stream, loop)


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_dropped_object_is_closed_by_its_event_loop(
    url: str, stream: str, redis: Any, loop: str
) -> None:
    program = """
    async def main(create):
        openable = create()
        await openable.start()
        del openable
        gc.collect()
        async with asyncio.timeout(9):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)

    def one(create):
        asyncio.run(main(create))
    """
    async with nothing_left(redis):
        await run_for_each(program, OPENINGS, url, stream, loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("block", [True, False])
async def test_a_closed_event_loop_leaves_nothing_but_warnings(
    url: str, stream: str, redis: Any, loop: str, *, block: bool
) -> None:
    """Without asyncio.run, so that remaining tasks are not cancelled."""
    openings = dict(OPENINGS)
    openings["router"] += ".running()" if block else ""
    program = f"""
    def one(create):
        loop = asyncio.new_event_loop()
        openable = create()
        loop.run_until_complete(openable.{"__aenter__" if block else "start"}())
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
        del openable, loop
        gc.collect()
        gc.collect()
    """
    async with nothing_left(redis):
        await run_for_each(program, openings, url, stream, loop)


@pytest.mark.parametrize("loop", LOOPS)
async def test_an_event_loop_closed_while_everything_runs_leaves_nothing_but_warnings(
    url: str, stream: str, redis: Any, loop: str
) -> None:
    program = """
    loop = asyncio.new_event_loop()

    async def main():
        global kept
        producer = Producer(url, retention=KEEP_ALL)
        consumer = Consumer(stream, url=url, group="g")
        running = router_of(url, stream + "-2").running()
        kept = [producer, consumer, running]
        for each in kept:
            await each.__aenter__()
        for number in range(100):
            await producer.enqueue(stream, b"x")
        async def slow(message):
            await asyncio.sleep(9)
        kept.append(asyncio.create_task(consumer.run(slow, concurrency=3)))
        await asyncio.sleep(0.1)
        kept.append(await producer.enqueue(stream, b"x"))
        kept.pop(-2)._log_destroy_pending = False

    loop.run_until_complete(main())
    loop.close()
    del kept, loop
    # What one collection finalizes holds objects that the next one finalizes.
    gc.collect()
    gc.collect()
    print("done")
    """
    async with nothing_left(redis):
        text = await run(program, url, stream, loop)
    # The consumer is held by the user's own task, which has not been ended.
    for name in ("Producer", "Running"):
        assert f"ResourceWarning: <{name}" in text
    assert "Traceback" not in text
    assert "destroyed" not in text
    assert "didn't stop" not in text


@pytest.mark.parametrize("loop", LOOPS)
async def test_the_end_of_asyncio_run_sends_acknowledgements_and_releases_the_rest(
    url: str, stream: str, redis: Any, loop: str
) -> None:
    """A task that holds a consumer is cancelled with all others, Penstock's too."""
    await send(url, stream, *range(50))
    program = """
    async def work():
        async with Consumer(stream, url=url, group="g") as consumer:
            for _ in range(10):
                (await consumer.next()).ack()
            print("done")
            ready.set()
            await asyncio.Event().wait()

    async def main():
        global ready
        ready = asyncio.Event()
        task = asyncio.create_task(work())
        await ready.wait()
        return time.monotonic()

    ended = asyncio.run(main())
    assert time.monotonic() - ended < 5  # far less than `close_timeout`
    """
    async with nothing_left(redis):
        text = await run(program, url, stream, loop)
    assert text == ""
    [group] = await redis.xinfo_groups(stream)
    assert group["entries-read"] - group["pending"] == 10
    # The rest was released: others can have it at once.
    reply = await redis.xautoclaim(stream, "g", "other", 60_000, count=100)
    assert len(reply[1]) == group["pending"]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("held", [True, False])
async def test_the_end_of_asyncio_run_sends_queued_messages(
    url: str, stream: str, redis: Any, loop: str, *, held: bool
) -> None:
    """Whether a task holds the producer, which is cancelled too, or nothing does."""
    program = f"""
    async def work(ready):
        producer = Producer(url, retention=KEEP_ALL)
        await producer.start()
        try:
            for _ in range(9000):
                producer.enqueue_nowait(stream, b"x")
            print("done")
            ready.set()
            kept.append(producer)
            if {held}:
                await asyncio.Event().wait()
        finally:
            if {held}:
                await producer.aclose()

    async def main():
        ready = asyncio.Event()
        task = asyncio.create_task(work(ready))
        await ready.wait()

    kept = []
    asyncio.run(main())
    """
    async with nothing_left(redis):
        text = await run(program, url, stream, loop)
    assert await redis.xlen(stream) == 9000
    if held:
        assert text == ""
    else:
        only_warnings(text, "Producer")


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, 0.5])
async def test_cancelling_all_tasks_of_a_closing_consumer_loses_nothing(
    url: str, stream: str, redis: Any, moment: float
) -> None:
    """As a second Ctrl-C does."""
    await send(url, stream, *range(50))
    async with proxy(url) as between:
        consumer = Consumer(stream, url=between.url, group="g")
        await consumer.start()
        for message in await read(consumer, 10):
            message.ack()
        between.delay = 0.1
        closing = asyncio.create_task(consumer.aclose())
        await asyncio.sleep(moment)
        for task in asyncio.all_tasks():
            if "penstock" in task.get_name() or "Session" in task.get_name():
                task.cancel()
        await closing
    [group] = await redis.xinfo_groups(stream)
    assert group["entries-read"] - group["pending"] == 10
    reply = await redis.xautoclaim(stream, "g", "other", 60_000, count=100)
    assert len(reply[1]) == group["pending"]


async def test_cancelling_all_tasks_before_closing_causes_no_warning(
    url: str, stream: str, redis: Any
) -> None:
    """A common end of programs: it closes the consumer, which `aclose` accepts."""
    await send(url, stream, *range(5))
    consumer, producer = Consumer(stream, url=url, group="g"), Producer(url)
    await consumer.start()
    await producer.start()
    (await read(consumer, 1))[0].ack()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await consumer.aclose()
    await producer.aclose()
    assert await pending(redis, stream, "g") <= 4
    await consumer.start()
    assert len(await read(consumer, 4)) == 4
    await consumer.aclose()


async def test_the_end_of_asyncio_run_does_not_wait_for_a_frozen_server(
    tmp_path: Path,
) -> None:
    program = """
    import os, signal, time

    async def main():
        global kept
        kept = [Consumer("s", url=url, group="g", close_timeout=0.5)]
        kept.append(Producer(url, close_timeout=0.5))
        for each in kept:
            await each.start()
        os.kill(int(stream), signal.SIGSTOP)
        kept.append(await kept[1].enqueue("s", b"x"))
        return time.monotonic()

    start = asyncio.run(main())
    assert time.monotonic() - start < 1.5
    print("done")
    """
    async with server(tmp_path) as own:
        assert own._process is not None
        text = await run(program, own.url, str(own._process.pid), "asyncio")
    assert "<Consumer 's'" in text
    assert "<Producer" in text
    assert "Traceback" not in text


async def test_dropping_a_consumer_releases_its_messages(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, *range(20))

    async def drop() -> None:
        consumer = Consumer(stream, url=url, group="g")
        await consumer.start()
        await consumer.next()
        del consumer
        gc.collect()

    with pytest.warns(
        ResourceWarning, match="<Consumer 'test-.* was garbage-collected"
    ):
        await drop()

    async def released() -> bool:
        lines = await redis.xpending_range(stream, "g", "-", "+", 100)
        return lines and all(line["time_since_delivered"] >= 60_000 for line in lines)

    await eventually(released)


async def test_an_outlet_keeps_its_producer_open(
    url: str, stream: str, redis: Any
) -> None:
    async def opened() -> Any:
        producer = Producer(url)
        await producer.start()
        return producer, producer.to(stream)

    producer, outlet = await opened()
    aclose = producer.aclose
    del producer
    gc.collect()
    await outlet.send(b"x")
    await aclose()
    assert await redis.xlen(stream) == 1


async def test_a_run_keeps_its_consumer_open(url: str, stream: str, redis: Any) -> None:
    got: list[bytes] = []

    async def handle(message: Message[bytes]) -> None:
        got.append(message.payload)

    async def opened() -> asyncio.Task[None]:
        consumer = Consumer(stream, url=url, group="g")
        await consumer.start()
        return asyncio.create_task(consumer.run(handle))

    running = await opened()
    gc.collect()
    await send(url, stream, 1)

    async def done() -> bool:
        return got == [b"1"]

    await eventually(done)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        running.cancel()
        await asyncio.wait([running])
        del running
        gc.collect()
    async with asyncio.timeout(9):
        while any("penstock" in each.get_name() for each in asyncio.all_tasks()):
            await asyncio.sleep(0.01)


async def test_closed_objects_do_not_warn(url: str, stream: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for openable in (Producer(url), Consumer(stream, url=url, group="g")):
            async with openable:
                pass
        router = Router(url)

        @router.handler(stream, group="g")
        async def handle(_: bytes) -> None: ...

        async with router.running():
            pass
        del openable, router, handle
        gc.collect()
