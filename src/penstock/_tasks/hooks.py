"""Hooks of a router: the user's functions around a run of its consumers."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio

from penstock.errors import ConfigurationError

__all__ = ["STOP_TIMEOUT", "Hook", "Hooks", "checked_hook"]

Hook: TypeAlias = Callable[[], Awaitable[object]]

STOP_TIMEOUT: Final = 10.0
"""Seconds that all `on_stop` hooks of a run may take together."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a router, in the order of their registration.

    Attributes:
        on_start: Called one after the other before the consumers open.
        on_stop: Called in the reverse order when the consumers have closed.
    """

    on_start: tuple[Hook, ...] = ()
    on_stop: tuple[Hook, ...] = ()

    def with_others(self, other: Hooks) -> Hooks:
        """Return these hooks and those of another router that are not among them."""
        return Hooks(
            tuple(dict.fromkeys((*self.on_start, *other.on_start))),
            tuple(dict.fromkeys((*self.on_stop, *other.on_stop))),
        )

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Call the hooks around a block.

        The `on_stop` hooks are called however the block ends, and also if a hook before
        it has failed. Neither the failure of another one nor a cancellation keeps one
        from being called.

        Raises:
            Exception: The first that a hook has raised, unless the block raised one.
            TimeoutError: The `on_stop` hooks took longer than `STOP_TIMEOUT`.
        """
        try:
            for hook in self.on_start:
                await hook()
            yield
        except BaseException as error:
            for failure in await self._stop():
                error.add_note(f"and then an on_stop hook raised {failure!r:.200}")
            raise
        if failures := await self._stop():
            first, *others = failures
            for failure in others:
                first.add_note(f"and then an on_stop hook raised {failure!r:.200}")
            raise first

    async def _stop(self) -> Sequence[Exception]:
        failures: list[Exception] = []
        deadline = anyio.current_time() + STOP_TIMEOUT
        for hook in reversed(self.on_stop):
            # With no time left, it still runs until it first waits.
            scope = anyio.CancelScope(shield=True, deadline=deadline)
            try:
                with scope:
                    await hook()
            except Exception as error:  # noqa: BLE001 - the others are called too
                failures.append(error)
            if scope.cancelled_caught:
                name = getattr(hook, "__qualname__", repr(hook))
                failures.append(
                    TimeoutError(
                        f"on_stop hooks have {STOP_TIMEOUT:g} s together; {name} was "
                        f"cancelled"
                    )
                )
        return failures


def checked_hook(function: Any, kind: str) -> Hook:
    """Check that a function can be a hook, and return it.

    Raises:
        ConfigurationError: It is not async, or needs arguments.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{kind} hook {name} is not async; write async def")
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise ConfigurationError(
            f"{kind} hook {name} needs arguments, and gets none; keep what it makes in "
            f"a module or an object"
        ) from None
    hook: Hook = function
    return hook
