"""Pings of services: whether what handlers are given can be reached."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio

from penstock import _clock
from penstock._tasks.task_scopes import task_group
from penstock.health import ServiceHealth

if TYPE_CHECKING:
    import svcs

__all__ = ["ServicePings"]

_INTERVAL: Final = 15.0  # seconds between two rounds
_TIMEOUT: Final = 5.0  # seconds after which a service that does not answer has failed


class ServicePings:
    """Pings the services that have a ping, every 15 seconds while a router runs.

    A service that fails does not make the router unready: another process could not
    reach it either.

    Args:
        registries: The registries of the services.
        container: Creates a container of a registry.
    """

    def __init__(self, registries: Sequence[svcs.Registry], container: Any) -> None:
        self._registries = registries
        self._container = container
        # By its name, when each was pinged last, and the error of that.
        self._last: dict[str, tuple[float, Exception | None]] = {}

    def health(self) -> tuple[ServiceHealth, ...]:
        """Return what the last ping of each service has found; any thread may ask."""
        now = _clock.monotonic()
        return tuple(
            ServiceHealth(
                name=name,
                reachable=error is None,
                error=None if error is None else type(error).__name__,
                pinged_seconds_ago=round(now - when, 3),
            )
            for name, (when, error) in sorted(self._last.copy().items())
        )

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Ping while a block runs."""
        async with task_group() as tasks:
            tasks.start_soon(self._ping_always)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _ping_always(self) -> None:
        while True:
            for registry in self._registries:
                await self._ping(self._container(registry))
            await anyio.sleep(_INTERVAL)

    async def _ping(self, container: svcs.Container) -> None:
        try:
            for ping in container.get_pings():
                error = await _error_of(ping)
                self._last[ping.name] = (_clock.monotonic(), error)
        finally:
            # Also when the router has ended: services may have connections to close.
            with anyio.move_on_after(_TIMEOUT, shield=True):
                await container.aclose()


async def _error_of(ping: svcs.ServicePing) -> Exception | None:
    try:
        with anyio.fail_after(_TIMEOUT):
            await ping.aping()
    except Exception as error:  # noqa: BLE001 - of a user's service
        return error
    return None
