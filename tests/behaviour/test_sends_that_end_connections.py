"""Messages that make the server, or a proxy, end the connection that brings them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from penstock import Producer, Receipt, SendFailed, SendUnknown
from support.events import Events
from support.proxy import proxy
from support.server import server

BOTH = pytest.mark.parametrize("how", [{"resend": True}, {"idempotent": True}])
BINARIES = [None, shutil.which("redis-server")]
SERVERS = pytest.mark.parametrize(
    "binary", [pytest.param(None, id="embedded"), pytest.param(BINARIES[1], id="redis")]
)
LIMITS = pytest.mark.parametrize(
    "limit", ["proto-max-bulk-len", "client-query-buffer-limit"]
)
TOO_LARGE = b"x" * 2_000_000


async def bodies(client: Any, stream: str) -> list[bytes]:
    return [fields[b"msg"] for _, fields in await client.xrange(stream)]


def first_copies(found: list[bytes], how: dict[str, Any]) -> list[bytes]:
    """Return the messages in the order of their first copies; `resend` may double."""
    firsts = list(dict.fromkeys(found))
    if "idempotent" in how:
        assert found == firsts
    return firsts


@BOTH
@LIMITS
@SERVERS
async def test_a_message_that_the_server_hangs_up_on_does_not_stop_the_others(
    tmp_path: Path,
    stream: str,
    binary: str | None,
    limit: str,
    how: dict[str, Any],
) -> None:
    async with server(tmp_path, f"--{limit}", "1mb", binary=binary) as own:
        async with Producer(own.url, max_batch=20, **how) as producer:
            futures = [
                producer.enqueue_nowait(f"{stream}-{n % 3}", b"%d" % n)
                for n in range(100)
            ]
            bad = producer.enqueue_nowait(f"{stream}-0", TOO_LARGE)
            futures += [
                producer.enqueue_nowait(f"{stream}-{n % 3}", b"%d" % n)
                for n in range(100, 200)
            ]
            # It failed for certain if the server said why before it hung up.
            with pytest.raises((SendUnknown, SendFailed)) as caught:
                await bad
            receipts = await asyncio.gather(*futures)
        assert "proto-max-bulk-len" in str(caught.value)
        assert "xxx" not in str(caught.value)
        assert {type(receipt) for receipt in receipts} == {Receipt}
        client = own.client()
        for number in range(3):
            found = first_copies(await bodies(client, f"{stream}-{number}"), how)
            assert found == [b"%d" % n for n in range(200) if n % 3 == number]
        await client.aclose()


@BOTH
async def test_several_such_messages_are_each_given_up(
    tmp_path: Path, stream: str, how: dict[str, Any]
) -> None:
    async with server(tmp_path, "--proto-max-bulk-len", "1mb") as own:
        async with Producer(own.url, **how) as producer:
            payloads = [b"0", TOO_LARGE, b"1", TOO_LARGE, TOO_LARGE, b"2", TOO_LARGE]
            outcomes = await producer.send_many(stream, payloads)
            # And later sends are as they were.
            last = await producer.send(stream, b"3")
        for payload, outcome in zip(payloads, outcomes, strict=True):
            assert isinstance(outcome, Receipt) == (payload != TOO_LARGE)
            assert isinstance(outcome, Receipt | SendUnknown | SendFailed)
        assert isinstance(last, Receipt)
        client = own.client()
        found = first_copies(await bodies(client, stream), how)
        assert found == [b"0", b"1", b"2", b"3"]
        await client.aclose()


@BOTH
async def test_a_write_that_is_too_large_for_a_proxy_is_sent_message_by_message(
    url: str, stream: str, redis: Any, events: Events, how: dict[str, Any]
) -> None:
    async with proxy(url) as between:
        between.cut_requests_over = 20_000
        async with Producer(between.url, on_event=events, **how) as producer:
            payloads = [b"%d" % n + b"x" * 1000 for n in range(100)]
            payloads.insert(50, TOO_LARGE[:30_000])
            outcomes = await producer.send_many(stream, payloads)
    failed = [n for n, each in enumerate(outcomes) if not isinstance(each, Receipt)]
    assert failed == [50]
    assert isinstance(outcomes[50], SendUnknown)
    del payloads[50]
    assert first_copies(await bodies(redis, stream), how) == payloads
    assert between.cuts > 3
    [event] = events.named("send_unknown")
    assert event.facts["messages"] == 1
    assert "connections ended when it was written" in str(event.facts["reason"])
    assert "proxy" in str(outcomes[50])


@BOTH
async def test_a_message_whose_reply_is_cut_each_time_is_unknown_and_not_failed(
    url: str, stream: str, redis: Any, how: dict[str, Any]
) -> None:
    """It is stored: once if idempotent, and possibly several times if resent."""
    async with proxy(url) as between:
        async with Producer(between.url, **how) as producer:
            await producer.send(stream, b"0")
            between.cut_every = 1
            with pytest.raises(SendUnknown):
                await producer.send(stream, b"1")
            between.cut_every = 0
            await producer.send(stream, b"2")
        assert between.cuts == 5
    found = await bodies(redis, stream)
    assert first_copies(found, how) == [b"0", b"1", b"2"]


async def test_idempotent_messages_of_a_stored_write_get_receipts_when_divided(
    url: str, stream: str, redis: Any, events: Events
) -> None:
    """The write was stored; only the replies to it never came through."""
    async with proxy(url) as between:
        async with Producer(between.url, idempotent=True, on_event=events) as producer:
            await producer.send(stream, b"first")
            between.cut_every = 1
            futures = [producer.enqueue_nowait(stream, b"%d" % n) for n in range(9)]
            while between.cuts < 3:
                await asyncio.sleep(0.01)
            between.cut_every = 0
            receipts = await asyncio.gather(*futures)
    found = [id_.decode() for id_, _ in await redis.xrange(stream)]
    assert [str(receipt.id) for receipt in receipts] == found[1:]
    assert not events.named("send_unknown")
