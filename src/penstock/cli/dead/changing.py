"""`penstock dead redrive` and `penstock dead purge`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Struct

from penstock import ConfigurationError
from penstock.admin import Admin
from penstock.admin._selection import Selection
from penstock.cli import _format
from penstock.cli._admin_call import operate
from penstock.cli._destructive import Decision, DryRun, Plan, Yes, counted
from penstock.cli._errors import plain_errors
from penstock.cli._options import stream_option
from penstock.cli._output import emit
from penstock.cli._server import Server, on_server
from penstock.cli.dead import options
from penstock.cli.dead.filter import DeadLetterFilter
from penstock.cli.dead.found import FAILURES, all_found, is_empty
from penstock.cli.dead.report import Purged, Redriven

__all__ = ["purge", "redrive"]

_DONE: Final = {"redrive": "redriven", "purge": "purged"}
# Kinds of letters that are announced one by one.
_MOST: Final = 10


@on_server
def redrive(
    stream: options.Stream,
    *,
    server: Server,
    id: options.Ids = None,  # noqa: A002 - the option's name
    group: options.Group = None,
    error: options.Error = None,
    reason: options.Reason = None,
    limit: options.Limit = None,
    to: Annotated[
        str | None,
        stream_option(
            "--to", "Send the messages to this stream instead of their shards."
        ),
    ] = None,
    dead_letters: options.DeadLetters = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Send dead letters back to the shards that they come from, as new messages.

    All of them, unless some are selected. It prints their numbers by error and group,
    and asks, unless they are named by --id.

    Exit status: 0 done, also if there are none; 1 no connection, refused, answered with
    no, no such stream, or a dead letter named by --id was not redriven; 2 wrong usage,
    or --yes is missing, and nothing was changed.
    """
    wanted = DeadLetterFilter(
        stream, dead_letters, id, group, error, reason, limit=limit
    )
    with plain_errors():
        selection = wanted.select("redrive")
        if to == selection.location.name:
            raise ConfigurationError(
                f"--to {to!a:.60} is the stream of the dead letters itself; pass "
                f"another stream"
            )

    async def apply(admin: Admin) -> int:
        return await admin.dead.select(selection).redrive(to)

    def result(number: int) -> Struct:
        return Redriven(redriven=number, dry_run=dry_run)

    change = _Change(wanted, selection, "redrive", "will be sent back", apply, result)
    change.carry_out(server, Decision(dry_run, yes))


@on_server
def purge(
    stream: options.Stream,
    *,
    server: Server,
    id: options.Ids = None,  # noqa: A002 - the option's name
    group: options.Group = None,
    error: options.Error = None,
    reason: options.Reason = None,
    before: options.Before = None,
    limit: options.Limit = None,
    dead_letters: options.DeadLetters = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete dead letters permanently.

    All of them, unless some are selected. It prints their numbers by error and group,
    and asks, unless they are named by --id.

    Exit status: 0 done, also if there are none; 1 no connection, refused, answered with
    no, no such stream, or an entry named by --id did not exist; 2 wrong usage, or --yes
    is missing, and nothing was changed.
    """
    wanted = DeadLetterFilter(
        stream, dead_letters, id, group, error, reason, before, limit
    )
    with plain_errors():
        selection = wanted.select("purge")

    async def apply(admin: Admin) -> int:
        everything = selection.ids is None and not selection.filtered
        return await admin.dead.select(selection).purge(all=everything)

    def result(number: int) -> Struct:
        return Purged(purged=number, dry_run=dry_run)

    effect = "will be deleted permanently"
    change = _Change(wanted, selection, "purge", effect, apply, result)
    change.carry_out(server, Decision(dry_run, yes))


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of dead letters.

    Attributes:
        wanted: The options that select them.
        selection: The selection that they mean.
        verb: What is done to them.
        effect: What will happen to them, for a sentence.
        apply: Does it, and returns their number.
        result: Returns the object for a number.
    """

    wanted: DeadLetterFilter
    selection: Selection
    verb: str
    effect: str
    apply: Callable[[Admin], Awaitable[int]]
    result: Callable[[int], Struct]

    async def plan(self, admin: Admin) -> tuple[Plan, int]:
        """Return what will happen, and to how many dead letters."""
        if self.selection.ids is not None:
            # They are not read before: whatever has these ids is purged.
            return Plan("", harmless=True), len(self.selection.ids)
        counts = await admin.dead.select(self.selection).summary(quiet=True)
        number = sum(one.letters for one in counts)
        name = _format.text(self.selection.location.name)
        letters = counted(number, "letter")
        plan = Plan(f"{self.verb} {letters} of {name}")
        shown = [
            f"{counted(one.letters, 'letter')} of group {_format.text(one.group)} with "
            f"{_format.text(one.error) if one.error else 'no exception'} {self.effect}"
            for one in counts
        ]
        rest = len(shown) - _MOST
        more = [f"and letters of {rest:,} other kinds"] if rest > 0 else []
        plan.facts = [*shown[:_MOST], *more]
        return plan, number

    def carry_out(self, server: Server, decision: Decision) -> None:
        """Announce the change, make it as it is decided, and exit."""

        async def work(admin: Admin) -> bool:
            plan, number = await self.plan(admin)
            if not number:
                if server.out.json:
                    server.out.object(self.result(0))
                return await is_empty(admin, self.wanted)
            decided = decision.on(plan)
            if decided is False:
                return False
            if decided:
                number = await self.apply(admin)
            if server.out.json:
                server.out.object(self.result(number))
            elif decided:
                emit(f"{number} {_DONE[self.verb]}")
            return not decided or await all_found(admin, self.selection, number)

        operate(server, work, bad=FAILURES)
