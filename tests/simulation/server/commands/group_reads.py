"""XREAD and XREADGROUP, which may wait for entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from simulation.server import ids
from simulation.server.blocking import Waiter
from simulation.server.groups import Consumer, Group, pass_by
from simulation.server.resp import NO_ARRAY, Keyed, Refusal, Reply
from simulation.server.sessions import Caller, Session
from simulation.server.streams import Entry, Stream
from simulation.server.table import BLOCKED, command
from simulation.server.texts import SYNTAX, integer

__all__: list[str] = []

_NEW = -1
"""The position that `>` stands for."""
_LAST = -2
"""The position before the last entry, for which `+` stands."""


@dataclass(slots=True)
class _Read:
    """What a command asks for.

    Attributes:
        keys: The streams.
        after: For each the id after which it reads, or `_NEW`.
        count: The most entries of each stream; -1: all.
        block: Milliseconds to wait; None: not at all.
        group: The group and the consumer, if any.
        noack: Whether delivered entries do not become pending.
    """

    keys: list[bytes] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    count: int = -1
    block: int | None = None
    group: tuple[bytes, bytes] | None = None
    noack: bool = False


def _keys(words: Sequence[bytes]) -> list[bytes]:
    """Return the keys of XREAD or XREADGROUP."""
    for place, word in enumerate(words):
        if place and word.upper() == b"STREAMS":
            rest = words[place + 1 :]
            return list(rest[: len(rest) // 2])
    return []


@command("XREAD", -4, "readonly blocking @stream", keys=_keys)
def xread(caller: Caller, words: list[bytes]) -> Reply:
    return _answer(caller, words, _parse(caller, words, grouped=False))


@command("XREADGROUP", -7, "write blocking @stream", keys=_keys)
def xreadgroup(caller: Caller, words: list[bytes]) -> Reply:
    return _answer(caller, words, _parse(caller, words, grouped=True))


def _parse(caller: Caller, words: list[bytes], *, grouped: bool) -> _Read:
    read = _Read()
    place, end = 1, len(words)
    while place < end:
        option = words[place].upper()
        if option == b"STREAMS" and place + 1 < end:
            place += 1
            break
        place += _read_option(caller, read, option, words[place:], grouped=grouped)
    rest = words[place:]
    if len(rest) % 2:
        raise _unbalanced(caller, grouped=grouped)
    if not rest:
        raise Refusal(SYNTAX)
    if grouped and read.group is None:
        raise Refusal(b"ERR Missing GROUP option for XREADGROUP")
    half = len(rest) // 2
    read.keys = rest[:half]
    read.after = [
        _position(caller, key, word, read.group)
        for key, word in zip(read.keys, rest[half:], strict=True)
    ]
    return read


def _read_option(
    caller: Caller, read: _Read, option: bytes, words: list[bytes], *, grouped: bool
) -> int:
    """Take an option, and return the number of its words."""
    count = len(words)
    if option == b"COUNT" and count > 1:
        number = integer(words[1])
        read.count = -1 if number <= 0 else number
        return 2
    if option == b"BLOCK" and count > 1:
        read.block = _timeout(caller, words[1], grouped=grouped)
        return 2
    if option not in {b"GROUP", b"NOACK"} or (option == b"GROUP" and count < 3):
        raise Refusal(SYNTAX)
    if not grouped:
        raise Refusal(
            b"ERR The %b option is only supported by XREADGROUP. You called XREAD "
            b"instead." % option
        )
    if option == b"NOACK":
        read.noack = True
        return 1
    read.group = (words[1], words[2])
    return 3


def _timeout(caller: Caller, word: bytes, *, grouped: bool) -> int:
    ms = integer(word, b"ERR timeout is not an integer or out of range")
    if ms < 0:
        raise Refusal(b"ERR timeout is negative")
    if caller.in_script and not caller.server.version.scripts_may_block:
        name = b"XREADGROUP" if grouped else b"XREAD"
        raise Refusal(
            b"ERR %b command is not allowed with BLOCK option from scripts" % name
        )
    return ms


def _unbalanced(caller: Caller, *, grouped: bool) -> Refusal:
    if not caller.server.version.reruns_blocked:
        return Refusal(
            b"ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' "
            b"must be specified."
        )
    name, sign = (b"xreadgroup", b">") if grouped else (b"xread", b"$")
    return Refusal(
        b"ERR Unbalanced '%b' list of streams: for each stream key an ID or '%b' must "
        b"be specified." % (name, sign)
    )


def _position(
    caller: Caller, key: bytes, word: bytes, group: tuple[bytes, bytes] | None
) -> int:
    """Return the id after which to read, and check that the group exists."""
    stream = caller.database.stream(key)
    if group is not None and (stream is None or group[0] not in stream.groups):
        raise _no_group(key, group[0])
    if word == b"$":
        if group is not None:
            raise Refusal(
                b"ERR The $ ID is meaningless in the context of XREADGROUP: you want "
                b"to read the history of this consumer by specifying a proper ID, or "
                b"use the > ID to get new messages. The $ ID would just return an "
                b"empty result set."
            )
        return 0 if stream is None else stream.last_id
    if word == b">":
        if group is None:
            raise Refusal(
                b"ERR The > ID can be specified only when calling XREADGROUP using the "
                b"GROUP <group> <consumer> option."
            )
        return _NEW
    return ids.parse(word)


def _no_group(key: bytes, group: bytes) -> Refusal:
    return Refusal(
        b"NOGROUP No such key '%b' or consumer group '%b' in XREADGROUP with GROUP "
        b"option" % (key, group)
    )


def _answer(caller: Caller, words: list[bytes], read: _Read) -> Reply:
    found = Keyed()
    for key, after in zip(read.keys, read.after, strict=True):
        entries = _read_one(caller, read, key, after)
        if entries is not None:
            found.append((key, entries))
    if found:
        return found
    if read.block is None or not isinstance(caller, Session) or not caller.may_block:
        return NO_ARRAY
    _wait(caller, words, read)
    return BLOCKED


def _read_one(caller: Caller, read: _Read, key: bytes, after: int) -> Reply | None:
    """Return the entries of one stream; None if there is nothing to say of it."""
    stream = caller.database.stream(key)
    if stream is None:
        return None
    if read.group is None:
        if stream.last_existing <= after:
            return None
        return stream.range(after + 1, ids.MAX, read.count)
    group = stream.groups[read.group[0]]
    has_news = stream.last_existing > group.last_id
    if after == _NEW and not has_news and not caller.server.version.eager_consumers:
        return None
    now = caller.server.now
    consumer, made = group.consumer(read.group[1], now)
    consumer.seen = now
    delivers = after == _NEW and has_news
    if made or delivers:
        caller.server.dirty += 1
    if delivers:
        return _deliver(caller, stream, group, consumer, read)
    return None if after == _NEW else _own(stream, consumer, after, read.count, now)


def _own(
    stream: Stream, consumer: Consumer, after: int, count: int, now: int
) -> list[Entry | list[object]]:
    """Return a consumer's own pending entries, and count their delivery."""
    found: list[Entry | list[object]] = []
    for pending in consumer.pending.above(after + 1):
        if len(found) == count:
            break
        entry = stream.entries.get(pending.id)
        if entry is None:
            found.append([ids.text(pending.id), NO_ARRAY])
        else:
            pending.time = now
            pending.count += 1
            found.append(entry)
    return found


def _deliver(
    caller: Caller,
    stream: Stream,
    group: Group,
    consumer: Consumer,
    read: _Read,
) -> list[Entry]:
    """Deliver new entries to a consumer."""
    version, now = caller.server.version, caller.server.now
    entries = stream.range(group.last_id + 1, ids.MAX, read.count)
    for entry in entries:
        pass_by(group, stream, entry.id, version)
        if not read.noack:
            group.deliver(entry.id, consumer, now)
    if not read.noack:
        consumer.active = now
    return entries


def _wait(session: Session, words: list[bytes], read: _Read) -> None:
    """Let a client wait for entries."""
    database = session.database
    positions = dict(zip(read.keys, read.after, strict=True))
    waiter = Waiter(
        session,
        # `$` is resolved now, so that running it again reads what came meanwhile.
        [*words[: -len(read.after)], *(_word(after) for after in read.after)],
        [(database.index, key) for key in positions],
        Stream,
        wakes_without_key=read.group is not None,
        serve=partial(_serve, session, read, positions),
    )
    assert read.block is not None
    timer = session.running_timer if session.reruns else None
    session.server.blocked.add(waiter, 0 if session.reruns else read.block, timer)


def _word(after: int) -> bytes:
    return b">" if after == _NEW else ids.text(after)


def _serve(
    session: Session, read: _Read, positions: dict[bytes, int], key: bytes
) -> Reply | None:
    """Return the reply that one key brings to a waiting client, if any."""
    stream = session.database.stream(key)
    assert stream is not None
    if read.group is not None and read.group[0] not in stream.groups:
        raise Refusal(
            b"NOGROUP the consumer group this client was blocked on no longer exists"
        )
    entries = _read_one(session, read, key, positions[key])
    if not entries:
        return None
    if read.group is not None:
        session.server.journal.record(
            session.database.index, _as_record(read, read.group, key)
        )
        session.server.journal.commit(session)
    return Keyed([(key, entries)])


def _as_record(read: _Read, group: tuple[bytes, bytes], key: bytes) -> list[bytes]:
    words = [b"XREADGROUP", b"GROUP", *group]
    if read.count > 0:
        words += [b"COUNT", b"%d" % read.count]
    if read.noack:
        words.append(b"NOACK")
    return [*words, b"STREAMS", key, b">"]
