"""`testing.deliver`: a message at a router's handler, without a server."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from penstock import (
    DROP,
    STOP,
    ConfigurationError,
    DecodeError,
    Message,
    Retry,
    Router,
)
from penstock.codecs import msgpack_codec
from penstock.middleware import Call
from penstock.testing import Outcome, Status, deliver


class Order(msgspec.Struct):
    id: int


class Refund(msgspec.Struct):
    of: int


def router_of(handler: Callable[..., Any], **options: Any) -> Router:
    router = Router(on_event=lambda _: None)
    router.handler("orders", **{"group": "billing", **options})(handler)
    return router


async def test_the_handler_gets_the_decoded_payload() -> None:
    seen = []

    async def bill(order: Order) -> None:
        seen.append(order)

    outcome = await deliver(router_of(bill), "orders", Order(7))
    assert seen == [Order(7)]
    assert outcome == Outcome(Status.ACKNOWLEDGED, 1)


async def test_the_handler_gets_the_whole_message() -> None:
    seen: list[Message[Order]] = []

    async def bill(message: Message[Order]) -> None:
        seen.append(message)

    await deliver(
        router_of(bill),
        "orders",
        {"id": 7},
        key="k",
        headers={"type": "t"},
        id="5-1",
        shard=3,
        attempt=2,
    )
    [message] = seen
    assert message.payload == Order(7)
    assert message.key == "k"
    assert dict(message.headers) == {"content-type": "application/json", "type": "t"}
    assert (str(message.id), message.shard, message.attempt) == ("5-1", 3, 2)


async def test_a_failure_is_raised_or_returned() -> None:
    async def bill(order: Order) -> None:
        raise ValueError(order.id)

    router = router_of(bill, retry=Retry(max_attempts=3))
    with pytest.raises(ValueError, match="7"):
        await deliver(router, "orders", Order(7))
    outcome = await deliver(router, "orders", Order(7), catch=True)
    assert (outcome.status, outcome.attempts) == ("retried", 1)
    assert isinstance(outcome.error, ValueError)
    assert outcome.delay is not None
    last = await deliver(router, "orders", Order(7), attempt=3, catch=True)
    assert (last.status, last.attempts) == ("dead-lettered", 3)
    assert last.reason == "ValueError: 7"


@pytest.mark.parametrize(
    ("policy", "status"), [(DROP, Status.DROPPED), (STOP, Status.STOPPED)]
)
async def test_the_policy_of_the_handler_decides(policy: Any, status: Status) -> None:
    async def bill(message: Message[Order]) -> None:
        message.reject("too old")

    outcome = await deliver(router_of(bill, dead_letters=policy), "orders", Order(7))
    assert outcome == Outcome(status, 1, reason="too old")


async def test_a_payload_of_another_type_is_dead_lettered() -> None:
    async def bill(order: Order) -> None:
        raise AssertionError(order)

    router = router_of(bill)
    with pytest.raises(DecodeError):
        await deliver(router, "orders", {"id": "seven"})
    outcome = await deliver(router, "orders", b"{", catch=True)
    assert outcome.status == "dead-lettered"
    assert isinstance(outcome.error, DecodeError)


async def test_the_codec_and_the_field_are_those_of_the_handler() -> None:
    seen = []

    async def bill(order: Order) -> None:
        seen.append(order)

    codec = msgpack_codec(Order)
    router = router_of(bill, codec=codec, field="data")
    await deliver(router, "orders", Order(7), codec=codec)
    assert seen == [Order(7)]
    with pytest.raises(DecodeError, match="content type"):
        await deliver(router, "orders", Order(7))


async def test_the_handler_for_the_type_is_chosen() -> None:
    seen: list[object] = []
    router = Router(on_event=lambda _: None)

    @router.handler("orders", group="billing", event="order")
    async def bill(order: Order) -> None:
        seen.append(order)

    @router.handler("orders", group="billing", event="refund")
    def pay_back(refund: Refund) -> None:
        seen.append(refund)

    await deliver(router, "orders", Refund(7), headers={"type": "refund"})
    await deliver(router, "orders", Order(7), headers={"type": "order"})
    assert seen == [Refund(7), Order(7)]
    outcome = await deliver(router, "orders", b"", headers={"type": "other"})
    assert outcome == Outcome(Status.UNHANDLED, 1)


async def test_middleware_surrounds_the_handler() -> None:
    seen: list[object] = []

    async def outer(message: Message[Any], call: Call[Message[Any]]) -> None:
        seen.append("before")
        await call(message)
        seen.append("after")

    router = Router(middleware=[outer])

    @router.handler("orders", group="billing")
    async def bill(order: Order) -> None:
        seen.append(order)

    await deliver(router, "orders", Order(7))
    assert seen == ["before", Order(7), "after"]


async def test_a_handler_that_is_not_async_runs_in_a_thread_and_may_settle() -> None:
    def bill(message: Message[Order]) -> None:
        message.nack(delay=3)

    outcome = await deliver(router_of(bill), "orders", Order(7))
    assert outcome == Outcome(Status.RETRIED, 1, delay=3)


async def test_handlers_of_one_stream_that_are_not_async_can_have_types() -> None:
    def bill(order: Order) -> None:
        raise AssertionError(order)

    router = router_of(bill, event="order")
    outcome = await deliver(router, "orders", b"", headers={"type": "other"})
    assert outcome.status == "unhandled"


@pytest.mark.parametrize("batch", [10, None])
async def test_a_handler_of_batches_gets_a_batch_of_one(batch: int | None) -> None:
    seen = []

    async def bill(orders: list[Order]) -> None:
        seen.append(orders)

    if batch is not None:
        await deliver(router_of(bill, batch=batch), "orders", Order(7))
        assert seen == [[Order(7)]]
    else:
        await deliver(router_of(bill), "orders", [Order(7)])
        assert seen == [[Order(7)]]


async def test_a_time_limit_is_kept() -> None:
    async def bill(order: Order) -> None:
        await asyncio.Event().wait()

    router = router_of(bill, retry=Retry(timeout=0.01))
    outcome = await deliver(router, "orders", Order(7), catch=True)
    assert outcome.status == "retried"
    assert isinstance(outcome.error, TimeoutError)


async def test_cancelling_it_cancels_the_handler() -> None:
    ended = []

    async def bill(order: Order) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(order)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await deliver(router_of(bill), "orders", Order(7))
    assert ended == [Order(7)]


async def test_a_handler_that_acknowledges_by_hand_may_leave_it_open() -> None:
    async def bill(message: Message[Order]) -> None:
        if message.payload.id:
            message.ack()

    router = router_of(bill, auto_commit="rolling")
    outcome = await deliver(router, "orders", Order(7))
    assert outcome.status == "acknowledged"
    outcome = await deliver(router, "orders", Order(0))
    assert outcome.status == "unacknowledged"


@pytest.mark.parametrize("policy", ["delayed", "immediate"])
async def test_what_is_acknowledged_by_time_or_on_delivery_is_so(policy: str) -> None:
    async def bill(order: Order) -> None:
        if not order.id:
            raise ValueError

    router = router_of(bill, auto_commit=policy)
    outcome = await deliver(router, "orders", Order(7))
    assert outcome.status == "acknowledged"
    outcome = await deliver(router, "orders", Order(0), catch=True)
    assert outcome.status == "failed"


async def test_a_handler_without_a_group_acknowledges_nothing() -> None:
    async def show(order: Order) -> None:
        if not order.id:
            raise ValueError

    router = router_of(show, group=None)
    assert (await deliver(router, "orders", Order(7))).status == "handled"
    outcome = await deliver(router, "orders", Order(0), catch=True)
    assert outcome.status == "failed"


async def test_a_handler_that_ends_the_program_ends_it() -> None:
    async def bill(order: Order) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await deliver(router_of(bill), "orders", Order(7), catch=True)


async def test_what_a_handler_leaves_in_context_variables_is_not_seen() -> None:
    tenant = contextvars.ContextVar("tenant", default="none")

    async def bill(order: Order) -> None:
        tenant.set("seven")

    await deliver(router_of(bill), "orders", Order(7))
    assert tenant.get() == "none"


async def test_the_group_is_named_where_several_handle_the_stream() -> None:
    seen = []
    router = Router()
    for group in ("audit", "billing"):

        @router.handler("orders", group=group)
        async def handle(order: Order, group: str = group) -> None:
            seen.append(group)

    with pytest.raises(ConfigurationError, match="one of 'audit', 'billing'"):
        await deliver(router, "orders", Order(7))
    await deliver(router, "orders", Order(7), group="audit")
    assert seen == ["audit"]
    with pytest.raises(ConfigurationError, match="its groups are 'audit', 'billing'"):
        await deliver(router, "orders", Order(7), group="ship")
    with pytest.raises(ConfigurationError, match=r"no handler for 'refunds'.*orders"):
        await deliver(router, "refunds", Order(7))


async def test_a_payload_that_can_t_be_sent_is_refused() -> None:
    async def bill(order: Order) -> None:
        raise AssertionError(order)

    with pytest.raises(ConfigurationError, match="object can't be encoded"):
        await deliver(router_of(bill), "orders", object())
