"""Foreign clients: what others do to streams and groups that are in use.

Whatever that does to messages and no client can prevent is recorded as an excuse.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, Final

from faults.history import Excuse, Note, Start
from penstock import EntryId
from simulation.excuses import (
    entries_of,
    excuse,
    excuse_entries,
    excuse_missing,
)
from simulation.observer import message_of
from simulation.plan import REOPENING

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["GROUPS", "LOSSES", "grow"]

# -- streams and groups ----------------------------------------------------------------


def _key(run: Run, chance: Random) -> tuple[int, str]:
    number = chance.randrange(len(run.keys))
    return number, run.keys[number]


async def destroy_group(run: Run, chance: Random) -> None:
    """XGROUP DESTROY."""
    if not run.groups:
        return
    since = run.world.time()
    run.direct.call(
        "XGROUP", "DESTROY", _key(run, chance)[1], chance.choice(run.groups)
    )
    excuse(run, since, "again")


async def set_group_back(run: Run, chance: Random) -> None:
    """XGROUP SETID 0."""
    if not run.groups:
        return
    since = run.world.time()
    run.direct.call(
        "XGROUP", "SETID", _key(run, chance)[1], chance.choice(run.groups), "0"
    )
    excuse(run, since, "again")


async def wrong_type(run: Run, chance: Random) -> None:
    """Have something else where a stream should be, for a while."""
    key, since = _key(run, chance)[1], run.world.time()
    if run.direct.call("TYPE", key) not in {b"stream", "stream"}:
        return  # deleted, or something else by now
    run.direct.call("RENAME", key, f"{key}.away")
    run.direct.call("SET", key, "x")
    # Nobody can be asked who has an entry.
    excuse(run, since, "again")
    await asyncio.sleep(chance.uniform(0.05, 2))
    # Other faults may have deleted either.
    if run.direct.call("TYPE", key) in {b"string", "string"}:
        run.direct.call("DEL", key)
    run.direct.call("RENAMENX", f"{key}.away", key)
    # What was acknowledged meanwhile was acknowledged nowhere.
    excuse(run, since, "again")


async def claim_for_others(run: Run, chance: Random) -> None:
    """XCLAIM by a stranger, who does nothing with it."""
    if not run.groups:
        return
    key, group = _key(run, chance)[1], chance.choice(run.groups)
    lines = run.direct.call("XPENDING", key, group, "-", "+", 10)
    if isinstance(lines, list) and lines:
        ids, since = [line[0] for line in lines], run.world.time()
        run.direct.call("XCLAIM", key, group, "stranger", 0, *ids, "JUSTID")
        excuse(run, since, "again", "order")


async def grow(run: Run, chance: Random) -> None:
    """Add shards to the stream, and write to them."""
    run.foreign.grow()
    for number in range(run.plan.shards, len(run.keys)):
        for _ in range(chance.choice((1, 5, 20))):
            id_ = run.observer.next_id(run.keys[number])
            run.foreign.message(number, run.keys[number], id_, b"k%d" % number)
            await asyncio.sleep(chance.choice((0.0, 0.01, 0.1)))


async def foreign_entries(run: Run, chance: Random) -> None:
    """XADD by another program: of entries without a payload, or with more fields.

    The former can't be decoded, so they must become dead letters.
    """
    valid = chance.random() < 0.5
    for _ in range(chance.choice((1, 1, 5))):
        number, key = _key(run, chance)
        if valid:
            id_ = run.observer.next_id(key)
            run.foreign.message(number, key, id_)
            _excuse_behind(run, number, id_)
        else:
            run.foreign.without_payload(number, key)


def _excuse_behind(run: Run, number: int, id_: str) -> None:
    """Excuse that REALTIME misses an entry with an id below one that it has read.

    A server with older data has lost that one, and is read on from its last id, which
    the new entry may have set before the consumer is connected again.
    """
    read = (
        EntryId.parse(record.id)
        for record in run.history
        if isinstance(record, Start)
        and (record.group, record.shard) == ("realtime", number)
    )
    if EntryId.parse(id_) < max(read, default=EntryId.MIN):
        facts = {"what": ["loss"], "ids": [f"{number} {id_}"], "group": "realtime"}
        run.journal.add(Excuse, since=run.world.time(), **facts)


async def add_and_delete(run: Run, chance: Random) -> None:
    """XADD and XDEL in one transaction, which wakes blocked reads for nothing."""
    key = _key(run, chance)[1]
    id_ = run.observer.next_id(key)
    if run.direct.call("TYPE", key) not in {b"stream", "stream"}:
        return
    for words in (
        ("MULTI",),
        ("XADD", key, id_, "msg", "gone"),
        ("XDEL", key, id_),
        ("EXEC",),
    ):
        run.direct.call(*words)


async def other_consumers(run: Run, chance: Random) -> None:
    """XGROUP CREATECONSUMER, and DELCONSUMER of those that have nothing pending."""
    if not run.groups:
        return
    key, group = _key(run, chance)[1], chance.choice(run.groups)
    for _ in range(chance.choice((1, 3))):
        if run.server.version.subcommands or chance.random() < 0.5:
            run.direct.call("XGROUP", "CREATECONSUMER", key, group, "visitor")
        found: Any = run.direct.call("XINFO", "CONSUMERS", key, group)
        if not isinstance(found, list):
            return
        idle = [dict(zip(one[::2], one[1::2], strict=True)) for one in found]
        names = [one[b"name"] for one in idle if not one[b"pending"]]
        if names:
            name = chance.choice(names)
            run.direct.call("XGROUP", "DELCONSUMER", key, group, name)
        await asyncio.sleep(chance.choice((0.0, 0.3)))


# -- what loses messages, by itself and only as far as it must -------------------------


async def flush_all(run: Run, chance: Random) -> None:
    """FLUSHALL."""
    since = run.world.time()
    run.direct.call("FLUSHALL")
    excuse(run, since, "loss", "ack", "again")


async def delete_stream(run: Run, chance: Random) -> None:
    """DEL."""
    since = run.world.time()
    run.direct.call("DEL", _key(run, chance)[1])
    excuse(run, since, "loss", "ack", "again")


async def trim(run: Run, chance: Random) -> None:
    """XTRIM to a few entries."""
    since = run.world.time()
    run.direct.call("XTRIM", _key(run, chance)[1], "MAXLEN", chance.choice((0, 0, 3)))
    excuse(run, since, "loss", "ack")


async def delete_some(run: Run, chance: Random) -> None:
    """XDEL of entries that may just be read or handled."""
    number, key = _key(run, chance)
    found: Any = run.direct.call("XREVRANGE", key, "+", "-", "COUNT", 40)
    if not isinstance(found, list):
        return
    ids = [id_ for id_, _ in found]
    ids = chance.sample(ids, len(ids) // 2)
    since = run.world.time()
    if ids:
        run.direct.call("XDEL", key, *ids)
    excuse_entries(run, since, number, ids)


async def ack_for_others(run: Run, chance: Random) -> None:
    """XACK by a stranger of what is pending."""
    if not run.groups:
        return
    number, key = _key(run, chance)
    group = chance.choice(run.groups)
    lines: Any = run.direct.call("XPENDING", key, group, "-", "+", 1000)
    if isinstance(lines, list) and lines:
        ids = [line[0] for line in lines]
        since = run.world.time()
        run.direct.call("XACK", key, group, *ids)
        excuse_entries(run, since, number, ids)


async def delete_consumer(run: Run, chance: Random) -> None:
    """XGROUP DELCONSUMER of one that lives."""
    if not run.groups:
        return
    number, key = _key(run, chance)
    group = chance.choice(run.groups)
    lines: Any = run.direct.call("XPENDING", key, group, "-", "+", 1000)
    if not isinstance(lines, list) or not lines:
        return
    name = chance.choice(sorted({line[1] for line in lines}))
    since = run.world.time()
    run.direct.call("XGROUP", "DELCONSUMER", key, group, name)
    excuse_entries(run, since, number, [line[0] for line in lines if line[1] == name])


async def move_away(run: Run, chance: Random) -> None:
    """RENAME a stream away and back, which replaces entries added meanwhile."""
    key, since = _key(run, chance)[1], run.world.time()
    run.direct.call("RENAME", key, f"{key}.moved")
    await asyncio.sleep(chance.choice((0.0, 0.05, 0.5, 2.0)))
    run.direct.call("RENAME", f"{key}.moved", key)
    excuse(run, since, "loss", "ack", "again", "order")


async def swap_databases(run: Run, chance: Random) -> None:
    """SWAPDB with an empty database, and back."""
    since = run.world.time()
    run.direct.call("SWAPDB", 0, 1)
    await asyncio.sleep(chance.choice((0.0, 0.05, 0.5, 2.0)))
    meanwhile = entries_of(run)
    run.direct.call("SWAPDB", 0, 1)
    excuse(run, since, "loss", "ack", "again", "order")
    # There is no trace of what was sent meanwhile, so it may be stored once more.
    excuse_missing(run, since, meanwhile)


async def write_again(run: Run, chance: Random) -> None:
    """DEL a stream, and XADD other entries with the same ids in the same moment."""
    number, key = _key(run, chance)
    stored = run.observer.stored(key)[-chance.choice((1, 5, 1000)) :]
    since = run.world.time()
    run.direct.call("DEL", key)
    excuse(run, since, "loss", "ack", "again")
    if _remembered(run, number, stored):
        # The new entries come later than the excuse, so it is none for them.
        run.world.monotonic()
    for id_, fields in stored:
        # Handlers of the old ones may still be running: an entry has one key for all.
        run.foreign.message(number, key, id_, fields.get(b"key", b""))


def _remembered(
    run: Run, number: int, stored: list[tuple[str, dict[bytes, bytes]]]
) -> bool:
    """Return whether the only consumer must tell entries from others with their ids.

    It must if it has read one of them since it was opened, and nothing else happens
    that may have changed the stream (docs/explanation/guarantees.md).
    """
    consumers, kinds = run.plan.consumers, {each.kind for each in run.plan.faults}
    only = len(consumers) == 1 and consumers[0].group and kinds == {"write_again"}
    if not only or consumers[0].style in REOPENING:
        return False
    messages = {(id_, message_of(fields)) for id_, fields in stored}
    for record in reversed(run.history):
        if isinstance(record, Note) and record.text in {"ready", "healed write_again"}:
            if record.text != "ready" or record.who.startswith(consumers[0].name):
                return False
        elif (
            isinstance(record, Start)
            and record.shard == number
            and (record.id, record.message) in messages
        ):
            return True
    return False


GROUPS: Final = (
    destroy_group,
    set_group_back,
    wrong_type,
    claim_for_others,
    foreign_entries,
    add_and_delete,
    other_consumers,
)
"""What others do without losing a message."""

LOSSES: Final = (
    flush_all,
    delete_stream,
    trim,
    delete_some,
    ack_for_others,
    delete_consumer,
    move_away,
    swap_databases,
    write_again,
)
"""What others do that loses messages."""
