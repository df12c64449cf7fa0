"""`penstock top` on a terminal: the picture, the keys, and an outage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from penstock.cli.looking.consumers import CONSUMERS_OF_GROUPS
from penstock.cli.top.view import TopRow, View, eta_text, spark
from penstock.monitor import GroupState, GroupStatus, ServerStatus
from support.looking import fill
from support.server import server
from support.terminal import Terminal, terminal


def group(**facts: Any) -> GroupStatus:
    some: dict[str, Any] = {
        "stream": "orders",
        "group": "billing",
        "shard": None,
        "key": None,
        "state": GroupState.BEHIND,
        "lag": 12_441,
        "lag_exact": True,
        "pending": 61,
        "backlog": 12_502,
        "oldest_age_seconds": 12.1,
        "oldest_idle_seconds": 1.0,
        "entries_read": 5,
        "consumers": 3,
        "live": 3,
        "silent": 0,
        "gone": 0,
        "last_delivered_id": "1-0",
        "last_delivered_age_seconds": None,
        "in_per_second": 1204.0,
        "out_per_second": 980.0,
        "eta_seconds": None,
    }
    return GroupStatus(**(some | facts))


def view(*rows: TopRow, **facts: Any) -> View:
    status = ServerStatus(
        address="cache:6379",
        version="Redis 7.0.15",
        used_memory_bytes=412 * 2**20,
        max_memory_bytes=2**30,
        policy="noeviction",
    )
    made = View(2.0, CONSUMERS_OF_GROUPS, server=status, rows=list(rows), **facts)
    made.clock = "12:04:31"
    return made


def picture(shown: View, width: int = 120, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, no_color=True)
    with console.capture() as capture:
        console.print(shown.render(width, height))
    lines = capture.get().splitlines()
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


BILLING = TopRow(group(), 12, [1, 3, 5, 7])
AUDIT = TopRow(
    group(group="audit", state=GroupState.OK, lag=0, out_per_second=1204.0, pending=2),
    0,
    [0, 0, 0, 0],
)


def test_the_picture_has_the_server_and_the_groups() -> None:
    head, empty, columns, billing, audit, foot = picture(view(BILLING, AUDIT))
    assert head == (
        "penstock top  cache:6379  Redis 7.0.15  mem 412M of 1.0G noeviction  "
        "12:04:31  every 2s"
    )
    assert empty == ""
    assert columns.split() == [
        *("STREAM", "GROUP", "STATE", "IN/S", "OUT/S", "LAG", "↕", "PENDING"),
        *("OLDEST", "ETA", "LIVE", "DEAD"),
    ]
    assert billing.split() == [
        *("orders", "billing", "behind", "1,204", "980", "12,441", "▂▄▆█", "61"),
        *("12.1s", "never", "3", "12"),
    ]
    assert audit.split()[5:7] == ["0", "▁▁▁▁"]
    assert foot == "q quit  s sort  space pause  c consumers  sorted by state"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_picture_fits_any_terminal(width: int) -> None:
    rows = [TopRow(group(group=f"group-{n}" * 4), 0, [n]) for n in range(100)]
    lines = picture(view(*rows, problems=["x" * 300]), width, 24)
    assert len(lines) == 24
    assert "… 82 more" in lines


def test_an_outage_is_shown_over_the_last_numbers_dimmed() -> None:
    shown = view(BILLING, outage=192.0, reason="can't connect to cache:6379")
    lines = picture(shown)
    assert lines[1] == (
        "no answer from the server for 3m 12s: can't connect to cache:6379"
    )
    assert "12,441" in lines[3]
    console = Console(width=120, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(shown.render(120, 24))
    assert "\x1b[2m" in capture.get()


def test_keys_change_what_is_shown() -> None:
    shown = view(BILLING, AUDIT)
    assert [row.group.group for row in shown.ordered] == ["billing", "audit"]
    orders = []
    for _ in range(6):
        orders.append(shown.order)
        assert shown.press("s")
    assert orders == ["state", "lag", "pending", "oldest", "name", "state"]
    shown.order = "name"
    assert [row.group.group for row in shown.ordered] == ["audit", "billing"]
    assert shown.press(" ")
    assert "paused" in picture(shown)[-1]
    assert shown.press("c")
    assert "no consumers" in picture(shown)
    assert shown.press("x")
    assert not shown.press("q")


def test_the_time_until_a_group_has_caught_up_is_never_or_not_known() -> None:
    assert eta_text(group(lag=0)) == "-"
    assert eta_text(group(eta_seconds=192.0)) == "3m 12s"
    assert eta_text(group()) == "never"
    assert eta_text(group(out_per_second=None)) == "?"


@given(st.lists(st.integers(0, 10**12)))
def test_a_spark_line_has_a_bar_for_each_lag(lags: list[int]) -> None:
    bars = spark(lags)
    assert len(bars) == len(lags)
    assert set(bars) <= set("▁▂▃▄▅▆▇█")
    if any(lags):
        assert bars[lags.index(max(lags))] == "█"


# -- on a terminal ---------------------------------------------------------------------


def shows(*words: str) -> Callable[[str], bool]:
    return lambda text: all(word in text for word in words)


async def test_it_is_kept_current_until_the_user_quits(
    tmp_path: Path, stream: str
) -> None:
    async with server(tmp_path) as own:
        async with own.client() as redis:
            await fill(redis, stream)

        def watch(screen: Terminal) -> int:
            screen.wait_for(shows(stream, "billing", "mem ", "q quit"))
            screen.press("s")
            screen.wait_for(shows("sorted by lag"))
            screen.press("c")
            screen.wait_for(shows("host:7:ab", r"red\x1b[31m"))
            screen.press(" ")
            screen.wait_for(shows("paused"))
            screen.press("c ")
            screen.wait_for(lambda text: "paused" not in text and "fresh" in text)
            screen.press("q")
            return screen.end()

        words = ("top", "--interval", "200ms", "--url", own.url)
        with terminal(*words, columns=160) as screen:
            assert await asyncio.to_thread(watch, screen) == 0
        # The alternate screen is left, and the cursor is back.
        assert "\x1b[?1049l" in screen.raw
        assert "\x1b[?25h" in screen.raw[-200:]


async def test_in_an_outage_the_last_numbers_stay_with_its_duration(
    tmp_path: Path, stream: str
) -> None:
    async with server(tmp_path) as own:
        async with own.client() as redis:
            await fill(redis, stream)
        words = ("top", "--interval", "200ms", "--url", own.url)
        with terminal(*words, columns=160) as screen:
            await asyncio.to_thread(screen.wait_for, shows("billing", "every 0.2s"))
            own.kill()
            lost = await asyncio.to_thread(
                screen.wait_for, shows("no answer from the server for", "billing")
            )
            assert "can't connect" in lost or "lost" in lost
            longer = shows("no answer from the server for 2.")
            await asyncio.to_thread(screen.wait_for, longer)
            await own.start()

            def is_back(text: str) -> bool:
                return "billing" in text and "no answer" not in text

            await asyncio.to_thread(screen.wait_for, is_back)
            screen.interrupt()
            assert await asyncio.to_thread(screen.end) == 0


async def test_a_server_that_hangs_is_shown_before_it_times_out(
    tmp_path: Path, stream: str
) -> None:
    import signal

    async with server(tmp_path) as own:
        async with own.client() as redis:
            await fill(redis, stream)
        words = ("top", "--interval", "200ms", "--url", own.url)
        with terminal(*words, columns=160) as screen:
            await asyncio.to_thread(screen.wait_for, shows("billing"))
            own.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            try:
                await asyncio.to_thread(
                    screen.wait_for, shows("no answer from the server", "billing")
                )
                assert time.monotonic() - began < 9
            finally:
                own.send_signal(signal.SIGCONT)
            screen.press("q")
            assert await asyncio.to_thread(screen.end) == 0
