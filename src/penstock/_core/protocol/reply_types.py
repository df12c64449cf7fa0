"""Types of replies: checks that all parsers of replies share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ProtocolError
from penstock.errors import ConfigurationError
from penstock.message import EntryId

__all__ = [
    "ReplyParser",
    "check_id",
    "check_ids",
    "entry_id",
    "entry_id_or_none",
    "pairs",
    "typed",
]

ReplyParser: TypeAlias = Callable[[Command, Any], Any]

_ID: Final = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
# Both parts certainly fit into 64 bits.
_SHORT_ID: Final = re.compile(rb"[0-9]{1,19}-[0-9]{1,19}")
_IN_IDS: Final = b"0123456789-"


def typed(kind: Any) -> ReplyParser:
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


def check_id(raw: bytes) -> None:
    if _SHORT_ID.fullmatch(raw) is None:
        entry_id(raw)


def entry_id(raw: bytes) -> EntryId:
    if _ID.fullmatch(raw) is None:
        raise ProtocolError
    try:
        return EntryId.parse(raw)
    except ConfigurationError:  # a part has more than 64 bits
        raise ProtocolError from None


def entry_id_or_none(raw: bytes | None) -> EntryId | None:
    return None if raw is None else entry_id(raw)


def check_ids(raw: Sequence[Any]) -> None:
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
    check_id(raw[0])
    check_id(raw[-1])


def pairs(reply: Any) -> dict[bytes, Any]:
    """Parse a map: a dict in RESP3, a flat list in RESP2."""
    if type(reply) is list and len(reply) % 2 == 0:
        names = reply[::2]
        if all(type(name) is bytes for name in names):
            return dict(zip(names, reply[1::2], strict=True))
    if type(reply) is not dict:
        raise ProtocolError
    return reply
