"""Replies as values: facts as named tuples, errors classified by what they call for.

`reply_parsing` turns each reply into a value once, before any caller gets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from penstock.errors import SendFailed
from penstock.events import printable
from penstock.message import EntryId

__all__ = [
    "Claimed",
    "ConsumerInfo",
    "ErrorKind",
    "ErrorReply",
    "GroupInfo",
    "PendingEntry",
    "PendingSummary",
    "ProtocolError",
    "RawEntry",
    "StreamInfo",
]

RawEntry: TypeAlias = Sequence[Any]
"""`[id, [field, value, ...]]`; None instead of the fields of a deleted entry."""


class ProtocolError(Exception):
    """A malformed reply: it does not have the form that its command returns."""


class ErrorKind(Enum):
    """The reaction that an error reply calls for."""

    TRANSIENT = "wait and try again"
    REROUTE = "another node has it"
    REPAIR = "the stream or the group was deleted: recreate it"
    ISOLATE = "this key can't be used; the others can"
    FATAL = "the configuration forbids it: report it to the user"


# A command in a script that the user may not run is refused with various texts, and
# none of them begins with NOPERM.
_DENIED: Final = re.compile(
    r"^[^\r\n]{0,200}?(?=The user executing the script |ACL failure in script: )"
)


class ErrorReply:
    """An error reply as a value.

    Attributes:
        code: The first word of the reply, for example `NOGROUP`.
        text: The whole reply, made printable and cut.
        command: The name of the command that was refused; empty if it is unknown.
    """

    __slots__ = ("code", "command", "text")

    def __init__(self, text: str) -> None:
        self.command = ""
        self.text = printable(_DENIED.sub("NOPERM ", without_arguments(text), 1))
        self.code = self.text.partition(" ")[0]

    def __repr__(self) -> str:
        return f"ErrorReply({self.text!r})"

    @property
    def kind(self) -> ErrorKind:
        """The reaction that this reply calls for."""
        if known := _BY_CODE.get(self.code):
            return known
        text = self.text.lower()
        for words, kind in _BY_TEXT:
            if words in text:
                return kind
        # An unknown error may be transient: a refusal must not end a consumer
        # (chrisguidry/docket#477).
        return ErrorKind.TRANSIENT

    @property
    def temporary(self) -> bool:
        """Whether the server did nothing because of a temporary state of its own."""
        return self.code in _TEMPORARY


_TEMPORARY: Final = frozenset(
    (
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "NOREPLICAS",
        "READONLY",
        "TRYAGAIN",
    )
)

_BY_CODE: Final = {
    "MOVED": ErrorKind.REROUTE,
    "ASK": ErrorKind.REROUTE,
    "NOGROUP": ErrorKind.REPAIR,
    "WRONGTYPE": ErrorKind.ISOLATE,
    "NOAUTH": ErrorKind.FATAL,
    "NOPERM": ErrorKind.FATAL,
    "WRONGPASS": ErrorKind.FATAL,
    "CROSSSLOT": ErrorKind.FATAL,
}

# Redis 7 answers "UNBLOCKED the stream key no longer exists" where Valkey 9 answers
# NOGROUP. A demoted primary answers UNBLOCKED too, with another text, and that is
# transient.
_BY_TEXT: Final = (
    ("key no longer exists", ErrorKind.REPAIR),
    ("requires the key to exist", ErrorKind.REPAIR),
    ("no such key", ErrorKind.REPAIR),
    ("unknown command", ErrorKind.FATAL),
    ("unknown subcommand", ErrorKind.FATAL),
    ("syntax error", ErrorKind.FATAL),
    ("wrong number of arguments", ErrorKind.FATAL),
)


# Texts of the errors with which XADD refuses an id, each with its hint.
_ID_HINTS: Final = (
    (
        "equal or smaller",
        "pass an id or a timestamp above the stream's last one, or leave it out",
    ),
    (
        "invalid stream id",
        "timestamp= needs Redis 7 or Valkey; pass id=, or upgrade the server",
    ),
    (
        "exhausted the last possible id",
        "no id is left above the last one; send to another stream",
    ),
)


_MAY_NOT: Final = (
    "allow XADD to this user, for the stream's keys; with idempotent=True also EVAL, "
    "HMGET, HSET, HKEYS, HDEL and PEXPIRE, and the keys beside them"
)


CONNECTION_ENDED: Final = (
    "the server or a proxy seems to end each connection that brings this message: make "
    "it smaller, or raise the limit that it exceeds (proto-max-bulk-len, "
    "client-query-buffer-limit, or that of a proxy)"
)


ELSEWHERE: Final = (
    "this server is one of several nodes of a cluster, but Penstock connects to a "
    "single server: use the URL of a proxy in front of the cluster, or of a server "
    "outside a cluster"
)


def send_failed(stream: str, reply: ErrorReply) -> SendFailed:
    """Return the error for a refused XADD."""
    if reply.code == "NOPERM":
        return SendFailed(stream, reply.code, reply.text, _MAY_NOT)
    if reply.kind is ErrorKind.REROUTE:
        return SendFailed(stream, reply.code, reply.text, ELSEWHERE)
    text = reply.text.lower()
    if "protocol error" in text:
        return SendFailed(stream, reply.code, reply.text, CONNECTION_ENDED)
    for words, hint in _ID_HINTS:
        if words in text:
            return SendFailed(stream, "ID", reply.text, hint)
    return SendFailed(stream, reply.code, reply.text)


_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d+: -?([A-Z]+ .*)")


def of_script(reply: ErrorReply) -> ErrorReply:
    """Return the error of a script's command, which Redis 6.2 wraps in another one."""
    inner = _IN_SCRIPT.search(reply.text)
    if inner is None:
        return reply
    found = ErrorReply(inner[1])
    found.command = reply.command
    return found


def without_arguments(text: str) -> str:
    """Cut the arguments that "unknown command" repeats: payloads and passwords."""
    return text.partition(", with args beginning with")[0]


class PendingEntry(NamedTuple):
    """One entry in a reply of XPENDING.

    Attributes:
        id: The entry's id.
        consumer: The consumer that owns the entry.
        idle: Milliseconds since the entry was last delivered or claimed.
        deliveries: The number of deliveries.
    """

    id: bytes
    consumer: bytes
    idle: int
    deliveries: int


class PendingSummary(NamedTuple):
    """The summary form of XPENDING.

    Attributes:
        number: The number of pending entries.
        lowest: The lowest id of them; None if there are none.
        highest: The highest id of them; None if there are none.
        holders: The consumers that own pending entries, each with their number; None if
            there are none.
    """

    number: int
    lowest: bytes | None
    highest: bytes | None
    holders: list[tuple[bytes, bytes]] | None


class Claimed(NamedTuple):
    """The reply of XAUTOCLAIM.

    Attributes:
        cursor: The cursor at which to continue; `0-0` when all entries have been
            scanned.
        ids: The claimed entries; from Redis 6.2 also entries that are deleted from the
            stream.
        deleted: Ids of pending entries that the server removed from the pending list,
            whoever owned them, because they are deleted from the stream. Redis 6.2
            removes none.
    """

    cursor: bytes
    ids: Sequence[bytes]
    deleted: Sequence[bytes] = ()


class ConsumerInfo(NamedTuple):
    """One consumer in a reply of XINFO CONSUMERS.

    Attributes:
        name: The consumer's name.
        pending: Entries that were delivered to the consumer and are not acknowledged.
        idle: Milliseconds since the consumer's last request.
        inactive: Milliseconds since it was last given or acknowledged anything; None if
            it never was, or if the server does not report it, before Redis 7.2.
    """

    name: bytes
    pending: int
    idle: int
    inactive: int | None = None


class GroupInfo(NamedTuple):
    """One group in a reply of XINFO GROUPS.

    Attributes:
        name: The group's name.
        consumers: The number of consumers that the group knows.
        pending: Entries that were delivered and are not acknowledged.
        last_delivered: The highest id that the group has delivered.
        lag: Entries that have not been delivered yet; None if the server can't know.
        read: The number of entries up to the last delivered id, trimmed ones included;
            None if the server can't know.
    """

    name: bytes
    consumers: int
    pending: int
    last_delivered: bytes
    lag: int | None
    read: int | None = None


class StreamInfo(NamedTuple):
    """The reply of XINFO STREAM, without the entries.

    Attributes:
        length: The number of entries.
        last: The last generated id.
        first: The lowest id in the stream; None for an empty stream.
        deleted: The highest id that was deleted from the middle; None if the server
            does not report it, before Redis 7.
        newest: The highest id in the stream; None for an empty stream.
        added: The number of entries that were ever added; None before Redis 7.
        size: The bytes that the fields of the first and the last entry took in the
            reply; 0 if they were not in it.
    """

    length: int
    last: EntryId
    first: EntryId | None
    deleted: EntryId | None
    newest: EntryId | None = None
    added: int | None = None
    size: int = 0

    def count_above(
        self, delivered: EntryId, reported: int | None, *, trusted: bool = False
    ) -> int | None:
        """Return the number of entries above an id; None if that can't be known.

        Args:
            delivered: The id.
            reported: The server's own count, if it has one.
            trusted: Whether the server's count is right after entries were trimmed or
                deleted that had not been delivered; see `commands.counts_lag`.
        """
        if delivered >= self.last or self.first is None:
            return 0
        if delivered <= self.first:
            return self.length - (delivered == self.first)
        if reported is None or not 0 <= reported <= self.length:
            return None
        # If no entry was ever removed, no server can have missed one.
        whole = self.added == self.length
        holes = self.deleted is None or self.deleted > delivered
        return reported if whole or (trusted and not holes) else None


def highest_pending(summary: PendingSummary | ErrorReply) -> EntryId:
    """Return the highest pending id, or `EntryId.MAX` if the request was refused."""
    if isinstance(summary, ErrorReply):
        return EntryId.MAX
    return EntryId.MIN if summary.highest is None else EntryId.parse(summary.highest)


def bodies(ids: Sequence[bytes], found: Iterable[Any]) -> list[RawEntry]:
    """Combine ids with the replies of an XRANGE each; None for a deleted entry."""
    return [
        (id_, reply[0][1] if reply else None)
        for id_, reply in zip(ids, found, strict=True)
    ]


def transaction_replies(answers: Sequence[Any]) -> list[Any]:
    """Return the replies of a transaction's commands.

    If the server refused the transaction as a whole, the list has one reply: the
    refusal of the command that caused it, since EXEC does not say which command that
    was.
    """
    *queued, done = answers
    if not isinstance(done, ErrorReply):
        return list(done)
    return [next((one for one in queued if isinstance(one, ErrorReply)), done)]


def counts_lag(reply: Any) -> bool:
    """Return whether the server's lag can be trusted; see `commands.counts_lag`."""
    return isinstance(reply, list) and any(reply)


def lag(facts: Any, group: str, *, trusted: bool) -> int | None:
    """Return the number of entries not yet delivered to a group, or None if unknown.

    Args:
        facts: The replies of XINFO STREAM and XINFO GROUPS, sent in one transaction.
        group: The group's name.
        trusted: Whether the server's own count can be trusted.
    """
    if isinstance(facts, ErrorReply) or isinstance(facts[1], ErrorReply):
        return None
    name = group.encode()
    for info in facts[1]:
        if info.name == name:
            unread: int | None = facts[0].count_above(
                EntryId.parse(info.last_delivered), info.lag, trusted=trusted
            )
            return unread
    return None


def may_evict(reply: Any) -> bytes | None:
    """Return the eviction policy from INFO's memory section if it may evict streams.

    None if streams can't be evicted: there is no memory limit, or keys without a TTL
    are kept. None also if the server does not report its policy.
    """
    if not isinstance(reply, bytes):
        return None
    facts = dict(line.partition(b":")[::2] for line in reply.split(b"\r\n"))
    policy = facts.get(b"maxmemory_policy", b"")
    limited = facts.get(b"maxmemory", b"0") != b"0"
    return policy if limited and policy.startswith(b"allkeys") else None
