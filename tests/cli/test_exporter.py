"""`penstock exporter`: one poll for all scrapers, and nothing old served as new."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.monitor import GroupStatus, Snapshot, StreamStatus
from penstock.observe.group_metrics import (
    _FAMILIES,
    ExporterState,
    Selection,
    text,
)
from support.looking import divide, fill, run
from support.server import Server
from support.waiting import calls, eventually


class Exporting:
    """A running exporter."""

    def __init__(self, words: tuple[str, ...], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", "exporter", "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self._process.stderr is not None
        # Other lines may come before, where the server is not there.
        line = self._process.stderr.readline()
        while "serving http://127.0.0.1:" not in line:
            assert line, "it has ended"
            line = self._process.stderr.readline()
        self.port = int(line.partition("127.0.0.1:")[2].partition("/")[0])

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the status and what it said."""
        self._process.send_signal(number)
        _, errors = self._process.communicate(timeout=10)
        return self._process.returncode, errors

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    async def get(self, path: str = "/metrics") -> tuple[int, str]:
        """Return status and body of a page."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            await stream.send(f"GET {path} HTTP/1.1\r\nHost: exporter\r\n\r\n".encode())
            received = b""
            try:
                while True:
                    received += await stream.receive()
            except anyio.EndOfStream:
                pass
        head, _, body = received.decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    async def numbers(self) -> dict[str, float]:
        """Return all samples: their names with labels, and their numbers."""
        status, body = await self.get()
        assert status == 200
        return numbers(body)

    async def is_up(self) -> bool:
        return (await self.numbers())["penstock_exporter_up"] == 1

    async def is_ready(self) -> bool:
        return (await self.get("/ready"))[0] == 200


def numbers(body: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            labels = ",".join(
                f"{name}={value}" for name, value in sorted(sample.labels.items())
            )
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found


@contextmanager
def exporting(url: str, *words: str, **environment: str) -> Iterator[Exporting]:
    made = Exporting(words, {"PENSTOCK_URL": url, **environment})
    try:
        yield made
    finally:
        made.close()


async def test_the_numbers_are_those_of_streams_and_groups(
    redis: Any, url: str, stream: str
) -> None:
    await fill(redis, stream)
    await divide(redis, f"{stream}-n", 3)
    with exporting(url, f"{stream}*") as exporter:
        await eventually(exporter.is_ready)
        found = await exporter.numbers()
        status, errors = exporter.end()
    assert (status, errors) == (0, "")
    of = f"stream={stream}"
    billing = f"group=billing,{of}"
    assert found[f"penstock_stream_length{{{of}}}"] == 40
    assert found[f"penstock_dead_letters{{{of}}}"] == 1
    assert found[f"penstock_stream_shards{{stream={stream}-n}}"] == 3
    assert found[f"penstock_group_lag{{{billing}}}"] == 32
    assert found[f"penstock_group_lag_exact{{{billing}}}"] == 1
    assert found[f"penstock_group_pending{{{billing}}}"] == 8
    assert found[f"penstock_group_backlog{{{billing}}}"] == 40
    assert 420 <= found[f"penstock_group_oldest_age_seconds{{{billing}}}"] < 600
    assert found[f"penstock_group_oldest_age_seconds{{group=audit,{of}}}"] == 0
    assert found[f"penstock_group_oldest_idle_seconds{{{billing}}}"] < 60
    states = [
        found[f"penstock_group_consumers{{group=billing,state={state},{of}}}"]
        for state in ("live", "silent", "gone")
    ]
    assert sum(states) == 2
    assert not any(f"{stream}.dead" in name for name in found)
    assert found["penstock_exporter_up"] == 1
    assert 0 < found["penstock_exporter_poll_seconds"] < 5
    last = found["penstock_exporter_last_success_timestamp_seconds"]
    assert abs(time.time() - last) < 30


async def test_fifty_scrapers_cost_one_poll_an_interval(
    redis: Any, url: str, stream: str
) -> None:
    await divide(redis, stream, 2)
    with exporting(url, stream, "--interval", "1s") as exporter:
        await eventually(exporter.is_ready)
        before, began = await calls(redis, "xinfo|groups"), time.monotonic()
        for _ in range(2):
            pages = await asyncio.gather(*(exporter.get() for _ in range(50)))
            assert {status for status, _ in pages} == {200}
        polls = (await calls(redis, "xinfo|groups") - before) / 2
        assert polls <= time.monotonic() - began + 1


async def test_an_outage_is_told_and_its_last_numbers_are_withdrawn(
    tmp_path: Path,
) -> None:
    """It begins with an outage: the server is started after it."""
    ready = tmp_path / "ready"
    own = Server(tmp_path)
    words = ("--interval", "300ms", "--ready-file", str(ready))
    with exporting(own.url, *words) as exporter:
        assert await exporter.get("/ready") == (
            503,
            "no poll has succeeded in the last three intervals\n",
        )
        assert (await exporter.numbers())["penstock_exporter_up"] == 0
        await own.start()
        async with own.client() as redis:
            await divide(redis, "orders", 2)

        await eventually(exporter.is_up)
        assert ready.exists()
        assert await exporter.is_ready()
        own.kill()

        async def is_withdrawn() -> bool:
            found = await exporter.numbers()
            return all(name.startswith("penstock_exporter_") for name in found)

        assert await eventually(is_withdrawn) < 3
        assert not await exporter.is_up()
        assert (await exporter.get("/ready"))[0] == 503
        assert (await exporter.get("/live"))[0] == 200

        async def has_no_file() -> bool:
            return not ready.exists()

        await eventually(has_no_file)
        await own.start()
        try:
            await eventually(exporter.is_up)
            assert ready.exists()
            status, errors = exporter.end(signal.SIGINT)
        finally:
            own.kill()
    assert status == 0
    assert "tried again every 0.3 s" in errors
    assert "can be polled again" in errors
    assert not ready.exists()


async def test_each_shard_and_no_consumers_on_request(
    redis: Any, url: str, stream: str
) -> None:
    await divide(redis, stream, 2)
    words = (stream, "--no-consumers")
    with exporting(url, *words, PENSTOCK_PER_SHARD="1") as exporter:
        await eventually(exporter.is_ready)
        found = await exporter.numbers()
    for number in range(2):
        labels = f"shard={stream}:{number},stream={stream}"
        assert found[f"penstock_shard_length{{{labels}}}"] == 1
        assert found[f"penstock_group_shard_lag{{group=g,{labels}}}"] == 1
    assert found[f"penstock_group_lag{{group=g,stream={stream}}}"] == 2
    assert not any("consumers" in name for name in found)


async def test_too_many_shards_are_refused_one_by_one(
    redis: Any, url: str, stream: str
) -> None:
    await divide(redis, stream, 257)
    words = ["exporter", "--port", "0", stream, "--url", url, "--per-shard"]
    done = await asyncio.to_thread(call, *words)
    assert done.returncode == 2
    assert "has 257 shards, and --per-shard is for at most 256" in done.stderr


async def test_what_it_can_not_do_is_said_at_once(url: str) -> None:
    used = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = used.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no query
    async with used:
        words = ("exporter", "--port", port, "--url", url)
        result = await run(*words, status=1)
    assert f"can't listen on 127.0.0.1:{port}" in result.stderr
    wrong = ("exporter", "--port", "0", "--url", "http://localhost")
    done = await asyncio.to_thread(call, *wrong)
    assert done.returncode == 2
    assert "scheme 'http'" in done.stderr


def test_without_its_extra_it_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None; "
        "from penstock.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "exporter", "--url", "redis://127.0.0.1:1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'penstock[metrics]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "penstock.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# -- series ----------------------------------------------------------------------------


def stream_status(name: str, groups: int = 1) -> StreamStatus:
    return StreamStatus(
        stream=name,
        shard=None,
        key=None,
        shards=1,
        length=3,
        groups=[group_status(name, f"g{number}") for number in range(groups)],
        dead_letters=0,
        first_id="1-0",
        last_id="3-0",
        first_age_seconds=None,
        entries_added=3,
    )


def group_status(stream: str, group: str) -> GroupStatus:
    return GroupStatus(
        stream=stream,
        group=group,
        shard=None,
        key=None,
        state=None,
        lag=1,
        lag_exact=False,
        pending=2,
        backlog=3,
        oldest_age_seconds=1.5,
        oldest_idle_seconds=0.5,
        entries_read=2,
        consumers=1,
        live=1,
        silent=0,
        gone=0,
        last_delivered_id="2-0",
        last_delivered_age_seconds=None,
        in_per_second=None,
        out_per_second=None,
        eta_seconds=None,
    )


def snapshot(*names: str) -> Snapshot:
    return Snapshot(
        time=datetime.now(UTC),
        streams=[stream_status(name) for name in names],
        shards=[],
        problems=[],
        missing=[],
    )


UP = ExporterState(up=True, poll_seconds=0.1, last_success=1.0, left_out=0)


def test_no_more_series_than_the_maximum() -> None:
    selection = Selection(2000)
    samples = selection.samples(snapshot(*(f"s{n:04}" for n in range(5000))))
    found = numbers(text(samples, UP).decode())
    assert 1980 < len(found) <= 2000
    exported = {name for name in found if name.startswith("penstock_stream_length")}
    assert len(exported) + len(selection.left_out) == 5000
    # Each stream is there with all its series.
    assert len(samples) == 14 * len(exported)


def test_streams_that_were_exported_stay_exported() -> None:
    selection = Selection(4 + 2 * 14)
    chosen = ("b", "c")
    selection.samples(snapshot(*chosen))
    for names in (("a", "b", "c"), ("a", "b", "c", "d")):
        samples = selection.samples(snapshot(*names))
        assert {dict(sample.labels)["stream"] for sample in samples} == {"b", "c"}
    samples = selection.samples(snapshot("a", "c"))
    assert {dict(sample.labels)["stream"] for sample in samples} == {"a", "c"}
    assert selection.left_out == []


def test_names_of_any_kind_are_labels() -> None:
    hostile = 'a"b\\c\nd\udcff%{x}ü'
    body = text(Selection(2000).samples(snapshot(hostile)), UP).decode()
    [label] = {
        sample.labels["stream"]
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if "stream" in sample.labels
    }
    assert label == 'a"b\\c\nd\\udcff%{x}ü'


def test_the_page_lists_all_metrics() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "exporter.md").read_text()
    _, _, table = page.partition("## Metrics")
    listed = re.findall(r"`(penstock_\w+)`", table)
    named = [
        f"{name}_total" if kind == "counter" else name
        for name, (kind, _) in _FAMILIES.items()
    ]
    assert sorted(listed) == sorted(named)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing")
def test_promtool_finds_nothing_wrong() -> None:
    samples = Selection(2000).samples(snapshot("orders", "clicks"))
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text(samples, UP),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
