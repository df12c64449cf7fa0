"""A worker of `penstock run` whose event loop stands still is found and replaced."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from penstock._tracebacks import where_is
from penstock.cli.run.answers import Hang
from penstock.events import Event
from penstock.health import ConsumerHealth, WorkerHealth, WorkerState
from support.run_process import TESTS, Run, send_words
from support.waiting import eventually, send

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)


async def replaced(run: Run, before: set[int]) -> set[int]:
    """Wait until one worker is another process, and return those that stayed."""

    async def another() -> bool:
        return run.ready_file.exists() and len(set(run.workers()) - before) == 1

    await eventually(another, within=20)
    return before & set(run.workers())


async def test_a_worker_that_hangs_is_dumped_and_replaced_and_its_sibling_is_not(
    run: Run, url: str, stream: str
) -> None:
    run.env["TEST_LEASE"] = "1"
    await run.ready("--workers", "2", "--hang-timeout", "2s", "--grace", "300ms")
    before = set(run.workers())
    # Otherwise the sibling would block, too, when it has claimed the message.
    await send_words(url, stream, "block once")
    await run.prints("hangs: its event loop has not turned for ")
    assert len(await replaced(run, before)) == 1
    await send(url, stream, 5)
    output = run.output()
    assert "was killed by SIGKILL; starting another" in output
    # Of all threads, the innermost frame first.
    assert f'File "{TESTS}/support/run_app.py", line ' in output
    assert " in note" in output
    # The parent had killed it already, but for the time of two looks.
    assert "worker_hung seconds=" in output
    assert " at=support/run_app.py:" in output
    run.signal(signal.SIGTERM)
    await run.prints("draining")
    run.signal(signal.SIGINT)
    await run.ends(130)


async def test_a_hanging_worker_whose_loop_turns_again_drains_before_it_is_replaced(
    run: Run, url: str, stream: str, tmp_path: Path
) -> None:
    run.env["TEST_GATE"] = str(tmp_path / "gate")
    (tmp_path / "gate").touch()
    await run.ready("--hang-timeout", "1s")
    (tmp_path / "gate").unlink()
    before = set(run.workers())
    await send_words(url, stream, "doze")
    await run.prints("hangs: its event loop has not turned for ")
    (tmp_path / "gate").touch()
    assert await replaced(run, before) == set()
    assert run.handled() == ["dozes", "doze"]
    assert "ended with status 0; starting another" in run.output()
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_a_worker_that_does_not_answer_at_all_is_replaced_too(run: Run) -> None:
    """As when C code holds Python's lock for ever."""
    await run.ready("--hang-timeout", "1s", "--grace", "2s")
    [worker] = run.workers()
    os.kill(worker, signal.SIGSTOP)
    assert await replaced(run, {worker}) == set()
    assert "worker 1 hangs: " in run.output()
    run.signal(signal.SIGTERM)
    await run.prints("draining")
    # The new worker may need longer for its end than the grace allows.
    run.signal(signal.SIGINT)
    await run.ends(130)


async def test_a_hang_timeout_of_less_than_a_second_is_refused(run: Run) -> None:
    run.start("--hang-timeout", "100ms")
    await run.ends(2)
    assert "--hang-timeout 0.1s is too short" in run.output()


def late(seconds: float, lease: float | None = 2.0) -> WorkerHealth:
    consumer = ConsumerHealth(
        streams=("orders",),
        group="g",
        connected=True,
        unanswered_seconds=0,
        queued=0,
        running=1,
        lease_seconds=lease,
    )
    return WorkerHealth(
        number=1,
        pid=1,
        state=WorkerState.RUNNING,
        why=None,
        loop_delay_seconds=seconds,
        consumers=(consumer,),
    )


def test_a_hang_is_reported_once_it_has_lasted_for_a_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Event] = []
    monkeypatch.setattr("penstock.cli.run.answers.log_event", told.append)
    hang = Hang()
    # Without two looks in a row it was just over.
    for seconds in (0, 3, 0, 3):
        hang.look(late(seconds))
    assert not told
    for seconds in (5, 7):
        hang.look(late(seconds))
    [event] = told
    assert event.name == "worker_hung"
    assert (event.facts["seconds"], event.facts["lease"]) == (5, 2.0)
    assert str(event.facts["at"]).startswith("test_run_hang.py:")
    for seconds in (0, 3, 5):
        hang.look(late(seconds))
    assert len(told) == 2
    # Without leases, after the time of the default one.
    for _ in range(2):
        hang.look(late(59, None))
    hang.look(late(61, None))
    hang.look(late(63, None))
    assert [event.facts["lease"] for event in told] == [2.0, 2.0, 60.0]


def test_the_place_of_a_thread_is_the_innermost_one_of_the_user_s_code() -> None:
    gate, inside = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        gate.wait()  # in Python's own library

    thread = threading.Thread(target=wait)
    thread.start()
    inside.wait()
    frame = sys._current_frames()[thread.ident or 0]
    line = wait.__code__.co_firstlineno
    # It may not have come as far as to wait.
    assert where_is(frame) in {f"test_run_hang.py:{line + n}" for n in (1, 2)}
    gate.set()
    thread.join()
    assert where_is(None) is None
