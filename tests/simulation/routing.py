"""Routing: programs with a router, whose handlers share consumers or have their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from penstock import (
    AccessError,
    CommandError,
    ConfigurationError,
    GaveUp,
    Message,
    Router,
)
from penstock.events import Event
from simulation.handling import Handler
from simulation.owning import Callbacks, refuses_scripts
from simulation.plan import ConsumerPlan

__all__ = ["run_router"]

_STREAM: Final = "orders"
_URL: Final = "redis://server:6379?socket_timeout=2&socket_connect_timeout=1"
# The event type that has a handler of its own.
_TYPE: Final = "order.created"


def _router(
    plan: ConsumerPlan,
    name: str | None,
    options: dict[str, Any],
    handlers: Sequence[Handler],
    ends: asyncio.Event,
) -> Router:
    """Return a router: in each group, one handler for one type and one for the rest.

    Args:
        plan: The plan.
        name: The consumers' name.
        options: The consumers' options.
        handlers: The handlers of each group.
        ends: Set when a consumer fails, since the others drain then.
    """

    def on_event(event: Event) -> None:
        handlers[0].event(event)
        if event.name == "consumer_failed":
            ends.set()

    router = Router(_URL, open_timeout=600, on_event=on_event)
    for group, handler in zip(plan.groups, handlers, strict=True):
        how = {"group": group, "name": name, **options}
        if plan.owned:
            how |= Callbacks(group, handler, refuses=plan.refuses).options

        async def created(message: Message[bytes], handler: Handler = handler) -> None:
            await handler.handle(message)

        async def other(message: Message[bytes], handler: Handler = handler) -> None:
            await handler.handle(message)

        router.handler(_STREAM, event=_TYPE, **how, **_pace(plan))(created)
        router.handler(_STREAM, **how, **_pace(plan))(other)
    return router


def _pace(plan: ConsumerPlan) -> dict[str, Any]:
    return {
        key: plan.run[key] for key in ("concurrency", "ordering") if key in plan.run
    }


async def run_router(
    plan: ConsumerPlan,
    name: str | None,
    options: dict[str, Any],
    handlers: Sequence[Handler],
    over: asyncio.Event,
) -> None:
    """Run a router until SIGTERM, in one of the ways in which it can be run.

    Args:
        plan: The plan.
        name: The consumers' name.
        options: The consumers' options.
        handlers: The handlers of each group.
        over: Set by SIGTERM.
    """
    options = dict(options)
    chance = Random(f"{plan.name} {name}")
    while not over.is_set():
        how = chance.choice((_by_run, _by_block, _by_start))
        # At times it is stopped and run again.
        stop = chance.choice((None, None, 0.01, 0.5, 3.0))
        ends = asyncio.Event()
        router = _router(plan, name, options, handlers, ends)
        ending = asyncio.create_task(_set_after(over, ends))
        try:
            await how(router, ends, stop)
        except (AccessError, CommandError) as error:
            # Only a fault takes permissions away, or puts something else there.
            handlers[0].note(f"router ended: {error!r}")
        except ConfigurationError as error:
            if not refuses_scripts(error):
                raise
            handlers[0].note("no access")
        except GaveUp:
            # It would stop the next one, too.
            handlers[0].note("gave up")
            options.pop("dead_letters", None)
        finally:
            ending.cancel()
        if not over.is_set():
            await asyncio.sleep(0.5)
    handlers[0].note("closed")


async def _set_after(over: asyncio.Event, ends: asyncio.Event) -> None:
    await over.wait()
    ends.set()


async def _until(ends: asyncio.Event, stop: float | None) -> None:
    try:
        async with asyncio.timeout(stop):
            await ends.wait()
    except TimeoutError:
        pass


async def _by_run(router: Router, ends: asyncio.Event, stop: float | None) -> None:
    run = asyncio.create_task(router.run())
    waits = asyncio.create_task(_until(ends, stop))
    await asyncio.wait([run, waits], return_when=asyncio.FIRST_COMPLETED)
    waits.cancel()
    while not run.done():
        # While its consumers are not there yet it does nothing.
        router.stop()
        await asyncio.wait([run], timeout=0.5)
    await run


async def _by_block(router: Router, ends: asyncio.Event, stop: float | None) -> None:
    async with router.running():
        await _until(ends, stop)


async def _by_start(router: Router, ends: asyncio.Event, stop: float | None) -> None:
    await router.start()
    await _until(ends, stop)
    # Another task may close it.
    await asyncio.create_task(router.aclose())
