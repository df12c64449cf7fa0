"""Replies as values, and their encoding in RESP2 and RESP3.

`bytes` is a bulk string, `int` a number, `None` a null, `list` and `tuple` an array,
`dict` a map (in RESP2 the flat list of its pairs), `float` a double. The classes here
stand for what Python has no type for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

__all__ = [
    "NO_ARRAY",
    "OK",
    "QUEUED",
    "Fault",
    "Keyed",
    "Members",
    "Push",
    "Refusal",
    "Reply",
    "Status",
    "Text",
    "bulk",
    "encode",
]

Reply: TypeAlias = Any


class Status:
    """A simple string, such as `+OK`."""

    __slots__ = ("text", "wire")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.wire = b"+%b\r\n" % text


class Fault:
    """An error as a reply, as it is within the reply to EXEC."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text


class Refusal(Exception):  # noqa: N818 - it is a reply
    """A command's error, raised; its text begins with the code."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class Push(tuple[Any, ...]):
    """An array that is a push in RESP3."""

    __slots__ = ()


class Members(tuple[Any, ...]):
    """An array that is a set in RESP3."""

    __slots__ = ()


class Keyed(list[tuple[bytes, Any]]):
    """Pairs that are a map in RESP3 and an array of arrays in RESP2."""

    __slots__ = ()


class Text(bytes):
    """A text that is a verbatim string in RESP3."""

    __slots__ = ()


class _NoArray:
    """The null array; a null in RESP3."""

    __slots__ = ()


NO_ARRAY: Final = _NoArray()
OK: Final = Status(b"OK")
QUEUED: Final = Status(b"QUEUED")


def bulk(word: bytes) -> bytes:
    """Return a bulk string."""
    return b"$%d\r\n%b\r\n" % (len(word), word)


def encode(reply: Reply, *, resp3: bool) -> bytes:
    """Return a reply as it is sent."""
    kind = type(reply)
    if kind is bytes:
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if kind is int:
        return b":%d\r\n" % reply
    if kind is Status:
        return reply.wire  # type: ignore[no-any-return]
    out: list[bytes] = []
    _append(out, reply, resp3)
    return b"".join(out)


def _append(out: list[bytes], reply: Reply, resp3: bool) -> None:  # noqa: FBT001
    kind = type(reply)
    if kind is bytes:
        out.append(b"$%d\r\n%b\r\n" % (len(reply), reply))
    elif kind is int:
        out.append(b":%d\r\n" % reply)
    elif kind is list or kind is tuple:
        _append_all(out, b"*", reply, resp3)
    elif reply is None:
        out.append(b"_\r\n" if resp3 else b"$-1\r\n")
    else:
        _append_rare(out, reply, resp3)


def _append_all(
    out: list[bytes],
    sign: bytes,
    items: Sequence[Reply],
    resp3: bool,  # noqa: FBT001
) -> None:
    out.append(b"%b%d\r\n" % (sign, len(items)))
    for item in items:
        # Entries of streams keep their encoding, which is the same in both protocols.
        wire = getattr(item, "wire", None)
        if wire is not None:
            out.append(wire)
        else:
            _append(out, item, resp3)


def _append_rare(out: list[bytes], reply: Reply, resp3: bool) -> None:  # noqa: FBT001
    match reply:
        case Fault():
            out.append(b"-%b\r\n" % reply.text)
        case Text():
            word = bytes(reply)
            size = len(word) + 4
            out.append(b"=%d\r\ntxt:%b\r\n" % (size, word) if resp3 else bulk(word))
        case Push():
            _append_all(out, b">" if resp3 else b"*", reply, resp3)
        case Members():
            _append_all(out, b"~" if resp3 else b"*", reply, resp3)
        case Keyed():
            out.append(b"%b%d\r\n" % (b"%" if resp3 else b"*", len(reply)))
            for key, value in reply:
                out.append(bulk(key) if resp3 else b"*2\r\n" + bulk(key))
                _append(out, value, resp3)
        case dict():
            size = len(reply) if resp3 else 2 * len(reply)
            out.append(b"%b%d\r\n" % (b"%" if resp3 else b"*", size))
            for key, value in reply.items():
                out.append(bulk(key))
                _append(out, value, resp3)
        case float():
            word = b"%.17g" % reply
            out.append(b",%b\r\n" % word if resp3 else bulk(word))
        case _NoArray():
            out.append(b"_\r\n" if resp3 else b"*-1\r\n")
        case _:
            out.append(reply.wire)
