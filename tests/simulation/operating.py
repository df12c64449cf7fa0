"""Operating: what an operator's process does, by `Admin` and `replay`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

from faults.history import Excuse
from penstock import ACKED, EARLIEST, ConfigurationError, MaxLen, ServerError, replay
from penstock.admin import Admin
from simulation.consuming import STREAM, URL
from simulation.journal import Journal
from simulation.observer import Observer
from simulation.plan import OperatorPlan

__all__ = ["operate"]

Step: TypeAlias = Callable[[Admin, str, int, Journal], Awaitable[None]]


async def _group_state(admin: Admin, group: str, argument: int, log: Journal) -> None:
    state = await admin.group_state(STREAM, group)
    assert state.pending == sum(state.holders.values()), state


async def _trim_acked(admin: Admin, group: str, argument: int, log: Journal) -> None:
    """Trim what all groups have acknowledged."""
    await admin.trim(STREAM, ACKED)


async def _trim_length(admin: Admin, group: str, argument: int, log: Journal) -> None:
    since = asyncio.get_running_loop().time()
    try:
        await admin.trim(STREAM, MaxLen(1 + argument % 40, exact=bool(argument % 3)))
    finally:
        log.add(Excuse, since=since, what=["loss", "ack"])


async def _list_dead(admin: Admin, group: str, argument: int, log: Journal) -> None:
    for letter in await admin.dead.list(STREAM, limit=5):
        # Others may have deleted it by now.
        same = await admin.dead.read(STREAM, letter.id)
        assert same in {None, letter}, letter


async def _redrive(admin: Admin, group: str, argument: int, log: Journal) -> None:
    where = (lambda letter: letter.group == group) if argument % 2 else None
    limit = 3 if argument % 3 else None
    count = await admin.dead.redrive(STREAM, where=where, limit=limit)
    log.note(f"redrove {count}")


async def _purge(admin: Admin, group: str, argument: int, log: Journal) -> None:
    await admin.dead.purge(STREAM, where=lambda letter: letter.group == group)


async def _reset_group(admin: Admin, group: str, argument: int, log: Journal) -> None:
    since = asyncio.get_running_loop().time()
    try:
        await admin.reset_group(STREAM, group, EARLIEST)
    finally:
        log.add(Excuse, since=since, what=["again"], group=group)


async def _replay(admin: Admin, group: str, argument: int, log: Journal) -> None:
    await _read_all(log, reverse=False, page=1 + argument % 50)


async def _replay_reverse(
    admin: Admin, group: str, argument: int, log: Journal
) -> None:
    await _read_all(log, reverse=True, page=1 + argument % 50)


async def _read_all(log: Journal, *, reverse: bool, page: int) -> None:
    """Replay the stream, and check the order, and that nothing comes twice."""
    found = []
    log.note("replay begins")
    async for message in replay(
        STREAM,
        url=URL,
        reverse=reverse,
        page=page,
        on_event=lambda event: log.note(f"event {event}"),
    ):
        found.append((message.id, message.shard))
    keys = [(-id_.ms, -id_.seq) if reverse else (id_.ms, id_.seq) for id_, _ in found]
    assert keys == sorted(keys), "replayed out of order"
    assert len(set(found)) == len(found), "replayed twice"
    log.note("replayed " + " ".join(f"{shard}:{id_}" for id_, shard in found))


async def _move(admin: Admin, group: str, argument: int, log: Journal) -> None:
    """Move an owned shard to another member."""
    await _move_one(admin, group, argument, force=False)


async def _take_away(admin: Admin, group: str, argument: int, log: Journal) -> None:
    """Take an owned shard from its owner.

    What that has handled, or handles, is handled again. It learns of its loss when it
    next asks the server.
    """
    since = asyncio.get_running_loop().time()
    log.add(Excuse, since=since, what=["again"], group=group)
    try:
        await _move_one(admin, group, argument, force=True)
    finally:
        log.add(Excuse, since=since, what=["again"], group=group)


async def _move_one(admin: Admin, group: str, argument: int, *, force: bool) -> None:
    owned = [each for each in (await admin.owners(STREAM, group)).shards if each.owner]
    if owned:
        number = owned[argument % len(owned)].shard.number
        # Its members may have left meanwhile.
        with suppress(ConfigurationError):
            await admin.move(STREAM, group, number, force=force)


STEPS: Final[dict[str, Step]] = {
    "group_state": _group_state,
    "trim_acked": _trim_acked,
    "trim_length": _trim_length,
    "list_dead": _list_dead,
    "redrive": _redrive,
    "purge": _purge,
    "reset_group": _reset_group,
    "replay": _replay,
    "replay_reverse": _replay_reverse,
    "move": _move,
    "take_away": _take_away,
}


async def operate(
    plan: OperatorPlan,
    groups: list[str],
    observer: Observer,
    journal: Journal,
) -> None:
    """Take the steps of a plan, each at its time, or end at SIGTERM.

    Args:
        plan: What to do.
        groups: The names of the groups.
        observer: Sees what there is on the server.
        journal: Where to record it.
    """
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    steps = asyncio.create_task(_take(plan, groups, observer, journal))
    ending = asyncio.create_task(over.wait())
    await asyncio.wait([steps, ending], return_when=asyncio.FIRST_COMPLETED)
    for task in (steps, ending):
        task.cancel()
    await asyncio.wait([steps, ending])
    if not steps.cancelled():
        steps.result()


async def _take(
    plan: OperatorPlan,
    groups: list[str],
    observer: Observer,
    journal: Journal,
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for step in plan.steps:
        await asyncio.sleep(max(0.0, began + step.at - loop.time()))
        group = groups[step.argument % len(groups)] if groups else ""
        if not group and step.what in {"group_state", "reset_group"}:
            continue
        journal.note(f"step {step.what} {group}")
        since, unknown = loop.time(), observer.missing()
        records = journal.length
        try:
            # Some are cancelled in whatever they are doing.
            limit = step.argument / 1e5 if step.argument < 10000 else None
            async with (
                asyncio.timeout(limit),
                Admin(URL, on_event=lambda e: journal.note(f"event {e}")) as admin,
            ):
                await STEPS[step.what](admin, group, step.argument, journal)
        except TimeoutError:
            journal.note(f"step {step.what} cancelled")
        except ServerError as error:
            # Each call is one attempt.
            journal.note(f"step {step.what} failed: {error!r}")
        if step.what == "trim_acked":
            # Who has no group is not asked.
            lost = groups if journal.lost_groups_since(records) else []
            for name in sorted({*unknown, *observer.missing(), *lost}):
                journal.add(Excuse, since=since, what=["loss"], group=name)
        elif step.what == "reset_group":
            # It takes entries from consumers that have read and not started them. They
            # come again in their turn.
            ids, what = observer.names(), ["order"]
            journal.add(Excuse, since=since, what=what, ids=ids, group=group)
