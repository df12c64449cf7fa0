"""Docstrings: each example runs on a real server.

A block runs with the objects that its reader would have: an open consumer, producer and
router, a message, an admin, and functions. `bill` and `write_rows` end the example
after the first message.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import datetime as dt
import doctest
import importlib
import re
import signal
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import Consumer, Message, Producer, Router, admin
from penstock.middleware import Call
from support.members import for_example
from test_docs import Handled, Order, run, run_until_one

SOURCE = Path(__file__).parent.parent / "src"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


class Payment(msgspec.Struct):
    amount: int = 0


class OrderCreated(msgspec.Struct):
    id: int = 0


def documented(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the names and docstrings of a module and its definitions."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Module():
                name = "module"
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                name = node.name
            case _:
                continue
        if text := ast.get_docstring(node):
            yield name, text


def examples() -> list[Any]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for name, text in documented(path):
            for code in BLOCK.findall(text):
                where = f"{path.relative_to(SOURCE)}-{name}"
                found.append(pytest.param(textwrap.dedent(code), id=where))
    return found


def raise_handled(*_: object) -> None:
    raise Handled


async def raise_handled_async(*_: object) -> None:
    raise Handled


@pytest.mark.parametrize("code", examples())
async def test_an_example_of_a_docstring_runs(
    code: str, url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setattr(Router, "run", run_until_one)
    await redis.delete("orders", "orders.dead", "payments", "totals", "clicks")
    mode = "resumable" if "seek(" in code else "load_balanced"
    consumer = Consumer("orders", group="billing", payload=Order, mode=mode)
    router = Router()

    @router.handler("orders", group="audit")
    async def handle(_: bytes) -> None: ...

    names: dict[str, Any] = {
        "consumer": consumer,
        "router": router,
        "bill": raise_handled,
        "write_rows": raise_handled_async,
        "app": None,
        "loop": asyncio.get_running_loop(),
        "__name__": "docs",
    }
    await run("from penstock import *\nfrom penstock.admin import Admin", names)
    # Names that the example's reader has imported or defined.
    modules = (contextlib, dt, time)
    names |= {name: value for each in modules for name, value in vars(each).items()}
    names |= {each.__name__: each for each in (asyncio, signal, Any, Order, Payment)}
    names |= {"OrderCreated": OrderCreated, "Call": Call, "admin": admin}
    names |= {"Any": Any, "datetime": dt.datetime}
    async with consumer:
        pass  # so that the group exists
    async with contextlib.AsyncExitStack() as stack:
        producer = await stack.enter_async_context(Producer(url))
        await producer.send("orders", Order(1), key="k")
        await producer.send("payments", Payment(3))
        given = re.search(r"\b(consumer|message)\.", code) and "Consumer(" not in code
        if given and "consumer.start()" not in code:
            await stack.enter_async_context(consumer)
        if "dead.each" in code:
            names["admin"] = await stack.enter_async_context(admin.Admin(url))
        if "message.transaction" in code:
            names["message"] = await consumer.next()
            assert isinstance(names["message"], Message)
        code = code.replace('"redis://localhost"', repr(url))
        async with for_example(redis, code), asyncio.timeout(20):
            with suppress(Handled):
                await run(code, names)


def test_the_examples_are_found() -> None:
    assert len(examples()) >= 30


@pytest.mark.parametrize(
    "module", ["message", "options", "retention", "retries", "sharding"]
)
def test_an_interactive_example_has_the_documented_result(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"penstock.{module}"))
    assert tried
    assert not failed
