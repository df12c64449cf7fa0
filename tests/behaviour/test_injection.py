"""Handlers get services, a transaction and the message by their annotations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import svcs

from penstock import (
    ClosedError,
    ConfigurationError,
    ConnectError,
    Inject,
    Message,
    Producer,
    Receipt,
    Retry,
    Router,
    Transaction,
)
from penstock.testing import RecordingProducer, deliver
from support.waiting import eventually, pending, send


class Database:
    """A service that says what happens to it."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.closed = False


class Session:
    """Another service, which is made of the first."""

    def __init__(self, database: Database) -> None:
        self.database = database


class Log(list[str]):
    """What has happened, in order."""

    @asynccontextmanager
    async def session(self, container: svcs.Container) -> AsyncIterator[Session]:
        self.append("made")
        try:
            yield Session(await container.aget(Database))
        finally:
            await asyncio.sleep(0)
            self.append("closed")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def services(log: Log, database: Database) -> svcs.Registry:
    registry = svcs.Registry()
    registry.register_value(Database, database)
    registry.register_factory(Session, log.session)
    return registry


# -- services --------------------------------------------------------------------------


async def test_a_service_is_made_for_each_attempt_and_closed_before_the_acknowledgement(
    url: str, stream: str, redis: Any, log: Log, services: svcs.Registry
) -> None:
    router = Router(services=services, retry=Retry(backoff=[0]))
    still_pending = []

    @asynccontextmanager
    async def session(container: svcs.Container) -> AsyncIterator[Session]:
        async with log.session(container) as made:
            yield made
        still_pending.append(await pending(redis, stream, "g"))

    services.register_factory(Session, session)

    @router.handler(stream, group="g")
    async def store(number: int, session: Inject[Session]) -> None:
        log.append(f"handled {number}")
        session.database.rows.append(number)
        if len(session.database.rows) == 1:
            raise ValueError("the first attempt")

    await send(url, stream, 7)
    async with router.running(url):
        await eventually(lambda: _done(redis, stream, still_pending, 2))
    assert log == ["made", "handled 7", "closed"] * 2
    assert still_pending == [1, 1]


async def _done(redis: Any, stream: str, seen: list[int], count: int) -> bool:
    return len(seen) == count and not await pending(redis, stream, "g")


async def test_a_service_is_closed_when_its_handler_takes_too_long(
    log: Log, services: svcs.Registry
) -> None:
    router = Router(services=services, retry=Retry(timeout=0.05))

    @router.handler("orders", group="g")
    async def store(number: int, session: Inject[Session]) -> None:
        await asyncio.sleep(60)

    outcome = await deliver(router, "orders", 7, catch=True)
    assert isinstance(outcome.error, TimeoutError)
    assert log == ["made", "closed"]


async def test_what_making_a_service_raises_is_the_handlers_failure(
    services: svcs.Registry,
) -> None:
    def broken() -> Session:
        raise OSError("no database")

    services.register_factory(Session, broken)
    router = Router(services=services)

    @router.handler("orders", group="g")
    async def store(number: int, session: Inject[Session]) -> None:
        raise AssertionError("it was called")

    outcome = await deliver(router, "orders", 7, catch=True)
    assert (outcome.status, str(outcome.error)) == ("retried", "no database")


async def test_a_plain_function_gets_its_services_in_its_thread(
    log: Log, database: Database, services: svcs.Registry
) -> None:
    router = Router(services=services)
    names = []

    @router.handler("orders", group="g")
    def store(number: int, message: Message[int], *, session: Inject[Session]) -> None:
        names.append(threading.current_thread().name)
        session.database.rows.append(number)
        message.ack()

    assert (await deliver(router, "orders", 7)).status == "acknowledged"
    assert database.rows == [7]
    assert names[0] != threading.main_thread().name
    assert log == ["made", "closed"]


async def test_a_batch_shares_its_services(log: Log, services: svcs.Registry) -> None:
    router = Router(services=services)
    given: list[Any] = []

    @router.handler("orders", group="g", batch=10)
    async def store(numbers: list[int], session: Inject[Session]) -> None:
        given.append(numbers)

    await deliver(router, "orders", 7)
    assert given == [[7]]
    assert log == ["made", "closed"]


async def test_handlers_of_several_events_have_services_of_their_own(
    log: Log, database: Database, services: svcs.Registry
) -> None:
    router = Router(services=services)

    @router.handler("orders", group="g", event="created")
    async def create(number: int, session: Inject[Session]) -> None:
        session.database.rows.append(("created", number))

    @router.handler("orders", group="g", event="paid")
    def pay(number: int, database: Inject[Database]) -> None:
        database.rows.append(("paid", number))

    for number, event in enumerate(("created", "paid")):
        await deliver(router, "orders", number, headers={"type": event})
    assert database.rows == [("created", 0), ("paid", 1)]
    assert log == ["made", "closed"]


async def test_middleware_is_outside_of_services(
    log: Log, services: svcs.Registry
) -> None:
    async def noting(message: Message[Any], call: Callable[..., Any]) -> object:
        log.append("before")
        try:
            return await call(message)
        finally:
            log.append("after")

    router = Router(services=services, middleware=[noting])

    @router.handler("orders", group="g")
    async def store(number: int, session: Inject[Session]) -> None: ...

    await deliver(router, "orders", 7)
    assert log == ["before", "made", "closed", "after"]


async def test_a_test_replaces_a_service(services: svcs.Registry) -> None:
    router = Router(services=services)

    @router.handler("orders", group="g")
    async def store(number: int, database: Inject[Database]) -> None:
        database.rows.append(number)

    fake = Database()
    services.register_value(Database, fake)
    await deliver(router, "orders", 7)
    assert fake.rows == [7]


async def test_an_included_router_keeps_its_registry_or_gets_the_others(
    services: svcs.Registry, database: Database
) -> None:
    own = svcs.Registry()
    own.register_value(Database, theirs := Database())
    with_registry, without = Router(services=own), Router()
    for each, stream in ((with_registry, "a"), (without, "b")):

        @each.handler(stream, group="g")
        async def store(number: int, database: Inject[Database]) -> None:
            database.rows.append(number)

    router = Router(services=services)
    router.include(with_registry)
    router.include(without)
    await deliver(router, "a", 1)
    await deliver(router, "b", 2)
    assert (theirs.rows, database.rows) == ([1], [2])


async def test_pings_of_services_are_in_the_health(
    url: str, stream: str, services: svcs.Registry, database: Database
) -> None:
    async def ping(_: Database) -> None:
        raise ConnectionRefusedError("secret words")

    reached_with: list[str] = []
    services.register_value(Database, database, ping=ping)
    services.register_factory(str, lambda: "x", ping=reached_with.append)
    router = Router(services=services)

    @router.handler(stream, group="g")
    async def store(number: int, database: Inject[Database]) -> None: ...

    async with router.running(url):

        async def are_pinged() -> bool:
            return len(router.health().workers[0].services) == 2

        await eventually(are_pinged)
        health = router.health()
        assert health.ready
        refused, reached = sorted(
            health.workers[0].services, key=lambda service: service.reachable
        )
    assert refused.name.endswith(".Database")
    assert (refused.error, reached.error) == ("ConnectionRefusedError", None)
    assert 0 <= reached.pinged_seconds_ago < 15
    assert reached_with == ["x"]


# -- transactions, messages and producers ----------------------------------------------


async def test_a_transaction_is_applied_when_the_handler_returns(
    url: str, stream: str, redis: Any, services: svcs.Registry, log: Log
) -> None:
    router = Router(services=services, retry=Retry(backoff=[0]))
    attempts = []

    @router.handler(stream, group="g")
    async def count(
        number: int, tx: Transaction[Receipt], session: Inject[Session]
    ) -> None:
        tx.command("INCRBY", f"{stream}:total", number)
        attempts.append(number)
        if len(attempts) == 1:
            raise ValueError("the first attempt")

    await send(url, stream, 7)
    async with router.running(url):
        await eventually(lambda: _is(redis, f"{stream}:total", b"7"))
    assert await redis.get(f"{stream}:total") == b"7"
    assert await pending(redis, stream, "g") == 0
    assert attempts == [7, 7]
    assert log == ["made", "closed"] * 2


async def _is(redis: Any, key: str, value: bytes) -> bool:
    return bool(await redis.get(key) == value)


async def test_a_handler_of_payloads_may_have_the_message_too() -> None:
    router = Router()
    given: list[Any] = []

    @router.handler("orders", group="g")
    async def store(number: int, message: Message[int]) -> None:
        given.append((number, message.payload, message.key))

    await deliver(router, "orders", 7, key="k")
    assert given == [(7, 7, "k")]


async def test_a_producer_can_be_given_by_a_test() -> None:
    router = Router()

    @router.handler("orders", group="g")
    async def forward(number: int, producer: Producer) -> None:
        await producer.send("totals", number)

    recording = RecordingProducer()
    await deliver(router, "orders", 7, producer=recording)
    assert [(each.stream, each.payload) for each in recording.sent] == [("totals", 7)]


async def test_the_producer_of_a_run_is_open_while_handlers_and_hooks_run(
    url: str, stream: str, redis: Any
) -> None:
    router = Router()
    given: list[Producer] = []

    @router.handler(stream, group="g")
    async def forward(number: int, producer: Producer) -> None:
        await producer.send(f"{stream}.totals", number)
        given.append(producer)

    @router.on_stop
    async def stop() -> None:
        await given[0].send(f"{stream}.totals", 0)

    await send(url, stream, 7, 8)
    async with router.running(url):
        await eventually(lambda: _has(redis, f"{stream}.totals", 2))
    assert await redis.xlen(f"{stream}.totals") == 3
    assert given[0] is given[1]
    with pytest.raises(ClosedError):
        await given[0].send(f"{stream}.totals", 1)


async def _has(redis: Any, stream: str, count: int) -> bool:
    return bool(await redis.xlen(stream) == count)


async def test_a_run_whose_producer_can_not_connect_opens_nothing(stream: str) -> None:
    router = Router()

    @router.handler(stream, group="g")
    async def forward(number: int, producer: Producer) -> None: ...

    with pytest.raises(ConnectError):
        await router.run("redis://127.0.0.1:1")
    assert router.consumers == ()


# -- what is refused, and when ---------------------------------------------------------


async def test_a_service_that_is_not_registered_is_refused_before_anything_opens(
    stream: str,
) -> None:
    router = Router(services=svcs.Registry())

    @router.handler(stream, group="g")
    async def store(number: int, session: Inject[Session]) -> None: ...

    for starting in (
        lambda: router.run("redis://127.0.0.1:1"),
        lambda: deliver(router, stream, 7),
    ):
        with pytest.raises(ConfigurationError, match=r"store.* needs a Session, which"):
            await starting()


async def test_without_a_registry_the_error_says_where_to_pass_it(stream: str) -> None:
    router = Router()

    @router.handler(stream, group="g")
    async def store(number: int, session: Inject[Session]) -> None: ...

    with pytest.raises(ConfigurationError, match=r"pass Router\(services="):
        await router.run("redis://127.0.0.1:1")


def _generates(number: int) -> Iterator[int]:
    yield number


async def _first(session: Inject[Session], number: int) -> None: ...
async def _unknown(number: int, other: str) -> None: ...
async def _of_many(numbers: list[int], message: Message[int]) -> None: ...
def _plain(number: int, tx: Transaction[Receipt]) -> None: ...
async def _without_name(number: int, session: Inject[Session], /) -> None: ...
async def _without_group(number: int, tx: Transaction[Receipt]) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "why"),
    [
        (_first, {}, "put what is filled after it"),
        (_unknown, {}, "more than one argument"),
        (_of_many, {"batch": 5}, "message is about one message"),
        (_plain, {}, "make it an async function"),
        (_without_name, {}, "more than one argument"),
        (_without_group, {"group": None}, "pass group="),
    ],
)
def test_parameters_that_can_not_be_filled_are_refused_at_the_decorator(
    function: Any, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Router().handler("orders", **{"group": "g", **options})(function)


def test_a_parameter_with_a_default_needs_no_type_that_can_be_found() -> None:
    async def store(number: int, other: Unknown = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    Router().handler("orders", group="g")(store)


def test_services_have_to_be_a_registry() -> None:
    with pytest.raises(ConfigurationError, match=r"pass an svcs\.Registry"):
        Router(services={"database": Database()})  # type: ignore[arg-type]


def test_without_svcs_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "svcs", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'penstock\[inject\]'"):
        Router(services=object())  # type: ignore[arg-type]
