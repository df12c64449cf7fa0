"""The log of outages and takeovers: few lines, which name all that is concerned."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import pytest

from penstock import Event, Message, Producer, Router, _clock, _outages, events
from penstock._outages import Outages
from penstock.events import log_event
from support.server import server
from support.waiting import eventually, send

Line = tuple[str, dict[str, Any]]


def lost(who: str, server: str = "s", **more: Any) -> dict[str, Any]:
    return {
        "server": server,
        "client": "consumer",
        "streams": (who,),
        "group": "g",
        "consumer": who,
        "reason": "gone",
        **more,
    }


def back(who: str, seconds: float) -> dict[str, Any]:
    facts = lost(who)
    del facts["reason"]
    return {**facts, "seconds": seconds}


@pytest.fixture
def lines() -> list[Line]:
    return []


@pytest.fixture
def outages(lines: list[Line], monkeypatch: pytest.MonkeyPatch) -> Outages:
    monkeypatch.setattr(_outages, "_COLLECTING", 60)  # lines come when they are flushed
    return Outages(lambda name, facts: lines.append((name, dict(facts))))


def test_an_outage_of_many_is_one_line_and_so_is_its_end(
    outages: Outages, lines: list[Line]
) -> None:
    for who in ("orders", "clicks", "orders"):
        outages.lost(lost(who))
    outages.lost({"server": "s", "client": "producer", "reason": "gone"})
    outages.lost(lost("else", server="other"))
    assert lines == []
    outages.flush()
    outages.flush()
    streams, others = ("orders", "clicks"), lost("else", server="other")
    common = {"server": "s", "connections": 3, "streams": streams, "groups": ("g",)}
    assert lines == [
        ("connection_lost", {**common, "reason": "gone"}),
        ("connection_lost", others),
    ]
    lines.clear()
    outages.reconnected(back("clicks", 0.5))
    outages.reconnected(back("orders", 0.7))
    outages.reconnected({"server": "s", "client": "producer", "seconds": 0.9})
    assert lines == [("reconnected", {**common, "seconds": 0.5})]
    # The next one is another.
    outages.lost(lost("orders"))
    outages.flush()
    assert lines[1:] == [("connection_lost", lost("orders"))]


def test_a_short_outage_is_logged_before_its_end(
    outages: Outages, lines: list[Line]
) -> None:
    outages.lost(lost("orders"))
    outages.reconnected(back("orders", 0.1))
    outages.flush()
    assert lines == [
        ("connection_lost", lost("orders")),
        ("reconnected", back("orders", 0.1)),
    ]
    # What reported no outage here, or another one, has a line of its own.
    outages.reconnected(back("clicks", 0.1))
    assert lines[2:] == [("reconnected", back("clicks", 0.1))]


def test_an_outage_that_nobody_ended_does_not_hide_the_next(
    outages: Outages, lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    outages.lost(lost("orders"))  # and then it was closed
    outages.flush()
    monkeypatch.setattr(_clock, "monotonic", lambda: 1e9)
    outages.lost(lost("clicks"))
    outages.flush()
    assert [facts["streams"] for _, facts in lines] == [("orders",), ("clicks",)]


async def test_consumers_of_a_process_that_lose_a_server_are_named_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "penstock")
    router, handled = Router(close_timeout=1), []
    for name in ("orders", "clicks", "bids"):

        @router.handler(name, group=f"of {name}")
        async def _(message: Message[bytes]) -> None:
            handled.append(message.stream)

    def found(name: str) -> list[logging.LogRecord]:
        return [each for each in caplog.records if getattr(each, "event", 0) == name]

    async with server(tmp_path) as own:
        async with router.running(own.url), Producer(own.url) as producer:
            await producer.send("orders", b"one")
            own.send_signal(signal.SIGSTOP)  # so that all is cut at once
            for consumer in router.consumers:
                consumer._session._connector.abort("cut")  # type: ignore[union-attr]
            own.send_signal(signal.SIGCONT)
            await eventually(lambda: true(found("reconnected")))
            await send(own.url, "bids", 1)
            await eventually(lambda: true("bids" in handled))
    [line], [end] = found("connection_lost"), found("reconnected")
    for one in (line, end):
        facts = one.__dict__["facts"]
        assert set(facts["streams"]) == {"orders", "clicks", "bids"}
        assert set(facts["groups"]) == {"of orders", "of clicks", "of bids"}
        assert facts["connections"] == 3
    assert "streams='orders','clicks','bids' groups='of orders'" in line.message


async def true(value: object) -> bool:
    return bool(value)


def test_takeovers_are_one_line_a_second_with_three_ids(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events._LOGGER.filters[0], "_seconds", {})
    facts = {"stream": "s", "messages": 9, "ids": tuple(f"{n}-0" for n in range(9))}
    for _ in range(4):
        log_event(Event("claimed", facts=facts))
    monkeypatch.setattr(
        events._LOGGER.filters[0], "_seconds", {"claimed": (0.0, 4)}
    )  # the second is over
    log_event(Event("claimed", facts=facts))
    first, second = caplog.records
    assert first.message == "claimed stream='s' messages=9 ids=0-0,1-0,2-0"
    assert second.message == f"{first.message} left_out=3"
    assert second.__dict__["facts"]["left_out"] == 3
