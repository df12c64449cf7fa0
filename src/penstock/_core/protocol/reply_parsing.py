"""Reply parsing: raw RESP2 and RESP3 replies to values, each by its command.

This is the one place where malformed replies are found. A byte that was corrupted on
its way usually breaks RESP. But it may also leave a list in place of a number, and it
may shift all later replies to the wrong commands. So each reply is checked before any
caller gets it, and a malformed reply costs the connection (`ProtocolError`). A reply of
the right type with a wrong value can't be detected here: that is what TLS is for.

The input is what hiredis makes of the bytes: lists, dicts (RESP3 maps), bytes, ints,
None, and `ErrorReply` for an error, which is passed on unchanged. msgspec checks the
types, as it does those of payloads, except the types of entries, because those are
many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgspec

from penstock._core.protocol import scripts, transactions
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import (
    Claimed,
    ConsumerInfo,
    ErrorReply,
    GroupInfo,
    Pending,
    ProtocolError,
    RawEntry,
    StreamInfo,
    Summary,
)
from penstock.errors import ConfigurationError
from penstock.message import EntryId

__all__ = ["read"]

Reader: TypeAlias = Callable[[Command, Any], Any]


def read(batch: Sequence[Command], replies: list[Any]) -> list[Any]:
    """Read the replies to commands that were sent together; errors stay as they are.

    The batch may have commands that Penstock does not use, for tests: their replies are
    returned unchanged.

    Args:
        batch: The commands.
        replies: The reply of each command.

    Raises:
        ProtocolError: A reply does not have the form that its command returns.
    """
    if set(map(_head, batch)) == _ONLY_XADD:
        _check_ids([reply for reply in replies if type(reply) is not ErrorReply])
        return replies
    values: list[Any] = []
    queued: list[Command] | None = None
    for command, reply in zip(batch, replies, strict=True):
        head = command[0]
        if head == b"MULTI":
            queued = []
            values.append(reply)
        elif queued is None:
            values.append(_read_one(command, reply))
        elif head == b"EXEC":
            values.append(_read_all(queued, reply))
            queued = None
        else:
            queued.append(command)
            values.append(reply)
    return values


def _read_all(queued: Sequence[Command], reply: Any) -> Any:
    """Read EXEC's reply: the replies of the queued commands, or the error."""
    if type(reply) is ErrorReply:
        return reply
    if type(reply) is not list or len(reply) != len(queued):
        raise ProtocolError
    return [_read_one(*pair) for pair in zip(queued, reply, strict=True)]


def _read_one(command: Command, reply: Any) -> Any:
    if type(reply) is ErrorReply:
        return reply
    reader = _READERS.get(command[0])
    return reply if reader is None else reader(command, reply)


# -- shared helpers ----------------------------------------------------------------

_head: Final = cast("Callable[[Sequence[Any]], Any]", itemgetter(0))
_second: Final = cast("Callable[[Sequence[Any]], Any]", itemgetter(1))
_ONLY_XADD: Final = {b"XADD"}
_ID: Final = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
# Both parts certainly fit into 64 bits.
_SHORT_ID: Final = re.compile(rb"[0-9]{1,19}-[0-9]{1,19}")
_IN_IDS: Final = b"0123456789-"

_Fields: TypeAlias = list[bytes]


def _typed(kind: Any) -> Reader:
    """Return a reader that only checks a reply's type."""
    # The type is wrapped in a struct: msgspec analyzes a struct's types once, and not
    # with every reply.
    shell: Any = msgspec.defstruct("Reply", [("reply", kind)], array_like=True)

    def typed(_: Command, reply: Any) -> Any:
        try:
            return msgspec.convert((reply,), shell).reply
        except msgspec.ValidationError:
            raise ProtocolError from None

    return typed


def _check_id(raw: bytes) -> None:
    if _SHORT_ID.fullmatch(raw) is None:
        _id(raw)


def _id(raw: bytes) -> EntryId:
    if _ID.fullmatch(raw) is None:
        raise ProtocolError
    try:
        return EntryId.parse(raw)
    except ConfigurationError:  # a part has more than 64 bits
        raise ProtocolError from None


def _id_or_none(raw: bytes | None) -> EntryId | None:
    return None if raw is None else _id(raw)


def _check_ids(raw: Sequence[Any]) -> None:
    """Check that these are ids, all at once.

    An id that has its dash at one end, or no dash while another id has too many, is
    found only if it is the first or the last one: that takes two corrupted bytes.
    """
    if not raw:
        return
    try:
        together = b"".join(raw)
    except TypeError:
        raise ProtocolError from None
    strange = together.translate(None, _IN_IDS)
    if strange or together.count(b"-") != len(raw):
        raise ProtocolError
    _check_id(raw[0])
    _check_id(raw[-1])


def _pairs(reply: Any) -> dict[bytes, Any]:
    """Read a map: a dict in RESP3, a flat list in RESP2."""
    if type(reply) is list and len(reply) % 2 == 0:
        names = reply[::2]
        if all(type(name) is bytes for name in names):
            return dict(zip(names, reply[1::2], strict=True))
    if type(reply) is not dict:
        raise ProtocolError
    return reply


# -- entries -----------------------------------------------------------------------

# The number of keys up to which they are searched for one by one.
_FEW: Final = 4

_streams_typed: Final = _typed(dict[bytes, Any] | list[tuple[bytes, Any]] | None)

_LISTS: Final = {list}
_PAIRS: Final = {2}
_BODIES: Final = {list, type(None)}
_WORDS: Final = {bytes}


def _check_entries(entries: Any) -> None:
    """Check that these are pairs of an id and fields, or None in place of the fields.

    msgspec is not used here, because it makes new lists: twice as many containers for
    the garbage collector cost more than this check does.
    """
    if type(entries) is not list:
        raise ProtocolError
    if not entries:
        return
    if set(map(type, entries)) != _LISTS or set(map(len, entries)) != _PAIRS:
        raise ProtocolError
    _check_ids(list(map(_head, entries)))
    bodies = list(map(_second, entries))
    if not _BODIES.issuperset(map(type, bodies)):
        raise ProtocolError
    there = list(filter(None, bodies))
    if not _WORDS.issuperset(map(type, chain.from_iterable(there))):
        raise ProtocolError
    # A field list has pairs of name and value.
    if sum(map(len, there)) % 2:
        raise ProtocolError


def _entries(command: Command, reply: Any) -> Sequence[RawEntry]:
    """Read the reply of XRANGE or XREVRANGE."""
    _check_entries(reply)
    entries: list[RawEntry] = reply
    # A request for one id can't return another one.
    _, _, low, high, *_ = command
    if low == high and entries and [id_ for id_, _ in entries] != [low]:
        raise ProtocolError
    return entries


def _streams(
    command: Command, reply: Any
) -> Iterable[tuple[bytes, Sequence[RawEntry]]]:
    """Read the reply of XREAD or XREADGROUP: pairs of a key and at least one entry."""
    found = _streams_typed(command, reply)
    if found is None:
        return ()
    came = found.items() if type(found) is dict else found
    words = frozenset(command) if len(came) > _FEW else command
    for key, entries in came:
        if key not in words or not entries:
            raise ProtocolError
        _check_entries(entries)
    return cast("Iterable[tuple[bytes, Sequence[RawEntry]]]", came)


# -- pending -----------------------------------------------------------------------

_page_typed: Final = _typed(list[Pending])
_summary_typed: Final = _typed(Summary)
_claimed_typed: Final = _typed(Claimed)
_ids_typed: Final = _typed(list[bytes])


def _pending(command: Command, reply: Any) -> Any:
    """Read the reply of XPENDING: the summary, or the entries if requested."""
    if len(command) > 3:  # noqa: PLR2004 - behind key and group
        page: list[Pending] = _page_typed(command, reply)
        _check_ids([line.id for line in page])
        return page
    summary: Summary = _summary_typed(command, reply)
    bounds = [id_ for id_ in (summary.lowest, summary.highest) if id_ is not None]
    if len(bounds) != (2 if summary.number else 0):
        raise ProtocolError
    for bound in bounds:
        _check_id(bound)
    if any(not count.isdigit() for _, count in summary.holders or ()):
        raise ProtocolError
    return summary


def _claimed(command: Command, reply: Any) -> Claimed:
    """Read the reply of XAUTOCLAIM with JUSTID; that of Redis 6.2 has no third part."""
    page: Claimed = _claimed_typed(command, reply)
    _check_id(page.cursor)
    _check_ids(page.ids)
    _check_ids(page.deleted)
    return page


def _ids(command: Command, reply: Any) -> list[bytes]:
    """Read the reply of XCLAIM with JUSTID."""
    found: list[bytes] = _ids_typed(command, reply)
    _check_ids(found)
    return found


# -- descriptions ------------------------------------------------------------------

# The names of the facts that are read, in the order of the type's fields.
_OF_STREAM: Final = (
    b"length",
    b"last-generated-id",
    b"first-entry",
    b"last-entry",
    b"max-deleted-entry-id",
    b"entries-added",
)
_OF_GROUP: Final = (
    b"name",
    b"consumers",
    b"pending",
    b"last-delivered-id",
    b"lag",
    b"entries-read",
)
_OF_CONSUMER: Final = (b"name", b"pending", b"idle")


class _StreamFacts(NamedTuple):
    length: int
    last: bytes
    first: tuple[bytes, _Fields] | None
    newest: tuple[bytes, _Fields] | None
    deleted: bytes | None
    added: int | None


class _ScriptedFacts(NamedTuple):
    length: int
    last: bytes
    first: bytes | None
    newest: bytes | None
    deleted: bytes | None
    added: int | None


_stream_typed: Final = _typed(_StreamFacts)
_scripted_stream_typed: Final = _typed(_ScriptedFacts)
_group_typed: Final = _typed(GroupInfo)
_consumer_typed: Final = _typed(ConsumerInfo)


def _facts(reply: Any, names: Iterable[bytes]) -> list[Any]:
    """Return the named values of a map; None for those that the server omits."""
    return list(map(_pairs(reply).get, names))


def _stream(command: Command, reply: Any) -> StreamInfo:
    facts: _StreamFacts = _stream_typed(command, _facts(reply, _OF_STREAM))
    first, newest = facts.first, facts.newest
    return StreamInfo(
        facts.length,
        _id(facts.last),
        None if first is None else _id(first[0]),
        _id_or_none(facts.deleted),
        None if newest is None else _id(newest[0]),
        facts.added,
    )


def _scripted_stream(command: Command, reply: Any) -> StreamInfo:
    """Read the reply of the script that describes a stream."""
    facts: _ScriptedFacts = _scripted_stream_typed(command, reply)
    return StreamInfo(
        facts.length,
        _id(facts.last),
        _id_or_none(facts.first),
        _id_or_none(facts.deleted),
        _id_or_none(facts.newest),
        facts.added,
    )


def _group(command: Command, reply: Any) -> GroupInfo:
    group: GroupInfo = _group_typed(command, _facts(reply, _OF_GROUP))
    _check_id(group.last_delivered)
    return group


def _consumer(command: Command, reply: Any) -> ConsumerInfo:
    info: ConsumerInfo = _consumer_typed(command, _facts(reply, _OF_CONSUMER))
    return info


def _described(command: Command, reply: Any) -> Any:
    """Read the reply of XINFO."""
    if command[1] == b"STREAM":
        return _stream(command, reply)
    if type(reply) is not list:
        raise ProtocolError
    each = _group if command[1] == b"GROUPS" else _consumer
    return [each(command, one) for one in reply]


# -- the rest ----------------------------------------------------------------------

_number: Final = _typed(int)
_word: Final = _typed(bytes)
_time_typed: Final = _typed(tuple[bytes, bytes])
_pair_typed: Final = _typed(tuple[bytes, bytes] | None)
_PORTS: Final = 65536
_counts_typed: Final = _typed(list[int])


def _one_id(_: Command, reply: Any) -> bytes:
    """Read the reply of a script that returns an id."""
    _check_ids([reply])
    return bytes(reply)


def _added(_: Command, reply: Any) -> bytes:
    """Read the reply of XADD."""
    _check_ids([reply])
    return cast("bytes", reply)


def _role(_: Command, reply: Any) -> bytes:
    """Read the reply of ROLE and return its first word."""
    match reply:
        case [bytes(role), *_]:
            return role
    raise ProtocolError


def _primary(command: Command, reply: Any) -> tuple[bytes, int] | None:
    """Read a primary's host and port."""
    found: tuple[bytes, bytes] | None = _pair_typed(command, reply)
    if found is None:
        return None
    host, port = found
    if not port.isdigit() or not 0 < int(port) < _PORTS:
        raise ProtocolError
    return host, int(port)


def _grouped(command: Command, reply: Any) -> int | bytes:
    """Read the reply of XGROUP: DELCONSUMER returns the number of pending entries."""
    reader = _number if command[1] == b"DELCONSUMER" else _word
    return cast("int | bytes", reader(command, reply))


def _time(command: Command, reply: Any) -> int:
    """Read the reply of TIME and return it in milliseconds since 1970."""
    parts = _time_typed(command, reply)
    if not all(part.isdigit() for part in parts):
        raise ProtocolError
    seconds, micros = map(int, parts)
    return seconds * 1000 + micros // 1000


def _listeners(command: Command, reply: Any) -> list[int]:
    """Read the reply of PUBSUB NUMSUB: the number of subscribers of each channel."""
    counts = list(_pairs(reply).values())
    return cast("list[int]", _counts_typed(command, counts))


# -- scripts -----------------------------------------------------------------------


def _buried(command: Command, reply: Any) -> int | bytes:
    reader = _number if type(reply) is int else _added
    return cast("int | bytes", reader(command, reply))


def _added_once(command: Command, reply: Any) -> bytes:
    """Read a run's reply: for each message a line with its id or with the error."""
    told: bytes = _word(command, reply)
    lines = told.split(b"\n")
    if len(lines) != scripts.count_added(command):
        raise ProtocolError
    _check_ids([line for line in lines if not line.startswith(b"!")])
    return told


def _applied(_: Command, reply: Any) -> transactions.Applied:
    return transactions.read(reply)


_BY_SCRIPT: Final[Mapping[Any, Reader]] = {
    scripts.TRIM_ACKED: _number,
    scripts.REMOVE_EMPTY: _number,
    scripts.SEND_DEAD_LETTER: _buried,
    scripts.CLAIM_OWN: _ids,
    scripts.MOVE: _typed(tuple[int, int]),
    scripts.ADD_ONCE: _added_once,
    scripts.NOTHING: _number,
    scripts.STREAM_FACTS: _scripted_stream,
    scripts.LAST_ID: _one_id,
    scripts.COUNT_BETWEEN: _number,
    transactions.SCRIPT: _applied,
    transactions.SCRIPT_SHA: _applied,
}


def _scripted(command: Command, reply: Any) -> Any:
    reader = _BY_SCRIPT.get(command[1])
    return reply if reader is None else reader(command, reply)


_READERS: Final[Mapping[Any, Reader]] = {
    b"CLIENT": _number,
    b"COMMAND": _typed(list[list[Any] | None]),
    b"EVAL": _scripted,
    b"EVALSHA": _scripted,
    b"EXISTS": _number,
    b"INFO": _word,
    b"PUBLISH": _number,
    b"PUBSUB": _listeners,
    b"ROLE": _role,
    b"SENTINEL": _primary,
    b"TIME": _time,
    b"TYPE": _word,
    b"UNLINK": _number,
    b"WAIT": _number,
    b"WAITAOF": _typed(tuple[int, int]),
    b"XACK": _number,
    b"XADD": _added,
    b"XAUTOCLAIM": _claimed,
    b"XCLAIM": _ids,
    b"XDEL": _number,
    b"XGROUP": _grouped,
    b"XINFO": _described,
    b"XPENDING": _pending,
    b"XRANGE": _entries,
    b"XREAD": _streams,
    b"XREADGROUP": _streams,
    b"XREVRANGE": _entries,
    b"XTRIM": _number,
}
