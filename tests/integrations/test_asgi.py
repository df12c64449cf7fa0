"""Lifespans of ASGI applications, and the dependency of FastAPI."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from penstock import ConfigurationError, ConnectError, Message, Producer, Router
from penstock.integrations.asgi import lifespan
from penstock.integrations.fastapi import ProducerDep
from penstock.testing import RecordingProducer
from support.waiting import eventually


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@asynccontextmanager
async def begun(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Run an application's lifespan, and give its state to each request."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with client_of(with_state) as client:
            yield client


async def ignore(_: bytes) -> None: ...


async def test_the_producer_is_a_dependency_and_handlers_run_in_the_background(
    url: str, stream: str, redis: Any
) -> None:
    router, handled = Router(url), list[bytes]()

    @router.handler(stream, group="g")
    async def handle(message: Message[bytes]) -> None:
        handled.append(message.payload)

    app = FastAPI(lifespan=lifespan(producer=Producer(url), router=router))

    @app.post("/orders", status_code=202)
    async def create(producer: ProducerDep) -> dict[str, str]:
        receipt = await producer.send(stream, b"order")
        return {"id": str(receipt.id)}

    async def is_handled() -> bool:
        return bool(handled)

    async with begun(app) as client:
        assert router.ready
        answer = await client.post("/orders")
        assert answer.status_code == 202
        await eventually(is_handled)
    assert handled == [b"order"]
    assert not router.ready


async def test_the_application_s_own_lifespan_is_within_that_of_the_producer(
    url: str, stream: str
) -> None:
    """Handlers begin after it, since they may use what it opens, and end before it."""
    steps: list[str] = []
    router, producer = Router(url), Producer(url)
    router.handler(stream, group="g")(ignore)

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        assert app == "app"
        await producer.send(stream, b"")
        steps.append(f"begins {router.ready}")
        yield {"pool": "p"}
        steps.append(f"ends {router.ready}")
        await producer.send(stream, b"")

    combined = lifespan(producer=producer, router=router, then=own)
    async with combined("app") as state:
        assert state == {"producer": producer, "router": router, "pool": "p"}
        assert router.ready
    assert steps == ["begins False", "ends False"]


async def test_the_router_s_server_may_be_given(url: str, stream: str) -> None:
    router = Router()
    router.handler(stream, group="g")(ignore)
    async with lifespan(router=router, url=url)(None):
        assert router.ready


async def test_an_own_lifespan_need_not_yield_a_state(url: str) -> None:
    @asynccontextmanager
    async def own(_: Any) -> AsyncIterator[None]:
        yield

    async with lifespan(producer=Producer(url), then=own)(None) as state:
        assert list(state) == ["producer"]


async def test_an_application_does_not_begin_without_its_server() -> None:
    with pytest.raises(ConnectError):
        async with lifespan(producer=Producer("redis://127.0.0.1:1"))(None):
            pass


def test_a_lifespan_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="producer="):
        lifespan()


async def test_a_recording_producer_is_a_dependency_too(stream: str) -> None:
    producer = RecordingProducer()
    app = FastAPI(lifespan=lifespan(producer=producer))

    @app.post("/orders")
    async def create(producer: ProducerDep) -> None:
        await producer.send(stream, b"order")

    async with begun(app) as client:
        assert (await client.post("/orders")).status_code == 200
    assert [sent.payload for sent in producer.sent] == [b"order"]


async def test_a_dependency_without_a_producer_says_what_to_do() -> None:
    app = FastAPI()

    @app.post("/orders")
    async def create(producer: ProducerDep) -> None: ...

    async with client_of(app) as client:
        with pytest.raises(ConfigurationError, match="lifespan"):
            await client.post("/orders")


def test_a_lifespan_needs_no_framework() -> None:
    program = (
        "import sys, penstock.integrations.asgi\n"
        "assert not {'fastapi', 'starlette'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


APP = """
import os
from fastapi import FastAPI
from penstock import Producer, Router
from penstock.integrations.asgi import lifespan
from penstock.integrations.fastapi import ProducerDep

url, stream = os.environ["TEST_URL"], os.environ["TEST_STREAM"]
router = Router(url)

@router.handler(stream, group="g")
async def handle(payload: bytes) -> None:
    async with Producer(url) as producer:
        await producer.send(f"{stream}.done", f"{payload.decode()} {os.getpid()}")

app = FastAPI(lifespan=lifespan(producer=Producer(url), router=router))

@app.post("/orders/{number}")
async def create(number: int, producer: ProducerDep) -> None:
    await producer.send(stream, str(number))
"""


async def test_under_uvicorn_with_two_workers_each_sends_and_handles(
    url: str, stream: str, redis: Any, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "shop:app", "--workers", "2"),
        *("--port", str(port), "--log-level", "warning"),
        cwd=tmp_path,
        env={**os.environ, "TEST_URL": url, "TEST_STREAM": stream},
    )

    async def posted(number: int) -> bool:
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.post(f"http://127.0.0.1:{port}/orders/{number}")
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async def all_handled() -> bool:
        return bool(await redis.xlen(f"{stream}.done") == 20)

    try:
        for number in range(20):
            await eventually(partial(posted, number), within=40)
        await eventually(all_handled)
    finally:
        process.terminate()
        assert await process.wait() in {0, -15}
    done = await redis.xrange(f"{stream}.done")
    handled = [int(fields[b"msg"].split()[0]) for _, fields in done]
    assert sorted(handled) == list(range(20))
