"""`penstock reset`: sets the position of a group."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from msgspec import Struct

from penstock.admin import Admin, ResetEffect
from penstock.cli import _format
from penstock.cli._admin_call import operate, say
from penstock.cli._destructive import (
    Decision,
    DryRun,
    Force,
    Plan,
    Yes,
    counted,
    listed,
    live_names,
)
from penstock.cli._options import group_argument, position_option, stream_argument
from penstock.cli._output import emit
from penstock.cli._server import Server, on_server
from penstock.errors import AccessError

__all__ = ["GroupReset", "reset"]


class GroupReset(Struct, frozen=True, kw_only=True):
    """What a reset of a group did, or would do.

    Attributes:
        stream: The stream.
        group: The group.
        created: Whether the group is new.
        dry_run: Whether nothing was changed.
        lag_before: The messages that were not delivered yet.
        lag_after: The messages that are not delivered yet.
        acknowledged: The pending messages that were acknowledged.
        again: Those of them that are delivered again.
        lost: The messages that the group had not acknowledged and never handles.
    """

    stream: str
    group: str
    created: bool
    dry_run: bool
    lag_before: int
    lag_after: int
    acknowledged: int
    again: int
    lost: int


@on_server
def reset(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    group: Annotated[str, group_argument()],
    *,
    server: Server,
    to: Annotated[
        Any,  # typer takes no union: a `Start`, an `EntryId` or a `datetime`
        position_option("--to", "The position from which the group goes on."),
    ],
    create: Annotated[
        bool, typer.Option("--create", help="Create the group if it does not exist.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    force: Force = False,
) -> None:
    """Set the position of a group, on all shards of a stream.

    Pending messages are acknowledged; those from the position on are delivered again.
    Running consumers go on at the position within two seconds. --force is needed if
    live consumers have messages that would be delivered again, or own shards.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such stream
    or group; 2 wrong usage, or --yes or --force is missing, and nothing was changed.
    """

    async def work(admin: Admin) -> bool:
        exists = group in await admin.groups(stream)
        if not exists and not create:
            say(f"{stream!a:.80} has no group {group!a:.80}; pass --create to make it")
            return False
        effect = await admin.reset_effect(stream, group, to)
        plan = await _plan(admin, stream, group, effect, exists=exists)
        decided = Decision(dry_run, yes, force).on(plan)
        if decided:
            await admin.reset_group(stream, group, to, create=create)
        if decided is not False:
            _print(server, stream, group, effect, created=not exists, dry_run=dry_run)
        return decided is not False

    operate(server, work)


async def _plan(
    admin: Admin, stream: str, group: str, effect: ResetEffect, *, exists: bool
) -> Plan:
    """Return what will happen."""
    name = _format.text(group)
    plan = Plan(f"reset group {name}", loses=bool(effect.lost), harmless=not exists)
    plan.facts.append(
        f"the lag of group {name} will be {effect.lag_after:,}, and is "
        f"{effect.lag_before:,}"
    )
    if effect.pending:
        plan.facts.append(
            f"{counted(effect.pending, 'pending message')} will be acknowledged, of "
            f"which {effect.again:,} will be delivered again"
        )
    if effect.lost:
        plan.facts.append(
            f"group {name} will lose {counted(effect.lost, 'message')} that it has not "
            f"acknowledged: {effect.skipped:,} unread, "
            f"{effect.pending - effect.again:,} pending"
        )
    if exists:
        await _look_for_users(admin, stream, group, effect, plan)
    return plan


async def _look_for_users(
    admin: Admin, stream: str, group: str, effect: ResetEffect, plan: Plan
) -> None:
    consumers = await admin.consumers(stream, group)
    if live := live_names(consumers):
        plan.facts.append(f"live consumers: {live}")
    busy = [one for one in consumers if one.live and one.pending]
    if busy and effect.again:
        pending = sum(one.pending for one in busy)
        plan.dangers.append(
            f"live consumers have {counted(pending, 'pending message')}: their "
            f"handlers may be running, and what is delivered again is handled twice"
        )
    if owners := await living_owners(admin, stream, group):
        plan.dangers.append(
            f"shards are owned by {listed(owners)}, which may still acknowledge what "
            f"they have"
        )


async def living_owners(admin: Admin, stream: str, group: str) -> list[str]:
    """Return the members of a group that own shards, as far as this user may see it."""
    try:
        owners = await admin.owners(stream, group)
    except AccessError:
        say("this user may not see whether shards are owned")
        return []
    return sorted({one.owner for one in owners.shards if one.owner and not one.lapsed})


def _print(
    server: Server,
    stream: str,
    group: str,
    effect: ResetEffect,
    *,
    created: bool,
    dry_run: bool,
) -> None:
    if server.out.json:
        server.out.object(
            GroupReset(
                stream=stream,
                group=group,
                created=created,
                dry_run=dry_run,
                lag_before=effect.lag_before,
                lag_after=effect.lag_after,
                acknowledged=effect.pending,
                again=effect.again,
                lost=effect.lost,
            )
        )
    elif not dry_run:
        verb = "created" if created else "reset"
        emit(f"group {_format.text(group)} was {verb}")
