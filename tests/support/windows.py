"""A process that has of Python only what Windows has; run it to run code in it.

Penstock is imported once as it is, which imports all other packages on this system, and
then again without what Windows lacks.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import pkgutil
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module

import anyio._backends._asyncio  # noqa: F401 - anyio imports it late

import penstock

_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
_ABSENT = {
    signal: ("alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer"),
    os: (
        *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG"),
        *("chown", "fchmod", "fork", "forkpty", "getegid", "geteuid", "getgid"),
        *("getloadavg", "getpgid", "getsid", "getuid", "killpg", "mkfifo", "nice"),
        *("openpty", "pipe2", "posix_spawn", "pread", "pwrite", "register_at_fork"),
        *("setsid", "statvfs", "sysconf", "ttyname", "uname"),
    ),
    socket: ("AF_UNIX", "SO_REUSEPORT"),
    time: ("clock_gettime", "clock_gettime_ns", "pthread_getcpuclockid", "tzset"),
    faulthandler: ("register", "unregister"),
}
# Windows' pair is one of TCP sockets, and anyio sets the option there.
_OTHERS = {
    "socketpair": partial(socket.socketpair, socket.AF_UNIX),
    "SO_EXCLUSIVEADDRUSE": socket.SO_REUSEADDR,
}
_MODULES = (
    *("curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource"),
    *("syslog", "termios", "tty"),
)
# What raises NotImplementedError there.
_LOOP = (
    *("add_reader", "add_signal_handler", "add_writer"),
    *("create_unix_connection", "create_unix_server"),
)


def modules() -> Iterator[str]:
    """Yield the names of all modules of the package."""
    for each in pkgutil.walk_packages(penstock.__path__, "penstock."):
        if not each.name.endswith(".__main__"):
            yield each.name
    yield "pytest_penstock"


def pretend() -> None:
    """Remove what Windows lacks, and import Penstock again."""
    names = list(modules())
    for name in names:
        import_module(name)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("penstock", "pytest_penstock"):
            del sys.modules[name]
    _change()
    for name in names:
        import_module(name)


def _change() -> None:
    """Make this Python one of Windows, as far as Penstock may notice it."""
    for name, value in _OTHERS.items():
        setattr(socket, name, value)
    signals = [name for name in dir(signal) if re.match("SIG[A-Z]", name)]
    absent = {
        **_ABSENT,
        time: (*_ABSENT[time], *(name for name in dir(time) if "CLOCK_" in name)),
        signal: (*_ABSENT[signal], *{*signals} - _SIGNALS),
    }
    for module, lacking in absent.items():
        for name in lacking:
            delattr(module, name)
    for name in _LOOP:
        method = getattr(asyncio.AbstractEventLoop, name)
        setattr(asyncio.SelectorEventLoop, name, method)
    # Their imports fail then.
    sys.modules.update(dict.fromkeys(_MODULES))  # type: ignore[arg-type]
    sys.platform = "win32"


if __name__ == "__main__":
    pretend()
    sys.argv = sys.argv[1:]
    exec(sys.argv[0], {"__name__": "__windows__"})  # noqa: S102
