"""`GET /metrics` of `penstock run`: the metrics of all workers as one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock._tasks.loop_watch import LoopWatch
from penstock.cli.run import run_metrics
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.run_metrics import RunMetrics
from penstock.cli.run.status_pipe import COUNTERS, METRICS
from penstock.observe.metrics import Family, Sample
from support.metrics import value
from support.run_process import Run, probe, send_words
from support.server import free_port
from support.waiting import eventually, send

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(port: int) -> Page:
    status, text = await probe(port, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(page: Page, name: str, **labels: str) -> float:
    """Return the sum of the samples that have these labels."""
    return sum(
        value
        for (found, those), value in page.items()
        if found == name and labels.items() <= dict(those).items()
    )


def shows(
    port: int, number: float, name: str, **labels: str
) -> Callable[[], Awaitable[bool]]:
    async def found() -> bool:
        return total(await scrape(port), name, **labels) == number

    return found


async def runs(run: Run, *arguments: str) -> int:
    port = free_port()
    await run.ready("--port", str(port), *arguments, target="support.run_metrics_app")
    return port


async def test_counts_are_exact_over_workers_that_drain_and_never_fall_if_one_is_killed(
    run: Run, url: str, stream: str
) -> None:
    port = await runs(run, "--workers", "4")
    await send(url, stream, *range(400))
    await run.has_handled(400)
    acknowledged = "penstock_messages_acknowledged_total"
    await eventually(shows(port, 400, acknowledged, stream=stream, group="g"))
    page = await scrape(port)
    await eventually(shows(port, 400, "users_total"))
    assert total(page, "penstock_messages_received_total", group="g") == 400
    handled = "penstock_messages_handled_total"
    for labels in ({}, {"outcome": "ok"}):
        assert total(page, handled, group="g", **labels) == 400
    assert total(page, "penstock_handler_seconds_count", group="g") == 400
    for number in "1234":
        assert total(page, "place", worker=number) in run.workers()
        assert total(page, "process_resident_memory_bytes", worker=number) > 1e6
        assert ("penstock_loop_delay_seconds", frozenset({("worker", number)})) in page
        [info] = (
            dict(labels)
            for name, labels in page
            if name == "penstock_info" and ("worker", number) in labels
        )
        assert info["server_version"]
    assert total(page, "penstock_workers", state="running") == 4

    # Two are replaced in good order: their last counts come before their end.
    await send(url, stream, *range(200))
    for worker in run.workers()[:2]:
        os.kill(worker, signal.SIGTERM)
    await run.has_handled(600)
    await eventually(run.is_ready)
    await eventually(shows(port, 2, "penstock_worker_restarts_total", reason="ended"))
    await eventually(shows(port, 600, "users_total"))
    await eventually(shows(port, 1200, acknowledged))
    assert total(await scrape(port), handled, outcome="ok") == 1200

    # One is killed: what it counted by the last scrape stays.
    os.kill(run.workers()[0], signal.SIGKILL)
    reason = "penstock_worker_restarts_total"
    await eventually(shows(port, 1, reason, reason="killed"))
    page = await scrape(port)
    assert total(page, acknowledged) == 2 * total(page, "users_total") == 1200
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_no_counter_falls_when_workers_are_killed_under_load(
    run: Run, url: str, stream: str
) -> None:
    run.env["TEST_LEASE"] = "1"
    port = await runs(run, "--workers", "2")
    sent, before = 0, await scrape(port)
    while total(before, "penstock_worker_restarts_total", reason="killed") < 2:
        await send(url, stream, *range(sent, sent + 20))
        sent += 20
        if sent in {200, 400}:
            await eventually(run.is_ready, within=20)
            await scrape(port)
            os.kill(run.workers()[0], signal.SIGKILL)
        page = await scrape(port)
        fallen = {
            sample
            for sample, number in before.items()
            if sample[0].endswith(("_total", "_bucket", "_sum", "_count"))
            and "worker" not in dict(sample[1])
            and page.get(sample, -1) < number
        }
        assert fallen == set()
        before = page
    await run.has_handled(sent)

    async def all_are_done() -> bool:
        # Those are missing that were handled between the last scrape and the kill.
        page = await scrape(port)
        return total(page, "users_total") >= sent - 40 * 2

    await eventually(all_are_done)
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_without_a_scrape_the_counts_of_a_killed_worker_are_known_all_the_same(
    run: Run, url: str, stream: str
) -> None:
    """The parent asks by itself, every few seconds."""
    port = await runs(run)
    await send(url, stream, *range(50))
    await run.has_handled(50)
    # The first may have come before the last message was counted.
    await eventually(lambda: has_been_asked(run, 2), within=30)
    os.kill(run.workers()[0], signal.SIGKILL)
    restarts = "penstock_worker_restarts_total"
    await eventually(shows(port, 1, restarts, reason="killed"))
    assert total(await scrape(port), "users_total") == 50
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def has_been_asked(run: Run, times: int) -> bool:
    path = Path(f"{run.journal}.asked")
    return path.exists() and len(path.read_bytes()) >= times


async def test_a_worker_that_does_not_answer_keeps_its_counters_and_is_counted(
    run: Run, url: str, stream: str
) -> None:
    port = await runs(run, "--workers", "2")
    await send(url, stream, *range(100))
    await run.has_handled(100)
    await eventually(shows(port, 100, "users_total"))
    stopped, _ = run.workers()
    os.kill(stopped, signal.SIGSTOP)
    page = await scrape(port)
    assert total(page, "users_total") == 100
    assert total(page, "penstock_scrape_timeouts_total") == 1
    # Of its gauges nothing is known.
    assert {dict(labels)["worker"] for name, labels in page if name == "place"} < {
        *"12"
    }
    os.kill(stopped, signal.SIGCONT)

    async def answers() -> bool:
        page = await scrape(port)
        return len([name for name, _ in page if name == "place"]) == 2

    await eventually(answers)
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_a_blocked_event_loop_is_measured_and_a_broken_collector_reported_once(
    run: Run, url: str, stream: str, tmp_path: Path
) -> None:
    run.env["TEST_GATE"] = str(tmp_path / "gate")
    (tmp_path / "gate").touch()
    port = await runs(run)
    (tmp_path / "gate").unlink()
    await send_words(url, stream, "doze")

    async def late() -> bool:
        page = await scrape(port)
        return total(page, "penstock_loop_delay_seconds", worker="1") > 0.5

    await eventually(late)
    (tmp_path / "gate").touch()
    await eventually(shows(port, 1, "users_total"))
    await send_words(url, stream, "break")
    await run.has_handled(3)
    await scrape(port)
    page = await scrape(port)
    # As it was before.
    assert total(page, "users_total") == 1
    assert total(page, "penstock_scrape_timeouts_total") >= 2
    assert run.output().count("prometheus_client.REGISTRY raised ValueError") == 1
    run.signal(signal.SIGTERM)
    await run.ends(0)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing")
async def test_promtool_finds_no_fault_with_the_page(
    run: Run, url: str, stream: str
) -> None:
    port = free_port()
    await run.ready("--port", str(port), "--workers", "2")
    await send(url, stream, *range(3))
    await run.has_handled(3)
    _, text = await probe(port, "/metrics")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text.encode(),
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stderr == b""
    run.signal(signal.SIGTERM)
    await run.ends(0)


@pytest.mark.parametrize("arguments", [["--no-metrics"], []])
async def test_metrics_can_be_left_out_and_need_their_extra_otherwise(
    run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    port = free_port()
    if not arguments:
        (tmp_path / "sitecustomize.py").write_text(
            "import sys; sys.modules['prometheus_client'] = None"
        )
        run.env["PYTHONPATH"] = f"{tmp_path}:{run.env.get('PYTHONPATH', '')}"
    await run.ready("--port", str(port), *arguments)
    assert await probe(port, "/metrics") == (
        404,
        "there are /live, /ready, /health\n",
    )
    run.signal(signal.SIGTERM)
    await run.ends(0)
    if not arguments:
        assert "pip install 'penstock[metrics]'" in run.output()
        run.start("--port", str(port), "--metrics")
        await run.ends(2)
        assert "metrics need prometheus_client, which is not installed" in run.output()


async def test_metrics_without_a_port_are_refused(run: Run) -> None:
    run.start("--metrics")
    await run.ends(2)
    assert "pass --port" in run.output()


def packed(number: int) -> bytes:
    samples = (Sample("jobs_total", (), number),)
    return msgspec.msgpack.encode([Family("jobs", "counter", "Jobs.", samples)])


async def test_a_scrape_waits_for_no_worker_that_ends_and_gets_its_last_counts() -> (
    None
):
    metrics = RunMetrics(Readiness(1), 1)
    asked: list[bytes] = []
    metrics.ready(1, asked.append)
    async with asyncio.TaskGroup() as tasks:
        scrape = tasks.create_task(metrics.families())
        await asyncio.sleep(0)
        assert asked == [METRICS]
        metrics.answered(1, packed(3))
        metrics.answered(1, packed(4))  # the last one, unasked
        metrics.ended(1)
    assert value(scrape.result(), "jobs_total") == 4
    assert value(scrape.result(), "penstock_scrape_timeouts_total") == 0
    # A worker that is not ready yet is not asked.
    assert value(await metrics.families(), "jobs_total") == 4


async def test_scrapes_get_answers_to_questions_that_were_asked_for_them() -> None:
    metrics = RunMetrics(Readiness(1), 1)
    asked: list[bytes] = []
    metrics.ready(1, asked.append)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(metrics.families())
        await asyncio.sleep(0)
        second = tasks.create_task(metrics.families())
        await asyncio.sleep(0)
        metrics.answered(1, packed(1))
        await eventually(lambda: is_done(first))
        assert not second.done()
        metrics.answered(1, packed(2))
    assert value(first.result(), "jobs_total") == 1
    assert value(second.result(), "jobs_total") == 2
    assert asked == [METRICS] * 2


async def is_done(task: asyncio.Task[Any]) -> bool:
    return task.done()


async def test_a_worker_that_is_silent_gets_no_pile_of_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_metrics, "_PATIENCE", 0.01)
    metrics = RunMetrics(Readiness(1), 1)
    asked: list[bytes] = []
    metrics.ready(1, asked.append)
    for _ in range(5):
        await metrics.families()
    assert asked == [METRICS] * 2
    found = await metrics.families()
    assert value(found, "penstock_scrape_timeouts_total", worker="1") == 6


async def test_the_counters_are_asked_for_again_and_again_but_not_within_a_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_metrics, "_INTERVAL", 0.001)
    metrics = RunMetrics(Readiness(1), 1)
    asked: list[bytes] = []

    def answer(question: bytes) -> None:
        asked.append(question)
        if question == COUNTERS:
            metrics.answered(1, packed(1))

    metrics.ready(1, answer)

    async def polled() -> bool:
        return len(asked) > 2

    async with asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(metrics.poll())
        await eventually(polled)
        assert set(asked) == {COUNTERS}
        scrape = tasks.create_task(metrics.families())
        await asyncio.sleep(0)
        asked.clear()
        await asyncio.sleep(0.05)  # some intervals
        assert asked == []
        metrics.answered(1, packed(2))
        await scrape
        await eventually(polled)
        polling.cancel()


def test_the_worst_delay_of_an_event_loop_is_kept_until_it_is_asked_for() -> None:
    async def work() -> tuple[float, float, float]:
        watch = LoopWatch()
        watch.start()
        time.sleep(1.1)  # noqa: ASYNC251 - as a bad handler does
        blocked = watch.worst()  # it is late now
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        late = watch.worst()  # the timer has come since
        again = watch.worst()
        watch.stop()
        return blocked, late, again

    blocked, late, again = asyncio.run(work())
    assert late >= blocked > 0.05
    assert again == 0
