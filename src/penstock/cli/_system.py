"""Systems: what the command line needs of the operating system, and Windows lacks."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

from penstock import ConfigurationError

__all__ = ["on_end_signals", "require_posix"]


def on_end_signals(end: Callable[[], None]) -> None:
    """Call a function in the running event loop on SIGTERM and SIGINT.

    Event loops of Windows have no signal handlers of their own. There the interpreter's
    handler passes the call on to the loop.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, end)
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))


def require_posix(command: str, instead: str) -> None:
    """Refuse a command that needs signals and sockets that child processes inherit.

    Args:
        command: The command's name.
        instead: What to do on Windows, as an imperative.

    Raises:
        ConfigurationError: This is Windows.
    """
    if sys.platform == "win32":
        raise ConfigurationError(
            f"penstock {command} needs Linux or macOS, since its worker processes are "
            f"controlled by signals that Windows does not have; {instead}"
        )
