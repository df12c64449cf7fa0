"""The name of the payload's field, on both sides: `field=`."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import (
    EARLIEST,
    LOAD_BALANCED,
    REALTIME,
    RESUMABLE,
    ConfigurationError,
    Consumer,
    Fields,
    Message,
    MessageTooLarge,
    Mode,
    Producer,
    Router,
    admin,
    replay,
)
from support.events import Events
from support.waiting import options, pending, read

JSON = {b"content-type": b"application/json"}
MODES = [REALTIME, RESUMABLE, LOAD_BALANCED]


async def native(redis: Any, stream: str, *bodies: str) -> None:
    """Write entries as a program without Penstock does."""
    for body in bodies:
        await redis.execute_command("XADD", stream, "*", "kind", "new", "data", body)


@pytest.mark.parametrize("mode", MODES)
async def test_native_entries_are_read_as_bytes_and_by_type(
    url: str, stream: str, redis: Any, mode: Mode
) -> None:
    await native(redis, stream, '{"id": 1}', '{"id": 2}')
    given = options(mode)
    async with Consumer(stream, url=url, field="data", **given) as consumer:
        first, second = await read(consumer, 2)
    assert (first.payload, second.payload) == (b'{"id": 1}', b'{"id": 2}')
    assert dict(first.headers) == {"kind": "new"}
    given = {**given, "group": "typed"} if mode is not REALTIME else given
    async with Consumer(
        stream, url=url, field="data", payload=dict[str, int], **given
    ) as typed:
        assert [each.payload for each in await read(typed, 2)] == [{"id": 1}, {"id": 2}]


async def test_an_entry_without_the_field_is_reported_with_the_name_of_the_field(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    await redis.xadd(stream, {"msg": "x"})
    await native(redis, stream, "1")
    async with Consumer(
        stream, url=url, group="g", field="data", on_event=events
    ) as consumer:
        [message] = await read(consumer, 1)
        assert message.payload == b"1"
    [gave_up] = events.named("gave_up")
    assert "it has no field 'data'" in str(gave_up.facts["reason"])


async def test_a_producer_writes_the_field_and_an_outlet_may_name_another(
    url: str, stream: str, redis: Any
) -> None:
    async with Producer(url, field="data") as producer:
        await producer.send(stream, b"one")
        await producer.send(stream, {"n": 2}, key="k", headers={"msg": "header"})
        await producer.to(stream).send(b"three")
        await producer.to(stream, field="body").send(b"four", key="k")
        await producer.send_many(stream, [b"", b"five"])
        for name in ("data", "key"):
            with pytest.raises(ConfigurationError, match="reserved"):
                await producer.send(stream, b"", headers={name: "x"})
    found = [fields for _, fields in await redis.xrange(stream)]
    assert found == [
        {b"data": b"one"},
        {b"data": b'{"n":2}', b"key": b"k", **JSON, b"msg": b"header"},
        {b"data": b"three"},
        {b"body": b"four", b"key": b"k"},
        {b"data": b""},
        {b"data": b"five"},
    ]


async def test_the_name_of_the_field_does_not_count_towards_the_size(
    url: str, stream: str
) -> None:
    long = "a-long-name-of-a-field"
    async with Producer(url, field=long, max_message_bytes=4) as producer:
        await producer.send(stream, b"1234")
        with pytest.raises(MessageTooLarge):
            await producer.send(stream, b"12345")
        with pytest.raises(MessageTooLarge):
            await producer.send(stream, b"12", key="k")
    async with Producer(url, field=long) as producer:
        await producer.send(stream, b"12345")
        await producer.send(stream, b"6789")
    async with Consumer(
        stream, url=url, group="g", field=long, max_message_bytes=4
    ) as consumer:
        assert [each.payload for each in await read(consumer, 2)] == [b"1234", b"6789"]
        assert consumer.statistics().undecodable == 1


@pytest.mark.parametrize("sync", [False, True])
async def test_a_router_names_the_field_for_all_handlers_and_a_handler_its_own(
    url: str, stream: str, redis: Any, *, sync: bool
) -> None:
    router = Router(url, field="data")
    seen: list[Any] = []

    def take(value: Any) -> None:
        seen.append(value)
        if len(seen) == 4:
            router.stop()

    def register(number: int, **given: Any) -> None:
        async def handle(payload: dict[str, int]) -> None:
            take((number, payload))

        def handle_in_thread(payload: dict[str, int]) -> None:
            take((number, payload))

        name = stream if number < 3 else f"{stream}-2"
        router.handler(name, group="g", **given)(handle_in_thread if sync else handle)

    register(1, event="new", event_header="kind")
    register(2, event_header="kind")
    register(3, field="body")
    await native(redis, stream, '{"id": 1}')
    await redis.xadd(stream, {"data": '{"id": 2}'})
    await redis.xadd(f"{stream}-2", {"body": '{"id": 3}'})
    await native(redis, stream, '{"id": 4}')
    await router.run()
    expected = [(1, {"id": 1}), (1, {"id": 4}), (2, {"id": 2}), (3, {"id": 3})]
    assert sorted(seen, key=str) == expected


def test_the_header_of_the_event_is_not_the_field_of_the_payload_or_the_key() -> None:
    async def handle(message: Message[bytes]) -> None: ...

    router = Router(field="type")
    for given in ({}, {"field": "a", "event_header": "a"}, {"event_header": "key"}):
        with pytest.raises(ConfigurationError, match="event_header="):
            router.handler("orders", group="g", event="new", **given)(handle)  # type: ignore[arg-type]
    # Without an event no header is looked at.
    router.handler("orders", group="g")(handle)


async def test_a_transaction_sends_the_usual_field_or_the_one_that_it_is_told(
    url: str, stream: str, redis: Any
) -> None:
    await native(redis, stream, "1")
    async with Consumer(stream, url=url, group="g", field="data") as consumer:
        [message] = await read(consumer, 1)
        async with message.transaction() as tx:
            tx.send(f"{stream}.out", message.payload)
            tx.send(f"{stream}.out", message.payload, key="k", field="body")
            with pytest.raises(ConfigurationError, match="field='key'"):
                tx.send(f"{stream}.out", b"", field="key")
        assert tx.applied
    assert await pending(redis, stream, "g") == 0
    assert [fields for _, fields in await redis.xrange(f"{stream}.out")] == [
        {b"msg": b"1"},
        {b"body": b"1", b"key": b"k"},
    ]


async def give_up_one(url: str, stream: str) -> None:
    """Have a consumer of field `data` give up its only message."""
    async with Consumer(stream, url=url, group="g", field="data") as consumer:
        [message] = await read(consumer, 1)
        message.reject("no")


async def test_a_dead_letter_keeps_its_field_and_goes_back_with_it(
    url: str, stream: str, redis: Any
) -> None:
    await native(redis, stream, "17")
    await give_up_one(url, stream)
    [letter] = await admin.dead.list(stream, url=url)
    assert letter.payload is None
    assert letter.fields[:2] == ((b"kind", b"new"), (b"data", b"17"))
    for found in (
        (await admin.dead.list(stream, url=url, field="data"))[0],
        await admin.dead.read(stream, letter.id, url=url, field="data"),
    ):
        assert found is not None
        assert found.payload == b"17"
        assert dict(found.headers) == {"kind": "new"}

    def is_17(letter: admin.DeadLetter) -> bool:
        return letter.payload == b"17"

    assert await admin.dead.redrive(stream, url=url, where=is_17) == 0
    again = await admin.dead.redrive(stream, url=url, where=is_17, field="data")
    assert again == 1
    async with Consumer(stream, url=url, group="g", field="data") as consumer:
        [message] = await read(consumer, 1)
        assert message.payload == b"17"
        message.reject()
    assert await admin.dead.purge(stream, url=url, where=is_17) == 0
    assert await admin.dead.purge(stream, url=url, where=is_17, field="data") == 1


async def test_dead_letters_are_read_by_a_consumer_with_the_same_field(
    url: str, stream: str, redis: Any
) -> None:
    await native(redis, stream, "17")
    await give_up_one(url, stream)
    dead = f"{stream}.dead"
    async with Consumer(dead, url=url, start=EARLIEST, field="data") as consumer:
        [message] = await read(consumer, 1)
        assert message.payload == b"17"


async def test_a_replay_reads_the_field(url: str, stream: str, redis: Any) -> None:
    await native(redis, stream, "1", "2")
    raw = [each.payload async for each in replay(stream, url=url, field="data")]
    assert raw == [b"1", b"2"]
    typed = replay(stream, url=url, field="data", payload=int)
    assert [each.payload async for each in typed] == [1, 2]


async def test_whole_entries_have_the_field_too(
    url: str, stream: str, redis: Any
) -> None:
    await native(redis, stream, "1")
    async with Consumer(
        stream, url=url, start=EARLIEST, payload=Fields, field="data"
    ) as consumer:
        [message] = await read(consumer, 1)
        assert message.payload.get(b"data") == b"1"
        assert dict(message.headers) == {"kind": "new"}


def test_a_wrong_name_is_refused_wherever_it_can_be_passed() -> None:
    async def handle(message: Message[bytes]) -> None: ...

    calls: list[Any] = [
        lambda: Consumer("orders", field="key"),
        lambda: Router(field="key"),
        lambda: Router().handler("orders", group="g", field="key")(handle),
        lambda: Producer(field="key"),
        lambda: Producer().to("orders", field="key"),
        lambda: replay("orders", field="key"),
        lambda: admin.Admin().dead.each("orders", field="key"),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="field='key' is the name of"):
            call()
