"""Documentation: each Python block of the README and the docs runs on a real server.

A block runs unchanged, except that `redis://localhost` means the server under test;
`REDIS_URL` is set, and the stream `orders` has a message and a dead letter, and members
that own it where a block is about those. The tests define `Order`, `bill` and `handle`,
as the README's reader would; the latter two end the block after the first message. So
does a router's `run`. Tests in a block run too.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import Message, Producer, Router
from support.dead_letters import write_dead_letter
from support.members import for_example
from support.waiting import eventually

ROOT = Path(__file__).parent.parent
# Its blocks are files of one project: tests/testing/test_documented_project.py.
PROJECT = "testing-a-project.md"
# The streams that the docs send to.
STREAMS = (
    *("orders", "orders.dead", "clicks", "history"),
    *("accounts", "accounts.total", "account.alice"),
    *("orders.packed", "orders.refunds", "orders.times", "orders.events"),
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Order(msgspec.Struct):
    id: int


class Handled(Exception):  # noqa: N818
    """Raised by `bill`, to leave a loop that would never end."""


def blocks() -> list[Any]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if path.name == PROJECT:
            continue
        for number, code in enumerate(BLOCK.findall(path.read_text()), 1):
            if path.name == "README.md" and "asyncio.run(" in code:
                continue  # a whole program: tests/test_readme.py
            found.append(pytest.param(code, id=f"{path.name}-{number}"))
    return found


async def run(code: str, names: dict[str, Any]) -> None:
    """Run a block, which may have `await` at the top level."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    # Without this module's `annotations`, so that types in a block are found as a
    # reader's are.
    compiled = compile(code, "<docs>", "exec", flags, dont_inherit=True)
    result = eval(compiled, names)  # noqa: S307 - the docs are ours
    if inspect.iscoroutine(result):
        await result


async def run_until_one(router: Router, url: str | None = None) -> None:
    """Run a router until each consumer has acknowledged a message."""

    async def all_have() -> bool:
        return all(c.statistics().acknowledged for c in router.consumers)

    async with router.running(url):
        assert router.ready
        await eventually(all_have)


@pytest.mark.parametrize("code", blocks())
async def test_a_block_of_the_docs_runs(
    code: str,
    url: str,
    penstock_stream: str,
    redis: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setattr(Router, "run", run_until_one)
    await redis.delete(*STREAMS)
    await write_dead_letter(redis, "orders", b'{"id": 1}')
    calls = []

    def bill(payload: object) -> None:
        calls.append(payload)
        raise Handled

    async def handle(message: Message[Order]) -> None:
        calls.append(message.payload)
        await names["consumer"].aclose()

    names: dict[str, Any] = {
        "Order": Order,
        "bill": bill,
        "handle": handle,
        "__name__": "docs",
    }
    await run("from penstock import *", names)
    if "Producer(" not in code:
        async with Producer(url) as producer:
            await producer.send("orders", Order(1))
    code = code.replace('"redis://localhost"', repr(url))
    async with for_example(redis, code), asyncio.timeout(20):
        with suppress(Handled):
            await run(code, names)
        for name in [name for name in names if name.startswith("test_")]:
            values = {"penstock_url": url, "penstock_stream": penstock_stream}
            wanted = inspect.signature(names[name]).parameters
            await names[name](**{each: values[each] for each in wanted})
    calls_handler = re.search(r"(?<!def )bill\(message|run\(\s*handle", code)
    if calls_handler and "def handle" not in code:
        assert len(calls) == 1
    await redis.delete(*STREAMS)


def test_the_makefile_has_the_commands_that_the_readme_names() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_files_that_the_docs_name_exist() -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    source = ROOT / "src" / "penstock"
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text()
        if path.name == PROJECT or path.parent.name == "tutorial":
            continue  # they name their own
        assert set(re.findall(r"\btest_\w+\.py", text)) <= tests, path
        for name in re.findall(r"tests/[\w/]+\.py", text):
            assert (ROOT / name).exists(), f"{path} names {name}"
        for name in re.findall(r"`(_[a-z]+/[\w/]+\.py)`", text):
            assert (source / name).exists(), f"{path} names {name}"
