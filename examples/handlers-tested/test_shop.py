"""Tests of the handlers: most need no server."""

from penstock import Producer
from penstock.testing import deliver, handled, letters, message, running, sent
from shop import Order, bill, router


async def test_an_order_is_billed_to_its_customer() -> None:
    order = message(Order(7, "ann", 500))
    await bill(order)
    [transaction] = order.transactions
    assert [each.stream for each in transaction.sent] == ["bills"]
    assert [each.payload for each in transaction.sent] == [{"order": 7, "cents": 500}]
    assert order.outcome.status == "acknowledged"


async def test_an_order_of_nothing_is_rejected() -> None:
    order = message(Order(7, "ann", 0))
    await bill(order)
    assert order.outcome.status == "dead-lettered"
    assert order.outcome.reason == "nothing to pay"


async def test_an_order_of_nobody_is_tried_again() -> None:
    outcome = await deliver(router, "orders", Order(7, "unknown", 500), catch=True)
    assert outcome.status == "retried"
    assert outcome.delay is not None
    assert outcome.delay <= 1.0


async def test_the_service_bills_what_is_sent(penstock_url: str) -> None:
    async with running(router, penstock_url), Producer(penstock_url) as producer:
        receipt = await producer.send("orders", Order(7, "ann", 500))
        assert (await handled(router, receipt)).status == "acknowledged"
    [bill_] = await sent(penstock_url, "bills", payload=dict[str, int])
    assert bill_.payload == {"order": 7, "cents": 500}


async def test_an_order_of_nobody_is_kept_with_its_reason(penstock_url: str) -> None:
    async with running(router, penstock_url), Producer(penstock_url) as producer:
        receipt = await producer.send("orders", Order(7, "unknown", 500))
        outcome = await handled(router, receipt)
    assert (outcome.status, outcome.attempts) == ("dead-lettered", 3)
    [letter] = await letters(penstock_url, "orders")
    assert letter.reason == "LookupError: no such customer"
