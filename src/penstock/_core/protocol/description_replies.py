"""Replies that describe streams, groups and consumers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import (
    ConsumerInfo,
    GroupInfo,
    ProtocolError,
    StreamInfo,
)
from penstock._core.protocol.reply_types import (
    check_id,
    entry_id,
    entry_id_or_none,
    pairs,
    typed,
)

__all__ = ["described", "scripted_stream"]

_Fields: TypeAlias = list[bytes]

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
_OF_CONSUMER: Final = (b"name", b"pending", b"idle", b"inactive")


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


_stream_typed: Final = typed(_StreamFacts)
_scripted_stream_typed: Final = typed(_ScriptedFacts)
_group_typed: Final = typed(GroupInfo)
_consumer_typed: Final = typed(ConsumerInfo)


def _facts(reply: Any, names: Iterable[bytes]) -> list[Any]:
    """Return the named values of a map; None for those that the server omits."""
    return list(map(pairs(reply).get, names))


def _stream(command: Command, reply: Any) -> StreamInfo:
    facts: _StreamFacts = _stream_typed(command, _facts(reply, _OF_STREAM))
    first, newest = facts.first, facts.newest
    return StreamInfo(
        facts.length,
        entry_id(facts.last),
        None if first is None else entry_id(first[0]),
        entry_id_or_none(facts.deleted),
        None if newest is None else entry_id(newest[0]),
        facts.added,
        sum(map(len, (*_fields_of(first), *_fields_of(newest)))),
    )


def _fields_of(entry: tuple[bytes, _Fields] | None) -> _Fields:
    return [] if entry is None else entry[1]


def scripted_stream(command: Command, reply: Any) -> StreamInfo:
    """Parse the reply of the script that describes a stream."""
    facts: _ScriptedFacts = _scripted_stream_typed(command, reply)
    return StreamInfo(
        facts.length,
        entry_id(facts.last),
        entry_id_or_none(facts.first),
        entry_id_or_none(facts.deleted),
        entry_id_or_none(facts.newest),
        facts.added,
    )


def _group(command: Command, reply: Any) -> GroupInfo:
    group: GroupInfo = _group_typed(command, _facts(reply, _OF_GROUP))
    check_id(group.last_delivered)
    return group


def _consumer(command: Command, reply: Any) -> ConsumerInfo:
    info: ConsumerInfo = _consumer_typed(command, _facts(reply, _OF_CONSUMER))
    # -1: it never was given anything.
    never = info.inactive is not None and info.inactive < 0
    return info._replace(inactive=None) if never else info


def described(command: Command, reply: Any) -> Any:
    """Parse the reply of XINFO."""
    if command[1] == b"STREAM":
        return _stream(command, reply)
    if type(reply) is not list:
        raise ProtocolError
    each = _group if command[1] == b"GROUPS" else _consumer
    return [each(command, one) for one in reply]
