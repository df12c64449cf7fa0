"""Consuming: the programs of consumers' processes, by the public API alone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from penstock import (
    DROP,
    STOP,
    AccessError,
    Claim,
    CommandError,
    Commit,
    Consumer,
    GaveUp,
    Owned,
    PenstockError,
    Prefetch,
    Retry,
)
from simulation.handling import Handler
from simulation.journal import Journal
from simulation.opening import cancel_openings
from simulation.owning import Callbacks, refuses_scripts
from simulation.plan import ConsumerPlan
from simulation.routing import run_router
from simulation.steps import take_steps
from simulation.styles import STYLES

__all__ = ["STREAM", "URL", "consume"]

STREAM: Final = "orders"
URL: Final = "redis://server:6379?socket_timeout=2&socket_connect_timeout=1"
_KINDS: Final = {"claim": Claim, "commit": Commit, "prefetch": Prefetch}
_DEAD_LETTERS: Final = {"drop": DROP, "stop": STOP}
_EARLY: Final = frozenset(("delayed", "immediate"))
# Refusals that pass, for which opening does not wait.
_PASSING: Final = frozenset(("BUSY", "MISCONF", "NOREPLICAS"))


def options_of(plan: ConsumerPlan) -> dict[str, Any]:
    """Return the options of a plan's consumer, besides its names."""
    options = dict(plan.options)
    for option in _KINDS.keys() & options.keys():
        options[option] = _KINDS[option](**options[option])
    if retry := options.get("retry"):
        hopeless = {"give_up_on": ValueError} if retry.get("give_up_on") else {}
        options["retry"] = Retry(**{**retry, **hopeless})
    if ownership := options.get("ownership"):
        options["ownership"] = Owned(**ownership)
    if letters := options.get("dead_letters"):
        options["dead_letters"] = _DEAD_LETTERS.get(letters, letters)
    return options


def handler_of(
    plan: ConsumerPlan, group: str, journal: Journal, die: Callable[[], None]
) -> Handler:
    """Return the handler of a plan's consumer."""
    early = not group or plan.options.get("auto_commit") in _EARLY
    return Handler(
        journal,
        group or "realtime",
        die,
        settles=not early and plan.style != "transactions",
        mortal=not early,
        leaves=not early and plan.style in {"run", "direct", "threads"},
        exits=not early and plan.style in {"direct", "threads"},
    )


class _Program:
    """What one consumer's process does.

    Args:
        plan: The plan.
        name: The consumer's name in the group; None for one that Penstock chooses.
        journal: Where it records what it does.
        die: Kills the process.
        over: Set by SIGTERM.
    """

    def __init__(
        self,
        plan: ConsumerPlan,
        name: str | None,
        journal: Journal,
        die: Callable[[], None],
        over: asyncio.Event,
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._handler = handler_of(plan, plan.group, journal, die)
        self._options = options_of(plan)
        if plan.group:
            self._options |= {"group": plan.group, "name": name}
        if plan.owned:
            self._options |= Callbacks(
                plan.group, journal, refuses=plan.refuses
            ).options
        self._how = dict(plan.run)
        self._how.pop("consumers", None)
        if self._options.get("auto_commit") in {"rolling", "disabled"}:
            self._how["ack"] = True
        self._over = over
        # The messages that were begun before the present consumer was opened.
        self._starts_before = 0

    async def run(self) -> None:
        """Consume until SIGTERM."""
        if self._plan.cancels and self._plan.run.get("consumers", 1) == 1:
            chance = Random(f"{self._plan.name} {self._options.get('name')} opening")
            await cancel_openings(self._make(), chance)
        while not self._over.is_set():
            consumer = self._make()
            if self._plan.owned:
                self._journal.note(f"member {consumer.name}")
            self._starts_before = self._handler.starts
            try:
                await self._consume(consumer)
            except (PenstockError, ExceptionGroup) as error:
                self._excuse(error)
                await asyncio.sleep(0.3)
            except (GeneratorExit, SystemExit, KeyboardInterrupt) as error:
                self._journal.note(f"ended by {type(error).__name__}")
                await asyncio.sleep(0.1)
            else:
                break
        self._journal.note("closed")

    def _make(self) -> Consumer[bytes]:
        return Consumer(
            STREAM,
            url=URL,
            open_timeout=600,
            on_event=self._handler.event,
            **self._options,
        )

    def _excuse(self, error: Exception) -> None:
        """Accept an error after which the consumer may be opened again.

        Raises:
            Exception: It is not one of these.
        """
        if isinstance(error, ExceptionGroup):
            for each in error.exceptions:
                self._excuse(each)
        elif isinstance(error, GaveUp):
            # It would stop the next consumer, too.
            self._journal.note("gave up")
            self._options.pop("dead_letters", None)
        elif isinstance(error, AccessError) or refuses_scripts(error):
            # Only a fault takes permissions away.
            self._journal.note("no access")
        elif isinstance(error, CommandError) and (
            _passes(error) or self._never_was_a_stream(error)
        ):
            self._journal.note("not opened")
        else:
            raise error
        if not self._plan.group:
            self._journal.excuse_again("realtime")

    def _never_was_a_stream(self, error: CommandError) -> bool:
        """Return whether a consumer in REALTIME was opened while a key was no stream.

        It is told so when it asks for its first message. Later on that is a finding.
        """
        new = self._handler.starts == self._starts_before
        # Both describe streams, see `StreamInspector`.
        asked = any(command in str(error) for command in ("XINFO STREAM", "EVAL"))
        return new and not self._plan.group and asked and "WRONGTYPE" in str(error)

    async def _consume(self, consumer: Consumer[bytes]) -> None:
        style = STYLES[self._plan.style]
        async with consumer:
            self._journal.note("ready")
            taking = take_steps(consumer, self._plan, self._journal, self._over)
            steps = asyncio.create_task(taking)
            # Else seeks of a consumer that messages end would keep it from ending.
            self._plan = replace(self._plan, steps=())
            try:
                await style(consumer, self._handler, self._how, self._over)
            except BaseException:
                steps.cancel()
                await asyncio.wait([steps])
                raise
        # A call that was under way has to end when the consumer closes.
        await steps


def _passes(error: CommandError) -> bool:
    """Return whether an error of opening is due to a state that passes.

    A key that is no stream at the moment can't be opened. From a consumer that was
    open, such an error would be a finding.
    """
    text = str(error)
    if "XGROUP CREATE" not in text:
        return False
    return "WRONGTYPE" in text or any(code in text for code in _PASSING)


async def consume(
    plan: ConsumerPlan, name: str | None, journal: Journal, die: Callable[[], None]
) -> None:
    """Run one or more consumers until SIGTERM.

    Args:
        plan: What to do.
        name: The consumer's name in the group; None for one that Penstock chooses.
        journal: Where to record it.
        die: Kills the process.
    """
    over = asyncio.Event()

    def end() -> None:
        journal.note("SIGTERM")
        over.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    if plan.style == "router":
        handlers = [handler_of(plan, group, journal, die) for group in plan.groups]
        await run_router(plan, name, options_of(plan), handlers, over)
        return
    async with asyncio.TaskGroup() as programs:
        for number in range(plan.run.get("consumers", 1)):
            own = f"{name}-{number}" if name and number else name
            program = _Program(plan, own, journal, die, over)
            programs.create_task(program.run())
