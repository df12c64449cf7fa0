"""`testing.running`, `handled` and `caught_up`: waits of tests on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from penstock import (
    DROP,
    STOP,
    ClosedError,
    Commit,
    ConfigurationError,
    ConnectionLost,
    Consumer,
    GaveUp,
    Message,
    Producer,
    Retry,
    Router,
    UsageError,
)
from penstock._core.protocol.commands import Command
from penstock._tasks import session
from penstock.testing import (
    NotHandled,
    Outcome,
    Status,
    caught_up,
    handled,
    letters,
    running,
    sent,
)
from support.waiting import calls, eventually, leave_pending, pending

SOON = 20.0


class Order(msgspec.Struct):
    id: int


def router_of(
    handler: Callable[..., Any], *streams: str, group: str = "g", **options: Any
) -> Router:
    router = Router(on_event=lambda _: None)
    router.handler(*streams, group=group, **options)(handler)
    return router


async def ignore(_: bytes) -> None:
    """Handle a message."""


async def fail(_: bytes) -> None:
    raise ValueError("no such customer")


async def test_a_message_is_handled_when_the_server_has_its_acknowledgement(
    url: str, stream: str, redis: Any
) -> None:
    seen = []

    async def bill(order: Order) -> None:
        seen.append(order)

    router = router_of(bill, stream)
    async with running(router, url) as same, Producer(url) as producer:
        assert same is router
        receipt = await producer.send(stream, Order(7))
        outcome = await handled(router, receipt, timeout=SOON)
        assert await pending(redis, stream, "g") == 0
    assert seen == [Order(7)]
    assert outcome == Outcome(Status.ACKNOWLEDGED, 1)


async def test_several_messages_have_their_outcomes_in_order(
    url: str, stream: str
) -> None:
    async def bill(message: Message[bytes]) -> None:
        if message.payload == b"bad":
            message.reject("bad")
        if message.payload == b"twice" and message.attempt == 1:
            raise ValueError

    router = router_of(bill, stream)
    async with running(router, url), Producer(url) as producer:
        receipts = [
            await producer.send(stream, body) for body in (b"", b"bad", b"twice")
        ]
        outcomes = await handled(router, receipts, timeout=SOON)
    assert outcomes == [
        Outcome(Status.ACKNOWLEDGED, 1),
        Outcome(Status.DEAD_LETTERED, 1, reason="bad"),
        Outcome(Status.ACKNOWLEDGED, 2),
    ]


async def test_an_outcome_is_known_that_came_before_the_wait(
    url: str, stream: str
) -> None:
    router = router_of(ignore, stream)
    async with running(router, url), Producer(url) as producer:
        receipts = [await producer.send(stream, b"") for _ in range(3)]

        async def all_are_acknowledged() -> bool:
            return router.consumers[0].statistics().acknowledged == 3

        await eventually(all_are_acknowledged)
        outcomes = await handled(router, receipts, timeout=0.2)
    assert outcomes == [Outcome(Status.ACKNOWLEDGED, 1)] * 3


async def test_retries_do_not_wait(url: str, stream: str) -> None:
    async def bill(message: Message[bytes]) -> None:
        if message.attempt == 1:
            message.nack(delay=3600)
        else:
            raise ValueError("no such customer")

    router = router_of(bill, stream, retry=Retry(max_attempts=4, backoff=[3600]))
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        outcome = await handled(router, receipt, timeout=SOON)
    assert (outcome.status, outcome.attempts) == ("dead-lettered", 4)
    assert isinstance(outcome.error, ValueError)
    assert outcome.reason == "ValueError: no such customer"


async def test_a_delay_that_is_wrong_is_refused_although_nobody_waits_for_it(
    url: str, stream: str
) -> None:
    async def bill(message: Message[bytes]) -> None:
        message.nack(delay=-1)

    router = router_of(bill, stream, retry=Retry(max_attempts=1))
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        outcome = await handled(router, receipt, timeout=SOON)
    assert isinstance(outcome.error, ConfigurationError)


async def test_retries_wait_if_they_are_to(url: str, stream: str) -> None:
    async def bill(message: Message[bytes]) -> None:
        message.nack(delay=3600)

    router = router_of(bill, stream)
    async with running(router, url, real_waits=True), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        with pytest.raises(NotHandled, match="waits for a retry after attempt 1"):
            await handled(router, receipt, timeout=0.5)


async def test_leaving_does_not_wait_long_for_a_handler(url: str, stream: str) -> None:
    started = asyncio.Event()

    async def hang(_: bytes) -> None:
        started.set()
        await asyncio.Event().wait()

    async with Producer(url) as producer:
        await producer.send(stream, b"x")
        async with running(router_of(hang, stream), url):
            await asyncio.wait_for(started.wait(), SOON)
            start = time.monotonic()
    assert time.monotonic() - start < 8  # by default, handlers have 8 s of 10


@pytest.mark.parametrize(
    ("policy", "status"), [(DROP, Status.DROPPED), (None, Status.DEAD_LETTERED)]
)
async def test_a_message_that_is_given_up_is_handled(
    url: str, stream: str, policy: Any, status: Status
) -> None:
    options = {"retry": Retry(max_attempts=1), "dead_letters": policy}
    router = router_of(fail, stream, **options)
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        outcome = await handled(router, receipt, timeout=SOON)
    assert (outcome.status, outcome.attempts) == (status, 1)
    assert outcome.reason == "ValueError: no such customer"


async def test_a_message_that_stops_its_consumer_is_given_up(
    url: str, stream: str
) -> None:
    retry = Retry(max_attempts=1)

    async def stop(_: Message[bytes]) -> None:
        raise ValueError("no such customer")

    async with Producer(url) as producer:
        consumer = Consumer(stream, url=url, group="g", retry=retry, dead_letters=STOP)
        async with consumer:
            receipt = await producer.send(stream, b"x")
            with pytest.raises(GaveUp):
                await consumer.run(stop)
            outcome = await handled(consumer, receipt, timeout=SOON)
    assert (outcome.status, outcome.attempts) == ("stopped", 1)


async def test_a_payload_of_another_type_is_given_up_with_its_error(
    url: str, stream: str
) -> None:
    async def bill(order: Order) -> None:
        raise AssertionError(order)

    router = router_of(bill, stream)
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, {"id": "seven"})
        outcome = await handled(router, receipt, timeout=SOON)
    assert outcome.status == "dead-lettered"
    assert type(outcome.error).__name__ == "DecodeError"


async def test_a_message_is_handled_by_its_transaction(url: str, stream: str) -> None:
    async def count(message: Message[bytes]) -> None:
        async with message.transaction() as tx:
            tx.send(f"{stream}.totals", message.payload)

    router = router_of(count, stream)
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        outcome = await handled(router, receipt, timeout=SOON)
    assert outcome == Outcome(Status.ACKNOWLEDGED, 1)
    assert [each.payload for each in await sent(url, f"{stream}.totals")] == [b"x"]


async def test_every_group_has_to_handle_a_message(url: str, stream: str) -> None:
    let = asyncio.Event()
    router = router_of(fail, stream, group="a", retry=Retry(max_attempts=2))

    @router.handler(stream, group="b")
    async def wait(_: bytes) -> None:
        await let.wait()

    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        outcome = await handled(router, receipt, timeout=SOON, group="a")
        assert outcome.status == "dead-lettered"
        with pytest.raises(NotHandled) as caught:
            await handled(router, receipt, timeout=0.1)
        [state] = caught.value.states
        assert state == f"'{stream}' {receipt.id} in group 'b': running, attempt 1"
        let.set()
        assert await handled(router, receipt, timeout=SOON) == outcome


async def test_the_error_says_where_each_message_is(url: str, stream: str) -> None:
    async def hang(message: Message[bytes]) -> None:
        if message.payload == b"bad":
            raise ValueError("no such customer")
        await asyncio.Event().wait()

    retry = Retry(backoff=[3600])
    router = router_of(hang, stream, retry=retry)
    async with (
        running(router, url, real_waits=True),
        Producer(url) as producer,
    ):
        bodies = (b"bad", b"runs", b"waits")
        receipts = [await producer.send(stream, body) for body in bodies]
        with pytest.raises(NotHandled, match="3 of 3 messages were not") as caught:
            await handled(router, receipts, timeout=1)
    retried, runs, queued = caught.value.states
    assert "waits for a retry after attempt 1; its last attempt failed:" in retried
    assert 'raise ValueError("no such customer")' in retried
    assert runs.endswith("running, attempt 1")
    assert queued.endswith("queued, and no worker has taken it")
    assert all(state in str(caught.value) for state in caught.value.states)


async def test_a_message_that_is_not_delivered_or_not_acknowledged_is_so(
    url: str, stream: str
) -> None:
    async with (
        Consumer(stream, url=url, group="g", auto_commit="rolling") as consumer,
        Producer(url) as producer,
    ):
        consumer.pause()
        first = await producer.send(stream, b"x")
        with pytest.raises(NotHandled, match="queued"):
            await handled(consumer, first, timeout=0.3)
        consumer.resume()
        assert await consumer.next(timeout=SOON)
        await consumer.next(timeout=0)
        with pytest.raises(NotHandled, match="ended without an outcome"):
            await handled(consumer, first, timeout=0.3)


async def test_a_message_of_a_dead_consumer_is_pending_for_it(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
    await leave_pending(redis, stream, "dead")
    router = router_of(ignore, stream)
    async with running(router, url):
        with pytest.raises(NotHandled, match="pending for consumer 'dead'"):
            await handled(router, receipt, timeout=0.3)


async def test_a_message_that_another_consumer_handles_is_noticed(
    url: str, stream: str
) -> None:
    async with (
        Consumer(stream, url=url, group="g") as consumer,
        Producer(url) as producer,
    ):
        receipt = await producer.send(stream, b"x")
        assert await consumer.next(timeout=SOON)
        async with Consumer(stream, url=url, group="g") as other:
            waits = asyncio.create_task(handled(other, receipt, timeout=SOON))
            await consumer.next(timeout=0)
            assert await waits == Outcome(Status.ACKNOWLEDGED, 0)


async def test_a_consumer_that_was_opened_before_the_import_is_asked_at_once(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "observers", [])
    async with (
        Consumer(stream, url=url, group="g") as consumer,
        Producer(url) as producer,
    ):
        early = await producer.send(stream, b"x")
        assert await consumer.next(timeout=SOON)
        await consumer.next(timeout=0)
        await consumer.commit()
        assert (await handled(consumer, early, timeout=SOON)).attempts == 0
        late = await producer.send(stream, b"x")
        assert await consumer.next(timeout=SOON)
        await consumer.next(timeout=0)
        assert (await handled(consumer, late, timeout=SOON)).attempts == 1


async def test_waiting_asks_the_server_nothing_while_a_handler_runs(
    url: str, stream: str, redis: Any
) -> None:
    let = asyncio.Event()

    async def wait(_: bytes) -> None:
        await let.wait()

    router = router_of(wait, stream)
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        before = await calls(redis, "xpending")
        with pytest.raises(NotHandled):
            await handled(router, receipt, timeout=2.5)
        assert await calls(redis, "xpending") == before
        let.set()
        await handled(router, receipt, timeout=SOON)


async def test_caught_up_waits_for_lag_and_pending(url: str, stream: str) -> None:
    let = asyncio.Event()
    seen = []

    async def wait(body: bytes) -> None:
        await let.wait()
        seen.append(body)

    router = router_of(wait, stream)
    async with running(router, url), Producer(url) as producer:
        await producer.send_many(stream, [b"1", b"2", b"3"])
        with pytest.raises(NotHandled, match=r"in group 'g': lag 0, 3 pending"):
            await caught_up(router, timeout=0.5)
        let.set()
        await caught_up(router, timeout=SOON)
    assert seen == [b"1", b"2", b"3"]


async def test_caught_up_sees_owned_shards(url: str, stream: str) -> None:
    seen = []

    async def collect(body: bytes) -> None:
        seen.append(body)

    async with Producer(url, shards=3) as producer:
        await producer.send_many(stream, [b"%d" % number for number in range(9)])
        router = router_of(collect, stream, ordering="key")
        async with running(router, url):
            await caught_up(router, timeout=SOON)
            assert len(seen) == 9
            receipt = await producer.send(stream, b"x", key="k")
            assert (await handled(router, receipt, timeout=SOON)).attempts == 1


async def test_streams_and_dead_letters_can_be_looked_at(url: str, stream: str) -> None:
    assert await sent(url, stream) == []
    assert await letters(url, stream) == []
    router = router_of(fail, stream, retry=Retry(max_attempts=1))
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, Order(7), key="k")
        await handled(router, receipt, timeout=SOON)
    [message] = await sent(url, stream, payload=Order)
    assert (message.payload, message.key) == (Order(7), "k")
    assert message.id == receipt.id
    [letter] = await letters(url, stream)
    assert (letter.entry_id, letter.error) == (receipt.id, "ValueError")


async def test_what_nobody_acknowledges_can_t_be_waited_for(
    url: str, stream: str
) -> None:
    router = router_of(ignore, stream)
    async with Producer(url) as producer:
        receipt = await producer.send("elsewhere", b"x")
        with pytest.raises(ClosedError):
            await handled(router, receipt)
        async with running(router, url):
            with pytest.raises(UsageError, match="acknowledges messages of 'elsewh"):
                await handled(router, receipt)
        async with Consumer("elsewhere", url=url) as consumer:
            with pytest.raises(UsageError, match="acknowledges messages"):
                await handled(consumer, receipt)
            with pytest.raises(UsageError, match="acknowledges messages"):
                await caught_up(consumer)
        with pytest.raises(ClosedError):
            await handled(Consumer("elsewhere", url=url, group="g"), receipt)


async def test_acknowledgements_are_sent_at_once_while_a_test_waits(
    url: str, stream: str
) -> None:
    router = router_of(ignore, stream, commit=Commit(interval=3600))
    async with running(router, url), Producer(url) as producer:
        receipt = await producer.send(stream, b"x")
        await handled(router, receipt, timeout=SOON)
        late = await producer.send(stream, b"x")

        async def is_done() -> bool:
            return router.consumers[0].statistics().uncommitted == 1

        await eventually(is_done)
        await handled(router, late, timeout=SOON)


async def test_a_user_s_own_commit_is_waited_for(url: str, stream: str) -> None:
    async with (
        Consumer(stream, url=url, group="g", auto_commit="disabled") as consumer,
        Producer(url) as producer,
    ):
        receipt = await producer.send(stream, b"x")
        message = await consumer.next(timeout=SOON)
        assert message
        message.ack()
        with pytest.raises(NotHandled, match="acknowledged, which the server has not"):
            await handled(consumer, receipt, timeout=0.5)
        await consumer.commit()
        assert await handled(consumer, receipt) == Outcome(Status.ACKNOWLEDGED, 1)


async def test_a_lost_connection_does_not_end_a_wait(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ask = session.Session.ask

    async def ask_in_vain(
        self: session.Session[Any], batch: Sequence[Command]
    ) -> list[Any]:
        asked.append(batch)
        if len(asked) == 1:
            raise ConnectionLost("redis", "cut")
        return await ask(self, batch)

    monkeypatch.setattr(session.Session, "ask", ask_in_vain)
    async with (
        Consumer(stream, url=url, group="g") as consumer,
        Producer(url) as producer,
    ):
        receipt = await producer.send(stream, b"x")
        assert await consumer.next(timeout=SOON)
        async with Consumer(stream, url=url, group="g") as other:
            waits = asyncio.create_task(handled(other, receipt, timeout=SOON))
            await consumer.next(timeout=0)
            assert (await waits).status == "acknowledged"
    assert len(asked) >= 2
