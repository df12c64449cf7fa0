"""`penstock run` as its user, a terminal and an orchestrator see it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock import Producer
from penstock.cli.run.health_probe import answer
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.status_pipe import StatusPipe
from support.server import free_port, server
from support.waiting import eventually, pending, send

TESTS = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)


class Run:
    """`penstock run` in a process, with a marker that its children inherit."""

    def __init__(self, url: str, stream: str, folder: Path) -> None:
        self.mark = f"PENSTOCK_TEST_MARK={secrets.token_hex(8)}"
        name, _, value = self.mark.partition("=")
        self.journal = folder / "journal"
        self.log = folder / "log"
        self.ready_file = folder / "ready"
        self.env = {
            **os.environ,
            name: value,
            "PYTHONWARNINGS": "error",
            "REDIS_URL": url,
            "TEST_STREAM": stream,
            "TEST_JOURNAL": str(self.journal),
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, *arguments: str, target: str = "support.run_app", cwd: Path = TESTS
    ) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "error", "-m", "penstock.cli", "run"),
                    *(target, "--ready-file", str(self.ready_file), *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=cwd,
                start_new_session=True,
            )
        self.processes.append(process)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    async def ready(self, *arguments: str, **more: Any) -> None:
        """Start it, and wait until all workers are ready."""
        self.start(*arguments, **more)
        await eventually(self.is_ready, within=20)

    async def is_ready(self) -> bool:
        assert self.process.poll() is None, self.output()
        return self.ready_file.exists()

    async def is_not_ready(self) -> bool:
        return not self.ready_file.exists()

    def output(self) -> str:
        return self.log.read_text()

    async def prints(self, words: str) -> None:
        async def output() -> bool:
            return words in self.output()

        await eventually(output, within=20)

    def handled(self) -> list[str]:
        return (
            self.journal.read_text().split("\n")[:-1] if self.journal.exists() else []
        )

    async def has_handled(self, count: int) -> None:
        async def enough() -> bool:
            assert self.process.poll() is None, self.output()
            return len(self.handled()) >= count

        await eventually(enough, within=20)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self, status: int) -> None:
        """Wait for the end, check the status, and wait until nothing is left behind."""
        code = await asyncio.to_thread(self.process.wait, 30)
        assert code == status, self.output()
        await eventually(self.nothing_is_left)

    async def nothing_is_left(self) -> bool:
        return not self.running() and not self.ready_file.exists()

    def running(self, program: bytes = b"") -> list[int]:
        """Return the ids of its running processes, or of those of one program."""
        return [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit()
            and self.mark.encode() in _read(path / "environ")
            and program in _read(path / "cmdline")
        ]

    def workers(self) -> list[int]:
        return self.running(b"cli.run.worker")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
async def run(url: str, stream: str, tmp_path: Path) -> AsyncIterator[Run]:
    created = Run(url, stream, tmp_path)
    yield created
    for process in created.processes:
        process.kill()
        process.wait()
    for pid in created.running():
        os.kill(pid, signal.SIGKILL)


async def send_words(url: str, stream: str, *words: str) -> None:
    async with Producer(url) as producer:
        for word in words:
            await producer.send(stream, word.encode())


# -- draining --------------------------------------------------------------------------


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


# -- probes ----------------------------------------------------------------------------


async def get(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    return reply


async def probe(port: int, path: str) -> tuple[int, str]:
    reply = await get(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def test_probes_and_the_ready_file_show_whether_all_workers_are_ready(
    run: Run, url: str, stream: str, tmp_path: Path
) -> None:
    port, gate = free_port(), tmp_path / "gate"
    run.env["TEST_GATE"] = str(gate)
    run.ready_file.write_text("left by another run")
    run.start("--workers", "2", "--port", str(port))
    await run.prints(f"probes are answered on 127.0.0.1:{port}")
    assert not run.ready_file.exists()
    assert await probe(port, "/live") == (200, "live\n")
    assert await probe(port, "/ready") == (503, "0 of 2 workers are ready\n")
    gate.touch()
    await eventually(run.is_ready, within=20)
    assert run.ready_file.read_text() == f"{run.process.pid}\n"
    assert await probe(port, "/ready?full=1") == (200, "2 of 2 workers are ready\n")
    # One worker is down, and can't be ready again.
    gate.unlink()
    os.kill(run.workers()[0], signal.SIGKILL)
    await eventually(run.is_not_ready)
    assert await probe(port, "/ready") == (503, "1 of 2 workers are ready\n")
    gate.touch()
    await eventually(run.is_ready, within=20)
    # One worker drains.
    await send_words(url, stream, "hang")
    await run.has_handled(1)
    run.signal(signal.SIGTERM)
    await eventually(run.is_not_ready)
    assert await probe(port, "/ready") == (503, "draining\n")
    assert await probe(port, "/live") == (200, "live\n")
    run.signal(signal.SIGINT)
    await run.ends(128 + signal.SIGINT)


async def test_a_handler_that_blocks_its_worker_does_not_block_the_probes(
    run: Run, url: str, stream: str
) -> None:
    port = free_port()
    await run.ready("--port", str(port))
    await send_words(url, stream, "block")
    await run.has_handled(1)
    assert await probe(port, "/live") == (200, "live\n")
    # Nor do clients that send too much or nothing, or that disconnect.
    assert await get(port, b"GET /" + b"x" * 20_000) == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert (await probe(port, "/ready"))[0] == 200
    writer.transport.abort()
    reader.feed_eof()
    run.signal(signal.SIGTERM)
    await run.prints("draining")
    run.signal(signal.SIGINT)
    await run.ends(130)


async def test_silent_connections_do_not_keep_probes_from_being_answered(
    run: Run,
) -> None:
    port = free_port()
    await run.ready("--port", str(port))
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    for each in silent[::2]:
        each.send(b"GET /ready HTTP/1.1\r\n")
    assert (await probe(port, "/ready"))[0] == 200
    assert (await probe(port, "/live"))[0] == 200
    for each in silent:
        each.close()
    run.signal(signal.SIGTERM)
    await run.ends(0)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_ready_means_that_loops_turn_and_the_server_answers(
    run: Run, stream: str, tmp_path: Path
) -> None:
    """Within 15 seconds and a beat; `/live` stays, since a restart can't help."""
    port = free_port()
    async with server(tmp_path) as own:
        run.env["REDIS_URL"] = own.url
        await run.ready("--port", str(port))

        async def ready_is(expected: int) -> bool:
            code, _ = await probe(port, "/ready")
            return code == expected

        own.send_signal(signal.SIGSTOP)
        took = await eventually(lambda: ready_is(503), within=30)
        assert took > 10
        _, reason = await probe(port, "/ready")
        assert reason.startswith("worker 1: no answer from the server for ")
        assert not run.ready_file.exists()
        assert await probe(port, "/live") == (200, "live\n")
        own.send_signal(signal.SIGCONT)
        await eventually(lambda: ready_is(200), within=30)
        assert run.ready_file.exists()

        await send_words(own.url, stream, "block")
        await run.has_handled(1)
        await eventually(lambda: ready_is(503), within=30)
        _, reason = await probe(port, "/ready")
        assert reason.startswith("worker 1: its event loop has not turned for ")
        run.signal(signal.SIGTERM)
        await run.prints("draining")
        run.signal(signal.SIGINT)
        await run.ends(130)
    assert run.output().count("is not ready: no answer from the server") == 1
    assert "is ready again" in run.output()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /live HTTP/1.1", 200),
        (b"HEAD /ready HTTP/1.0", 200),
        (b"GET /other HTTP/1.1", 404),
        (b"POST /ready HTTP/1.1", 405),
        (b"GET /ready HTTP/2", 400),
        (b"GET /ready", 400),
        (b"\x16\x03\x01", 400),
    ],
)
def test_only_valid_requests_get_a_probe_s_answer(
    request_line: bytes, status: int
) -> None:
    reply = answer(request_line + b"\r\nHost: x\r\n\r\n", (True, "all is well"))
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].split()[1] == str(status)
    assert "Connection: close" in lines
    assert ("Allow: GET, HEAD" in lines) == (status == 405)
    if request_line.startswith(b"HEAD"):
        assert body == b""
        assert "Content-Length: 12" in lines
    else:
        assert f"Content-Length: {len(body)}" in lines


def test_readiness_is_known_without_a_ready_file() -> None:
    readiness = Readiness(2)
    readiness.prepare()
    readiness.up(1)
    assert (readiness.ready, str(readiness)) == (False, "1 of 2 workers are ready")
    readiness.up(2)
    assert readiness.ready
    readiness.drain()
    assert (readiness.ready, str(readiness)) == (False, "draining")


def test_the_ready_file_is_not_written_through_links(tmp_path: Path) -> None:
    """In /tmp anybody can put a link at a name that is known beforehand."""
    victim, file = tmp_path / "victim", tmp_path / "ready"
    victim.write_text("mine")
    for name in (f".ready.{os.getpid()}", "ready"):
        (tmp_path / name).symlink_to(victim)
    readiness = Readiness(1, file)
    readiness.prepare()
    file.symlink_to(victim)
    readiness.up(1)
    assert victim.read_text() == "mine"
    assert not file.is_symlink()
    assert file.read_text() == f"{os.getpid()}\n"
    assert file.stat().st_mode & 0o777 == 0o644
    readiness.down(1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"victim", f".ready.{os.getpid()}"}


def test_a_worker_in_trouble_is_not_ready_and_says_why(tmp_path: Path) -> None:
    readiness = Readiness(2, tmp_path / "ready")
    readiness.up(1)
    readiness.up(2)
    assert readiness.trouble(2, "no answer") == ""
    assert (readiness.ready, str(readiness)) == (False, "worker 2: no answer")
    assert not (tmp_path / "ready").exists()
    assert readiness.trouble(2, "") == "no answer"
    assert readiness.ready
    assert (tmp_path / "ready").exists()
    readiness.trouble(1, "no answer")
    readiness.down(1)
    readiness.up(1)
    assert readiness.ready


def test_a_ready_file_that_can_t_be_written_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    readiness = Readiness(1, folder / "ready")
    readiness.prepare()
    folder.rmdir()
    readiness.up(1)
    assert readiness.ready
    assert "the ready file: " in caplog.text


def test_writing_to_a_closed_status_pipe_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    pipe = StatusPipe(theirs.detach())
    ours.close()
    pipe.ready()
    pipe.refuse("why")
    pipe._socket.close()


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
    lines = [_read(Path(f"/proc/{pid}/cmdline")) for pid in run.workers()]
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
