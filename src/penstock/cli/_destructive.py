"""The rules of commands that destroy something: what they announce, ask and need.

A command computes what it will do, and prints it in sentences. `--dry-run` ends it
there. What would handle a message twice, or destroy something in use, needs `--force`.
Then a person is asked; where there is none, `--yes` is needed. Nobody is asked about
what loses nothing by its nature, or was named by its id, unless a group would lose
messages that it has not acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias

import typer

from penstock.admin import GroupConsumer
from penstock.cli import _format
from penstock.cli._admin_call import confirmed, say

__all__ = [
    "Decision",
    "DryRun",
    "Force",
    "Plan",
    "Yes",
    "counted",
    "listed",
    "live_names",
]

DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Only print what would be done.")
]
Yes: TypeAlias = Annotated[
    bool, typer.Option("--yes", help="Do it without being asked.")
]
Force: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Do it even if messages are handled twice or something in use is changed.",
    ),
]

_MOST: Final = 5  # names in a sentence


@dataclass(slots=True)
class Plan:
    """What a command will do.

    Attributes:
        action: The question, without its mark.
        facts: Sentences that say what will happen.
        dangers: Sentences that say why `--force` is needed.
        loses: Whether a group loses messages that it has not acknowledged.
        harmless: Whether nobody is asked if no group loses anything.
    """

    action: str
    facts: list[str] = field(default_factory=list)
    dangers: list[str] = field(default_factory=list)
    loses: bool = False
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The options that decide whether a plan is carried out.

    Attributes:
        dry_run: Whether only the plan is printed.
        yes: Whether nobody is asked.
        force: Whether dangers are accepted.
    """

    dry_run: bool = False
    yes: bool = False
    force: bool = False

    def on(self, plan: Plan) -> bool | None:
        """Print a plan, and return whether to carry it out; None after `--dry-run`.

        Raises:
            Exit: With status 2: `--force` or `--yes` is missing. With 130 after Ctrl-C.
        """
        for sentence in plan.facts:
            say(sentence)
        for sentence in plan.dangers:
            say(sentence)
        if self.dry_run:
            say("nothing was changed, because of --dry-run")
            return None
        if plan.dangers and not self.force:
            say("nothing was changed; pass --force if that is intended")
            raise typer.Exit(2)
        asks = plan.loses or not plan.harmless
        return self.yes or not asks or confirmed(plan.action)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 entry`, `1,204 entries`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or f'{noun}s'}"


def live_names(consumers: Iterable[GroupConsumer]) -> str:
    """Return the names of live consumers, for a sentence; empty if there are none."""
    return listed([one.name for one in consumers if one.live])


def listed(names: Sequence[str]) -> str:
    """Return names for a sentence: escaped, and not too many."""
    more = f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    return ", ".join(_format.text(name) for name in names[:_MOST]) + more
