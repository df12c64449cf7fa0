"""Events about lost, late, claimed and unknown messages: how many, and which."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from redis import Redis

from penstock import (
    ROLLING,
    Claim,
    ConnectionLost,
    Consumer,
    EntryId,
    Producer,
    SendFailed,
)
from penstock._tasks.reporting import rate_limited
from penstock.events import Event
from support.events import Events
from support.waiting import eventually, leave_pending, pending, read, send


def total(events: Events, name: str) -> int:
    return sum(int(str(event.facts["messages"])) for event in events.named(name))


def ids(event: Event) -> list[EntryId]:
    return [EntryId.parse(id_) for id_ in event.facts["ids"]]


async def test_a_process_that_paused_reports_which_messages_it_has_lost_and_why(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, 1)
    other = Redis.from_url(url)
    consumer = Consumer(
        stream, url=url, group="g", claim=Claim(idle=0.6), on_event=events
    )
    async with consumer:
        [message] = await read(consumer, 1)
        time.sleep(0.9)  # noqa: ASYNC251 - as a bad handler does
        assert other.xautoclaim(stream, "g", "other", min_idle_time=600)[1]
        other.close()

        async def noticed() -> object:
            return message.lost

        await eventually(noticed)
        assert await consumer.next(timeout=0) is None  # this call settles the message
        assert consumer.statistics().late == 1
    [blocked], [lost] = events.named("loop_blocked"), events.named("lease_lost")
    assert 0.5 < float(str(blocked.facts["seconds"])) < 3
    assert ids(lost) == [message.id]
    assert total(events, "lease_lost") == total(events, "outcome_late") == 1


async def test_an_event_loop_that_is_not_blocked_is_not_reported(
    url: str, stream: str, events: Events
) -> None:
    claim = Claim(idle=3)
    async with Consumer(stream, url=url, group="g", claim=claim, on_event=events) as c:
        await send(url, stream, 1)
        assert (await c.next()).payload == b"1"
        assert await c.next(timeout=1.2) is None
    assert not events.named("loop_blocked")


async def test_entries_that_are_deleted_while_they_are_pending_are_named(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """Whether a claim finds them, or the recovery of the consumer's own entries."""
    await send(url, stream, *range(40))
    await leave_pending(redis, stream, "dead", 20)
    await redis.xreadgroup("g", "me", {stream: ">"}, count=20)
    all_ids = [id_ for id_, _ in await redis.xrange(stream)]
    await redis.xdel(stream, *all_ids[5:35])
    claim = Claim(idle=0.2, interval=0.1)
    async with Consumer(
        stream, url=url, group="g", name="me", claim=claim, on_event=events
    ) as consumer:

        async def all_found() -> bool:
            return consumer.statistics().ghosts == 30

        await read(consumer, 10)
        await eventually(all_found)
    assert await pending(redis, stream, "g") == 0
    reported = events.named("deleted_while_pending")
    assert total(events, "deleted_while_pending") == 30
    # Which of the two finds an entry depends on timing; no event names more than ten.
    gone = {EntryId.parse(id_) for id_ in all_ids[5:35]}
    for event in reported:
        named = event.facts["ids"]
        assert len(named) == min(10, int(str(event.facts["messages"])))
        assert {EntryId.parse(id_) for id_ in named} <= gone


async def test_claimed_entries_are_named(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await send(url, stream, *range(3))
    await leave_pending(redis, stream, "dead", 2)
    claim = Claim(idle=0.2, interval=0.1)
    async with Consumer(
        stream, url=url, group="g", claim=claim, auto_commit=ROLLING, on_event=events
    ) as consumer:
        messages = await read(consumer, 3)
        for message in messages:
            message.ack()
    claimed = {id_ for event in events.named("claimed") for id_ in ids(event)}
    assert set(sorted(message.id for message in messages)[:2]) <= claimed


async def test_failed_sends_are_counted_and_their_streams_named(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.set(stream, "no stream")
    await redis.set(f"{stream}-b", "no stream")
    async with Producer(url, on_event=events) as producer:
        futures = [
            producer.enqueue_nowait(name, b"x")
            for name in (stream, f"{stream}-b", stream)
        ]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(outcome, SendFailed) for outcome in outcomes)
    [event] = events.named("send_failed")
    assert event.facts["messages"] == 3
    assert event.facts["streams"] == (stream, f"{stream}-b")


async def test_refusals_that_are_not_reported_are_counted(events: Events) -> None:
    report = rate_limited(events)
    for _ in range(5):
        report(Event("read_refused", facts={"reply": "LOADING"}))
    assert [event.facts for event in events] == [{"reply": "LOADING"}]

    async def a_second_later() -> bool:
        report(Event("read_refused", facts={"reply": "LOADING"}))
        return len(events) == 2

    await eventually(a_second_later, within=3)
    assert int(str(events[1].facts["times"])) > 5


async def test_an_outage_is_reported_once_however_late_its_lost_connections_are_noticed(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """Idle consumers notice a lost command connection only when looking for shards."""

    async def connections() -> set[str]:
        return {client["id"] for client in await redis.client_list()}

    other_ids = await connections()
    async with Consumer(stream, url=url, group="g", on_event=events) as consumer:
        # By then, the work that opening has started is done.
        assert await consumer.next(timeout=0.4) is None
        own_ids = await connections() - other_ids
        assert len(own_ids) == 2
        async with redis.pipeline() as pipeline:
            for id_ in own_ids:
                pipeline.execute_command("CLIENT", "KILL", "ID", id_)
            await pipeline.execute()

        async def both_are_back() -> bool:
            try:
                await consumer.lag()
            except ConnectionLost:
                return False
            return len(await connections() - other_ids - own_ids) == 2

        await eventually(both_are_back)
    assert [event.name for event in events] == ["connection_lost", "reconnected"]
