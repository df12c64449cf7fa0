"""Cancelling: every public await may be cancelled at any moment without a loss."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from itertools import count
from typing import Any

import anyio
import pytest

from penstock import (
    ACKED,
    EARLIEST,
    KEEP_ALL,
    ROLLING,
    CommandError,
    Consumer,
    Message,
    Producer,
    Receipt,
    Router,
    admin,
    replay,
)
from penstock.admin import Admin
from support.dead_letters import write_dead_letter
from support.events import Events
from support.storm import Storm, nothing_left
from support.waiting import eventually, numbers, pending, read, send

SEEDS = (1, 2)


async def read_the_rest(url: str, stream: str, redis: Any) -> list[bytes]:
    """Let another consumer handle the messages that the storm has left."""
    rest: list[bytes] = []

    async def handle(message: Message[bytes]) -> None:
        rest.append(message.payload)

    async def all_handled() -> bool:
        [group] = await redis.xinfo_groups(stream)
        last = (await redis.xinfo_stream(stream))["last-generated-id"]
        return not group["pending"] and group["last-delivered-id"] == last

    async with Consumer(stream, url=url, group="g", start=EARLIEST) as consumer:
        run = asyncio.create_task(consumer.run(handle))
        await eventually(all_handled)
        assert consumer.statistics().in_hand == 0
        await consumer.aclose()
        await run
    return rest


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [4, 10_000])
async def test_sends_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int, limit: int
) -> None:
    """With a buffer that is full most of the time, and with one that never is."""
    storm, payloads = Storm(seed, spared=0.1), count()
    tried: set[bytes] = set()
    receipts: dict[bytes, Receipt] = {}

    def payload() -> bytes:
        made = b"%d" % next(payloads)
        tried.add(made)
        return made

    async with nothing_left(redis):
        async with Producer(url, max_messages=limit, retention=KEEP_ALL) as producer:

            async def sends() -> None:
                body = payload()
                receipts[body] = await producer.send(stream, body)

            async def enqueues() -> None:
                body = payload()
                ticket = await producer.enqueue(stream, body)
                receipts[body] = await ticket

            async def sends_many() -> None:
                bodies = [payload() for _ in range(7)]
                for body, outcome in zip(
                    bodies, await producer.send_many(stream, bodies), strict=True
                ):
                    assert isinstance(outcome, Receipt)
                    receipts[body] = outcome

            async def iterates() -> None:
                bodies = [payload() for _ in range(7)]
                left = iter(bodies)
                async for outcome in producer.send_many(stream, bodies):
                    assert isinstance(outcome, Receipt)
                    receipts[next(left)] = outcome

            calls = (sends, enqueues, sends_many, iterates, producer.flush)
            await storm.over(*calls, times=600, cancel=101, concurrency=12)
            await producer.flush()
            body = payload()
            receipts[body] = await producer.send(stream, body)
            assert producer._sender.accumulator.held == 0
            assert not producer._sender._waiting
        stored = {id_: fields[b"msg"] for id_, fields in await redis.xrange(stream)}
    assert storm.cancelled > 100
    assert storm.done > 20
    # Each receipt belongs to its own message, and no message was stored twice.
    assert {stored[str(r.id).encode()]: r for r in receipts.values()} == {
        body: receipts[body] for body in receipts
    }
    assert set(stored.values()) <= tried
    assert len(stored) == len(set(stored.values()))


@pytest.mark.parametrize("seed", SEEDS)
async def test_opening_and_closing_a_producer_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    storm, payloads = Storm(seed, longest=0.006), count()
    queued: list[bytes] = []

    async def opens() -> None:
        async with Producer(url, retention=KEEP_ALL) as producer:
            for _ in range(3):
                body = b"%d" % next(payloads)
                producer.enqueue_nowait(stream, body)
                queued.append(body)
            await asyncio.sleep(0.001)

    async with nothing_left(redis):
        await storm.over(opens, times=300, cancel=101)
        await opens()
    assert storm.cancelled > 100
    # Closing sends queued messages, and a second cancellation does not stop that.
    stored = [fields[b"msg"] for _, fields in await redis.xrange(stream)]
    assert sorted(stored) == sorted(queued)


@pytest.mark.parametrize("seed", SEEDS)
async def test_receiving_messages_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    storm, handled = Storm(seed), []
    await send(url, stream, *range(1500))
    async with nothing_left(redis):
        async with Consumer(stream, url=url, group="g") as consumer:

            async def gets() -> None:
                message = await consumer.next()
                handled.append(message.payload)

            async def gets_in_time() -> None:
                message = await consumer.next(timeout=0.001)
                if message is not None:
                    handled.append(message.payload)

            async def takes() -> None:
                messages = await consumer.take(10, timeout=0.001)
                handled.extend(message.payload for message in messages)

            async def loops() -> None:
                async for message in consumer:
                    handled.append(message.payload)
                    await asyncio.sleep(0)

            async def loops_over_batches() -> None:
                async for messages in consumer.batches(7, linger=0.001):
                    handled.extend(message.payload for message in messages)
                    await asyncio.sleep(0)

            async def runs() -> None:
                async def handle(message: Message[bytes]) -> None:
                    await asyncio.sleep(0)
                    handled.append(message.payload)

                await consumer.run(handle, concurrency=3)

            calls = (gets, gets_in_time, takes, loops, loops_over_batches, runs)
            await storm.over(*calls, times=900, cancel=201)
            assert not consumer.statistics().late
            assert not waiting_calls(consumer)
            assert not consumer._open.checkouts.by_caller
        handled += await read_the_rest(url, stream, redis)
    assert storm.cancelled > 200
    assert set(handled) == {b"%d" % number for number in range(1500)}
    # Only messages whose task was cancelled while it held them may be redelivered.
    assert len(handled) - 1500 <= 10 * storm.cancelled


def waiting_calls(consumer: Consumer[bytes]) -> list[asyncio.Future[None]]:
    """Return the futures of calls that wait for messages."""
    waiters = consumer._open.checkouts.entry_queue.waiters
    return [*waiters._for_one._waiting, *waiters._for_several._waiting]


@pytest.mark.parametrize("batched", [False, True])
async def test_the_messages_that_a_cancelled_loop_held_are_redelivered(
    url: str, stream: str, redis: Any, *, batched: bool
) -> None:
    """Also if the consumer is then left cleanly, which acknowledges after a `break`."""
    await send(url, stream, *range(3))
    received = asyncio.Event()

    async def loop(consumer: Consumer[bytes]) -> None:
        async for _ in consumer.batches(3) if batched else consumer:
            received.set()
            await asyncio.Event().wait()

    async with Consumer(stream, url=url, group="g") as consumer:
        task = asyncio.create_task(loop(consumer))
        await received.wait()
        task.cancel()
        await asyncio.wait([task])
    assert sorted(await read_the_rest(url, stream, redis)) == [b"0", b"1", b"2"]


async def test_calls_that_give_up_on_a_quiet_stream_leave_nothing_waiting(
    url: str, stream: str, redis: Any
) -> None:
    storm = Storm(3, longest=0.0005)
    async with nothing_left(redis):
        async with Consumer(stream, url=url, group="g") as consumer:
            await storm.over(
                consumer.next,
                partial(consumer.next, timeout=0.0001),
                partial(consumer.take, 3, timeout=0.0001),
                times=1500,
                cancel=501,
                concurrency=20,
            )
            assert not waiting_calls(consumer)
            assert consumer.statistics().in_hand == 0
            await send(url, stream, 7)
            async with asyncio.timeout(5):
                assert (await consumer.next()).payload == b"7"
    assert storm.cancelled > 500


async def test_a_stream_stays_assigned_although_an_unassign_was_cancelled_before(
    url: str, stream: str
) -> None:
    """The cancelled call may still take effect later, when the blocked read returns."""
    other = f"{stream}-b"
    async with Consumer(stream, url=url, group="g") as consumer:
        await consumer.assign(other)
        for turns in range(4):
            unassigning = asyncio.create_task(consumer.unassign(other))
            for _ in range(turns):
                await asyncio.sleep(0)
            unassigning.cancel()
            await asyncio.wait([unassigning])
            await consumer.assign(other)
            await send(url, other, turns)
            assert numbers(await read(consumer, 1, within=5)) == [turns]


@pytest.mark.parametrize("seed", SEEDS)
async def test_seeking_and_assigning_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    """Messages are taken between the calls, so that reads are under way."""
    storm, other, handled = Storm(seed, longest=0.006), f"{stream}-b", set[bytes]()
    await send(url, stream, *range(300))
    await send(url, other, *range(1000, 1300))
    async with nothing_left(redis):
        async with Consumer(
            stream, url=url, group="g", mode="resumable", auto_commit=ROLLING
        ) as consumer:

            async def takes() -> None:
                for message in await consumer.take(20, timeout=0.01):
                    message.ack()
                    handled.add(message.payload)

            async def unassigns() -> None:
                if other in {shard.stream for shard in consumer.shards}:
                    await consumer.unassign(other)

            calls = (
                partial(consumer.seek, EARLIEST),
                takes,
                partial(consumer.assign, other),
                consumer.commit,
                unassigns,
                consumer.lag,
            )
            # One at a time: unassigning a stream that was just unassigned is refused.
            await storm.over(*calls, times=300, cancel=51, concurrency=1)
            await consumer.assign(other)
            await consumer.seek(EARLIEST)
            handled.clear()
            async with asyncio.timeout(20):
                while len(handled) < 600:
                    await takes()
            await consumer.commit()
            assert set((await consumer.lag()).values()) == {0}
        assert await pending(redis, stream, "g") == 0
        assert await pending(redis, other, "g") == 0
    assert storm.cancelled > 50
    assert handled == {b"%d" % n for n in (*range(300), *range(1000, 1300))}


@pytest.mark.parametrize("seed", SEEDS)
async def test_opening_and_closing_a_consumer_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int, events: Events
) -> None:
    storm, handled = Storm(seed, longest=0.012), list[bytes]()
    await send(url, stream, *range(400))

    async def opens() -> None:
        async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
            handled.append((await consumer.next()).payload)
            handled.append((await consumer.next()).payload)

    async def closes() -> None:
        async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
            handled.append((await consumer.next()).payload)
            await storm.once(consumer.aclose)

    async with nothing_left(redis):
        await storm.over(opens, closes, times=200, cancel=51)
        handled += await read_the_rest(url, stream, redis)
    assert storm.cancelled > 50
    assert set(handled) == {b"%d" % number for number in range(400)}
    assert not events.named("close_incomplete")


@pytest.mark.parametrize("how", ["leaving", "aclose"])
async def test_closing_is_completed_however_often_it_is_cancelled(
    url: str, stream: str, redis: Any, how: str
) -> None:
    """So finished messages are acknowledged, and no task is left running."""
    await send(url, stream, *range(20))
    opened, handled = asyncio.Event(), list[bytes]()
    started = 0

    async def handle(message: Message[bytes]) -> None:
        nonlocal started
        started += 1
        if started == 3:
            opened.set()
        await asyncio.sleep(0.2)
        handled.append(message.payload)

    async with nothing_left(redis):

        async def consume() -> None:
            async with Consumer(stream, url=url, group="g") as consumer:
                run = asyncio.create_task(consumer.run(handle, concurrency=3))
                try:
                    await opened.wait()
                    if how == "aclose":
                        await consumer.aclose()
                    else:
                        await asyncio.Event().wait()
                finally:
                    run.add_done_callback(lambda _: opened.clear())

        task = asyncio.create_task(consume())
        await opened.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.01)
        assert task.cancelled()
        assert not opened.is_set()
        assert len(handled) == 3
        [group] = await redis.xinfo_groups(stream)
        delivered = await redis.xrange(stream, max=group["last-delivered-id"])
        assert len(delivered) - group["pending"] == 3
        handled += await read_the_rest(url, stream, redis)
    assert sorted(map(int, handled)) == list(range(20))


@pytest.mark.parametrize("seed", SEEDS)
async def test_runs_and_handlers_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    """Runs are cancelled while their handlers run, and handlers cancel themselves."""
    storm, handled = Storm(seed, longest=0.02), list[bytes]()
    tried = Counter[bytes]()
    await send(url, stream, *range(300))

    async def handle(message: Message[bytes]) -> None:
        tried[message.payload] += 1
        if int(message.payload) % 7 == 0 and message.attempt == 1:
            with anyio.move_on_after(0):
                await asyncio.sleep(1)
            raise asyncio.CancelledError
        await asyncio.sleep(0.0005)
        handled.append(message.payload)

    async def runs() -> None:
        async with Consumer(stream, url=url, group="g") as consumer:
            await storm.over(
                partial(consumer.run, handle, concurrency=4), times=10, concurrency=2
            )

    async with nothing_left(redis):
        for _ in range(4):
            await runs()
        handled += await read_the_rest(url, stream, redis)
    assert set(handled) == {b"%d" % number for number in range(300)}


@pytest.mark.parametrize("seed", SEEDS)
async def test_transactions_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    """A cancelled transaction may be applied or not, but never twice."""
    storm, out = Storm(seed), f"{stream}-out"
    await send(url, stream, *range(300))
    async with nothing_left(redis):
        async with Consumer(
            stream, url=url, group="g", auto_commit=ROLLING, name="me"
        ) as consumer:

            async def applies() -> None:
                message = await consumer.next()
                async with message.transaction() as tx:
                    tx.command("HINCRBY", out, message.payload.decode(), 1)

            await storm.over(applies, times=250, cancel=21)

        async def all_handled() -> bool:
            return bool(await redis.hlen(out) == 300)

        async def handle(message: Message[bytes]) -> None:
            async with message.transaction() as tx:
                tx.command("HINCRBY", out, message.payload.decode(), 1)

        async with Consumer(stream, url=url, group="g", name="me") as consumer:
            run = asyncio.create_task(consumer.run(handle))
            await eventually(all_handled)
            await consumer.aclose()
            await run
        assert await pending(redis, stream, "g") == 0
    assert storm.cancelled > 20
    assert set((await redis.hgetall(out)).values()) == {b"1"}


@pytest.mark.parametrize("seed", SEEDS)
async def test_calls_of_an_admin_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    storm = Storm(seed)
    await send(url, stream, *range(50))
    await redis.xgroup_create(stream, "g", "0")
    letter_ids = [
        await write_dead_letter(redis, stream, b"%d" % number) for number in range(100)
    ]
    async with nothing_left(redis):
        async with Admin(url) as operator:

            async def iterates() -> None:
                async for letter in operator.dead.each(stream):
                    assert letter.payload in {b"%d" % n for n in range(100)}

            async def opens() -> None:
                async with Admin(url) as another:
                    await another.group_state(stream, "g")

            async def reads() -> None:
                for number, id_ in enumerate(letter_ids[:3]):
                    letter = await operator.dead.read(stream, id_)
                    assert letter is None or letter.payload == b"%d" % number

            await storm.over(
                partial(operator.group_state, stream, "g"),
                partial(operator.reset_group, stream, "g", EARLIEST),
                partial(operator.trim, stream, ACKED),
                partial(operator.delete_stream, f"{stream}-none"),
                partial(admin.group_state, stream, "g", url=url),
                partial(operator.dead.redrive, stream, limit=1),
                iterates,
                reads,
                opens,
                times=300,
                cancel=101,
            )
            state = await operator.group_state(stream, "g")
            assert (state.pending, state.lag) == (0, await redis.xlen(stream))
            await operator.dead.redrive(stream)
    assert storm.cancelled > 100
    # All dead letters were redriven, each once.
    bodies = [fields[b"msg"] for _, fields in await redis.xrange(stream)]
    assert sorted(map(int, bodies)) == sorted((*range(50), *range(100)))


@pytest.mark.parametrize("seed", SEEDS)
async def test_replays_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    storm = Storm(seed, longest=0.02)
    await send(url, stream, *range(500))

    async def iterates() -> None:
        given = [m.payload async for m in replay(stream, url=url, page=50)]
        assert given == [b"%d" % number for number in range(500)]

    async def pauses() -> None:
        async for _ in replay(stream, url=url, page=50):
            await asyncio.sleep(0)

    async with nothing_left(redis):
        await storm.over(iterates, pauses, times=200, cancel=51)
        await iterates()
    assert storm.cancelled > 50


@pytest.mark.parametrize("seed", SEEDS)
async def test_routers_can_be_cancelled(
    url: str, stream: str, redis: Any, seed: int
) -> None:
    storm, handled = Storm(seed, longest=0.02), list[bytes]()
    await send(url, stream, *range(200))

    def router() -> Router:
        made = Router(url)

        @made.handler(stream, group="g", concurrency=2)
        async def handle(message: Message[bytes]) -> None:
            await asyncio.sleep(0)
            handled.append(message.payload)

        @made.handler(f"{stream}-b", group="g")
        async def nothing(message: Message[bytes]) -> None:
            raise AssertionError

        return made

    async def runs() -> None:
        await router().run()

    async def in_the_background() -> None:
        async with router().running():
            await asyncio.sleep(0.01)

    async with nothing_left(redis):
        await storm.over(runs, in_the_background, times=100, cancel=41)
        handled += await read_the_rest(url, stream, redis)
    assert storm.cancelled > 40
    assert set(handled) == {b"%d" % number for number in range(200)}


async def test_a_failure_that_nobody_waits_for_any_more_is_no_error_of_the_event_loop(
    url: str, stream: str, redis: Any
) -> None:
    """For example, the failure of a seek that was cancelled before it was refused."""
    failed = asyncio.Event()

    async def work(connection: object, cursor: object) -> None:
        failed.set()
        raise CommandError("XGROUP SETID", "NOPERM", "no")

    async with nothing_left(redis):
        async with Consumer(stream, url=url, group="g") as consumer:
            asked = asyncio.create_task(consumer._open.readers.between_reads(work))
            await asyncio.sleep(0)
            asked.cancel()
            await failed.wait()
