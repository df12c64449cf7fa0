"""`penstock run` as a job, its closing line, and where it has its router from."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from support.run_process import TESTS, Run, send_words
from support.waiting import eventually, leave_pending, pending, send

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_job_ends_when_a_backlog_is_done_however_many_workers_there_are(
    run: Run, url: str, stream: str, redis: Any, workers: int
) -> None:
    await send(url, stream, *range(10_000))
    run.start("--workers", str(workers), "--until-caught-up")
    await run.ends(0)
    assert sorted(map(int, run.handled())) == list(range(10_000))
    assert await pending(redis, stream, "g") == 0
    assert "caught up: draining" in run.output()
    assert "drained: 10000 handled, 0 given back, 0 left" in run.output()


async def test_a_job_waits_for_retries_and_for_what_other_consumers_have(
    run: Run, url: str, stream: str, redis: Any
) -> None:
    run.env |= {"TEST_LEASE": "1", "TEST_HOOKS": "1"}
    await send_words(url, stream, "left")
    await leave_pending(redis, stream, "gone", 1)
    await send_words(url, stream, "wait")
    run.start("--until-caught-up")
    await run.ends(0)
    first, *between, last = run.handled()
    assert (first, last) == ("starts", "stops")
    assert sorted(between) == ["left", "wait"]


async def test_a_job_with_nothing_to_do_ends_and_one_without_groups_is_refused(
    run: Run, tmp_path: Path
) -> None:
    run.start("--until-caught-up")
    await run.ends(0)
    assert "drained: 0 handled, 0 given back, 0 left" in run.output()
    (tmp_path / "live.py").write_text(
        "import penstock\nrouter = penstock.Router()\n\n"
        "@router.handler('prices')\n"
        "async def show(message: penstock.Message[bytes]) -> None: ...\n"
    )
    run.start("--until-caught-up", "--app-dir", str(tmp_path), target="live")
    await run.ends(2)
    assert "--until-caught-up waits for groups, and no handler has one" in run.output()


async def test_the_closing_line_has_what_was_given_back_and_what_a_killed_worker_hides(
    run: Run, url: str, stream: str
) -> None:
    run.env["TEST_DELAY"] = "1"
    await send(url, stream, *range(20))
    await run.ready("--factory", target="support.run_app:make")
    await run.has_handled(4)  # four at a time
    run.signal(signal.SIGTERM)
    await run.ends(0)
    handled = len(run.handled())
    [line] = [line for line in run.output().splitlines() if "drained: " in line]
    words = line.partition("drained: ")[2].split()
    assert words[:2] == [str(handled), "handled,"]
    assert words[3:] == ["given", "back,", "0", "left"]
    assert 0 <= int(words[2]) <= 20 - handled
    await run.ready()
    os.kill(run.workers()[0], signal.SIGKILL)
    await run.prints("was killed by SIGKILL")
    await eventually(run.is_ready, within=20)
    run.signal(signal.SIGTERM)
    await run.ends(0)
    assert "workers were killed; the others drained: " in run.output()


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        ("support.run_app", ["--factory"], "is of type Router and not a function"),
        ("support.run_app:number", ["--factory"], "is of type int and not a function"),
        ("support.run_app:make", [], "or pass --factory if it returns the router"),
        ("support.run_app:start", ["--factory"], "returned an object of type corout"),
        ("support.run_app:write", ["--factory"], "write can't make the router:"),
    ],
)
async def test_a_factory_that_is_none_is_refused(
    run: Run, target: str, arguments: list[str], words: str
) -> None:
    run.env["PYTHONWARNINGS"] = "ignore"
    run.start(*arguments, target=target)
    await run.ends(2)
    assert words in run.output()


async def test_modules_are_imported_from_another_folder(
    run: Run, url: str, stream: str, tmp_path: Path
) -> None:
    await send(url, stream, 7)
    run.env["PENSTOCK_APP_DIR"] = str(TESTS)
    run.start("--until-caught-up", cwd=tmp_path)
    await run.ends(0)
    assert run.handled() == ["7"]
