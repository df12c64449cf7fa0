"""The console in a test: its application, without a socket, on a real server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from html import unescape
from typing import Any

import httpx

from penstock import Event
from penstock.cli.exporter.exporter import Exporter
from penstock.cli.run.readiness import Readiness
from penstock.console.app import ConsoleOptions, make_app
from penstock.console.state import Observed
from penstock.monitor import Collector
from penstock.observe.group_metrics import Selection
from support.waiting import eventually

TOKEN = "the-token-of-this-test"
ORIGIN = "http://127.0.0.1"


class Browser(httpx.AsyncClient):
    """A client that has an address, and keeps cookies."""

    async def login(self) -> None:
        answer = await self.get(f"/?token={TOKEN}")
        assert answer.status_code == 303, answer.text

    async def page(self, path: str, status: int = 200) -> str:
        answer = await self.get(path)
        assert answer.status_code == status, answer.text
        return unescape(answer.text)

    async def submit(self, path: str, form: dict[str, Any], **headers: str) -> Any:
        sent = {"origin": ORIGIN, **headers}
        return await self.post(path, data=form, headers=sent)


def hidden_fields(page: str) -> dict[str, Any]:
    """Return the hidden fields of the form that changes something."""
    form = page.partition('method="post"')[2]
    found: dict[str, Any] = {}
    for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form):
        found.setdefault(name, []).append(value)
    return found


@asynccontextmanager
async def console(
    url: str,
    *streams: str,
    events: list[Event] | None = None,
    root_path: str = "",
    **options: Any,
) -> AsyncIterator[Browser]:
    """Run a console that polls the streams, and give a browser that has logged in."""
    observed = Observed()
    kept: list[Event] = [] if events is None else events
    make = partial(Collector, url, streams, per_shard=True, on_event=kept.append)
    exporter = Exporter(make, Selection(2000), 0.1, Readiness(1), observed)
    defaults: dict[str, Any] = {
        "url": url,
        "token": TOKEN,
        "hosts": ["127.0.0.1"],
        "interval": 0.1,
        "on_event": kept.append,
    }
    app = make_app(ConsoleOptions(**{**defaults, **options}), observed, exporter)
    polling = asyncio.create_task(exporter.run())
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 1), root_path=root_path)
    try:
        async with Browser(transport=transport, base_url=ORIGIN) as browser:

            async def is_ready() -> bool:
                if polling.done():
                    polling.result()
                return (await browser.get("/ready")).status_code == 200

            await eventually(is_ready)
            if "hosts" not in options:
                await browser.login()
            yield browser
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
