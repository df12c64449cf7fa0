"""Tracebacks: where the user's code raised an exception, and the frames of exceptions.

Without being asked for it, no function returns an exception's text, and none returns a
source line or a variable: each of them may quote a payload.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath
from types import FrameType, TracebackType
from typing import Final

from penstock.errors import PenstockError

__all__ = ["frames_of", "place_of", "text_of", "where_is"]

_OWN: Final = str(Path(__file__).parent) + os.sep
_STANDARD: Final = tuple(
    os.path.realpath(sysconfig.get_path(name)) + os.sep
    for name in ("stdlib", "platstdlib")
)
_INSTALLED: Final = {"site-packages", "dist-packages"}
# The only code without a file that somebody has written: at a prompt. Other code is
# generated, for example by dataclasses.
_TYPED: Final = ("<stdin>", "<console>", "<ipython")
# The most exceptions of a chain, and the most frames of one, that are shown.
_LONGEST_CHAIN: Final = 5
_MOST_FRAMES: Final = 30
# The most characters of a text or a name that are shown.
_LONGEST_TEXT: Final = 500


def place_of(error: BaseException, handler: str = "") -> str | None:
    """Return the file and line of the innermost frame of the user's code.

    If the exception has no such frame, those that led to it are searched: a handler
    that took too long was at the place where it was cancelled.

    Args:
        error: The exception.
        handler: The handler's name, with its module. An application may be installed
            like a library; the package of its handler is the user's code all the same.

    Returns:
        `shop/billing.py:41`; None if there is no such frame.
    """
    home = handler.partition(".")[0]
    for each in _chain(error):
        place = None
        for trace in _steps(each.__traceback__):
            if _is_users(trace.tb_frame, home):
                place = _place(trace.tb_frame, trace.tb_lineno)
        if place is not None:
            return place
    return None


def where_is(frame: FrameType | None) -> str | None:
    """Return the file and line of the user's code that runs in a frame, or called it.

    Args:
        frame: The innermost frame of a thread.

    Returns:
        `shop/billing.py:41`; None if no frame is the user's.
    """
    while frame is not None:
        if _is_users(frame):
            return _place(frame, frame.f_lineno)
        frame = frame.f_back
    return None


def _place(frame: FrameType, line: int) -> str:
    return _clean(f"{_short(frame.f_code.co_filename)}:{line}")


def frames_of(error: BaseException, *, texts: bool = False) -> str:
    """Return the traceback of an exception, and of those that led to it.

    Each frame is a line with file, line number and function.

    Args:
        error: The exception.
        texts: Whether the texts of all exceptions are included. Those of Penstock's own
            always are.
    """
    parts: list[str] = []
    for each in reversed(list(_chain(error))):
        if parts:
            parts.append("which led to:")
        parts += _frames(each.__traceback__)
        kind = type(each)
        text = text_of(each, always=texts)
        name = _clean(f"{kind.__module__}.{kind.__qualname__}")
        parts.append(name.removeprefix("builtins.") + (f": {text}" if text else ""))
    return "\n".join(parts)


def text_of(error: BaseException, *, always: bool = False) -> str:
    """Return the text of one of Penstock's own exceptions, in one line, shortened.

    Args:
        error: The exception.
        always: Whether the texts of others are returned as well.

    Returns:
        The text; nothing for exceptions of others, and if asking for the text raises.
    """
    module = type(error).__module__.partition(".")[0]
    own = isinstance(error, PenstockError) and module == "penstock"
    try:
        return _clean(str(error)) if own or always else ""
    except Exception:  # noqa: BLE001 - whatever its __str__ raises
        return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, the one that led to it, and so on."""
    found: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _steps(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _frames(trace: TracebackType | None) -> list[str]:
    """Return the lines of a traceback, without the frames that called the handler."""
    steps = list(_steps(trace))
    first = next((n for n, step in enumerate(steps) if _is_users(step.tb_frame)), 0)
    steps = steps[first:]
    half = _MOST_FRAMES // 2
    lines = [_line(step) for step in islice(steps, half)]
    if len(steps) > _MOST_FRAMES:
        lines.append(f"  ... {len(steps) - _MOST_FRAMES} more frames")
    return lines + [_line(step) for step in steps[half:][-half:]]


def _line(step: TracebackType) -> str:
    code = step.tb_frame.f_code
    file, function = _clean(code.co_filename), _clean(code.co_qualname)
    return f'  File "{file}", line {step.tb_lineno}, in {function}'


def _is_users(frame: FrameType, home: str = "") -> bool:
    """Return whether a frame is neither Penstock's, nor Python's, nor a library's."""
    file = frame.f_code.co_filename
    generated = file.startswith("<") and not file.startswith(_TYPED)
    if generated or file.startswith(_OWN):
        return False
    module = str(frame.f_globals.get("__name__", ""))
    if home and module.partition(".")[0] == home:
        return True
    installed = not _INSTALLED.isdisjoint(PurePath(file).parts)
    return not installed and not os.path.realpath(file).startswith(_STANDARD)


def _short(file: str) -> str:
    """Return a file's path relative to the folder that it was imported from."""
    path = PurePath(file)
    roots = [root for root in sys.path if root and path.is_relative_to(root)]
    if roots:
        return str(path.relative_to(max(roots, key=len)))
    return "/".join(path.parts[-2:])


def _clean(text: str) -> str:
    """Return a text in one line, shortened."""
    text = text[: _LONGEST_TEXT + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."
