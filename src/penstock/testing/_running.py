"""A router that runs for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.consumer_set import ConsumerSet
from penstock._tasks.running_router import Running
from penstock.router import Router

__all__ = ["running"]

_CLOSE_TIMEOUT: Final = 1.0


@asynccontextmanager
async def running(
    router: Router, url: str | None = None, *, real_waits: bool = False
) -> AsyncIterator[Router]:
    """Run a router in the background of a block.

    It is what `Router.running` does, with two differences: leaving the block takes a
    second at most, then handlers are cancelled and their messages released; and retries
    don't wait.

    Args:
        router: The router.
        url: The server; default: the router's own.
        real_waits: Whether retries wait as long as the handlers' `Retry`, or their
            `nack(delay)`, says.

    Raises:
        ConfigurationError: There is no handler, or the URL is wrong.
        UsageError: The router is running already.
        PenstockError: See `Router.running`.

    Example:
        ```python
        from penstock.testing import running

        async with running(router):
            assert router.ready
        ```
    """
    async with Running(
        repr(router), partial(_begin, router, url, real_waits=real_waits)
    ):
        yield router


def _begin(
    router: Router, url: str | None, run: Running, *, real_waits: bool
) -> ConsumerSet:
    consumers = router._begin(url, run)  # noqa: SLF001 - with other options
    for member in consumers.members:
        consumer: Any = member.consumer
        consumer._config = _for_tests(consumer._config, real_waits=real_waits)  # noqa: SLF001
    return consumers


def _for_tests(config: ConsumerConfig[Any], *, real_waits: bool) -> ConsumerConfig[Any]:
    retry = config.retry
    if retry is not None and not real_waits:
        retry = replace(retry, backoff=[0])
    return replace(
        config, retry=retry, nack_delays=real_waits, close_timeout=_CLOSE_TIMEOUT
    )
