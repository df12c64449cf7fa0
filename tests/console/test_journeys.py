"""Journeys through the console in Chromium, on a real server with a stalled group."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from penstock import Consumer, Message
from support.browser import chromium
from support.dead_letters import bodies, write_dead_letter
from support.server import Server, server
from support.waiting import eventually

WebDriverException = pytest.importorskip(
    "selenium.common.exceptions"
).WebDriverException
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# Where the screenshots are kept; by default nowhere.
SHOTS = os.environ.get("PENSTOCK_SCREENSHOTS")
REASON = "<script>document.title = 'stolen'</script>\x1b[2J\u202e"


class Running:
    """A console process."""

    def __init__(self, url: str, *words: str) -> None:
        command = [sys.executable, "-m", "penstock.cli", "console", "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--interval", "500ms", "--url", url, *words],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        assert "serving http://" in line, line
        self.link = line.split()[-1]
        self.origin = "{0.scheme}://{0.netloc}".format(urlsplit(self.link))

    def end(self) -> int:
        """Send SIGTERM, and return the status."""
        self._process.terminate()
        self._process.communicate(timeout=30)
        return self._process.returncode

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def running(url: str, *words: str) -> Iterator[Running]:
    made = Running(url, *words)
    try:
        yield made
        assert made.end() == 0
    finally:
        made.kill()


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    async with server(folder, "--save", "", "--appendonly", "yes") as made:
        yield made


async def fill(redis: Any) -> None:
    """Write a stream whose group `billing` has consumers that do nothing.

    Its oldest message is seven minutes old, so that it is stalled once two polls have
    seen that nothing moves.
    """
    first = int(1000 * (time.time() - 420))
    for number in range(60):
        await redis.xadd("orders", {"msg": "x"}, id=f"{first + number}-0")
    for group in ("billing", "audit"):
        await redis.xgroup_create("orders", group, "0")
    await redis.xreadgroup("audit", "c", {"orders": ">"}, count=60, noack=True)
    await redis.xreadgroup("billing", "worker-1:7:ab", {"orders": ">"}, count=16)
    await write_dead_letter(redis, "orders", reason=REASON, error="Timeout")
    await write_dead_letter(redis, "orders", reason="no stock", error="ValueError")


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


async def stay_live(redis: Any) -> None:
    """Ask for messages, as a consumer does whose handlers hang."""
    while True:
        for group, consumer in (("billing", "worker-1:7:ab"), ("audit", "c")):
            await redis.xreadgroup(group, consumer, {"orders": "18446744073709551615"})
        await asyncio.sleep(1)


def shoot(browser: Any, name: str) -> None:
    """Take a screenshot of a screen and of a telephone."""
    for width, height in ((1280, 800), (390, 844)):
        size = {"width": width, "height": height}
        metrics = {**size, "deviceScaleFactor": 1, "mobile": width < 800}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, f"{name} scrolls sideways at {width}"
        if SHOTS:
            browser.save_screenshot(str(Path(SHOTS) / f"{name}-{width}.png"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def save_picture_of_docs(browser: Any) -> None:
    """Save the picture of docs/how-to/console.md: the upper half of the overview."""
    if SHOTS:
        clip = {"x": 0, "y": 0, "width": 1280, "height": 420, "scale": 0.75}
        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
        (Path(SHOTS) / "console.png").write_bytes(base64.b64decode(taken["data"]))


def text_of(browser: Any) -> str:
    """Return the text of the page; nothing while another one replaces it."""
    try:
        return str(browser.find_element("tag name", "body").text)
    except WebDriverException:
        return ""


def on_live(browser: Any, css: str, what: str) -> Any:
    """Use an element that a refresh may replace between two calls of the driver."""
    script = f"return document.querySelector(arguments[0]).{what}"
    return browser.execute_script(script, css)


async def shown(browser: Any, text: str, within: float = 60) -> None:
    async def is_shown() -> bool:
        return text in await in_thread(text_of, browser)

    await eventually(is_shown, within)


def foreign(browser: Any, origin: str) -> list[str]:
    """Return the addresses elsewhere that the browser has asked for."""
    found = []
    for record in browser.get_log("performance"):
        event = json.loads(record["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            asked = event["params"]["request"]["url"]
            if asked.startswith("http") and not asked.startswith(f"{origin}/"):
                found.append(asked)
    return found


async def test_a_stall_is_seen_explained_and_mended(
    own: Server, tmp_path: Path
) -> None:
    async with own.client() as redis:
        await fill(redis)
        living = asyncio.create_task(stay_live(redis))
        words = ("--allow-writes", "orders")
        with running(own.url, *words) as made, chromium(tmp_path / "b") as browser:
            try:
                await _journey(redis, own.url, made, browser)
            finally:
                living.cancel()


async def _journey(redis: Any, url: str, made: Running, browser: Any) -> None:
    find = browser.find_element
    await in_thread(browser.get, made.link)
    assert "token" not in browser.current_url
    # It comes by itself, without a reload.
    await shown(browser, "1 of 2 groups needs attention")
    card = on_live(browser, ".card", "innerText")
    assert "■ stalled billing" in card
    assert "1 consumer is live, but nothing moves" in card
    assert "What to do:" in card
    await in_thread(shoot, browser, "overview")
    await in_thread(save_picture_of_docs, browser)

    find("name", "q").send_keys("billing")
    await in_thread(find("css selector", ".filter button").click)

    async def is_filtered() -> bool:
        rows = "document.querySelectorAll('tbody tr').length"
        number = await in_thread(browser.execute_script, f"return {rows}")
        return "q=billing" in browser.current_url and number == 1

    await eventually(is_filtered, 60)
    await in_thread(on_live, browser, "tbody a", "click()")
    await shown(browser, "worker-1:7:ab")
    await in_thread(shoot, browser, "group")

    await _redrive(redis, made, browser)
    await _see_it_handled(url, made, browser)
    assert foreign(browser, made.origin) == []
    severe = [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]
    assert severe == []
    await _forge(redis, made, browser)


async def _redrive(redis: Any, made: Running, browser: Any) -> None:
    """Open a letter that would like to run a script, and redrive it by a filter."""
    find = browser.find_element
    await in_thread(browser.get, f"{made.origin}/streams/orders/dead")
    await in_thread(shoot, browser, "dead")
    [first, _] = browser.find_elements("css selector", "tbody a[href*='/letters/']")
    await in_thread(first.click)
    await shown(browser, "<script>document.title = 'stolen'</script>\\x1b[2J\\u202e")
    assert "stolen" not in browser.title
    await in_thread(shoot, browser, "letter")

    await in_thread(browser.get, f"{made.origin}/streams/orders/dead?error=Timeout")
    [button, _] = browser.find_elements("css selector", "form.actions button")
    assert button.text == "Redrive these 1…"
    await in_thread(button.click)
    await shown(browser, "1 letter up to")
    await shown(browser, "error=Timeout goes back to orders")
    await in_thread(shoot, browser, "confirm")
    confirm = find("css selector", "form[method=post] button")
    assert confirm.text == "Redrive 1 letter"
    await in_thread(confirm.click)
    await shown(browser, "1 of 1 letter went back to orders")
    await in_thread(shoot, browser, "result")
    assert len(await bodies(redis, "orders")) == 61


async def _see_it_handled(url: str, made: Running, browser: Any) -> None:
    """Start a consumer, and see by itself on the overview that the lag is gone."""
    await in_thread(browser.get, made.origin)
    handled = []

    async def handle(message: Message[bytes]) -> None:
        handled.append(message.id)

    consumer = Consumer("orders", group="billing", url=url)
    async with consumer:
        running_consumer = asyncio.create_task(consumer.run(handle))

        async def is_handled() -> bool:
            return len(handled) == 45

        await eventually(is_handled)

        async def has_no_lag() -> bool:
            return bool(await in_thread(_lag_of_billing, browser) == "0")

        await eventually(has_no_lag)
        running_consumer.cancel()
        await asyncio.wait([running_consumer])


def _lag_of_billing(browser: Any) -> str:
    # One call: between two, the page may replace the row.
    script = (
        "return [...document.querySelectorAll('tbody tr')]"
        ".find(row => row.innerText.startsWith('billing')).cells[2].innerText"
    )
    return str(browser.execute_script(script))


async def _forge(redis: Any, made: Running, browser: Any) -> None:
    """Send a form from another origin, in the browser that is logged in."""
    form = (
        f"data:text/html,<form method=post action='{made.origin}/streams/orders/dead/"
        "purge'><input name=through value=9999999999999-0><button>win</button></form>"
    )
    await in_thread(browser.get, form)
    await in_thread(browser.find_element("css selector", "button").click)
    await shown(browser, "comes from another origin")
    assert await redis.xlen("orders.dead") == 1


async def test_the_server_goes_away_and_returns(own: Server, tmp_path: Path) -> None:
    async with own.client() as redis:
        await fill(redis)
    with running(own.url) as made, chromium(tmp_path / "b") as browser:
        await in_thread(browser.get, made.link)
        await shown(browser, "billing")
        own.kill()
        await shown(browser, "The server has not answered for")
        await shown(browser, "billing")
        await in_thread(shoot, browser, "outage")
        await own.start()

        async def is_back() -> bool:
            text = await in_thread(text_of, browser)
            return "has not answered" not in text and "billing" in text

        await eventually(is_back, 60)
        assert foreign(browser, made.origin) == []


async def test_all_of_it_works_without_javascript(own: Server, tmp_path: Path) -> None:
    async with own.client() as redis:
        await fill(redis)
        with (
            running(own.url, "--allow-writes") as made,
            chromium(tmp_path / "b", scripts=False) as browser,
        ):
            find = browser.find_element
            await in_thread(browser.get, made.origin)
            find("name", "token").send_keys(made.link.partition("token=")[2])
            await in_thread(find("css selector", "main button").click)

            async def is_polled() -> bool:
                await in_thread(browser.get, made.origin)
                return "billing" in text_of(browser)

            await eventually(is_polled, 60)
            # Without scripts, the page stays as it is.
            await in_thread(find("link text", "2").click)
            boxes = browser.find_elements("css selector", "input[type=checkbox]")
            assert len(boxes) == 2
            for box in boxes:
                box.click()
            buttons = browser.find_elements("css selector", "button")
            [purge] = [each for each in buttons if each.text == "Purge selected…"]
            await in_thread(purge.click)
            await shown(browser, "2 letters, selected by id, are deleted")
            await in_thread(find("css selector", "form[method=post] button").click)
            await shown(browser, "2 of 2 letters deleted")
            assert await redis.xlen("orders.dead") == 0
