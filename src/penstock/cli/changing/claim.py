"""`penstock claim`: gives pending messages back to their group."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import Struct

from penstock import ConfigurationError, EntryId
from penstock.admin import Admin, Claimed
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
)
from penstock.cli._errors import plain_errors
from penstock.cli._options import (
    duration_option,
    group_argument,
    id_option,
    stream_argument,
)
from penstock.cli._output import emit
from penstock.cli._server import Server, on_server

__all__ = ["ClaimedEntries", "claim"]


class ClaimedEntries(Struct, frozen=True, kw_only=True):
    """What was given back or acknowledged, or would be.

    Attributes:
        stream: The stream.
        group: The group.
        claimed: The number of messages.
        acknowledged: Whether they were acknowledged instead.
        dry_run: Whether nothing was changed.
        consumers: The number by the consumer that had them.
        not_pending: Ids that were named and are not pending.
    """

    stream: str
    group: str
    claimed: int
    acknowledged: bool
    dry_run: bool
    consumers: dict[str, int]
    not_pending: list[str]


@on_server
def claim(
    stream: Annotated[str, stream_argument("The stream, with all its shards.")],
    group: Annotated[str, group_argument()],
    *,
    server: Server,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="CONSUMER", help="Messages of this consumer."),
    ] = None,
    idle: Annotated[
        float | None,
        duration_option(
            "--idle",
            "Messages that were not delivered, claimed or renewed for this long.",
        ),
    ] = None,
    id: Annotated[  # noqa: A002 - the option's name
        list[EntryId] | None,
        id_option("--id", "The message with this id; may be repeated."),
    ] = None,
    ack: Annotated[
        bool,
        typer.Option("--ack", help="Acknowledge them instead, unhandled."),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    force: Force = False,
) -> None:
    """Give pending messages back to their group.

    Live consumers of the group take them within a second, with the attempts that
    were counted. With --ack they are acknowledged unhandled. --force is needed for
    messages of a live consumer: its handler may be running, and they are handled twice.
    Messages in a shard that a live consumer owns are refused: its owner handles them.

    Exit status: 0 done; 1 no connection, refused, answered with no, or no such stream,
    group or pending message; 2 wrong usage, or --yes or --force is missing, and nothing
    was changed.
    """
    with plain_errors():
        if [from_, idle, id or None].count(None) != 2:  # noqa: PLR2004 - all but one
            raise ConfigurationError(
                "select the messages by exactly one of --from, --idle and --id"
            )

    async def work(admin: Admin) -> bool:
        async def call(*, dry_run: bool) -> Claimed:
            return await admin.claim(
                stream,
                group,
                consumer=from_,
                idle=idle,
                ids=id or None,
                ack=ack,
                force=force,
                dry_run=dry_run,
            )

        found = await call(dry_run=True)
        for missing in found.not_pending:
            say(f"{missing} is not pending in group {_format.text(group)}")
        if not found.entries:
            await _say_nothing(admin, stream, group, from_)
            return False
        if found.owned:
            say(
                f"shards with such messages are owned by {listed(found.owned)}, which "
                f"handle them; `penstock owners --move` moves a shard"
            )
            return False
        plan = _plan(found, group, ack=ack, by_id=bool(id))
        decided = Decision(dry_run, yes, force).on(plan)
        if decided is False:
            return False
        done = await call(dry_run=False) if decided else found
        _print(server, stream, group, done, ack=ack, dry_run=dry_run)
        return not found.not_pending

    operate(server, work)


async def _say_nothing(
    admin: Admin, stream: str, group: str, consumer: str | None
) -> None:
    """Say that nothing was found; with the names, if a consumer does not exist."""
    names = [one.name for one in await admin.consumers(stream, group)]
    name = _format.text(group)
    if consumer is not None and consumer not in names:
        there = f"there are: {listed(names)}" if names else "it has none"
        say(f"group {name} has no consumer {_format.text(consumer)}; {there}")
    else:
        say(f"group {name} has no such pending messages")


def _plan(found: Claimed, group: str, *, ack: bool, by_id: bool) -> Plan:
    name = _format.text(group)
    messages = counted(found.entries, "message")
    action = f"acknowledge {messages}" if ack else f"give back {messages}"
    plan = Plan(action, loses=ack, harmless=by_id)
    for consumer, count in found.consumers.items():
        does = "will be acknowledged unhandled" if ack else "go back to the group"
        what = f"{counted(count, 'message')} of {_format.text(consumer)} {does}"
        plan.facts.append(what)
    if ack:
        plan.facts.append(f"group {name} will lose {messages}")
    if found.live and ack:
        plan.dangers.append(
            f"{listed(found.live)} is live: its handler may be running all the same"
        )
    elif found.live:
        plan.dangers.append(
            f"{listed(found.live)} is live: its handler may be running, and then a "
            f"message is handled twice"
        )
    return plan


def _print(
    server: Server, stream: str, group: str, done: Claimed, *, ack: bool, dry_run: bool
) -> None:
    if server.out.json:
        server.out.object(
            ClaimedEntries(
                stream=stream,
                group=group,
                claimed=done.entries,
                acknowledged=ack,
                dry_run=dry_run,
                consumers=dict(done.consumers),
                not_pending=[str(id_) for id_ in done.not_pending],
            )
        )
    elif not dry_run:
        verb = "acknowledged" if ack else "given back"
        emit(f"{counted(done.entries, 'message')} {verb}")
