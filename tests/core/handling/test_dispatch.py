"""Dispatch of messages by their type to handlers with their own payload types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from penstock import DecodeError, Fields, Message, Shard, json_codec
from penstock._core.handling.dispatch import (
    Dispatch,
    PayloadReader,
    Route,
    Unhandled,
    namer,
)
from penstock._core.handling.settlement import Settler
from penstock.codecs import raw_codec


class Order(msgspec.Struct):
    id: int


@dataclass
class Entry:
    """The part of an entry that a message needs."""

    fields: list[bytes]
    shard = Shard("orders", 0, b"orders")
    id = b"1-0"
    deliveries = 1
    epoch = 0


def settler() -> Settler[bytes]:
    unused: Any = None
    return Settler(
        unused,
        raw_codec,
        unused,
        max_message_bytes=1000,
        why_no_ack=None,
        on_loop_thread=lambda: True,
    )


def message(of: Settler[bytes], payload: bytes, **headers: str) -> Message[bytes]:
    fields = [b"msg", payload]
    for name, value in headers.items():
        fields += [name.encode(), value.encode()]
    return Message(Entry(fields), of, fields)


def test_a_message_is_read_as_another_type() -> None:
    read = PayloadReader(json_codec(Order))
    for of in (settler(), settler()):
        for _ in range(2):
            given = message(of, b'{"id": 7}', type="t")
            made = read(given)
            assert made.payload == Order(7)
            assert given.payload == b'{"id": 7}'
            assert (made.id, made.stream) == (given.id, "orders")
            assert made.headers == {"type": "t"}


def test_bytes_are_the_message_itself() -> None:
    given = message(settler(), b"x")
    assert PayloadReader(raw_codec)(given) is given


def test_a_message_can_be_read_as_a_whole_entry() -> None:
    made = PayloadReader(None)(message(settler(), b"x"))
    assert made.payload == Fields([(b"msg", b"x")])


def test_an_undecodable_payload_raises_when_read_and_is_not_quoted() -> None:
    made = PayloadReader(json_codec(Order))(message(settler(), b'{"id": "secret"}'))
    with pytest.raises(DecodeError) as caught:
        _ = made.payload
    assert "secret" not in str(caught.value)


class Calls(list[Any]):
    def sync(self, name: str) -> Any:
        return lambda given: self.append((name, given.payload))

    def passed_over(self, given: Message[Any], kind: str | None) -> None:
        self.append((kind, given))

    def make_async(self, name: str) -> Any:
        async def call(given: Message[Any]) -> None:
            self.append((name, given.payload))

        return call


def as_is(given: Message[Any]) -> Message[Any]:
    return given


KINDS = [("a", "a"), ("b", "other"), (None, "other")]


@pytest.mark.parametrize(("kind", "to"), KINDS)
async def test_the_header_selects_the_handler_and_one_handler_gets_all_other_types(
    kind: str | None, to: str
) -> None:
    calls = Calls()
    given = message(settler(), b"x", **({"type": kind} if kind else {}))
    names = {"a": "a", None: "other"}
    routes = {k: Route(as_is, calls.sync(name), name) for k, name in names.items()}
    Dispatch("type", routes, calls.passed_over).call_sync(given)
    routes = {
        k: Route(as_is, calls.make_async(name), name) for k, name in names.items()
    }
    await Dispatch("type", routes, calls.passed_over).call(given)
    assert calls == [(to, b"x")] * 2


@pytest.mark.parametrize("kind", ["b", None])
async def test_a_message_without_a_handler_is_passed_over(kind: str | None) -> None:
    seen: list[object] = []
    calls = Calls()
    given = message(settler(), b"x", **({"type": kind} if kind else {}))

    def skip(passed: Message[Any], its: str | None) -> None:
        assert passed is given
        seen.append(its)

    routes: dict[str | None, Route] = {"a": Route(as_is, calls.sync("a"), "a")}
    dispatch = Dispatch("type", routes, skip)
    dispatch.call_sync(given)
    await dispatch.call(given)
    assert seen == [kind, kind]
    assert calls == []


def test_each_unhandled_type_is_reported_once_up_to_a_limit() -> None:
    unhandled = Unhandled()
    assert unhandled.seen(None) == "(none)"
    assert unhandled.seen("a\n" + "b" * 500) == "a\\n" + "b" * 74 + "..."
    assert unhandled.seen(None) is None
    reported = [unhandled.seen(f"t{number}") for number in range(1000)]
    assert sum(1 for kind in reported if kind) == 98
    assert unhandled.messages == 1003


def test_a_report_names_the_handler_that_the_header_selects() -> None:
    calls = Calls()
    routes: dict[str | None, Route] = {"a": Route(as_is, calls.sync("a"), "shop.bill")}
    dispatch = Dispatch("type", routes, calls.passed_over)
    for name in (namer(dispatch.call), namer(dispatch.call_sync)):
        assert name(message(settler(), b"x", type="a")) == "shop.bill"
        assert name(message(settler(), b"x", type="b")) == ""
    name = namer(as_is)
    assert name(message(settler(), b"x")) == f"{__name__}.as_is"
