"""XPENDING, XCLAIM and XAUTOCLAIM."""

from __future__ import annotations

from dataclasses import dataclass

from simulation.server import ids
from simulation.server.commands.groups import group_of
from simulation.server.groups import Consumer, Group, Pending
from simulation.server.resp import NO_ARRAY, Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.table import command
from simulation.server.texts import SYNTAX, integer

__all__: list[str] = []

_KEY = (1, 1, 1)
_SCANNED_PER_CLAIMED = 10
_HIGHEST_COUNT = 2**63 // 16
_VALUED = frozenset((b"IDLE", b"TIME", b"RETRYCOUNT", b"LASTID"))


@command("XPENDING", -3, "readonly @stream", keys=_KEY)
def xpending(caller: Caller, words: list[bytes]) -> Reply:
    if len(words) == 3:
        _, group = group_of(caller, words[1], words[2])
        return _summary(group)
    idle = 0
    place = 3
    if words[3].upper() == b"IDLE":
        if len(words) < 5:
            raise Refusal(SYNTAX)
        idle = integer(words[4])
        place = 5
    rest = words[place:]
    if not 3 <= len(rest) <= 4:
        raise Refusal(SYNTAX)
    count = max(0, integer(rest[2]))
    low = ids.parse_bound(rest[0], upper=False)
    high = ids.parse_bound(rest[1], upper=True)
    _, group = group_of(caller, words[1], words[2])
    listed = group.pending
    if len(rest) == 4:
        consumer = group.consumers.get(rest[3])
        if consumer is None:
            return []
        listed = consumer.pending
    now = caller.server.now
    found: list[list[object]] = []
    for pending in listed.above(low, high):
        if len(found) == count:
            break
        age = now - pending.time
        if idle and age < idle:
            continue
        name = pending.consumer.name
        found.append([ids.text(pending.id), name, max(0, age), pending.count])
    return found


def _summary(group: Group) -> Reply:
    listed = group.pending.ids
    if not listed:
        return [0, None, None, NO_ARRAY]
    owners = [
        [name, b"%d" % len(group.consumers[name].pending)]
        for name in sorted(group.consumers)
        if len(group.consumers[name].pending)
    ]
    return [len(listed), ids.text(listed[0]), ids.text(listed[-1]), owners]


@dataclass(slots=True)
class _Claim:
    """The options of XCLAIM.

    Attributes:
        time: The delivery time to set.
        count: The delivery count to set, if any.
        force: Whether to make entries pending that are not.
        just_ids: Whether to reply with ids only, and not to count a delivery.
        last_id: An id up to which the group has delivered.
    """

    time: int
    count: int | None = None
    force: bool = False
    just_ids: bool = False
    last_id: int = 0


@command("XCLAIM", -6, "write fast @stream", keys=_KEY)
def xclaim(caller: Caller, words: list[bytes]) -> Reply:
    stream, group = group_of(caller, words[1], words[2])
    idle = integer(words[4], b"ERR Invalid min-idle-time argument for XCLAIM")
    idle = max(0, idle)
    given, place = _leading_ids(words)
    options = _claim_options(words, place, caller.server.now)
    now, version = caller.server.now, caller.server.version
    if options.last_id > group.last_id:
        group.last_id = options.last_id
        caller.server.dirty += 1
    consumer = None
    if version.eager_consumers:
        consumer = _consumer(caller, words, group)
    reply: list[object] = []
    for id_ in given:
        pending = group.pending.by_id.get(id_)
        entry = stream.entries.get(id_)
        if entry is None and version.forgets_deleted:
            if pending is not None:
                group.release(id_)
                caller.server.dirty += 1
            continue
        if pending is None:
            if not options.force or entry is None:
                continue
        elif idle and now - pending.time < idle:
            continue
        if consumer is None:
            consumer = _consumer(caller, words, group)
        _take(group, id_, pending, consumer, options)
        consumer.active = now
        caller.server.dirty += 1
        if options.just_ids:
            reply.append(ids.text(id_))
        else:
            reply.append(entry)
    return reply


def _leading_ids(words: list[bytes]) -> tuple[list[int], int]:
    """Return the ids after the idle time, and the place of the first option."""
    given: list[int] = []
    place = 5
    while place < len(words):
        try:
            given.append(ids.parse(words[place]))
        except Refusal:
            break
        place += 1
    return given, place


def _claim_options(words: list[bytes], place: int, now: int) -> _Claim:
    claim = _Claim(now)
    while place < len(words):
        option = words[place].upper()
        if option == b"FORCE":
            claim.force = True
        elif option == b"JUSTID":
            claim.just_ids = True
        elif option in _VALUED and place + 1 < len(words):
            place += 1
            _set_option(claim, option, words[place], now)
        else:
            raise Refusal(b"ERR Unrecognized XCLAIM option '%b'" % words[place])
        place += 1
    # A time in the future, or one that is none, is taken as now.
    if not 0 <= claim.time <= now:
        claim.time = now
    return claim


def _set_option(claim: _Claim, option: bytes, word: bytes, now: int) -> None:
    if option == b"LASTID":
        claim.last_id = ids.parse(word)
        return
    wrong = b"ERR Invalid %b option argument for XCLAIM" % option
    value = integer(word, wrong)
    if option == b"IDLE":
        claim.time = now - value
    elif option == b"TIME":
        claim.time = value
    elif value < 0:
        raise Refusal(wrong)
    else:
        claim.count = value


def _consumer(caller: Caller, words: list[bytes], group: Group) -> Consumer:
    """Return the claiming consumer, seen just now; it may be new."""
    now = caller.server.now
    consumer, made = group.consumer(words[3], now)
    consumer.seen = now
    if made:
        caller.server.dirty += 1
    return consumer


def _take(
    group: Group,
    id_: int,
    pending: Pending | None,
    consumer: Consumer,
    options: _Claim,
) -> None:
    if pending is None:
        pending = Pending(id_, consumer, options.time, 1)
        group.pending.add(pending)
        consumer.pending.add(pending)
    group.move(pending, consumer)
    pending.time = options.time
    if options.count is not None:
        pending.count = options.count
    elif not options.just_ids:
        pending.count += 1


@command("XAUTOCLAIM", -6, "write fast @stream", keys=_KEY)
def xautoclaim(caller: Caller, words: list[bytes]) -> Reply:
    idle = integer(words[4], b"ERR Invalid min-idle-time argument for XAUTOCLAIM")
    idle = max(0, idle)
    start = ids.parse_bound(words[5], upper=False)
    count, just_ids = _autoclaim_options(words)
    stream, group = group_of(caller, words[1], words[2])
    now, version = caller.server.now, caller.server.version
    consumer = _consumer(caller, words, group) if version.eager_consumers else None
    attempts = count * _SCANNED_PER_CLAIMED
    reply: list[object] = []
    deleted: list[bytes] = []
    cursor = 0
    for pending in group.pending.above(start):
        if attempts == 0 or count == 0:
            cursor = pending.id
            break
        attempts -= 1
        entry = stream.entries.get(pending.id)
        if entry is None and version.forgets_deleted:
            group.release(pending.id)
            deleted.append(ids.text(pending.id))
            count -= 1
            continue
        if idle and now - pending.time < idle:
            continue
        if consumer is None:
            consumer = _consumer(caller, words, group)
        _auto_take(group, pending, consumer, now, just_ids=just_ids)
        reply.append(ids.text(pending.id) if just_ids else entry)
        count -= 1
    if reply or deleted:
        caller.server.dirty += 1
    if reply and consumer is not None:
        consumer.active = now
    head: list[object] = [ids.text(cursor), reply]
    return [*head, deleted] if version.forgets_deleted else head


def _auto_take(
    group: Group, pending: Pending, consumer: Consumer, now: int, *, just_ids: bool
) -> None:
    group.move(pending, consumer)
    pending.time = now
    if not just_ids:
        pending.count += 1


def _autoclaim_options(words: list[bytes]) -> tuple[int, bool]:
    count, just_ids = 100, False
    place = 6
    while place < len(words):
        option = words[place].upper()
        if option == b"COUNT" and place + 1 < len(words):
            place += 1
            count = integer(words[place], b"ERR COUNT must be > 0")
            if not 0 < count <= _HIGHEST_COUNT:
                raise Refusal(b"ERR COUNT must be > 0")
        elif option == b"JUSTID":
            just_ids = True
        else:
            raise Refusal(SYNTAX)
        place += 1
    return count, just_ids
