"""`replicas=` and `durable=`: sends confirmed by replicas or the append-only file."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from penstock import (
    ConfigurationError,
    NotDurable,
    Outgoing,
    Producer,
    Receipt,
    SendFailed,
    SendUnknown,
    ServerError,
)
from support.events import Events
from support.proxy import Proxy, proxy
from support.server import Server, server, with_login
from support.waiting import eventually


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[Server, Server]]:
    """Provide a primary and a replica that has caught up with it."""
    for name in ("primary", "replica"):
        (folder / name).mkdir()
    async with server(folder / "primary", "--repl-diskless-sync-delay", "0") as primary:
        replica_of = ("--replicaof", "127.0.0.1", str(primary.port))
        async with server(folder / "replica", *replica_of) as replica:
            client = primary.client()

            async def has_caught_up() -> bool:
                await client.set("warm", 1)
                return bool(await client.execute_command("WAIT", 1, 100))

            await eventually(has_caught_up, within=10)
            await client.aclose()
            yield primary, replica


async def has_waitaof(own: Server) -> bool:
    client = own.client()
    try:
        await client.execute_command("WAITAOF")
    except ResponseError as error:
        return "unknown command" not in str(error)
    finally:
        await client.aclose()
    raise AssertionError


async def test_a_message_is_confirmed_when_the_replicas_have_it(
    tmp_path: Path, stream: str, events: Events
) -> None:
    async with pair(tmp_path) as servers:
        for how in ({}, {"resend": True}, {"idempotent": True}):
            events.clear()
            options = {"replicas": 1, "on_event": events, **how}
            await check_confirmations(servers, f"{stream}-{len(how)}", options)
            [event] = events.named("send_not_durable")
            assert event.facts.items() >= {"messages": 1, "replicas": 0}.items()
            assert event.facts["ids"]


async def check_confirmations(
    servers: tuple[Server, Server], stream: str, options: dict[str, Any]
) -> None:
    primary, replica = servers
    on_primary, on_replica = primary.client(), replica.client()
    await on_primary.delete(stream)
    async with Producer(primary.url, **options) as producer:
        for number in range(20):
            receipt = await producer.send(stream, b"%d" % number)
            [(id_, _)] = await on_replica.xrevrange(stream, count=1)
            assert id_.decode() == str(receipt.id)
        # The replica is stopped: the message is stored on the primary only.
        replica.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(NotDurable) as caught:
            await producer.send(stream, b"20", timeout=0.5)
        assert time.monotonic() - start < 0.5
        error = caught.value
        assert (error.wanted, error.achieved, error.durable) == (1, 0, None)
        assert error.stream == stream
        assert isinstance(error, ServerError)
        assert not isinstance(error, SendFailed)
        # A message that requires no replica is not refused.
        assert isinstance(await producer.send(stream, b"21", replicas=0), Receipt)
        found = [i.decode() for i, _ in await on_primary.xrange(stream)]
        assert found[20] == error.id == str(error.receipt.id)
        replica.send_signal(signal.SIGCONT)
        await producer.send(stream, b"22", timeout=20)
    for client in (on_primary, on_replica):
        bodies = [fields[b"msg"] for _, fields in await client.xrange(stream)]
        assert bodies == [b"%d" % number for number in range(23)]
        await client.aclose()


async def test_one_wait_covers_all_messages_of_a_write(
    url: str, stream: str, redis: Any
) -> None:
    async def wait_calls() -> int:
        stats = await redis.info("commandstats")
        return int(stats.get("cmdstat_wait", {}).get("calls", 0))

    async with Producer(url) as producer:
        await producer.send(stream, b"warm")
        before = await wait_calls()
        outcomes = await producer.send_many(
            stream, [b"x"] * 300, replicas=1, timeout=0.5
        )
        assert {type(outcome) for outcome in outcomes} == {NotDurable}
        assert 1 <= await wait_calls() - before <= 3
    assert await redis.xlen(stream) == 301


async def test_each_message_is_confirmed_by_the_replicas_that_it_requires(
    tmp_path: Path, stream: str
) -> None:
    async with (
        pair(tmp_path) as (primary, _),
        Producer(primary.url, send_timeout=2) as producer,
    ):
        plain = producer.to(stream)
        one, two = (producer.to(stream, replicas=n) for n in (1, 2))
        string = primary.client()
        await string.set(f"{stream}-string", "no stream")
        futures = [
            plain.enqueue_nowait(b"0"),
            two.enqueue_nowait(b"1"),
            one.enqueue_nowait(b"2"),
            two.enqueue_nowait(b"3"),
            producer.enqueue_nowait(f"{stream}-string", b"x", replicas=1),
            plain.enqueue_nowait(b"4", replicas=2, timeout=2.1),
            one.enqueue_nowait(b"5", replicas=0),
        ]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        kinds = [Receipt, NotDurable, Receipt, NotDurable, SendFailed]
        assert [type(outcome) for outcome in outcomes] == [*kinds, NotDurable, Receipt]
        assert [o.achieved for o in outcomes if isinstance(o, NotDurable)] == [1] * 3
        bodies = [fields[b"msg"] for _, fields in await string.xrange(stream)]
        assert bodies == [b"%d" % number for number in range(6)]
        await string.aclose()


async def test_a_wait_lasts_at_most_half_of_the_socket_timeout(
    url: str, stream: str
) -> None:
    mark = "&" if "?" in url else "?"
    async with Producer(f"{url}{mark}socket_timeout=0.6", max_batch=1) as producer:
        start = time.monotonic()
        # Each of them waits, one after the other, and none of them for the reply.
        outcomes = await producer.send_many(stream, [b"x"] * 5, replicas=1)
        assert {type(outcome) for outcome in outcomes} == {NotDurable}
        assert 5 * 0.3 <= time.monotonic() - start < 5 * 0.3 + 2


async def test_messages_that_a_replica_has_confirmed_outlive_the_primary(
    tmp_path: Path, stream: str
) -> None:
    """The primary is killed under load; the replica takes its role and address."""
    confirmed: dict[int, str] = {}

    async def send(producer: Producer, first: int) -> None:
        for number in range(first, 100_000, 20):
            receipt = await producer.send(stream, b"%d" % number)
            confirmed[number] = str(receipt.id)

    async with pair(tmp_path) as (primary, replica), proxy(primary.url) as between:
        url = f"{between.url}?socket_timeout=1"
        async with Producer(url, replicas=1, idempotent=True, max_batch=5) as producer:
            tasks = [asyncio.create_task(send(producer, n)) for n in range(20)]
            await eventually(lambda: has_confirmed(confirmed, 300))
            primary.kill()
            await promote(replica, between)
            # The new primary has no replica.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION, timeout=20)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert NotDurable in {type(outcome) for outcome in outcomes}
            assert SendUnknown not in {type(outcome) for outcome in outcomes}
        client = replica.client()
        found = [(int(f[b"msg"]), i.decode()) for i, f in await client.xrange(stream)]
        await client.aclose()
    assert confirmed.items() <= set(found)
    # Messages in flight when the primary died are stored once, too.
    assert len(found) == len(dict(found))


async def has_confirmed(confirmed: dict[int, str], count: int) -> bool:
    return len(confirmed) >= count


async def promote(replica: Server, between: Proxy) -> None:
    client = replica.client()
    await client.execute_command("REPLICAOF", "NO", "ONE")
    await client.aclose()
    between.redirect(replica.url)


async def test_a_resent_message_found_stored_is_confirmed_only_when_replicas_have_it(
    tmp_path: Path, stream: str
) -> None:
    """It was first written on another connection, whose writes WAIT does not cover."""
    async with pair(tmp_path) as (primary, replica), proxy(primary.url) as between:
        async with Producer(between.url, replicas=1, idempotent=True) as producer:
            await producer.send(stream, b"0")
            replica.send_signal(signal.SIGSTOP)
            between.drop_replies = True
            future = producer.enqueue_nowait(stream, b"1", timeout=1)
            client = primary.client()

            async def stored() -> bool:
                return bool(await client.xlen(stream) == 2)

            await eventually(stored)
            between.drop_replies = False
            between.cut()
            with pytest.raises(NotDurable) as caught:
                await future
            assert caught.value.achieved == 0
            replica.send_signal(signal.SIGCONT)
            await client.aclose()


async def test_durable_sends_are_in_the_append_only_file(
    tmp_path: Path, stream: str, events: Events
) -> None:
    async with pair(tmp_path) as (primary, replica):
        if not await has_waitaof(primary):
            pytest.skip("needs WAITAOF: Redis 7.2 or Valkey")
        async with Producer(primary.url, durable=True, on_event=events) as producer:
            assert isinstance(await producer.send(stream, b"0"), Receipt)
            assert isinstance(await producer.send(stream, b"1", replicas=1), Receipt)
            replica.send_signal(signal.SIGSTOP)
            with pytest.raises(NotDurable) as caught:
                await producer.to(stream, replicas=1).send(b"2", timeout=0.5)
            error = caught.value
            assert (error.wanted, error.achieved, error.durable) == (1, 0, True)
            replica.send_signal(signal.SIGCONT)
            client = primary.client()
            await client.config_set("appendonly", "no")
            [outcome] = await producer.send_many(stream, [Outgoing(b"3")])
            assert isinstance(outcome, NotDurable)
            assert outcome.durable is False
            assert "appendonly" in str(outcome)
            assert await client.xlen(stream) == 4
            await client.aclose()


async def test_opening_raises_if_there_is_no_append_only_file(
    tmp_path: Path,
) -> None:
    """Or if the server has no WAITAOF at all."""
    async with server(tmp_path, "--appendonly", "no") as own:
        with pytest.raises(ConfigurationError, match="appendonly yes"):
            async with Producer(own.url, durable=True):
                raise AssertionError


@pytest.mark.parametrize(
    ("options", "acl"), [({"replicas": 1}, "-wait"), ({"durable": True}, "-waitaof")]
)
async def test_opening_raises_without_permission_to_wait(
    tmp_path: Path, options: dict[str, Any], acl: str
) -> None:
    async with server(tmp_path) as own:
        if acl == "-waitaof" and not await has_waitaof(own):
            pytest.skip("needs WAITAOF: Redis 7.2 or Valkey")
        client = own.client()
        await client.execute_command(
            "ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", acl
        )
        await client.aclose()
        with pytest.raises(ConfigurationError, match="NOPERM"):
            async with Producer(with_login(own.url, "u", "pw"), **options):
                raise AssertionError


@pytest.mark.parametrize(
    "choice", [{"replicas": -1}, {"replicas": True}, {"replicas": "1"}, {"durable": 1}]
)
async def test_invalid_choices_are_refused(
    url: str, stream: str, redis: Any, choice: dict[str, Any]
) -> None:
    [name] = choice
    with pytest.raises(ConfigurationError, match=name):
        Producer(url, **choice)
    async with Producer(url) as producer:
        with pytest.raises(ConfigurationError, match=name):
            await producer.send(stream, b"x", **choice)
        with pytest.raises(ConfigurationError, match=name):
            await producer.send_many(stream, [b"x"], **choice)
        with pytest.raises(ConfigurationError, match=name):
            producer.to(stream, **choice)
    assert not await redis.exists(stream)


EVERYSEC = ("--appendfsync", "everysec")


@pytest.mark.parametrize("policy", ["everysec", "no"])
async def test_opening_raises_if_the_server_confirms_what_is_not_on_its_disk(
    tmp_path: Path, policy: str
) -> None:
    """WAITAOF of Valkey is true with `always` only."""
    async with server(tmp_path, "--appendfsync", policy) as own:
        if not await has_waitaof(own):
            pytest.skip("needs WAITAOF: Redis 7.2 or Valkey")
        with pytest.raises(ConfigurationError, match=f"appendfsync {policy}") as caught:
            async with Producer(own.url, durable=True):
                raise AssertionError
        assert "set appendfsync to always" in str(caught.value)


@pytest.mark.parametrize("how", [{}, {"resend": True}, {"idempotent": True}])
async def test_a_call_is_told_that_the_server_cannot_be_believed(
    tmp_path: Path, stream: str, events: Events, how: dict[str, Any]
) -> None:
    async with (
        server(tmp_path, *EVERYSEC) as own,
        own.client() as client,
        Producer(own.url, on_event=events, **how) as producer,
    ):
        if not await has_waitaof(own):
            pytest.skip("needs WAITAOF: Redis 7.2 or Valkey")
        with pytest.raises(NotDurable, match="everysec") as caught:
            await producer.send(stream, b"0", durable=True)
        error = caught.value
        assert (error.wanted, error.achieved, error.durable) == (0, 0, False)
        # Messages of the same write that do not ask for it are not concerned.
        plain = producer.enqueue_nowait(stream, b"1")
        durable = producer.enqueue_nowait(stream, b"2", durable=True)
        assert isinstance(await plain, Receipt)
        with pytest.raises(NotDurable):
            await durable
        bodies = [fields[b"msg"] for _, fields in await client.xrange(stream)]
        assert bodies == [b"0", b"1", b"2"]
        assert events.named("send_not_durable")


async def test_a_setting_that_changes_while_a_producer_is_open_is_noticed(
    tmp_path: Path, stream: str
) -> None:
    async with server(tmp_path) as own, own.client() as client:
        if not await has_waitaof(own):
            pytest.skip("needs WAITAOF: Redis 7.2 or Valkey")
        async with Producer(own.url, durable=True) as producer:
            for policy, kind in (("always", Receipt), ("everysec", NotDurable)) * 2:
                await client.config_set("appendfsync", policy)
                [outcome] = await producer.send_many(stream, [b"x"])
                assert type(outcome) is kind


async def test_a_new_connection_to_a_server_that_cannot_be_believed_is_noticed(
    tmp_path: Path, stream: str
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    async with (
        server(tmp_path / "one") as one,
        server(tmp_path / "other", *EVERYSEC) as other,
        proxy(one.url) as between,
    ):
        if not await has_waitaof(one):
            pytest.skip("needs WAITAOF: Redis 7.2 or Valkey")
        async with Producer(between.url, durable=True, resend=True) as producer:
            assert isinstance(await producer.send(stream, b"x"), Receipt)
            between.redirect(other.url)
            between.cut()
            with pytest.raises(NotDurable, match="everysec"):
                await producer.send(stream, b"x")


@pytest.mark.parametrize("acl", ["-config", "-info", "+@all"])
async def test_where_the_server_may_not_be_asked_that_is_reported_once(
    tmp_path: Path, stream: str, events: Events, acl: str
) -> None:
    rules = ["u", "on", ">pw", "~*", "&*", "+@all", acl]
    async with server(tmp_path, "--user", *rules) as own:
        if not await has_waitaof(own):
            pytest.skip("needs WAITAOF: Redis 7.2 or Valkey")
        login = with_login(own.url, "u", "pw")
        async with Producer(login, durable=True, on_event=events) as producer:
            for _ in range(3):
                assert isinstance(await producer.send(stream, b"x"), Receipt)
    reported = events.named("durability_unverified")
    # With `always` the version does not matter.
    assert len(reported) == (acl == "-config")
    for event in reported:
        assert "appendfsync" in str(event)
        assert "+config|get" in str(event)
