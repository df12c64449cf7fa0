"""The console's pages: what they show of streams, groups and the API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from penstock.monitor import (
    ConsumerStatus,
    Finding,
    GroupStatus,
    PendingStatus,
    StreamDetails,
    StreamStatus,
)
from support.console import Browser, console
from support.looking import divide, fill
from support.server import server
from support.waiting import eventually

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"


async def test_the_overview_says_which_group_needs_what(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream)
    async with console(url, stream) as browser:
        page = await browser.page("/")
    assert re.search(r"<h1>[1-3] of 3 groups needs? attention</h1>", page)
    assert "Nothing was ever delivered, and it has no consumers" in page
    assert "Start its consumers" in page
    assert f"penstock delete group {stream} " in page
    # Each state has a shape beside its colour.
    assert '<span aria-hidden="true">◇</span> unread' in page


async def test_rows_are_chosen_and_ordered_by_the_address(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream, hostile="")
    async with console(url, stream) as browser:

        async def names(query: str) -> list[str]:
            page = await browser.page(f"/{query}")
            body = page.partition("<tbody>")[2]
            return re.findall(r'<th scope="row"><a [^>]*>([^<]+)</a>', body)

        assert await names("?sort=name") == ["audit", "billing", "fresh"]
        assert (await names("?sort=pending"))[0] == "billing"
        assert await names("?q=BILL") == ["billing"]
        assert await names("?state=unread") == ["fresh"]
        assert "fresh" in await names("?state=attention")
        assert "audit" not in await names("?state=attention")
        assert await names("?q=none&sort=invalid") == []


async def metrics_with(browser: Browser, text: str) -> str:
    """Return the metrics once they contain a text.

    On a busy machine, a result is withdrawn when three intervals of 0.1 s are over.
    """
    metrics = ""

    async def are_there() -> bool:
        nonlocal metrics
        metrics = (await browser.get("/metrics")).text
        return text in metrics

    await eventually(are_there)
    return metrics


async def test_a_fragment_is_the_part_that_is_refreshed(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream, hostile="")
    async with console(url, stream) as browser:
        page = await browser.page("/?q=audit")
        assert 'data-refresh="/?q=audit&fragment=live"' in page
        part = await browser.page("/?q=audit&fragment=live")
    assert "<html" not in part
    assert "<table>" in part
    assert "billing</a></th>" not in part


async def test_text_of_the_server_is_escaped_everywhere(
    redis: Any, url: str, stream: str
) -> None:
    name = f"{stream}/{HOSTILE} ü%2F?#"
    await redis.xadd(name, {"msg": "x"})
    await redis.xgroup_create(name, HOSTILE, "0")
    await redis.xreadgroup(HOSTILE, HOSTILE, {name: ">"})
    async with console(url) as browser:
        overview = (await browser.get(f"/?q={stream}")).text
        links = set(re.findall(r'href="(/streams/[^"]+)"', overview))
        mine = [link for link in links if f"/{stream}%" in link]
        assert len(mine) == 2
        pages = [overview, *[(await browser.get(link)).text for link in mine]]
        paths = [str((await browser.get(link)).status_code) for link in mine]
    assert paths == ["200", "200"]
    for page in pages:
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "\x1b" not in page
        assert "\u202e" not in page


async def test_a_stream_of_many_shards_is_shown_and_exported_as_one(
    redis: Any, url: str, stream: str
) -> None:
    await divide(redis, stream, 300)
    async with console(url, stream) as browser:
        assert f"/streams/{stream}" in (await browser.get("/")).text
        series = f'penstock_stream_shards{{stream="{stream}"}} 300'
        metrics = await metrics_with(browser, series)
    assert "penstock_shard_" not in metrics


async def test_a_stream_has_its_shards_and_a_group_its_consumers(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream, hostile="")
    await divide(redis, f"{stream}-n", 3)
    async with console(url, stream, f"{stream}-n") as browser:
        page = await browser.page(f"/streams/{stream}")
        assert "<h1>Stream " in page
        assert f'href="/streams/{stream}/dead">1</a>' in page
        shards = await browser.page(f"/streams/{stream}-n/groups/g")
        assert all(f"{stream}-n:{number}" in shards for number in range(3))
        group = await browser.page(f"/streams/{stream}/groups/billing")
        assert "host:7:ab" in group
        assert group.count('<tr><th scope="row">17') == 8  # pending ids
        assert f"penstock reset {stream} billing --to POSITION" in group
        await browser.page(f"/streams/{stream}/groups/no", 404)
        await browser.page(f"/streams/{stream}-no", 404)


async def test_the_api_returns_the_objects_of_the_command_line(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream, hostile="")
    async with console(url, stream) as browser:

        async def objects(path: str, kind: Any) -> Any:
            answer = await browser.get(f"/api/{path}")
            assert answer.headers["content-type"] == "application/json"
            return msgspec.json.decode(answer.content, type=kind)

        [status] = await objects("streams", list[StreamStatus])
        groups = await objects("groups", list[GroupStatus])
        assert [group.group for group in groups] == ["audit", "billing", "fresh"]
        assert status.length == 40
        details = await objects(f"streams/{stream}", StreamDetails)
        assert details.length == 40
        of = f"streams/{stream}/groups/billing"
        assert len(await objects(f"{of}/consumers", list[ConsumerStatus])) == 2
        assert len(await objects(f"{of}/pending", list[PendingStatus])) == 8
        await metrics_with(browser, "penstock_group_lag{")


async def test_an_outage_is_said_over_the_last_numbers(tmp_path: Path) -> None:
    async with server(tmp_path) as own:
        async with own.client() as redis:
            await redis.xadd("orders", {"msg": "x"})
            await redis.xgroup_create("orders", "billing", "0")
        async with console(own.url, "orders") as browser:
            own.kill()

            async def is_known() -> bool:
                return "has not answered for" in await browser.page("/")

            await eventually(is_known)
            page = await browser.page("/")
            assert 'role="alert"' in page
            assert "billing" in page
            assert 'class="old"' in page
            # A program must not take old numbers for present ones.
            assert (await browser.get("/api/groups")).status_code == 503
            await own.start()

            async def is_back() -> bool:
                return "has not answered for" not in await browser.page("/")

            await eventually(is_back)


async def test_the_findings_of_doctor_are_shown_the_worst_first(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream, hostile="")
    async with console(url, stream) as browser:
        page = await browser.page("/doctor")
        answer = await browser.get("/api/doctor")
    found = msgspec.json.decode(answer.content, type=list[Finding])
    levels = re.findall(r'<li class="card (\w+)">', page)
    assert len(levels) == len(found)
    assert levels == sorted(levels, key=["fail", "warn", "note", "ok"].index)


async def test_ten_viewers_cost_no_more_polls_than_one(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream, hostile="")
    async with console(url, stream) as browser:
        before = (await redis.info("commandstats"))["cmdstat_xinfo|groups"]["calls"]
        snapshots = set()
        for _ in range(50):
            page = await browser.page("/")
            snapshots.add(re.search(r'datetime="([^"]+)"', page)[1])  # type: ignore[index]
        after = (await redis.info("commandstats"))["cmdstat_xinfo|groups"]["calls"]
    assert after - before <= len(snapshots) + 1
