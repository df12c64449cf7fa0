"""Advice: why a group needs attention, and what to do, in words."""

from __future__ import annotations

from shlex import quote
from typing import Final, NamedTuple

from penstock.cli import _format
from penstock.monitor import GroupState, GroupStatus

__all__ = ["ATTENTION", "SHAPES", "Advice", "advice"]

ATTENTION: Final = frozenset(
    (
        GroupState.STALLED,
        GroupState.NO_CONSUMERS,
        GroupState.UNREAD,
        GroupState.BEHIND,
    )
)
"""The states in which somebody should look at a group."""

SHAPES: Final[dict[GroupState | None, str]] = {
    GroupState.STALLED: "■",
    GroupState.NO_CONSUMERS: "✕",
    GroupState.UNREAD: "◇",
    GroupState.BEHIND: "▲",
    GroupState.OK: "●",
    GroupState.IDLE: "○",
    None: "?",
}
"""A shape for each state, beside its colour."""


class Advice(NamedTuple):
    """What the console says about a group.

    Attributes:
        why: What is wrong.
        what: What to do.
        command: The command line for it, or that shows more.
    """

    why: str
    what: str
    command: str


def advice(group: GroupStatus) -> Advice:
    """Return what is wrong with a group that needs attention, and what to do."""
    stream, name = _word(group.stream), _word(group.group)
    backlog = _backlog(group)
    pending = f"penstock pending {stream} {name}"
    match group.state:
        case GroupState.STALLED:
            live = _number(group.live, "consumer is live", "consumers are live")
            return Advice(
                f"{live}, but nothing moves: {backlog}.",
                "A handler hangs, or each message fails. Look at the oldest pending "
                "messages and at the log of the consumer that has them.",
                pending,
            )
        case GroupState.NO_CONSUMERS:
            seen = (
                "it has no consumers"
                if not group.consumers
                else f"none of its {group.consumers:,} consumers asks for messages"
            )
            return Advice(
                f"Nobody reads it: {seen}; {backlog}.",
                "Start its consumers. If the group is not needed any more, delete it.",
                f"penstock consumers {stream} {name}",
            )
        case GroupState.UNREAD:
            return Advice(
                f"Nothing was ever delivered, and it has no consumers; {backlog}.",
                "Start its consumers, or delete the group if it was created by "
                "mistake.",
                f"penstock delete group {stream} {name} --dry-run",
            )
        case _:
            return Advice(
                f"Messages come faster than they are handled; {backlog}.",
                "Add workers or concurrency, or find out why handlers got slower.",
                f"penstock top {stream}",
            )


def _backlog(group: GroupStatus) -> str:
    lag = f"{_format.count(group.lag, exact=group.lag_exact)} not delivered"
    parts = [lag] if group.lag else []
    if group.pending:
        parts.append(f"{group.pending:,} pending")
    if group.oldest_age_seconds:
        parts.append(f"the oldest for {_format.duration(group.oldest_age_seconds)}")
    return ", ".join(parts) or "there is no backlog"


def _number(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _word(name: str) -> str:
    """Return a name as a word of a shell's command line."""
    return quote(_format.text(name, 200))
