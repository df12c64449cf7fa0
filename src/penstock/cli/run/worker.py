"""Worker of `penstock run`: a process that runs a router.

The worker drains on SIGTERM, and when its parent is gone. Its exit status is 2 if the
router can't be run as the arguments say; it sends the reason to its parent.
"""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock import ClosedError, Consumer, PenstockError, Router, UsageError
from penstock._tasks.task_scopes import task_group
from penstock.cli._url import SHARED, server_url
from penstock.cli.run.answers import Answers
from penstock.cli.run.caught_up import check_groups, wait_until_caught_up
from penstock.cli.run.settings import Settings
from penstock.cli.run.status_pipe import (
    COUNTERS,
    DUMP,
    HEALTH,
    METRICS,
    URL_VARIABLE,
    Frame,
    StatusPipe,
    Tally,
)
from penstock.cli.run.target import Refused, load

if TYPE_CHECKING:
    from penstock.cli.run.worker_metrics import WorkerMetricsSource

__all__ = ["main"]

_WRONG_USE: Final = 2
_LAST_ANSWER: Final = 1.0  # seconds that the collection of the last metrics may take

Loop = Callable[[], asyncio.AbstractEventLoop]


async def serve(
    router: Router, url: str | None, pipe: StatusPipe, *, until_caught_up: bool = False
) -> None:
    """Run the router until a signal stops it.

    Args:
        router: The router.
        url: The server; None for the router's own.
        pipe: Tells the parent.
        until_caught_up: Whether the parent is told when there is nothing left to do.
    """
    loop = asyncio.get_running_loop()
    # Ctrl-C in the terminal does not reach this process, which has its own session. A
    # SIGINT that arrives nevertheless was sent to this very process.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, router.stop)
    consumers: list[Consumer[Any]] = []

    def observe(parts: Sequence[Any]) -> None:
        consumers.extend(each for each in parts if isinstance(each, Consumer))

    router._observers.append(observe)  # noqa: SLF001
    try:
        async with task_group() as tasks:

            def on_ready() -> None:
                pipe.ready()
                if until_caught_up:
                    tasks.start_soon(_report_caught_up, router, pipe)

            await router.run(url, on_ready=on_ready)
            tasks.cancel_scope.cancel()
    finally:
        pipe.drained(_tally(consumers))


async def _report_caught_up(router: Router, pipe: StatusPipe) -> None:
    try:
        await wait_until_caught_up(router)
    except ClosedError:
        return  # it drains already
    except PenstockError as error:
        pipe.caught_up(str(error))
    else:
        pipe.caught_up()


def _tally(consumers: Iterable[Consumer[Any]]) -> Tally:
    """Return what has become of the messages of closed consumers."""
    meters = [consumer._config.meter for consumer in consumers]  # noqa: SLF001
    return Tally(
        handled=sum(each.acked for one in meters for each in one.counters().values()),
        given_back=sum(meter.given_back for meter in meters),
        left=sum(meter.left for meter in meters),
    )


def main() -> None:
    """Run a router as the arguments of the process say."""
    descriptor, number, arguments = sys.argv[1:]
    settings = msgspec.json.decode(arguments, type=Settings)
    # Registered before the import, so that it runs after all functions that the user's
    # modules register.
    atexit.register(_end_quickly)
    # Until the event loop runs nothing is in progress, so SIGTERM may exit at once.
    signal.signal(signal.SIGTERM, _leave)
    pipe = StatusPipe(int(descriptor))
    # Before the import, too: it works in any state, since it takes no Python code.
    faulthandler.register(DUMP, chain=False)
    answers = Answers(int(number))
    pipe.watch(
        settings.grace,
        {
            HEALTH: (Frame.HEALTH, answers.health),
            METRICS: (Frame.METRICS, answers.all_metrics),
            COUNTERS: (Frame.METRICS, answers.counters),
        },
    )
    url = os.environ.pop(URL_VARIABLE, None)
    try:
        if found := server_url(None, [SHARED]):
            os.environ[SHARED] = found
        factory = _uvloop() if settings.uvloop else None
        router = load(
            settings.target, factory=settings.factory, app_dir=settings.app_dir
        )
        router.check_workers(settings.workers)
        if settings.until_caught_up:
            check_groups(router)
        # After the import, so that a module's own logging configuration has precedence.
        settings.logs.configure(f"worker {number}")
        answers.router = router
        if settings.metrics:
            answers.metrics = _metrics(router)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(
                serve(router, url, pipe, until_caught_up=settings.until_caught_up)
            )
    except (Refused, UsageError) as error:
        pipe.refuse(str(error))
        sys.exit(_WRONG_USE)
    except PenstockError as error:
        logging.getLogger("penstock").critical("%s", error)
        sys.exit(1)
    finally:
        if answers.metrics is not None:
            # All has been counted now.
            pipe.answer_last(Frame.METRICS, answers.counters, _LAST_ANSWER)


def _end_quickly() -> None:
    """Keep the exiting interpreter from collecting garbage again and again.

    These collections, each over all objects, take longer than draining does. Objects
    that are garbage by now are finalized first, as they would be otherwise. A signal is
    ignored from here on, since the process is ending anyway.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _metrics(router: Router) -> WorkerMetricsSource:
    # Imported here: it needs an extra.
    from penstock.cli.run.worker_metrics import WorkerMetricsSource  # noqa: PLC0415

    return WorkerMetricsSource(router)


def _uvloop() -> Loop:
    # Imported by name, because uvloop need not be installed.
    factory: Loop = importlib.import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    main()
