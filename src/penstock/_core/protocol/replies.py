"""What replies say: facts as values, errors as classes.

Values are made of replies in `answers`, once for all, before anybody gets them.
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
    "Pending",
    "ProtocolError",
    "RawEntry",
    "StreamInfo",
    "Summary",
]

RawEntry: TypeAlias = Sequence[Any]
"""`[id, [field, value, ...]]`; None for the fields of a deleted entry."""


class ProtocolError(Exception):
    """A reply is not what its command brings."""


class ErrorKind(Enum):
    """What an error reply calls for."""

    TRANSIENT = "wait and try again"
    REROUTE = "another node has it"
    REPAIR = "the stream or the group is gone: make it anew"
    ISOLATE = "this key can't be used; the others can"
    FATAL = "the configuration forbids it: tell the user"


# What a user may not do in a script goes by many names, and none begins with NOPERM.
_DENIED: Final = re.compile(
    r"^[^\r\n]{0,200}?(?=The user executing the script |ACL failure in script: )"
)


class ErrorReply:
    """An error reply as a value.

    Attributes:
        code: Its first word, for example `NOGROUP`.
        text: The whole reply, made printable and cut.
    """

    __slots__ = ("code", "text")

    def __init__(self, text: str) -> None:
        self.text = printable(_DENIED.sub("NOPERM ", without_arguments(text), 1))
        self.code = self.text.partition(" ")[0]

    def __repr__(self) -> str:
        return f"ErrorReply({self.text!r})"

    @property
    def trouble(self) -> ErrorKind:
        """What it calls for."""
        if known := _BY_CODE.get(self.code):
            return known
        text = self.text.lower()
        for words, trouble in _BY_TEXT:
            if words in text:
                return trouble
        # What we don't know may pass: a refusal must not end a consumer
        # (chrisguidry/docket#477).
        return ErrorKind.TRANSIENT

    @property
    def passing(self) -> bool:
        """Whether nothing was done because of the server's state at that moment."""
        return self.code in _PASSING


_PASSING: Final = frozenset(
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

# Redis 7 says "UNBLOCKED the stream key no longer exists" where Valkey 9 says
# NOGROUP; a demoted primary says UNBLOCKED too, and that passes.
_BY_TEXT: Final = (
    ("key no longer exists", ErrorKind.REPAIR),
    ("requires the key to exist", ErrorKind.REPAIR),
    ("no such key", ErrorKind.REPAIR),
    ("unknown command", ErrorKind.FATAL),
    ("unknown subcommand", ErrorKind.FATAL),
    ("syntax error", ErrorKind.FATAL),
    ("wrong number of arguments", ErrorKind.FATAL),
)


# What an XADD is refused for because of its id.
_ID_HINTS: Final = (
    (
        "equal or smaller",
        "give an id or a time above the last one of the stream, or none",
    ),
    (
        "invalid stream id",
        "timestamp= needs Redis 7 or Valkey; give id=, or upgrade the server",
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


ELSEWHERE: Final = (
    "this is one of several nodes of a cluster, and Penstock speaks to one server: "
    "give the URL of a proxy in front of the cluster, or of a server that is none"
)


def send_failed(stream: str, reply: ErrorReply) -> SendFailed:
    """Make an error of a refused XADD."""
    if reply.code == "NOPERM":
        return SendFailed(stream, reply.code, reply.text, _MAY_NOT)
    if reply.trouble is ErrorKind.REROUTE:
        return SendFailed(stream, reply.code, reply.text, ELSEWHERE)
    text = reply.text.lower()
    for words, hint in _ID_HINTS:
        if words in text:
            return SendFailed(stream, "ID", reply.text, hint)
    return SendFailed(stream, reply.code, reply.text)


_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d+: -?([A-Z]+ .*)")


def of_script(reply: ErrorReply) -> ErrorReply:
    """Find what was refused inside a script; Redis 6.2 says only that it failed."""
    inner = _IN_SCRIPT.search(reply.text)
    return reply if inner is None else ErrorReply(inner[1])


def without_arguments(text: str) -> str:
    """Cut what "unknown command" repeats of a command: payloads and passwords."""
    return text.partition(", with args beginning with")[0]


class Pending(NamedTuple):
    """One line of XPENDING.

    Attributes:
        id: The entry's id.
        consumer: Who has it.
        idle: Milliseconds since it was last given to somebody.
        deliveries: How often it was.
    """

    id: bytes
    consumer: bytes
    idle: int
    deliveries: int


class Summary(NamedTuple):
    """XPENDING's summary.

    Attributes:
        number: How many entries are pending.
        lowest: The lowest id of them; None without any.
        highest: The highest.
        holders: The consumers that have some, each with how many; None without any.
    """

    number: int
    lowest: bytes | None
    highest: bytes | None
    holders: list[tuple[bytes, bytes]] | None


class Claimed(NamedTuple):
    """XAUTOCLAIM's reply.

    Attributes:
        cursor: Where to go on; `0-0` when all have been looked at.
        ids: What was taken over; by Redis 6.2 also what is deleted from the stream.
        deleted: Ids of pending entries that the server let go, whoever had them,
            because they are deleted from the stream; Redis 6.2 lets none go.
    """

    cursor: bytes
    ids: Sequence[bytes]
    deleted: Sequence[bytes] = ()


class ConsumerInfo(NamedTuple):
    """One consumer of XINFO CONSUMERS.

    Attributes:
        name: The consumer's name.
        pending: Entries it was given and has not acknowledged.
        idle: Milliseconds since it last asked for anything.
    """

    name: bytes
    pending: int
    idle: int


class GroupInfo(NamedTuple):
    """One group of XINFO GROUPS.

    Attributes:
        name: The group's name.
        consumers: How many consumers it knows.
        pending: Entries delivered and not acknowledged.
        last_delivered: The highest id that it has delivered.
        lag: Entries not delivered yet; None where the server can't tell.
        read: How many entries lie up to that id, trimmed ones included; None where the
            server can't tell.
    """

    name: bytes
    consumers: int
    pending: int
    last_delivered: bytes
    lag: int | None
    read: int | None = None


class StreamInfo(NamedTuple):
    """What XINFO STREAM says, without the entries.

    Attributes:
        length: How many entries there are.
        last: The highest id that there has been.
        first: The lowest id that there is; None in an empty stream.
        deleted: The highest id that was deleted from the middle; None where the
            server does not tell, before Redis 7.
        newest: The highest id that there is; None in an empty stream.
        added: How many entries were ever added; None before Redis 7.
    """

    length: int
    last: EntryId
    first: EntryId | None
    deleted: EntryId | None
    newest: EntryId | None = None
    added: int | None = None

    def behind(
        self, delivered: EntryId, told: int | None, *, trusted: bool = False
    ) -> int | None:
        """Count the entries above an id; None where that can't be known.

        Args:
            delivered: The id.
            told: The server's own count, if it has one.
            trusted: Whether its count is right after entries were trimmed or deleted
                that had not been delivered; see `counts_lag`.
        """
        if delivered >= self.last or self.first is None:
            return 0
        if delivered <= self.first:
            return self.length - (delivered == self.first)
        if told is None or not 0 <= told <= self.length:
            return None
        # Where nothing was ever removed, no server can have missed anything.
        whole = self.added == self.length
        holes = self.deleted is None or self.deleted > delivered
        return told if whole or (trusted and not holes) else None


def highest_pending(summary: Summary | ErrorReply) -> EntryId:
    """Give the highest pending id; if it was refused to tell, the last there is."""
    if isinstance(summary, ErrorReply):
        return EntryId.MAX
    return EntryId.MIN if summary.highest is None else EntryId.parse(summary.highest)


def bodies(ids: Sequence[bytes], found: Iterable[Any]) -> list[RawEntry]:
    """Put ids and the replies of an XRANGE each together; None where it is deleted."""
    return [
        (id_, reply[0][1] if reply else None)
        for id_, reply in zip(ids, found, strict=True)
    ]


def together(answers: Sequence[Any]) -> list[Any]:
    """Give the replies of a transaction's commands.

    If it was refused as a whole, that is the only one: of the command for which it was,
    since EXEC does not say which.
    """
    *queued, done = answers
    if not isinstance(done, ErrorReply):
        return list(done)
    return [next((one for one in queued if isinstance(one, ErrorReply)), done)]


def counts_lag(reply: Any) -> bool:
    """Return whether a server's count of a lag can be trusted; see `commands`."""
    return isinstance(reply, list) and any(reply)


def lag(facts: Any, group: str, *, trusted: bool) -> int | None:
    """Count what a group was not given yet; None where that can't be known.

    Args:
        facts: The replies of XINFO STREAM and XINFO GROUPS, asked in one transaction.
        group: The group's name.
        trusted: Whether the server's own count can be trusted.
    """
    if isinstance(facts, ErrorReply) or isinstance(facts[1], ErrorReply):
        return None
    name = group.encode()
    for info in facts[1]:
        if info.name == name:
            behind: int | None = facts[0].behind(
                EntryId.parse(info.last_delivered), info.lag, trusted=trusted
            )
            return behind
    return None


def may_evict(reply: Any) -> bytes | None:
    """Read from INFO's memory section the policy by which streams may be evicted.

    None if they can't be: there is no limit, or keys without a TTL are kept. None too
    where the server does not tell.
    """
    if not isinstance(reply, bytes):
        return None
    facts = dict(line.partition(b":")[::2] for line in reply.split(b"\r\n"))
    policy = facts.get(b"maxmemory_policy", b"")
    limited = facts.get(b"maxmemory", b"0") != b"0"
    return policy if limited and policy.startswith(b"allkeys") else None
