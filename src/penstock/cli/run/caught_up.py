"""Whether all groups of a router have caught up: `penstock run --until-caught-up`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any, Final

from penstock import Consumer, Router
from penstock.admin import Admin
from penstock.errors import (
    CommandError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    StreamMissing,
)

__all__ = ["check_groups", "wait_until_caught_up"]

# Seconds between two questions to the server. Others may have the last messages, and
# no event tells when they have acknowledged them.
_INTERVAL: Final = 0.5


def check_groups(router: Router) -> None:
    """Check that a router has a handler that can catch up.

    Raises:
        ConfigurationError: No handler has a group.
    """
    if not any(each.group for each in router._registry.handlers):  # noqa: SLF001
        raise ConfigurationError(
            "--until-caught-up waits for groups, and no handler has one; pass group= "
            "to a handler"
        )


async def wait_until_caught_up(router: Router) -> None:
    """Wait until no group of a running router has lag or pending messages.

    That goes for a whole group, whoever has its messages. Consumers without a group are
    not waited for.

    Raises:
        PenstockError: The server refuses to tell.
    """
    async with AsyncExitStack() as stack:
        groups = [
            _Group(consumer, consumer.group, stack)
            for consumer in router.consumers
            if consumer.group is not None
        ]
        while True:
            # A handler may have sent to a stream that had been looked at before: such a
            # message is found by the second look.
            if await _all_done(groups) and await _all_done(groups):
                return
            await asyncio.sleep(_INTERVAL)


async def _all_done(groups: Iterable[_Group]) -> bool:
    try:
        for each in groups:
            if each.is_busy() or not await each.is_done():
                return False
    except (ConnectError, ConnectionLost):
        return False  # in an outage nothing is known
    return True


class _Group:
    """The group of a consumer.

    Args:
        consumer: The consumer, which is open.
        group: The group.
        stack: Closes the connection in the end.
    """

    def __init__(
        self, consumer: Consumer[Any], group: str, stack: AsyncExitStack
    ) -> None:
        self._consumer = consumer
        self._group = group
        self._stack = stack
        self._admin: Admin | None = None

    def is_busy(self) -> bool:
        """Return whether messages are here, so that the server need not be asked."""
        counts = self._consumer.statistics()
        return bool(counts.in_hand or counts.uncommitted)

    async def is_done(self) -> bool:
        """Return whether the group has neither lag nor pending messages."""
        config = self._consumer._config  # noqa: SLF001
        if self._admin is None:
            admin = Admin(config.url, credentials=config.credentials)
            self._admin = await self._stack.enter_async_context(admin)
        for stream in config.streams:
            if not await _has_caught_up(self._admin, stream, self._group):
                return False
        return True


async def _has_caught_up(admin: Admin, stream: str, group: str) -> bool:
    try:
        state = await admin.group_state(stream, group)
    except StreamMissing:
        return True
    except CommandError as error:
        if error.code == "NOGROUP":  # it was deleted, and is recreated
            return False
        raise
    # Where the lag is not known it is not 0: at the end of a stream it is known.
    return state.lag == 0 and not state.pending
