"""Import of the router that `module:attribute` names."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import traceback
from pathlib import Path, PurePath
from types import ModuleType, TracebackType
from typing import Final

import penstock
from penstock import PenstockError, Router

__all__ = ["Refused", "load"]

_ATTRIBUTE: Final = "router"
_OWN: Final = str(Path(penstock.__file__).parent) + os.sep


class Refused(Exception):  # noqa: N818 - a refusal, not a failure
    """The router can't be run as the arguments say; the text is the reason."""


def load(target: str, *, factory: bool = False, app_dir: str = "") -> Router:
    """Import a module, also from the current folder, and return its router.

    Args:
        target: `module`, `module:attribute` or `module:attribute.of.it`; the
            attribute is `router` by default.
        factory: Whether the attribute is a function that returns the router.
        app_dir: The folder to import from, instead of the current one.

    Raises:
        Refused: There is no such router, or the module can't be imported.
    """
    name, _, path = target.partition(":")
    _refuse_file(name, path)
    if not name or name.startswith("."):
        raise Refused(f"{target!r:.200} does not name a module; write module:router")
    sys.path.insert(0, str(Path(app_dir).absolute()))
    module = _imported(name)
    path = path or _ATTRIBUTE
    try:
        found: object = functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        raise Refused(
            f"module {name} has no {path}; name its router: {name}:attribute"
        ) from None
    if factory:
        found = _made(found, f"{name}:{path}")
    if not isinstance(found, Router):
        function = callable(found) and not factory
        hint = ", or pass --factory if it returns the router" if function else ""
        what = f"{name}:{path} returned an object" if factory else f"{name}:{path} is"
        raise Refused(
            f"{what} of type {type(found).__name__} and not a Router; name the router: "
            f"{name}:attribute{hint}"
        )
    return found


def _made(factory: object, name: str) -> object:
    if isinstance(factory, Router) or not callable(factory):
        kind = type(factory).__name__
        raise Refused(
            f"{name} is of type {kind} and not a function that returns a router; leave "
            f"out --factory, or name the function"
        )
    try:
        return factory()
    except Exception as error:  # the user's function may raise any exception
        raise _failed(f"{name} can't make the router", error) from error


def _refuse_file(name: str, path: str) -> None:
    """Refuse a file's name, with the module's name that has to be written instead.

    Raises:
        Refused: The name is that of a file.
    """
    file = PurePath(name)
    if file.suffix != ".py" and len(file.parts) <= 1:
        return
    if Path(f"{name.replace('.', '/')}.py").is_file():
        return  # the module `py` of a package
    folder, stem = file.parent, file.name.removesuffix(".py")
    module = ".".join((*folder.parts, stem))
    there = ""
    if folder.is_absolute() or ".." in folder.parts:
        there, module = f"cd {folder} && ", stem
    right = f"{module}:{path}" if path else module
    raise Refused(f"{name} is a file; name its module: {there}penstock run {right}")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(f"module {name} can't be imported", error) from error
        raise Refused(
            f"module {error.name} was not found; run penstock in the folder that "
            f"contains it, or install it"
        ) from None
    except Exception as error:  # the user's module may raise any exception
        raise _failed(f"module {name} can't be imported", error) from error


def _failed(what: str, error: Exception) -> Refused:
    # Without local variables: they may include a URL with its password.
    trace = _from_the_module(error.__traceback__)
    shown = traceback.TracebackException(type(error), error, trace)
    if isinstance(error, PenstockError):
        # The sentence says what is wrong, so only the user's lines are of interest.
        users = [step for step in shown.stack if not step.filename.startswith(_OWN)]
        shown.stack = traceback.StackSummary.from_list(users)
        shown.__cause__ = shown.__context__ = None
    lines = shown.format()
    return Refused(f"{what}:\n{''.join(lines).rstrip()}")


def _from_the_module(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame of the imported module on."""
    ours = (__file__, importlib.__file__)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in ours and not file.startswith("<frozen importlib"):
            return trace
        trace = trace.tb_next
    return None
