"""Tests of the web service and of the handlers, together and apart."""

import pytest
from app import create_app
from fastapi.testclient import TestClient
from handlers import Order, router

from penstock import Producer, SendFailed
from penstock.testing import RecordingProducer, Sent, deliver, handled, running


def test_an_order_is_sent() -> None:
    producer = RecordingProducer()
    with TestClient(create_app(producer)) as client:
        assert client.post("/orders/7?item=tea").status_code == 202
    assert producer.sent == [Sent("orders", Order(7, "tea"))]


def test_an_order_that_is_not_stored_may_be_sent_again() -> None:
    producer = RecordingProducer()
    producer.fail_next(SendFailed("orders", "OOM", "out of memory"))
    with TestClient(create_app(producer)) as client:
        assert client.post("/orders/7?item=tea").status_code == 503


async def test_an_order_is_packed(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = await deliver(router, "orders", Order(7, "tea"))
    assert outcome.status == "acknowledged"
    assert capsys.readouterr().out == "packed tea\n"


async def test_what_is_sent_is_packed(penstock_url: str) -> None:
    async with running(router, penstock_url), Producer(penstock_url) as producer:
        receipt = await producer.send("orders", Order(8, "milk"))
        assert (await handled(router, receipt)).status == "acknowledged"
