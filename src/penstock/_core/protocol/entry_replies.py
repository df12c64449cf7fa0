"""Replies with entries, or with pending ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final, cast

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import (
    Claimed,
    PendingEntry,
    PendingSummary,
    ProtocolError,
    RawEntry,
)
from penstock._core.protocol.reply_types import check_id, check_ids, typed

__all__ = ["claimed", "entries", "ids", "pending", "streams"]

_head: Final = cast("Callable[[Sequence[Any]], Any]", itemgetter(0))
_second: Final = cast("Callable[[Sequence[Any]], Any]", itemgetter(1))

# The number of keys up to which they are searched for one by one.
_FEW: Final = 4

_streams_typed: Final = typed(dict[bytes, Any] | list[tuple[bytes, Any]] | None)

_LISTS: Final = {list}
_PAIRS: Final = {2}
_BODIES: Final = {list, type(None)}
_WORDS: Final = {bytes}


def _check_entries(entries: Any) -> None:
    """Check that these are pairs of an id and fields, or None in place of the fields.

    None in place of all of them is RESP2's null array, which some proxies send for an
    empty one.

    msgspec is not used here, because it makes new lists: twice as many containers for
    the garbage collector cost more than this check does.
    """
    if entries is None or entries == []:
        return
    if type(entries) is not list:
        raise ProtocolError
    if set(map(type, entries)) != _LISTS or set(map(len, entries)) != _PAIRS:
        raise ProtocolError
    check_ids(list(map(_head, entries)))
    bodies = list(map(_second, entries))
    if not _BODIES.issuperset(map(type, bodies)):
        raise ProtocolError
    there = list(filter(None, bodies))
    if not _WORDS.issuperset(map(type, chain.from_iterable(there))):
        raise ProtocolError
    # A field list has pairs of name and value.
    if sum(map(len, there)) % 2:
        raise ProtocolError


def entries(command: Command, reply: Any) -> Sequence[RawEntry]:
    """Parse the reply of XRANGE or XREVRANGE."""
    _check_entries(reply)
    found: list[RawEntry] = reply or []
    # A request for one id can't return another one.
    _, _, low, high, *_ = command
    if low == high and found and [id_ for id_, _ in found] != [low]:
        raise ProtocolError
    return found


def streams(command: Command, reply: Any) -> Iterable[tuple[bytes, Sequence[RawEntry]]]:
    """Parse the reply of XREAD or XREADGROUP: pairs of a key and at least one entry.

    Up to Redis 7.0, a blocked read can be answered with a stream that has no entries:
    the one that ended the wait was deleted in the same transaction or script. Such
    streams are left out.
    """
    found = _streams_typed(command, reply)
    if found is None:
        return ()
    came = found.items() if type(found) is dict else found
    words = frozenset(command) if len(came) > _FEW else command
    empty = False
    for key, entries in came:
        if key not in words:
            raise ProtocolError
        _check_entries(entries)
        empty = empty or not entries
    if empty:
        came = [(key, entries) for key, entries in came if entries]
    return cast("Iterable[tuple[bytes, Sequence[RawEntry]]]", came)


_page_typed: Final = typed(list[PendingEntry])
_summary_typed: Final = typed(PendingSummary)
_claimed_typed: Final = typed(Claimed)
_ids_typed: Final = typed(list[bytes])


def pending(command: Command, reply: Any) -> Any:
    """Parse the reply of XPENDING: the summary, or the entries if requested."""
    if len(command) > 3:  # noqa: PLR2004 - behind key and group
        page: list[PendingEntry] = _page_typed(command, reply)
        check_ids([line.id for line in page])
        return page
    summary: PendingSummary = _summary_typed(command, reply)
    bounds = [id_ for id_ in (summary.lowest, summary.highest) if id_ is not None]
    if len(bounds) != (2 if summary.number else 0):
        raise ProtocolError
    for bound in bounds:
        check_id(bound)
    if any(not count.isdigit() for _, count in summary.holders or ()):
        raise ProtocolError
    return summary


def claimed(command: Command, reply: Any) -> Claimed:
    """Parse the reply of XAUTOCLAIM JUSTID; that of Redis 6.2 has no third part."""
    page: Claimed = _claimed_typed(command, reply)
    check_id(page.cursor)
    check_ids(page.ids)
    check_ids(page.deleted)
    return page


def ids(command: Command, reply: Any) -> list[bytes]:
    """Parse the reply of XCLAIM with JUSTID."""
    found: list[bytes] = _ids_typed(command, reply)
    check_ids(found)
    return found
