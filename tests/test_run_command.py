"""`penstock run` as its user, a terminal and an orchestrator see it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock import Producer
from support.run_process import TESTS, Run, read, send_words
from support.waiting import eventually, pending, send

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)


# -- draining --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable", ["PENSTOCK_URL", "PENSTOCK_URL_FILE", "REDIS_URL_FILE"]
)
async def test_the_server_and_the_options_may_be_in_the_environment(
    run: Run, url: str, stream: str, tmp_path: Path, variable: str
) -> None:
    del run.env["REDIS_URL"]
    file = tmp_path / "url"
    file.write_text(f"{url}\n")
    run.env[variable] = str(file) if variable.endswith("_FILE") else url
    run.env |= {"PENSTOCK_WORKERS": "2", "PENSTOCK_GRACE": "20s"}
    await run.ready()
    await send(url, stream, 1)
    await run.has_handled(1)
    assert "worker 2 is ready" in run.output()
    run.signal(signal.SIGTERM)
    assert run.process.wait(30) == 0


async def test_a_variable_is_read_by_the_same_grammar_as_its_option(run: Run) -> None:
    run.env["PENSTOCK_GRACE"] = "30"
    run.start()
    assert run.process.wait(30) == 2
    assert "--grace 30 has no unit; write 30s" in run.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_drains_and_the_status_is_0(
    run: Run, url: str, stream: str, redis: Any, number: signal.Signals
) -> None:
    run.env["TEST_DELAY"] = "0.1"
    await run.ready()
    await send(url, stream, *range(4))
    await run.has_handled(1)
    run.signal(number)
    await run.ends(0)
    assert await pending(redis, stream, "g") == 0
    assert f"[main] penstock.run: {number.name}: draining" in run.output()


async def test_under_load_every_message_is_handled_once_over_restarts(
    run: Run, url: str, stream: str, redis: Any
) -> None:
    run.env["TEST_DELAY"] = "0.01"
    await send(url, stream, *range(1500))
    for share in (150, 500):
        await run.ready("--workers", "2")
        await run.has_handled(share)
        run.signal(signal.SIGTERM)
        await run.ends(0)
        assert await pending_as_delivered(redis, stream) == 0
    assert len(run.handled()) < 1500
    await run.ready("--workers", "2")
    await run.has_handled(1500)
    run.signal(signal.SIGTERM)
    await run.ends(0)
    assert Counter(run.handled()) == Counter(str(number) for number in range(1500))
    assert await pending(redis, stream, "g") == 0


async def pending_as_delivered(redis: Any, stream: str) -> int:
    """Return how many pending entries count as delivered; released ones do not."""
    lines = await redis.xpending_range(stream, "g", "-", "+", 10_000)
    return sum(line["times_delivered"] for line in lines)


async def test_ctrl_c_reaches_the_whole_process_group_and_still_drains(
    run: Run, url: str, stream: str, redis: Any
) -> None:
    run.env["TEST_DELAY"] = "0.1"
    await run.ready("--workers", "2")
    await send(url, stream, *range(8))
    await run.has_handled(1)
    os.killpg(run.process.pid, signal.SIGINT)
    await run.ends(0)
    # The rate decides how many had been read by then; none of these was started.
    assert await pending_as_delivered(redis, stream) == 0


async def test_a_worker_that_is_still_importing_can_be_ended(
    run: Run, tmp_path: Path
) -> None:
    run.env["TEST_GATE"] = str(tmp_path / "never")
    run.start()

    async def importing() -> bool:
        return run.journal.exists()

    await eventually(importing, within=20)
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_a_second_signal_kills_and_the_status_names_it(
    run: Run, url: str, stream: str, redis: Any
) -> None:
    await run.ready()
    await send_words(url, stream, "hang")
    await run.has_handled(1)
    run.signal(signal.SIGTERM)
    await run.prints("SIGTERM: draining")
    assert not run.ready_file.exists()
    run.signal(signal.SIGINT)
    await run.ends(128 + signal.SIGINT)
    assert await pending(redis, stream, "g") == 1


async def test_a_signal_that_arrives_twice_at_once_counts_once(run: Run) -> None:
    """timeout(1) sends it to its child, and to the group that the child is in."""
    await run.ready()
    run.signal(signal.SIGTERM)
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_workers_that_do_not_drain_in_time_are_killed_and_the_status_is_1(
    run: Run, url: str, stream: str
) -> None:
    await run.ready("--grace", "300ms")
    await send_words(url, stream, "hang")
    await run.has_handled(1)
    start = time.monotonic()
    run.signal(signal.SIGTERM)
    await run.ends(1)
    assert time.monotonic() - start < 10
    assert "not drained within 0.3 s: killing 1 workers" in run.output()


@pytest.mark.parametrize("by", ["option", "variable"])
async def test_tracebacks_of_handlers_can_be_had_with_each_attempt(
    run: Run, url: str, stream: str, by: str
) -> None:
    await send_words(url, stream, "fail")
    arguments = ["--tracebacks", "always"] if by == "option" else []
    run.env |= {} if arguments else {"PENSTOCK_TRACEBACKS": "always"}
    await run.ready(*arguments)
    await run.has_handled(1)
    run.signal(signal.SIGTERM)
    await run.ends(0)
    output = run.output()
    assert "handler=support.run_app.note error=ValueError at=support/run_app.py:" in (
        output
    )
    assert f'  File "{TESTS}/support/run_app.py", line ' in output
    assert "canary" not in output


# -- workers that die ------------------------------------------------------------------


async def test_a_worker_that_dies_is_started_again(
    run: Run, url: str, stream: str
) -> None:
    await run.ready("--workers", "2")
    first = set(run.workers())
    assert len(first) == 2
    await send_words(url, stream, "crash")
    await eventually(run.is_not_ready)
    await run.prints("was killed by SIGSEGV; starting another in 0.1 s")
    await eventually(run.is_ready, within=20)
    assert len(first & set(run.workers())) == 1
    await send(url, stream, 7)
    await run.has_handled(1)
    run.signal(signal.SIGTERM)
    await run.ends(0)


@pytest.mark.parametrize(("word", "status"), [("exit 2", 2), ("stop", 0)])
async def test_a_worker_that_ends_by_itself_after_it_was_ready_is_started_again(
    run: Run, url: str, stream: str, word: str, status: int
) -> None:
    await run.ready()
    await send_words(url, stream, word)
    await run.prints(f"worker 1 ended with status {status}; starting another")
    await eventually(run.is_ready, within=20)
    run.signal(signal.SIGTERM)
    await run.ends(0)


async def test_workers_end_when_their_parent_was_killed(
    run: Run, url: str, stream: str, redis: Any
) -> None:
    run.env["TEST_DELAY"] = "0.2"
    await run.ready("--workers", "2")
    await send(url, stream, 1, 2)
    await eventually(lambda: are_pending(redis, stream, 2))
    run.process.kill()
    await eventually(lambda: is_empty(run))
    # And they drained.
    assert sorted(run.handled()) == ["1", "2"]
    assert await pending(redis, stream, "g") == 0


async def are_pending(redis: Any, stream: str, count: int) -> bool:
    return await pending(redis, stream, "g") == count


async def is_empty(run: Run) -> bool:
    return not run.running()


async def test_a_worker_with_a_blocked_event_loop_ends_when_its_parent_was_killed(
    run: Run, url: str, stream: str
) -> None:
    await run.ready("--grace", "200ms")
    await send_words(url, stream, "block")
    await run.has_handled(1)
    run.process.kill()
    await eventually(lambda: is_empty(run))


# -- wrong usage -----------------------------------------------------------------------


async def test_several_workers_keep_the_order_of_each_key_in_a_stream_of_shards(
    run: Run, url: str, stream: str
) -> None:
    async with Producer(url, shards=4) as producer:
        for number in range(400):
            key = f"k{number % 20}"
            await producer.enqueue(stream, f"{key} {number}".encode(), key=key)
            if number == 200:
                await producer.flush()
                await run.ready("--workers", "2", target="support.run_app:ordered")
    await run.has_handled(400)
    run.signal(signal.SIGTERM)
    await run.ends(0)
    handled = [line.split() for line in run.handled()]
    assert len(handled) == 400
    by_key: dict[str, list[int]] = {}
    for key, sent in handled:
        by_key.setdefault(key, []).append(int(sent))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert run.output().count("shards_owned") == 2


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        (
            "no_such.module",
            [],
            "module no_such was not found; run penstock in the folder",
        ),
        (":router", [], "does not name a module"),
        *(
            (target, [], f"is a file; name its module: {right}\n")
            for target, right in [
                ("shop.py", "penstock run shop"),
                ("./shop.py", "penstock run shop"),
                ("shop.py:app", "penstock run shop:app"),
                ("src/shop.py:app", "penstock run src.shop:app"),
                ("src/shop", "penstock run src.shop"),
                ("/srv/shop.py", "cd /srv && penstock run shop"),
                ("../shop.py:app", "cd .. && penstock run shop:app"),
            ]
        ),
        ("support.run_app:missing", [], "module support.run_app has no missing"),
        (
            "support.run_app:number",
            ["--workers", "3"],
            "is of type int and not a Router",
        ),
        ("support.run_app:empty", ["--workers", "3"], "this router has no handlers"),
        (
            "support.run_app:ordered",
            ["--workers", "2"],
            "ordering='key', which holds across processes only with owned shards",
        ),
        ("support.run_app", ["--url", "http://localhost"], "scheme 'http'"),
        ("support.run_app", ["--workers", "0"], "--workers"),
        (
            "support.run_app",
            ["--workers", "2", "--url", "embedded://"],
            "a shared server",
        ),
        ("support.run_app", ["--ready-file", "/no/such/file"], "No such file"),
        ("support.run_app", ["--host", "192.0.2.1", "--port", "0"], "can't listen on"),
    ],
)
async def test_wrong_usage_of_run_is_reported_once_and_the_status_is_2(
    run: Run, target: str, arguments: list[str], words: str
) -> None:
    run.start(*arguments, target=target)
    await run.ends(2)
    assert run.output().count(words) == 1
    assert "Traceback" not in run.output()


async def test_a_port_in_use_is_reported_once_and_the_status_is_2(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run.start("--port", str(port))
        await run.ends(2)
    output = f"penstock: can't listen on 127.0.0.1:{port}: Address already in use\n"
    assert run.output() == output


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing"),
        ("from penstock import Nothing", "ImportError: cannot import name 'Nothing'"),
        ("x = (", "SyntaxError"),
        (
            "import penstock\npenstock.Router().handler('orders', batch=1)(print)",
            "handler builtins.print: it takes no message",
        ),
    ],
)
async def test_the_error_of_a_failed_import_shows_its_place_and_no_local_variables(
    run: Run, tmp_path: Path, code: str, words: str
) -> None:
    (tmp_path / "broken.py").write_text(f"password = 'sec' + 'ret'\n{code}\n")
    run.start(target="broken", cwd=tmp_path)
    await run.ends(2)
    output = run.output()
    assert output.startswith("penstock: module broken can't be imported:\n")
    assert words in output
    assert 'broken.py", line' in output
    assert "secret" not in output
    assert "src/penstock/cli" not in output


async def test_a_misspelt_option_of_a_handler_names_the_nearest_one(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(
        "import penstock\nrouter = penstock.Router()\n\n"
        "@router.handler('orders', group='g', concurency=8)\n"
        "async def charge(message): ...\n"
    )
    run.start(target="shop", cwd=tmp_path)
    await run.ends(2)
    output = run.output()
    assert "unknown option 'concurency'; did you mean 'concurrency'?" in output
    assert "the options are auto_commit, batch, " in output
    assert 'shop.py", line 4' in output
    assert "src/penstock/" not in output
    assert output.count("Traceback") == 1


async def test_a_module_that_is_called_py_can_be_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/py.py").write_text("import penstock\nrouter = penstock.Router()")
    run.start(target="shop.py", cwd=tmp_path)
    await run.ends(2)
    assert "this router has no handlers" in run.output()


# -- the rest --------------------------------------------------------------------------


async def test_the_url_is_in_no_argument_and_its_password_in_no_log(run: Run) -> None:
    """No server is there: workers die, and are started again after growing pauses."""
    del run.env["REDIS_URL"]
    run.start("--url", "redis://:secret@127.0.0.1:1")
    await run.prints("can't connect to 127.0.0.1:1")
    await run.prints("worker 1 ended with status 1; starting another in 0.2 s")
    lines = [read(Path(f"/proc/{pid}/cmdline")) for pid in run.workers()]
    assert not any(b"secret" in line for line in lines)
    run.signal(signal.SIGTERM)
    await run.ends(0)
    assert "secret" not in run.output()


async def test_the_event_loop_can_be_uvloop_and_the_attribute_a_dotted_path(
    run: Run, url: str, stream: str
) -> None:
    pytest.importorskip("uvloop")
    await run.ready(
        "--uvloop", "--log-level", "warning", target="support.run_app:deep.er"
    )
    await send_words(url, stream, "loop")
    await run.has_handled(2)
    run.signal(signal.SIGTERM)
    await run.ends(0)
    assert run.handled() == ["uvloop", "loop"]
    assert run.output() == ""


# -- logs ------------------------------------------------------------------------------

CONFIGURATION = {
    "version": 1,
    "formatters": {"json": {"()": "penstock.observe.logs.JsonFormatter"}},
    "handlers": {
        "all": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "stream": "ext://sys.stdout",
        }
    },
    "loggers": {"penstock.run": {"level": "WARNING"}},
    "root": {"level": "INFO", "handlers": ["all"]},
}


async def test_logs_as_json_say_where_a_handler_failed_and_never_with_what(
    run: Run, url: str, stream: str
) -> None:
    await run.ready("--log-format", "json", "--workers", "2")
    await send_words(url, stream, "fail")
    await run.has_handled(1)
    run.signal(signal.SIGTERM)
    await run.ends(0)
    records = [json.loads(line) for line in run.output().splitlines()]
    assert {record.get("worker") for record in records} == {None, 1, 2}
    [failed] = [one for one in records if one.get("event") == "handler_failed"]
    assert failed["stream"] == stream
    assert failed["attempt"] == 1
    assert failed["handler"] == "support.run_app.note"
    assert failed["at"].startswith("support/run_app.py:")
    opened = [one for one in records if one.get("event") == "opened"]
    assert len(opened) == 2
    assert (
        opened[0] | {"streams": [stream], "group": "g", "concurrency": 4} == opened[0]
    )
    assert opened[0]["handlers"] == ["support.run_app.note"]
    assert "canary" not in run.output()


async def test_a_file_configures_the_logs_of_all_processes(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "logs.json"
    file.write_text(json.dumps(CONFIGURATION))
    await run.ready("--log-config", str(file))
    run.signal(signal.SIGTERM)
    await run.ends(0)
    records = [json.loads(line) for line in run.output().splitlines()]
    assert [record["event"] for record in records] == ["opened"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("logs.json", None, "FileNotFoundError"),
        ("logs.json", "{", "JSONDecodeError"),
        ("logs.json", "[]", "it contains no dictionary"),
        ("logs.json", '{"version": 2}', "Unsupported version: 2"),
        ("logs.ini", "[x]", "KeyError"),
    ],
)
async def test_a_file_that_configures_no_logs_is_refused(
    run: Run, tmp_path: Path, name: str, text: str | None, reason: str
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    run.start("--log-config", str(file))
    await run.ends(2)
    assert f"--log-config {file}: " in run.output()
    assert reason in run.output()
    assert "pass a file for logging.config: .json" in run.output()
