"""Raw RESP replies, 2 or 3, to values; error replies to classes.

What comes in is what hiredis made of the bytes: lists, dicts (RESP3 maps), bytes,
ints, None, and `ErrorReply` for an error, at any depth, never raised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from penstock.errors import SendFailed
from penstock.events import printable
from penstock.message import EntryId

__all__ = [
    "Claimed",
    "ConsumerInfo",
    "ErrorReply",
    "GroupInfo",
    "Pending",
    "RawEntry",
    "StreamInfo",
    "Trouble",
]

RawEntry: TypeAlias = Sequence[Any]
"""`[id, [field, value, ...]]`; None for the fields of a deleted entry."""


class Trouble(Enum):
    """What an error reply calls for."""

    TRANSIENT = "wait and try again"
    REROUTE = "another node has it"
    REPAIR = "the stream or the group is gone: make it anew"
    ISOLATE = "this key can't be used; the others can"
    FATAL = "the configuration forbids it: tell the user"


class ErrorReply:
    """An error reply as a value.

    Attributes:
        code: Its first word, for example `NOGROUP`.
        text: The whole reply, made printable and cut.
    """

    __slots__ = ("code", "text")

    def __init__(self, text: str) -> None:
        self.text = printable(without_arguments(text))
        self.code = self.text.partition(" ")[0]

    def __repr__(self) -> str:
        return f"ErrorReply({self.text!r})"

    @property
    def trouble(self) -> Trouble:
        """What it calls for."""
        if known := _BY_CODE.get(self.code):
            return known
        text = self.text.lower()
        for words, trouble in _BY_TEXT:
            if words in text:
                return trouble
        # What we don't know may pass: a refusal must not end a consumer
        # (chrisguidry/docket#477).
        return Trouble.TRANSIENT


_BY_CODE: Final = {
    "MOVED": Trouble.REROUTE,
    "ASK": Trouble.REROUTE,
    "NOGROUP": Trouble.REPAIR,
    "WRONGTYPE": Trouble.ISOLATE,
    "NOAUTH": Trouble.FATAL,
    "NOPERM": Trouble.FATAL,
    "WRONGPASS": Trouble.FATAL,
    "CROSSSLOT": Trouble.FATAL,
}

# Redis 7 says "UNBLOCKED the stream key no longer exists" where Valkey 9 says
# NOGROUP; a demoted primary says UNBLOCKED too, and that passes.
_BY_TEXT: Final = (
    ("key no longer exists", Trouble.REPAIR),
    ("requires the key to exist", Trouble.REPAIR),
    ("no such key", Trouble.REPAIR),
    ("unknown command", Trouble.FATAL),
    ("unknown subcommand", Trouble.FATAL),
    ("syntax error", Trouble.FATAL),
    ("wrong number of arguments", Trouble.FATAL),
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


def send_failed(stream: str, reply: ErrorReply) -> SendFailed:
    """Make an error of a refused XADD."""
    text = reply.text.lower()
    for words, hint in _ID_HINTS:
        if words in text:
            return SendFailed(stream, "ID", reply.text, hint)
    return SendFailed(stream, reply.code, reply.text)


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
    deleted: Sequence[bytes]


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
    """

    name: bytes
    consumers: int
    pending: int
    last_delivered: bytes
    lag: int | None


class StreamInfo(NamedTuple):
    """What XINFO STREAM says.

    Attributes:
        length: How many entries there are.
        last: The highest id that there has been.
        first: The lowest id that there is; None in an empty stream.
        deleted: The highest id that was deleted from the middle; None where the
            server does not tell, before Redis 7.
    """

    length: int
    last: EntryId
    first: EntryId | None
    deleted: EntryId | None

    def behind(self, delivered: EntryId, told: int | None) -> int | None:
        """Count the entries above an id; None where that can't be known.

        What the server tells is right only while no entry above the id was deleted
        (redis/redis#13957), so it is not asked where the answer is plain.

        Args:
            delivered: The id.
            told: The server's own count, if it has one.
        """
        if delivered >= self.last or self.first is None:
            return 0
        if delivered < self.first:
            return self.length
        holes = self.deleted is None or self.deleted > delivered
        if told is None or holes or not 0 <= told <= self.length:
            return None
        return told


def stream(reply: Any) -> StreamInfo:
    """Read XINFO STREAM's reply."""
    facts = mapping(reply)
    first, deleted = facts[b"first-entry"], facts.get(b"max-deleted-entry-id")
    return StreamInfo(
        facts[b"length"],
        EntryId.parse(facts[b"last-generated-id"]),
        EntryId.parse(first[0]) if first else None,
        EntryId.parse(deleted) if deleted is not None else None,
    )


def streams(reply: Any) -> Collection[tuple[bytes, Sequence[RawEntry]]]:
    """Read XREAD's or XREADGROUP's reply: pairs of key and entries."""
    if reply is None:
        return ()
    return reply.items() if isinstance(reply, dict) else reply


def pending_page(reply: Any) -> list[Pending]:
    """Read XPENDING's extended reply."""
    return [Pending(*line) for line in reply]


def lowest_pending(reply: Any) -> bytes | None:
    """Read from XPENDING's summary the lowest pending id, None without any."""
    return reply[1] if reply[0] else None


def highest_pending(reply: Any) -> EntryId:
    """Read from XPENDING's summary the highest pending id; if refused, the last."""
    if isinstance(reply, ErrorReply):
        return EntryId.MAX
    return EntryId.parse(reply[2]) if reply[0] else EntryId.MIN


def claimed(reply: Any) -> Claimed:
    """Read the reply of XAUTOCLAIM with JUSTID.

    It is of two parts from Redis 6.2, of three from later ones.
    """
    deleted = reply[2] if len(reply) > 2 else ()  # noqa: PLR2004
    return Claimed(reply[0], reply[1], deleted)


def bodies(ids: Sequence[bytes], found: Iterable[Any]) -> list[RawEntry]:
    """Put ids and the replies of an XRANGE each together; None where it is deleted."""
    return [
        [id_, reply[0][1] if reply else None]
        for id_, reply in zip(ids, found, strict=True)
    ]


def consumers(reply: Any) -> Iterator[ConsumerInfo]:
    """Read XINFO CONSUMERS' reply."""
    for raw in reply:
        facts = mapping(raw)
        yield ConsumerInfo(facts[b"name"], facts[b"pending"], facts[b"idle"])


def mapping(reply: Any) -> dict[bytes, Any]:
    """Read a map: a dict in RESP3, a flat list in RESP2."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def groups(reply: Any) -> Iterator[GroupInfo]:
    """Read XINFO GROUPS' reply; Redis 6.2 has no lag in it."""
    for raw in reply:
        facts = mapping(raw)
        yield GroupInfo(
            facts[b"name"],
            facts[b"consumers"],
            facts[b"pending"],
            facts[b"last-delivered-id"],
            facts.get(b"lag"),
        )


def lag(facts: Any, group: str) -> int | None:
    """Count what a group was not given yet; None where that can't be known.

    Args:
        facts: The replies of XINFO STREAM and XINFO GROUPS, asked in one transaction.
        group: The group's name.
    """
    if isinstance(facts, ErrorReply) or isinstance(facts[1], ErrorReply):
        return None
    name = group.encode()
    for info in groups(facts[1]):
        if info.name == name:
            return stream(facts[0]).behind(EntryId.parse(info.last_delivered), info.lag)
    return None


def known_commands(reply: Any) -> list[bool]:
    """Read COMMAND INFO's reply: which of the commands asked about there are."""
    return [line is not None for line in reply]


def documented_tokens(reply: Any) -> dict[bytes, set[bytes]]:
    """Read COMMAND DOCS' reply: per command, its arguments' names and tokens."""
    return {
        name.lower(): set(_tokens(mapping(doc).get(b"arguments", ())))
        for name, doc in mapping(reply).items()
    }


def _tokens(arguments: Iterable[Any]) -> Iterator[bytes]:
    for argument in arguments:
        facts = mapping(argument)
        yield facts[b"name"].upper()
        if token := facts.get(b"token"):
            yield token.upper()
        yield from _tokens(facts.get(b"arguments", ()))
