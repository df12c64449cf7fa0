"""Transactions: effects and acknowledgement of a message happen once or not at all.

test_transactions_killed.py tests what happens when processes are killed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from penstock import (
    DELAYED,
    DISABLED,
    DROP,
    IMMEDIATE,
    PROCESSED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    STOP,
    AutoCommit,
    ClosedError,
    ConfigurationError,
    Consumer,
    GaveUp,
    Message,
    Mode,
    Producer,
    Retry,
    Router,
    TransactionBroken,
    TransactionFailed,
    UsageError,
    admin,
)
from support.events import Events
from support.failing import Boom, running
from support.proxy import proxy
from support.server import server, with_login
from support.waiting import eventually, pending, read, send

ONCE = Retry(max_attempts=1)
AGAIN = Retry(max_attempts=3, backoff=[0.01])


async def next_message(consumer: Consumer[Any]) -> Message[Any]:
    message = await consumer.next(timeout=10)
    assert message is not None
    return message


async def count(message: Message[bytes], stream: str) -> bool | None:
    """Count a message, and send its payload on."""
    async with message.transaction() as tx:
        tx.command("HINCRBY", f"{stream}.counts", message.payload, 1)
        tx.send(f"{stream}.out", message.payload)
    return tx.applied


async def counts(redis: Any, stream: str) -> dict[int, int]:
    found = await redis.hgetall(f"{stream}.counts")
    found.pop(b"large", None)
    return {int(number): int(times) for number, times in found.items()}


# -- applying --------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [PROCESSED, ROLLING, DISABLED])
@pytest.mark.parametrize("mode", [RESUMABLE, None])
async def test_effects_and_the_acknowledgement_are_applied_when_the_block_is_left(
    *,
    url: str,
    stream: str,
    redis: Any,
    events: Events,
    policy: AutoCommit,
    mode: Mode | None,
) -> None:
    await send(url, stream, 1)
    consumer = Consumer(
        stream, url=url, group="g", mode=mode, auto_commit=policy, on_event=events
    )
    async with consumer:
        message = await next_message(consumer)
        async with message.transaction() as tx:
            tx.send(f"{stream}.out", {"n": 1}, key="k", headers={"a": "b"})
            tx.command("hincrby", f"{stream}.counts", "1", 1)
            tx.command("SET", f"{stream}.last", 2.5)
            assert tx.applied is None
            assert not await redis.exists(f"{stream}.out", f"{stream}.counts")
        assert tx.applied is True
        assert await pending(redis, stream, "g") == 0
        [(id_, fields)] = await redis.xrange(f"{stream}.out")
        assert fields == {
            b"msg": b'{"n":1}',
            b"key": b"k",
            b"content-type": b"application/json",
            b"a": b"b",
        }
        [receipt] = tx.receipts
        assert (receipt.stream, str(receipt.id)) == (f"{stream}.out", id_.decode())
        assert tx.results == (id_, 1, b"OK")
        assert await redis.get(f"{stream}.last") == b"2.5"
        message.ack()
        await consumer.commit()
        now = consumer.statistics()
        assert (now.acknowledged, now.uncommitted) == (1, 0)
    assert not events.named("commit_mismatch")
    async with Consumer(stream, url=url, group="g", mode=mode) as again:
        assert await again.next(timeout=0.1) is None


async def test_an_exception_in_the_block_applies_nothing_and_is_raised(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    attempts = []

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        async with message.transaction() as tx:
            tx.command("HINCRBY", f"{stream}.counts", 1, 1)
            if message.attempt < 3:
                raise Boom

    async with running(Consumer(stream, url=url, group="g", retry=AGAIN), handle):
        await eventually(lambda: counts(redis, stream))
    assert attempts == [1, 2, 3]
    assert await counts(redis, stream) == {1: 1}


async def test_an_empty_transaction_acknowledges(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=DISABLED) as consumer:
        async with (await next_message(consumer)).transaction() as tx:
            pass
        assert (tx.applied, tx.results, tx.receipts) == (True, (), ())
        assert await pending(redis, stream, "g") == 0


async def test_a_loop_does_not_acknowledge_a_second_time(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(20))
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        left = 20
        async for message in consumer:
            assert await count(message, stream)
            left -= 1
            if not left:
                break
        await consumer.commit()
        assert consumer.statistics().acknowledged == 20
    assert await counts(redis, stream) == dict.fromkeys(range(20), 1)
    assert not events.named("commit_mismatch")


@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_parallel_handlers_and_batches_have_a_transaction_for_each_message(
    url: str, stream: str, redis: Any, ordering: str
) -> None:
    await send(url, stream, *range(60))

    async def handle(message: Message[bytes]) -> None:
        assert await count(message, stream)

    async def handle_all(messages: list[Message[bytes]]) -> None:
        for message in messages:
            await handle(message)

    every = dict.fromkeys(range(60), 1)
    first = Consumer(stream, url=url, group="g")
    async with running(first, handle, concurrency=8, ordering=ordering):
        await eventually(lambda: _counts_are(redis, stream, every))
    await redis.delete(f"{stream}.counts")
    async with Consumer(stream, url=url, group="h") as second:
        run = asyncio.create_task(second.run(handle_all, batch=7))
        await eventually(lambda: _counts_are(redis, stream, every))
        await second.aclose()
        await run
    assert await pending(redis, stream, "g") == await pending(redis, stream, "h") == 0


async def _counts_are(redis: Any, stream: str, wanted: dict[int, int]) -> bool:
    return await counts(redis, stream) == wanted


async def test_a_router_s_handler_can_have_a_transaction(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    router = Router()

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        await count(message, stream)

    async with router.running(url):
        await eventually(lambda: counts(redis, stream))
    assert await pending(redis, stream, "g") == 0


async def test_messages_to_a_sharded_stream_are_sent_by_key(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with Producer(url, shards=3) as producer:
        wanted = await producer.send(f"{stream}.out", b"", key="k7")
    async with Consumer(stream, url=url, group="g") as consumer:
        async with (await next_message(consumer)).transaction() as tx:
            tx.send(f"{stream}.out", b"", key="k7", shards=3)
            for _ in range(3):
                tx.send(f"{stream}.out", b"", shards=3)
    assert tx.receipts[0].shard == wanted.shard
    assert sorted(receipt.shard for receipt in tx.receipts[1:]) == [0, 1, 2]


# -- applied once ----------------------------------------------------------------------


async def test_nothing_is_applied_if_another_client_has_acknowledged_the_message(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        message = await next_message(consumer)
        await redis.xack(stream, "g", str(message.id))
        assert await count(message, stream) is False
        assert await consumer.next(timeout=0.05) is None
        await consumer.commit()
        assert consumer.statistics().acknowledged == 0
        assert consumer.statistics().lost == 1
    assert not await redis.exists(f"{stream}.counts", f"{stream}.out")
    assert not events.named("commit_mismatch")


async def test_if_two_consumers_have_a_message_the_first_one_applies_it(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", name="a") as slow:
        first = await next_message(slow)
        await redis.xclaim(stream, "g", "b", 0, [str(first.id)])
        async with Consumer(stream, url=url, group="g", name="b") as quick:
            second = await next_message(quick)
            assert second.id == first.id
            # It has lost the lease, and is the quicker one nevertheless.
            assert await count(first, stream) is True
            assert await count(second, stream) is False
    assert await counts(redis, stream) == {1: 1}


@pytest.mark.parametrize("times", [1, 3])
async def test_a_lost_reply_applies_nothing_twice_and_loses_nothing(
    url: str, stream: str, redis: Any, events: Events, times: int
) -> None:
    await send(url, stream, 1, 2)
    async with proxy(url) as between:
        async with Consumer(
            stream, url=between.url, group="g", auto_commit=ROLLING, on_event=events
        ) as consumer:
            first, second = await read(consumer, 2)
            assert await count(first, stream) is True
            between.cut_on = f"{stream}.counts".encode()
            work = asyncio.create_task(count(second, stream))
            for cut in range(times):
                between.cut_next_reply = True
                await eventually(lambda: _was_cut(between, cut + 1))
            # It was applied, but whether by this consumer is not known.
            assert await work is None
            second.ack()
            await consumer.commit()
            assert consumer.statistics().acknowledged == 2
    assert await counts(redis, stream) == {1: 1, 2: 1}
    assert await redis.xlen(f"{stream}.out") == 2
    assert await pending(redis, stream, "g") == 0
    assert not events.named("commit_mismatch")


async def _was_cut(between: Any, times: int) -> bool:
    return bool(between.cuts >= times)


async def test_a_transaction_cancelled_at_its_end_is_applied_once_or_not_at_all(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with proxy(url) as between:
        async with Consumer(stream, url=between.url, group="g") as consumer:
            message = await next_message(consumer)
            between.drop_replies = True
            work = asyncio.create_task(count(message, stream))
            await eventually(lambda: counts(redis, stream))
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            between.drop_replies = False
            between.cut()
            assert not await count(message, stream)
    assert await counts(redis, stream) == {1: 1}


async def test_the_script_is_sent_again_if_the_server_has_forgotten_it(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        first, second = await read(consumer, 2)
        assert await count(first, stream)
        await redis.script_flush()
        assert await count(second, stream)
    assert await counts(redis, stream) == {1: 1, 2: 1}


async def test_a_handler_that_fails_after_its_transaction_is_reported_and_not_retried(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1, 2)

    async def handle(message: Message[bytes]) -> None:
        await count(message, stream)
        raise Boom

    consumer = Consumer(stream, url=url, group="g", retry=AGAIN, on_event=events)
    async with running(consumer, handle):
        await eventually(lambda: _counts_are(redis, stream, {1: 1, 2: 1}))
        await consumer.commit()
    reported = events.named("handler_failed")
    assert [event.facts.get("again_in") for event in reported] == [None, None]
    assert not await redis.exists(f"{stream}.dead")
    assert await pending(redis, stream, "g") == 0


# -- refused commands ------------------------------------------------------------------


async def refused(message: Message[Any], *commands: tuple[Any, ...]) -> Any:
    with pytest.raises(TransactionFailed) as caught:
        async with message.transaction() as tx:
            for command in commands:
                tx.command(*command)
    assert tx.applied is None
    assert "nothing of it was applied" in str(caught.value)
    return caught.value


async def test_keys_of_other_types_and_values_that_are_not_numbers_are_found_before(
    url: str, stream: str, redis: Any
) -> None:
    good, bad = f"{stream}.good", f"{stream}.bad"
    await redis.set(bad, "text")
    await redis.hset(f"{stream}.hash", "f", "text")
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        message = await next_message(consumer)
        fine = ("HINCRBY", good, "n", 1)
        for wrong in (
            ("HSET", bad, "f", "v"),
            ("LPUSH", bad, "v"),
            ("SADD", bad, "v"),
            ("ZADD", bad, 1, "v"),
            ("XADD", bad, "*", "f", "v"),
        ):
            assert (await refused(message, fine, wrong)).code == "WRONGTYPE"
        for counter in (("INCR", bad), ("HINCRBY", f"{stream}.hash", "f", 1)):
            assert "whole number" in (await refused(message, fine, counter)).reason
        assert not await redis.exists(good)
        assert await pending(redis, stream, "g") == 1
        async with message.transaction() as tx:
            tx.command("DEL", bad)
            tx.command("LPUSH", bad, "v")
        assert tx.applied


async def test_a_refusal_of_the_first_command_is_a_failure_like_any_other(
    url: str, stream: str, redis: Any
) -> None:
    await redis.hset(f"{stream}.counts", "1", 2**63 - 1)
    await send(url, stream, 1)

    async def handle(message: Message[bytes]) -> None:
        if message.attempt == 2:
            await redis.delete(f"{stream}.counts")
        await count(message, stream)

    async with running(Consumer(stream, url=url, group="g", retry=AGAIN), handle):
        await eventually(lambda: _counts_are(redis, stream, {1: 1}))
    assert await redis.xlen(f"{stream}.out") == 1


async def broken(message: Message[bytes], stream: str) -> None:
    """Run a transaction whose second command is refused after the first was applied."""
    async with message.transaction() as tx:
        tx.command("HINCRBY", f"{stream}.counts", 1, 1)
        tx.command("INCRBY", f"{stream}.full", 1)
        tx.send(f"{stream}.out", b"")


@pytest.fixture
async def _full(stream: str, redis: Any) -> None:
    await redis.set(f"{stream}.full", 2**63 - 1)
    # More than the script saves, so that nothing is undone.
    await redis.hset(f"{stream}.counts", "large", b"x" * 2**21)


@pytest.mark.usefixtures("_full")
async def test_a_transaction_that_breaks_in_the_middle_is_dead_lettered_and_not_retried(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    caught = []

    async def handle(message: Message[bytes]) -> None:
        try:
            await broken(message, stream)
        except TransactionBroken as error:
            caught.append(error)
            raise

    consumer = Consumer(stream, url=url, group="g", retry=AGAIN, on_event=events)
    async with running(consumer, handle):
        await eventually(lambda: _dead_lettered(consumer))
    [error] = caught
    assert (error.applied, error.total) == (1, 3)
    [dead_letter] = await admin.dead.list(stream, url=url)
    assert (dead_letter.payload, dead_letter.attempts, dead_letter.group) == (
        b"1",
        1,
        "g",
    )
    assert dead_letter.error == "TransactionBroken"
    assert "INCRBY, 2 of 3, was refused" in dead_letter.reason
    assert await counts(redis, stream) == {1: 1}
    assert not await redis.exists(f"{stream}.out")
    assert await pending(redis, stream, "g") == 0
    [reported] = events.named("transaction_broken")
    assert (reported.facts["applied"], reported.facts["total"]) == (1, 3)


async def _dead_lettered(consumer: Consumer[Any]) -> bool:
    return consumer.statistics().dead_lettered == 1


@pytest.mark.usefixtures("_full")
async def test_a_broken_transaction_is_applied_once_even_if_its_reply_is_lost(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with proxy(url) as between:
        async with Consumer(stream, url=between.url, group="g") as consumer:
            message = await next_message(consumer)
            between.cut_on = f"{stream}.counts".encode()
            between.cut_next_reply = True
            await broken(message, stream)
            assert between.cuts == 1
    assert await counts(redis, stream) == {1: 1}
    assert await redis.xlen(f"{stream}.dead") == 1


@pytest.mark.usefixtures("_full")
async def test_a_broken_transaction_is_dead_lettered_later_if_that_fails_at_first(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(f"{stream}.dead", "no stream")
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g") as consumer:
        message = await next_message(consumer)
        with pytest.raises(TransactionBroken):
            await broken(message, stream)
        await consumer.next(timeout=0)
        assert await pending(redis, stream, "g") == 1
        await redis.delete(f"{stream}.dead")
        await eventually(lambda: redis.exists(f"{stream}.dead"))
        await eventually(lambda: _nothing_pending(redis, stream))
    assert await counts(redis, stream) == {1: 1}


async def _nothing_pending(redis: Any, stream: str) -> bool:
    return await pending(redis, stream, "g") == 0


@pytest.mark.usefixtures("_full")
async def test_a_broken_transaction_without_dead_letters_is_dropped_or_stops_consuming(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    drop = Consumer(stream, url=url, group="g", dead_letters=DROP)
    stop = Consumer(stream, url=url, group="h", dead_letters=STOP)
    async with drop:
        with pytest.raises(TransactionBroken):
            await broken(await next_message(drop), stream)
        assert await pending(redis, stream, "g") == 0
        assert drop.statistics().dropped == 1
    async with stop:
        with pytest.raises(TransactionBroken):
            await broken(await next_message(stop), stream)
        with pytest.raises(GaveUp):
            await stop.next(timeout=5)
        assert await pending(redis, stream, "h") == 1
    assert not await redis.exists(f"{stream}.dead")


async def test_if_the_server_is_out_of_memory_nothing_is_applied_and_it_is_retried(
    tmp_path: Path, events: Events
) -> None:
    async with server(tmp_path) as own, own.client() as redis:
        await send(own.url, "s", 1)
        consumer = Consumer("s", url=own.url, group="g", retry=AGAIN, on_event=events)

        async def handle(message: Message[bytes]) -> None:
            full = message.attempt == 1
            await redis.config_set("maxmemory", int(full))
            await count(message, "s")

        async with running(consumer, handle):
            await eventually(lambda: _counts_are(redis, "s", {1: 1}))
        [failed] = events.named("handler_failed")
        assert isinstance(failed.error, TransactionFailed)
        assert failed.error.code == "OOM"
        assert await redis.xlen("s.out") == 1


async def test_nothing_is_applied_until_a_deleted_group_is_recreated(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)

    async def handle(message: Message[bytes]) -> None:
        if message.attempt == 1:
            await redis.xgroup_destroy(stream, "g")
        await count(message, stream)

    often = Retry(max_attempts=100, backoff=[0.05])
    consumer = Consumer(stream, url=url, group="g", retry=often, on_event=events)
    async with running(consumer, handle):
        await eventually(lambda: _counts_are(redis, stream, {1: 1}))
    first = events.named("handler_failed")[0].error
    assert isinstance(first, TransactionFailed)
    assert first.code == "NOGROUP"


async def test_a_message_that_a_recreated_group_has_not_delivered_yet_is_not_dropped(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """The group was recreated; the read that redelivers the message is in flight."""
    await send(url, stream, 1)

    async def handle(message: Message[bytes]) -> None:
        if message.attempt == 1:
            await redis.xgroup_destroy(stream, "g")
            await eventually(lambda: _is_pending(redis, stream))
            await redis.xack(stream, "g", str(message.id))
        else:
            ids = [str(message.id)]
            await redis.xclaim(stream, "g", "me", 0, ids, force=True, justid=True)
        await count(message, stream)

    often = Retry(max_attempts=100, backoff=[0.05])
    consumer = Consumer(
        stream, url=url, group="g", name="me", retry=often, on_event=events
    )
    async with running(consumer, handle):
        await eventually(lambda: _counts_are(redis, stream, {1: 1}))
    assert events.named("group_recreated")
    first = events.named("handler_failed")[0].error
    assert isinstance(first, TransactionFailed)
    assert first.code == "NOGROUP"


async def _is_pending(redis: Any, stream: str) -> bool:
    with suppress(ResponseError):  # the group does not exist yet
        return await pending(redis, stream, "g") == 1
    return False


@pytest.mark.parametrize("rule", ["-@scripting", "-hincrby", "-xack"])
async def test_an_error_names_the_permissions_that_a_transaction_needs(
    url: str, stream: str, redis: Any, rule: str
) -> None:
    version = (await redis.info("server"))["redis_version"]
    if version.startswith("6.") and rule != "-@scripting":
        pytest.skip("a script can't ask what its user may do before Redis 7")
    user = f"{stream}-user"
    rights = ("on", ">pw", "~*", "&*", "+@all", rule)
    await redis.execute_command("ACL", "SETUSER", user, *rights)
    try:
        await send(url, stream, 1)
        consumer = Consumer(stream, url=with_login(url, user, "pw"), group="g")
        async with consumer:
            message = await next_message(consumer)
            error = await refused(
                message, ("INCR", f"{stream}.n"), ("HINCRBY", f"{stream}.h", "f", 1)
            )
            assert "this user needs EVAL" in str(error)
        assert not await redis.exists(f"{stream}.n")
    finally:
        await redis.execute_command("ACL", "DELUSER", user)


# -- invalid transactions --------------------------------------------------------------


@pytest.mark.parametrize("policy", [DELAYED, IMMEDIATE, None])
async def test_messages_with_delayed_immediate_or_no_acks_have_no_transaction(
    url: str, stream: str, policy: AutoCommit | None
) -> None:
    if policy is None:
        consumer = Consumer(stream, url=url, mode=REALTIME)
    else:
        consumer = Consumer(stream, url=url, group="g", auto_commit=policy)
    async with consumer:
        await send(url, stream, 1)
        message = await next_message(consumer)
        with pytest.raises(UsageError, match="PROCESSED, ROLLING or DISABLED"):
            message.transaction()


async def test_a_message_with_an_outcome_has_no_transaction(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1, 2, 3, 4)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        acked, rejected, in_between, done = await read(consumer, 4)
        acked.ack()
        rejected.reject("no")
        for message in (acked, rejected):
            with pytest.raises(UsageError, match="too late"):
                message.transaction()
        with pytest.raises(UsageError, match="too late"):
            async with in_between.transaction() as tx:
                tx.command("INCR", f"{stream}.n")
                in_between.ack()
        assert await count(done, stream)
        for call in (done.nack, done.reject, done.transaction):
            with pytest.raises(UsageError, match="acknowledged already"):
                call()
        done.ack()
        assert not await redis.exists(f"{stream}.n")
    with pytest.raises(UsageError):
        done.transaction()


async def test_a_message_that_was_released_has_no_transaction(
    url: str, stream: str
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        message = await next_message(consumer)
        tx = message.transaction()
        await tx.__aenter__()
    with pytest.raises(ClosedError):
        message.transaction()
    with pytest.raises(ClosedError):
        await tx.__aexit__(None, None, None)


async def test_a_handler_in_a_thread_is_refused_a_transaction(
    url: str, stream: str, events: Events
) -> None:
    await send(url, stream, 1)

    def handle(message: Message[bytes]) -> None:
        message.transaction()

    consumer = Consumer(stream, url=url, group="g", retry=ONCE, on_event=events)
    async with running(consumer, handle):
        await eventually(lambda: _reported(events, "handler_failed"))
    [failed] = events.named("handler_failed")
    assert "make the handler an async function" in str(failed.error)


async def _reported(events: Events, name: str) -> bool:
    return bool(events.named(name))


async def test_commands_and_messages_that_can_not_be_applied_are_refused_in_the_block(
    url: str, stream: str, redis: Any
) -> None:
    await send(url, stream, 1)
    async with Consumer(stream, url=url, group="g", auto_commit=ROLLING) as consumer:
        message = await next_message(consumer)
        tx = message.transaction()
        with pytest.raises(UsageError, match="outside"):
            tx.send("out", b"")
        async with tx:
            for wrong in ("", "a\ud800"):
                with pytest.raises(ConfigurationError):
                    tx.send(wrong, b"")
            with pytest.raises(ConfigurationError):
                tx.send("out", b"", headers={"msg": "reserved"})
            with pytest.raises(ConfigurationError):
                tx.send("out", object())
            for name in ("MULTI", "BLPOP", "SUBSCRIBE", "AUTH", "XACK", "a b"):
                with pytest.raises(ConfigurationError):
                    tx.command(name, "k", "1")
            with pytest.raises(ConfigurationError, match="delete its consumer group"):
                tx.command("DEL", stream)
            tx.command("INCR", f"{stream}.n")
        assert tx.results == (1,)
        with pytest.raises(UsageError, match="outside"):
            tx.command("INCR", f"{stream}.n")
        with pytest.raises(UsageError, match="used once"):
            await tx.__aenter__()
    assert await redis.get(f"{stream}.n") == b"1"
