"""`resend=True` and `idempotent=True`: the consequences of lost replies."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    ConfigurationError,
    ConnectionLost,
    MaxLen,
    Outgoing,
    Producer,
    Receipt,
    RoundRobin,
    SendFailed,
    SendUnknown,
)
from penstock._connection.connection import Connection
from penstock._tasks.sending import flusher
from support.events import Events
from support.proxy import Proxy, proxy
from support.server import server, with_login
from support.waiting import eventually

BOTH = pytest.mark.parametrize("how", [{"resend": True}, {"idempotent": True}])
SHARDS = pytest.mark.parametrize("shards", [1, 3])


def keys(stream: str, shards: int) -> list[str]:
    return [f"{stream}:{n}" for n in range(shards)] if shards > 1 else [stream]


async def entries(redis: Any, key: str) -> list[tuple[str, int]]:
    """Return ids and decimal payloads."""
    return [(i.decode(), int(f[b"msg"])) for i, f in await redis.xrange(key)]


async def send_all(
    between: Proxy, stream: str, shards: int, count: int, events: Events, **how: Any
) -> list[Receipt]:
    """Send numbers, while every tenth reply is lost and its connection cut."""
    between.cut_every = 10
    spread = RoundRobin(shards) if shards > 1 else None
    async with Producer(
        between.url, sharder=spread, max_batch=10, on_event=events, **how
    ) as producer:
        futures = [await producer.enqueue(stream, b"%d" % n) for n in range(count)]
        receipts = await asyncio.gather(*futures)
    assert between.cuts > 10
    return receipts


@SHARDS
async def test_idempotent_sends_are_stored_once_in_order_whatever_replies_are_lost(
    url: str, stream: str, redis: Any, events: Events, shards: int
) -> None:
    async with proxy(url) as between:
        receipts = await send_all(
            between, stream, shards, 10_000, events, idempotent=True
        )
    for shard, key in enumerate(keys(stream, shards)):
        found = await entries(redis, key)
        numbers = list(range(10_000))[shard::shards]
        assert [number for _, number in found] == numbers
        assert [str(receipts[number].id) for number in numbers] == [i for i, _ in found]
        assert {receipts[number].shard for number in numbers} == {shard}
    assert events.named("send_repeated")
    assert not events.named("send_unknown")


@SHARDS
async def test_resent_messages_are_all_stored_and_their_first_copies_are_in_order(
    url: str, stream: str, redis: Any, events: Events, shards: int
) -> None:
    async with proxy(url) as between:
        receipts = await send_all(between, stream, shards, 10_000, events, resend=True)
    doubled = 0
    for shard, key in enumerate(keys(stream, shards)):
        found = await entries(redis, key)
        numbers = [number for _, number in found]
        assert list(dict.fromkeys(numbers)) == list(range(10_000))[shard::shards]
        doubled += len(numbers) - len(set(numbers))
        ids = set(found)
        for number in set(numbers):
            assert (str(receipts[number].id), number) in ids
    # Otherwise the test shows nothing.
    assert doubled > 0
    repeated = sum(int(str(e.facts["messages"])) for e in events.named("send_repeated"))
    assert repeated >= doubled
    assert not events.named("send_unknown")


async def test_writes_that_arrive_late_on_an_old_connection_store_nothing_twice(
    url: str, stream: str, redis: Any
) -> None:
    """The server reads the commands of a dead connection after all were resent."""
    requests: list[bytes] = []
    producer = Producer(url, idempotent=True)
    async with producer:
        request = Connection.request

        def spy(self: Any, data: bytes, *args: Any) -> Any:
            requests.append(data)
            return request(self, data, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "request", spy)
            for number in range(5):
                await producer.send(stream, b"%d" % number)
        reader, writer = await dial(url)
        writer.write(b"".join(requests))
        writer.write(b"*1\r\n$4\r\nPING\r\n")
        answer = await reader.readuntil(b"+PONG\r\n")
        writer.close()
        await writer.wait_closed()
    # The note of the last one still exists, and its outcome is returned again.
    assert answer.count(b"STALE") == 4
    assert [number for _, number in await entries(redis, stream)] == list(range(5))


async def dial(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a bare connection to the server."""
    through = Proxy(url)
    return await through._upstream()


@BOTH
async def test_messages_in_flight_are_resent_before_queued_ones(
    url: str, stream: str, redis: Any, how: dict[str, Any]
) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_batch=3, max_in_flight=2, **how
        ) as producer:
            await producer.send(stream, b"0")
            between.drop_replies = True
            futures = [producer.enqueue_nowait(stream, b"%d" % n) for n in range(1, 9)]
            await eventually(
                lambda: value_of(not producer._sender.queued._event.is_set())
            )
            between.drop_replies = False
            between.cut()
            receipts = await asyncio.gather(*futures)
    found = await entries(redis, stream)
    assert list(dict.fromkeys(number for _, number in found)) == list(range(9))
    assert [r.id for r in receipts] == sorted(r.id for r in receipts)


async def value_of(value: object) -> object:
    return value


@BOTH
async def test_a_message_that_is_never_answered_is_unknown_when_its_time_is_over(
    url: str, stream: str, events: Events, how: dict[str, Any]
) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_messages=2, close_timeout=0, on_event=events, **how
        ) as producer:
            await producer.send(stream, b"first")
            between.drop_replies = True
            written = await producer.enqueue(stream, b"written", timeout=0.2)
            await eventually(lambda: value_of(producer._sender.accumulator.in_flight))
            await between.stop()
            queued = await producer.enqueue(stream, b"queued", timeout=0.2)
            with pytest.raises(SendUnknown):
                await written
            with pytest.raises(SendFailed) as caught:
                await queued
            assert caught.value.code == "TIMEOUT"
            # Both are removed, so there is space in the buffer during the outage.
            producer.enqueue_nowait(stream, b"x")
            producer.enqueue_nowait(stream, b"x")
    [event] = events.named("send_unknown")
    assert event.facts["messages"] == 1


@BOTH
async def test_on_closing_written_messages_are_unknown_and_unwritten_ones_failed(
    url: str, stream: str, how: dict[str, Any]
) -> None:
    async with proxy(url) as between:
        async with Producer(
            between.url, max_batch=2, max_in_flight=1, close_timeout=0.1, **how
        ) as producer:
            await producer.send(stream, b"first")
            between.drop_replies = True
            futures = [producer.enqueue_nowait(stream, b"x") for _ in range(5)]
            await eventually(lambda: value_of(producer._sender.accumulator.in_flight))
            await between.stop()
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(o) for o in outcomes] == [SendUnknown] * 2 + [SendFailed] * 3


@BOTH
async def test_a_server_that_restarts_and_loads_loses_no_message(
    tmp_path: Path, stream: str, events: Events, how: dict[str, Any]
) -> None:
    async with (
        server(tmp_path) as own,
        Producer(own.url, on_event=events, max_batch=20, **how) as producer,
    ):
        futures = []
        for number in range(1000):
            futures.append(await producer.enqueue(stream, b"%d" % number))
            if number == 500:
                own.kill()
                await own.start()
        receipts = await asyncio.gather(*futures)
        client = own.client()
        found = await entries(client, stream)
        await client.aclose()
    assert list(dict.fromkeys(number for _, number in found)) == list(range(1000))
    if "idempotent" in how:
        assert [str(receipt.id) for receipt in receipts] == [i for i, _ in found]


@BOTH
async def test_temporarily_refused_messages_are_sent_afterwards_in_order(
    tmp_path: Path, stream: str, events: Events, how: dict[str, Any]
) -> None:
    """A primary that lacks replicas, and one that is demoted for some time."""
    async with server(tmp_path) as own:
        client = own.client()
        async with Producer(own.url, on_event=events, max_batch=20, **how) as producer:
            await producer.send(stream, b"0")
            for first, stop, go in (
                (1, "min-replicas-to-write 1", "min-replicas-to-write 0"),
                (201, "replicaof 127.0.0.1 1", "replicaof no one"),
            ):
                await apply_setting(client, stop)
                futures = [
                    await producer.enqueue(stream, b"%d" % n)
                    for n in range(first, first + 200)
                ]
                events.clear()
                await eventually(
                    lambda: value_of(len(events.named("send_repeated")) > 2)
                )
                # After the first refusal, one write is sent alone, so that none can
                # be stored before an older one.
                repeated = [e.facts["messages"] for e in events.named("send_repeated")]
                assert repeated[1:] == [20] * (len(repeated) - 1)
                assert not any(future.done() for future in futures)
                await apply_setting(client, go)
                await asyncio.gather(*futures)
        found = await entries(client, stream)
        await client.aclose()
    assert [number for _, number in found] == list(range(401))


async def apply_setting(client: Any, words: str) -> None:
    if words.startswith("min"):
        await client.config_set(*words.split())
    else:
        await client.execute_command(*words.split())


async def test_a_plain_send_raises_on_a_temporary_refusal(
    tmp_path: Path, stream: str
) -> None:
    async with (
        server(tmp_path, "--min-replicas-to-write", "1") as own,
        Producer(own.url) as producer,
    ):
        with pytest.raises(SendFailed) as caught:
            await producer.send(stream, b"x")
    assert caught.value.code == "NOREPLICAS"


@BOTH
async def test_a_permanently_refused_message_fails_alone(
    url: str, stream: str, redis: Any, how: dict[str, Any]
) -> None:
    await redis.set(f"{stream}-string", "no stream")
    async with Producer(url, **how) as producer:
        futures = [await producer.enqueue(stream, b"%d" % n) for n in range(37)]
        bad = await producer.enqueue(f"{stream}-string", b"x")
        low = await producer.enqueue(stream, b"x", id="1-1")
        futures += [await producer.enqueue(stream, b"%d" % n) for n in range(37, 99)]
        receipts = await asyncio.gather(*futures)
        for future, code in ((bad, "WRONGTYPE"), (low, "ID")):
            with pytest.raises(SendFailed) as caught:
                await future
            assert caught.value.code == code
    found = await entries(redis, stream)
    assert found == [(str(receipt.id), n) for n, receipt in enumerate(receipts)]


async def test_out_of_memory_each_message_is_refused_and_no_note_is_kept(
    tmp_path: Path, stream: str
) -> None:
    async with (
        server(tmp_path) as own,
        Producer(own.url, idempotent=True) as producer,
    ):
        client = own.client()
        await producer.send(stream, b"0")
        await client.config_set("maxmemory", "1")
        outcomes = await producer.send_many(stream, [b"x"] * 10)
        assert [getattr(o, "code", o) for o in outcomes] == ["OOM"] * 10
        await client.config_set("maxmemory", "0")
        await producer.send(stream, b"1")
        assert [number for _, number in await entries(client, stream)] == [0, 1]
        await client.aclose()


async def test_idempotent_sends_may_have_ids_keys_headers_and_retention(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, idempotent=True) as producer:
        await producer.send(stream, b"0", id="5-5")
        outcomes = await producer.send_many(
            stream,
            [Outgoing(b"1", id="6-6"), Outgoing(b"2", key="k", headers={"a": "b"})],
        )
        assert [type(outcome) for outcome in outcomes] == [Receipt] * 2
        for number in range(3, 9):
            await producer.send(stream, b"%d" % number, retention=MaxLen(4, exact=True))
    assert [number for _, number in await entries(redis, stream)] == [5, 6, 7, 8]


async def test_after_the_loss_of_its_notes_a_server_assumes_nothing_to_be_stored(
    url: str, stream: str, redis: Any
) -> None:
    async with proxy(url) as between:
        async with Producer(between.url, idempotent=True) as producer:
            await producer.send(stream, b"0")
            between.drop_replies = True
            future = producer.enqueue_nowait(stream, b"1")
            await eventually(lambda: has_length(redis, stream, 2))
            await redis.delete(*await redis.keys(f"*{stream}*"))
            between.drop_replies = False
            between.cut()
            receipt = await future
    assert await entries(redis, stream) == [(str(receipt.id), 1)]


async def has_length(redis: Any, stream: str, length: int) -> bool:
    return bool(await redis.xlen(stream) == length)


async def test_notes_are_few_and_expire(url: str, stream: str, redis: Any) -> None:
    async with Producer(url, idempotent=True, max_batch=5) as producer:
        for number in range(50):
            await producer.send(stream, b"%d" % number)
        await producer.send_many(stream, (b"%d" % n for n in range(50, 3000)))
        [mark] = await redis.keys(f"*{stream}*.sent.*")
        assert mark.startswith(b"{%b}.sent." % stream.encode())
        # The notes of runs that may be written again, and the lowest number of these.
        assert await redis.hlen(mark) <= 4 + 1
        assert 0 < await redis.pttl(mark) <= 24 * 3600 * 1000


async def test_producers_that_are_closed_leave_no_notes(
    url: str, stream: str, redis: Any
) -> None:
    for number in range(20):
        async with Producer(url, idempotent=True, shards=2) as producer:
            await producer.send_many(stream, [b"%d" % number] * 3)
            assert len(await redis.keys(f"*{stream}*.sent.*")) == 2
        assert not await redis.keys(f"*{stream}*.sent.*")
    # And so does one whose last message was cancelled while it was in flight.
    async with Producer(url, idempotent=True) as producer:
        (await producer.enqueue(stream, b"x")).cancel()
    assert not await redis.keys(f"*{stream}*.sent.*")


async def test_notes_are_kept_for_an_hour_if_something_was_written_twice(
    url: str, stream: str, redis: Any
) -> None:
    """A copy of the first write may still arrive, and must not be stored then."""
    async with proxy(url) as between:
        async with Producer(between.url, idempotent=True) as producer:
            await producer.send(stream, b"0")
            between.cut_on, between.cut_next_reply = stream.encode(), True
            await producer.send(stream, b"1")
    [mark] = await redis.keys(f"*{stream}*.sent.*")
    assert 1 < await redis.ttl(mark) <= 3600


async def test_a_producer_of_many_streams_keeps_notes_of_the_last_ones_only(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, idempotent=True) as producer:
        for first in range(0, 3000, 250):
            calls = [
                producer.send(f"{stream}-{n}", b"x") for n in range(first, first + 250)
            ]
            await asyncio.gather(*calls)

        async def few() -> bool:
            return len(await redis.keys(f"*{stream}*.sent.*")) < 1000 + 100 + 250

        await eventually(few)
        # The streams whose notes are gone can be sent to as before.
        await producer.send(f"{stream}-0", b"y")
    assert await redis.xlen(f"{stream}-0") == 2


async def test_a_producer_that_cannot_reach_its_server_closes_all_the_same(
    url: str, stream: str
) -> None:
    async with proxy(url) as between:
        async with asyncio.timeout(20):
            async with Producer(between.url, idempotent=True) as producer:
                await producer.send(stream, b"0")
                await between.stop()


async def test_after_an_outage_longer_than_notes_are_kept_a_message_is_unknown(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "_REMEMBERED", 0)
    async with proxy(url) as between:
        async with Producer(between.url, idempotent=True) as producer:
            await producer.send(stream, b"0")
            between.drop_replies = True
            future = producer.enqueue_nowait(stream, b"1")
            await eventually(lambda: value_of(producer._sender.accumulator.in_flight))
            between.drop_replies = False
            between.cut()
            with pytest.raises(SendUnknown, match="may have forgotten"):
                await future
            await producer.send(stream, b"2")


async def test_two_producers_do_not_mistake_each_other_s_messages_for_their_own(
    url: str, stream: str, redis: Any
) -> None:
    for _ in range(2):
        async with (
            Producer(url, idempotent=True) as one,
            Producer(url, idempotent=True) as other,
        ):
            await asyncio.gather(one.send(stream, b"1"), other.send(stream, b"2"))
    assert sorted(n for _, n in await entries(redis, stream)) == [1, 1, 2, 2]


@pytest.mark.parametrize("acl", ["-eval", "-@scripting"])
async def test_opening_raises_without_permission_for_scripts_and_names_a_solution(
    tmp_path: Path, stream: str, acl: str
) -> None:
    async with server(
        tmp_path, "--user", *f"u on >pw ~* &* +@all {acl}".split()
    ) as own:
        login = with_login(own.url, "u", "pw")
        with pytest.raises(ConfigurationError, match="resend=True") as caught:
            async with Producer(login, idempotent=True):
                raise AssertionError
        assert "pw" not in str(caught.value)
        async with Producer(login, resend=True) as producer:
            await producer.send(stream, b"x")


async def test_opening_raises_if_scripts_are_disabled(tmp_path: Path) -> None:
    async with server(tmp_path, "--rename-command", "EVAL", "") as own:
        with pytest.raises(ConfigurationError, match=r"idempotent=True.*unknown"):
            async with Producer(own.url, idempotent=True):
                raise AssertionError


async def test_the_permissions_in_the_docs_are_enough_for_a_producer(
    tmp_path: Path, stream: str
) -> None:
    allowed = "+@connection +xadd +eval +hmget +hset +hkeys +hdel +pexpire"
    user = f"u on >pw ~{stream} ~{{{stream}}}.sent.* -@all {allowed}"
    async with (
        server(tmp_path, "--user", *user.split()) as own,
        Producer(with_login(own.url, "u", "pw"), idempotent=True) as producer,
    ):
        await producer.send(stream, b"x")
        with pytest.raises(SendFailed) as caught:
            await producer.send(f"{stream}-other", b"x")
        assert caught.value.code == "NOPERM"


async def test_a_message_too_large_for_a_script_is_refused_at_once(
    url: str, stream: str, redis: Any
) -> None:
    most = {f"h{n}": "x" for n in range(3499)}
    async with Producer(url, idempotent=True) as producer:
        await producer.send(stream, b"x", headers=most)
        with pytest.raises(ConfigurationError, match="fields"):
            await producer.send(stream, b"x", headers={**most, "one": "more"})
        # A batch that is too large for one command is sent in several.
        outcomes = await producer.send_many(stream, [b"x" * 600_000] * 20)
        assert {type(outcome) for outcome in outcomes} == {Receipt}
    assert await redis.xlen(stream) == 21


@BOTH
async def test_cancelled_sends_are_stored_once_or_not_at_all(
    url: str, stream: str, redis: Any, events: Events, how: dict[str, Any]
) -> None:
    """At any moment: waiting for space, queued, in flight, written again, answered."""
    kept: dict[int, str] = {}

    async def send(producer: Producer, number: int) -> None:
        receipt = await producer.send(stream, b"%d" % number)
        kept[number] = str(receipt.id)

    async with proxy(url) as between:
        async with Producer(
            between.url, max_messages=50, max_batch=20, on_event=events, **how
        ) as producer:
            running: list[asyncio.Task[None]] = []
            for number in range(3000):
                running.append(asyncio.create_task(send(producer, number)))
                if number % 700 == 600:
                    between.cut()
                if random.random() < 0.2:
                    await asyncio.sleep(random.choice([0, 0, 0.0005]))
                if random.random() < 0.6:
                    random.choice(running[-100:]).cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await producer.send(stream, b"3000")
    found = await entries(redis, stream)
    numbers = [number for _, number in found]
    firsts = list(dict.fromkeys(numbers))
    assert firsts == sorted(firsts)
    if "idempotent" in how:
        assert numbers == firsts
    assert 100 < len(kept) < 2900
    assert all((id_, number) in found for number, id_ in kept.items())


@BOTH
async def test_on_a_frozen_server_the_buffer_stays_bounded_and_the_order_is_kept(
    tmp_path: Path, stream: str, how: dict[str, Any]
) -> None:
    async with server(tmp_path) as own:
        url = f"{own.url}?socket_timeout=0.3"
        async with Producer(url, max_messages=100, max_batch=10, **how) as producer:
            await producer.send(stream, b"0")
            own.send_signal(signal.SIGSTOP)
            accepted: list[asyncio.Future[Receipt]] = []

            async def keep_sending() -> None:
                for number in itertools.count(1):
                    accepted.append(await producer.enqueue(stream, b"%d" % number))

            sending = asyncio.create_task(keep_sending())
            # The connection is given up and cannot be replaced.
            await eventually(
                lambda: value_of(producer._sender.accumulator.queued == 100)
            )
            assert len(accepted) == 100
            sending.cancel()
            await asyncio.wait([sending])
            own.send_signal(signal.SIGCONT)
            await asyncio.gather(*accepted)
        client = own.client()
        numbers = [number for _, number in await entries(client, stream)]
        await client.aclose()
    assert list(dict.fromkeys(numbers)) == list(range(101))
    if "idempotent" in how:
        assert len(numbers) == 101


def test_options_that_are_not_booleans_are_refused() -> None:
    for name in ("resend", "idempotent", "durable"):
        with pytest.raises(ConfigurationError, match=name):
            Producer("redis://localhost", **{name: 1})  # type: ignore[arg-type]


async def test_opening_is_tried_again_if_the_connection_is_lost_while_it_is_checked(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """The check whether scripts are allowed is part of opening."""
    async with proxy(url) as between:
        between.cut_on, between.cut_next_reply = b"EVAL", True
        producer = Producer(
            between.url, idempotent=True, open_timeout=5, on_event=events
        )
        async with producer:
            await producer.send(stream, b"1")
        assert between.cuts == 1
        assert events.named("connection_lost")
        between.cut_next_reply = True
        with pytest.raises(ConnectionLost):
            await Producer(between.url, idempotent=True).start()
    assert await redis.xlen(stream) == 1
