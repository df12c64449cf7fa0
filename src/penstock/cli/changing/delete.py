"""`penstock delete`: deletes streams, groups, consumers and single entries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeAlias

import typer
from msgspec import Struct, structs

from penstock import LATEST, EntryId
from penstock.admin import Admin
from penstock.cli import _format
from penstock.cli._admin_call import near, operate, say
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
from penstock.cli._options import group_argument, ids_argument, stream_argument
from penstock.cli._output import emit
from penstock.cli._server import Server, on_server
from penstock.cli.changing.reset import living_owners

__all__ = ["Deleted", "delete"]

delete: Final = typer.Typer(
    no_args_is_help=True, help="Delete streams, groups, consumers and entries."
)

_Stream: TypeAlias = Annotated[str, stream_argument("The stream, with all its shards.")]
_Group: TypeAlias = Annotated[str, group_argument()]


class Deleted(Struct, frozen=True, kw_only=True):
    """What was deleted, or would be.

    Attributes:
        kind: `stream`, `group`, `consumer` or `entry`.
        stream: The stream.
        group: The group, if it is a group or a consumer.
        consumer: The consumer, if it is one.
        deleted: The number of such things.
        dry_run: Whether nothing was changed.
    """

    kind: str
    stream: str
    group: str | None
    consumer: str | None
    deleted: int
    dry_run: bool


def _row(
    kind: str,
    stream: str,
    group: str | None = None,
    consumer: str | None = None,
    *,
    deleted: int = 1,
    dry_run: bool,
) -> Deleted:
    return Deleted(
        kind=kind,
        stream=stream,
        group=group,
        consumer=consumer,
        deleted=deleted,
        dry_run=dry_run,
    )


@delete.command("stream")
@on_server
def stream_(
    stream: _Stream,
    *,
    server: Server,
    dry_run: DryRun = False,
    yes: Yes = False,
    force: Force = False,
) -> None:
    """Delete a stream: its shards with their groups, and its record.

    Its dead letters stay. --force is needed if a group has live consumers, which create
    the shards that they read again.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such stream;
    2 wrong usage, or --yes or --force is missing, and nothing was changed.
    """

    async def work(admin: Admin) -> bool:
        name = _format.text(stream)
        shards = await admin.keys(stream)
        plan = Plan(f"delete stream {name}")
        plan.facts.append(f"{counted(len(shards), 'shard')} of {name} will be deleted")
        for group in await admin.groups(stream):
            await _add_group(admin, stream, group, plan)
        row = _row("stream", stream, dry_run=dry_run)

        async def change() -> int:
            return int(await admin.delete_stream(stream))

        return await _do(server, Decision(dry_run, yes, force), plan, change, row)

    operate(server, work)


@delete.command("group")
@on_server
def group_(
    stream: _Stream,
    group: _Group,
    *,
    server: Server,
    dry_run: DryRun = False,
    yes: Yes = False,
    force: Force = False,
) -> None:
    """Delete a group from all shards of a stream, with what it has pending.

    --force is needed if it has live consumers, which create it again.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such stream
    or group; 2 wrong usage, or --yes or --force is missing, and nothing was changed.
    """

    async def work(admin: Admin) -> bool:
        if not await _has_group(admin, stream, group):
            return False
        plan = Plan(f"delete group {_format.text(group)}")
        await _add_group(admin, stream, group, plan)
        row = _row("group", stream, group, dry_run=dry_run)

        async def change() -> int:
            await admin.delete_group(stream, group, force=force)
            return 1

        return await _do(server, Decision(dry_run, yes, force), plan, change, row)

    operate(server, work)


@delete.command("consumer")
@on_server
def consumer_(
    stream: _Stream,
    group: _Group,
    consumer: Annotated[
        str, typer.Argument(metavar="CONSUMER", help="The name of the consumer.")
    ],
    *,
    server: Server,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete a consumer that has nothing pending from a group.

    It is refused while the consumer has pending messages, which would be lost: use
    `penstock claim` first.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such stream,
    group or consumer; 2 wrong usage, or --yes is missing, and nothing was changed.
    """

    async def work(admin: Admin) -> bool:
        if not await _has_group(admin, stream, group):
            return False
        consumers = await admin.consumers(stream, group)
        found = next((one for one in consumers if one.name == consumer), None)
        name = _format.text(consumer)
        if found is None:
            there = near(consumer, [one.name for one in consumers], "consumer")
            say(f"group {_format.text(group)} has no consumer {name}; {there}")
            return False
        if found.pending:
            say(
                f"{name} has {counted(found.pending, 'pending message')}, which would "
                f"be lost; give them back with `penstock claim --from` first"
            )
            return False
        plan = Plan(f"delete consumer {name}")
        plan.facts.append(f"consumer {name} will be deleted; it has nothing pending")
        if found.live:
            plan.facts.append(f"{name} is live, and its next read creates it again")
        row = _row("consumer", stream, group, consumer, dry_run=dry_run)

        async def change() -> int:
            return int(await admin.delete_consumer(stream, group, consumer))

        return await _do(server, Decision(dry_run, yes), plan, change, row)

    operate(server, work)


@delete.command("entry")
@on_server
def entry_(
    stream: _Stream,
    ids: Annotated[list[EntryId], ids_argument("The ids of the entries.")],
    *,
    server: Server,
    shard: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="The shard that has them; default: any."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete entries by their ids, on all shards of a stream.

    You are asked only if a group has not acknowledged one of them. The lag of a group
    behind a deleted entry is unknown to the server until the group has read past it.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such stream
    or entry; 2 wrong usage, or --yes is missing, and nothing was changed.
    """

    async def work(admin: Admin) -> bool:
        name = _format.text(stream)
        found = await admin.entry_losses(stream, ids, shard=shard)
        for id_ in found.missing:
            say(f"{name} has no entry {id_}")
        if not found.entries:
            return False
        plan = Plan(
            f"delete {counted(found.entries, 'entry', 'entries')}",
            loses=bool(found.groups),
            harmless=True,
        )
        plan.facts = [
            f"group {_format.text(group)} will lose {counted(count, 'message')} that "
            f"it has not acknowledged"
            for group, count in found.groups.items()
        ]
        row = _row("entry", stream, deleted=found.entries, dry_run=dry_run)

        async def change() -> int:
            return await admin.delete_entries(stream, ids, shard=shard)

        done = await _do(server, Decision(dry_run, yes), plan, change, row)
        return done and not found.missing

    operate(server, work)


async def _has_group(admin: Admin, stream: str, group: str) -> bool:
    """Return whether there is such a group; say which there are if not."""
    names = await admin.groups(stream)
    if group in names:
        return True
    there = near(group, names, "group")
    say(f"{_format.text(stream)} has no group {_format.text(group)}; {there}")
    return False


async def _add_group(admin: Admin, stream: str, group: str, plan: Plan) -> None:
    """Add to a plan what the deletion of a group means."""
    name = _format.text(group)
    effect = await admin.reset_effect(stream, group, LATEST)
    plan.facts.append(
        f"group {name} will be deleted, with {effect.lag_before:,} unread and "
        f"{effect.pending:,} pending messages"
    )
    plan.loses |= effect.lost > 0
    if live := live_names(await admin.consumers(stream, group)):
        plan.dangers.append(
            f"group {name} is in use by {live}; stop its consumers, which would create "
            f"it again"
        )
    elif owners := await living_owners(admin, stream, group):
        plan.dangers.append(f"shards of group {name} are owned by {listed(owners)}")


async def _do(
    server: Server,
    decision: Decision,
    plan: Plan,
    change: Callable[[], Awaitable[int]],
    row: Deleted,
) -> bool:
    """Carry out a plan as it is decided, and print the result."""
    decided = decision.on(plan)
    if decided is False:
        return False
    number = await change() if decided else row.deleted
    if server.out.json:
        server.out.object(structs.replace(row, deleted=number))
    elif decided:
        noun, plural = ("entry", "entries") if row.kind == "entry" else (row.kind, None)
        emit(f"{counted(number, noun, plural)} deleted")
    return bool(number)
