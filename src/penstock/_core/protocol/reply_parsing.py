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

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, cast

from penstock._core.protocol import (
    dead_letter_scripts,
    ownership_check,
    ownership_replies,
    ownership_scripts,
    relay_script,
    scripts,
    sending_scripts,
    transaction_script,
    transactions,
)
from penstock._core.protocol.commands import Command, name_of
from penstock._core.protocol.description_replies import described, scripted_stream
from penstock._core.protocol.entry_replies import (
    claimed,
    entries,
    ids,
    pending,
    streams,
)
from penstock._core.protocol.replies import (
    ErrorReply,
    ProtocolError,
)
from penstock._core.protocol.reply_types import ReplyParser, check_ids, pairs, typed
from penstock.events import printable

__all__ = ["parse"]

_head: Final = cast("Callable[[Sequence[Any]], Any]", itemgetter(0))
_ONLY_XADD: Final = {b"XADD"}


def parse(batch: Sequence[Command], replies: list[Any]) -> list[Any]:
    """Parse the replies to commands that were sent together; errors stay as they are.

    The batch may have commands that Penstock does not use, for tests: their replies are
    returned unchanged.

    Args:
        batch: The commands.
        replies: The reply of each command.

    Raises:
        ProtocolError: A reply does not have the form that its command returns.
    """
    if set(map(_head, batch)) == _ONLY_XADD:
        check_ids([reply for reply in replies if type(reply) is not ErrorReply])
        return replies
    values: list[Any] = []
    queued: list[Command] | None = None
    for command, reply in zip(batch, replies, strict=True):
        head = command[0]
        if head == b"MULTI":
            queued = []
            values.append(reply)
        elif queued is None:
            values.append(_parse_one(command, reply))
        elif head == b"EXEC":
            values.append(_parse_all(queued, reply))
            queued = None
        else:
            queued.append(command)
            if type(reply) is ErrorReply:
                reply.command = name_of(command)
            values.append(reply)
    return values


def _parse_all(queued: Sequence[Command], reply: Any) -> Any:
    """Parse EXEC's reply: the replies of the queued commands, or the error."""
    if type(reply) is ErrorReply:
        reply.command = "EXEC"
        return reply
    if type(reply) is not list or len(reply) != len(queued):
        raise ProtocolError
    return [_parse_one(*pair) for pair in zip(queued, reply, strict=True)]


def _parse_one(command: Command, reply: Any) -> Any:
    if type(reply) is ErrorReply:
        reply.command = name_of(command)
        return reply
    parser = _PARSERS.get(command[0])
    return reply if parser is None else parser(command, reply)


# -- the rest ----------------------------------------------------------------------

_number: Final = typed(int)
_word: Final = typed(bytes)
_string: Final = typed(bytes | None)
_strings: Final = typed(list[bytes | None])
_scanned: Final = typed(tuple[bytes, list[bytes]])
_infos_typed: Final = typed(list[list[Any] | None])
_time_typed: Final = typed(tuple[bytes, bytes])
_pair_typed: Final = typed(tuple[bytes, bytes] | None)
_PORTS: Final = 65536
_LONGEST_VERSION: Final = 40  # characters
_counts_typed: Final = typed(list[int])
_number_or_none: Final = typed(int | None)


def _one_id(_: Command, reply: Any) -> bytes:
    """Parse the reply of a script that returns an id."""
    check_ids([reply])
    return bytes(reply)


def _added(_: Command, reply: Any) -> bytes:
    """Parse the reply of XADD."""
    check_ids([reply])
    return cast("bytes", reply)


def _greeting(_: Command, reply: Any) -> str:
    """Parse the reply of HELLO 3 and return the server's version; empty without one."""
    match reply:
        case {b"proto": 3, b"version": bytes(version)}:
            return printable(version, _LONGEST_VERSION)
        case {b"proto": 3}:
            return ""
    raise ProtocolError


def _role(_: Command, reply: Any) -> bytes:
    """Parse the reply of ROLE and return its first word."""
    match reply:
        case [bytes(role), *_]:
            return role
    raise ProtocolError


def _primary(command: Command, reply: Any) -> tuple[bytes, int] | None:
    """Parse a primary's host and port."""
    found: tuple[bytes, bytes] | None = _pair_typed(command, reply)
    if found is None:
        return None
    host, port = found
    if not port.isdigit() or not 0 < int(port) < _PORTS:
        raise ProtocolError
    return host, int(port)


def _grouped(command: Command, reply: Any) -> int | bytes:
    """Parse the reply of XGROUP: what deletes something returns a number."""
    parser = _number if command[1] in {b"DELCONSUMER", b"DESTROY"} else _word
    return cast("int | bytes", parser(command, reply))


def _client(command: Command, reply: Any) -> int | bytes:
    """Parse the reply of CLIENT: SETNAME returns a word, ID and UNBLOCK a number."""
    parser = _word if command[1] == b"SETNAME" else _number
    return cast("int | bytes", parser(command, reply))


def _existing(command: Command, reply: Any) -> list[bool]:
    """Parse the reply of COMMAND INFO: whether each of the commands exists."""
    return [info is not None for info in _infos_typed(command, reply)]


def _time(command: Command, reply: Any) -> int:
    """Parse the reply of TIME and return it in milliseconds since 1970."""
    parts = _time_typed(command, reply)
    if not all(part.isdigit() for part in parts):
        raise ProtocolError
    seconds, micros = map(int, parts)
    return seconds * 1000 + micros // 1000


def _listeners(command: Command, reply: Any) -> list[int]:
    """Parse the reply of PUBSUB NUMSUB: the number of subscribers of each channel."""
    counts = list(pairs(reply).values())
    return cast("list[int]", _counts_typed(command, counts))


# -- scripts -----------------------------------------------------------------------


_acked_copy: Final = typed(tuple[int, bytes])


def _dead_lettered(command: Command, reply: Any) -> int | bytes | tuple[int, bytes]:
    if type(reply) is list:
        acked, copy = _acked_copy(command, reply)
        return acked, _added(command, copy)
    parser = _number if type(reply) is int else _added
    return cast("int | bytes", parser(command, reply))


def _added_once(command: Command, reply: Any) -> bytes:
    """Parse a run's reply: for each message a line with its id or with the error.

    A command without messages cancels its run. The reply is empty if that run was never
    executed.
    """
    outcomes: bytes = _word(command, reply)
    count = sending_scripts.count_added(command)
    lines = outcomes.split(b"\n") if outcomes or count else []
    if count and len(lines) != count:
        raise ProtocolError
    check_ids([line for line in lines if not line.startswith(b"!")])
    return outcomes


def _applied(_: Command, reply: Any) -> transactions.Applied:
    return transactions.read(reply)


def _relayed(_: Command, reply: Any) -> relay_script.Relayed:
    return relay_script.read(reply)


_owned_relayed: Final = ownership_replies.or_fenced(_relayed)
_owned_dead_lettered: Final = ownership_replies.or_fenced(_dead_lettered)
_owned_applied: Final = ownership_replies.or_fenced(_applied)
_BY_SCRIPT: Final[Mapping[Any, ReplyParser]] = {
    scripts.TRIM_ACKED: _number,
    scripts.REMOVE_EMPTY: _number,
    dead_letter_scripts.SEND_DEAD_LETTER: _dead_lettered,
    dead_letter_scripts.SEND_OWNED_DEAD_LETTER: _owned_dead_lettered,
    scripts.CLAIM_OWN: ids,
    dead_letter_scripts.MOVE: typed(tuple[int, int]),
    sending_scripts.ADD_ONCE: _added_once,
    scripts.NOTHING: _number,
    scripts.STREAM_FACTS: scripted_stream,
    scripts.LAST_ID: _one_id,
    scripts.COUNT_BETWEEN: _number,
    scripts.REPLACE: _number,
    ownership_check.CHECK: ownership_check.read_check,
    ownership_scripts.BEAT: ownership_replies.read_beat,
    ownership_scripts.ASSIGN: ownership_replies.read_assigned,
    ownership_scripts.LEAVE: _number,
    ownership_scripts.TAKE: ownership_replies.read_taken,
    ownership_scripts.KEEP: ownership_replies.read_kept,
    ownership_scripts.FREE: ownership_replies.read_kept,
    ownership_scripts.FORGET: _number,
    ownership_scripts.GUARD: ownership_replies.read_guarded,
    relay_script.SCRIPT: _relayed,
    relay_script.SCRIPT_SHA: _relayed,
    relay_script.OWNED_SCRIPT: _owned_relayed,
    relay_script.OWNED_SCRIPT_SHA: _owned_relayed,
    transaction_script.SCRIPT: _applied,
    transaction_script.SCRIPT_SHA: _applied,
    transaction_script.OWNED_SCRIPT: _owned_applied,
    transaction_script.OWNED_SCRIPT_SHA: _owned_applied,
}


def _scripted(command: Command, reply: Any) -> Any:
    parser = _BY_SCRIPT.get(command[1])
    return reply if parser is None else parser(command, reply)


def _words(_: Command, reply: Any) -> dict[bytes, bytes]:
    """Parse a map of words; in RESP2 it is a list of names and values in turn."""
    if isinstance(reply, dict):
        reply = [word for pair in reply.items() for word in pair]
    if not isinstance(reply, list) or len(reply) % 2:
        raise ProtocolError
    if not all(type(word) is bytes for word in reply):
        raise ProtocolError
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _fields(command: Command, reply: Any) -> list[bytes | None]:
    """Parse the reply of HMGET: the value of each field, or None."""
    values: list[bytes | None] = _strings(command, reply)
    if len(values) != len(command) - 2:
        raise ProtocolError
    return values


_PARSERS: Final[Mapping[Any, ReplyParser]] = {
    b"ACL": _word,
    b"AUTH": _word,
    b"CLIENT": _client,
    b"COMMAND": _existing,
    b"CONFIG": _words,
    b"EVAL": _scripted,
    b"EVALSHA": _scripted,
    b"EXISTS": _number,
    b"GET": _string,
    b"HELLO": _greeting,
    b"HGET": _string,
    b"HGETALL": _words,
    b"HMGET": _fields,
    b"INFO": _word,
    b"LLEN": _number,
    b"LPUSH": _number,
    b"MEMORY": _number_or_none,
    b"MGET": _strings,
    b"PEXPIRE": _number,
    b"PING": _word,
    b"PUBLISH": _number,
    b"PUBSUB": _listeners,
    b"ROLE": _role,
    b"RPUSH": _number,
    b"SCAN": _scanned,
    b"SELECT": _word,
    b"SENTINEL": _primary,
    b"SET": _string,
    b"TIME": _time,
    b"TYPE": _word,
    b"UNLINK": _number,
    b"WAIT": _number,
    b"WAITAOF": typed(tuple[int, int]),
    b"XACK": _number,
    b"XADD": _added,
    b"XAUTOCLAIM": claimed,
    b"XCLAIM": ids,
    b"XDEL": _number,
    b"XGROUP": _grouped,
    b"XINFO": described,
    b"XLEN": _number,
    b"XPENDING": pending,
    b"XRANGE": entries,
    b"XREAD": streams,
    b"XREADGROUP": streams,
    b"XREVRANGE": entries,
    b"XTRIM": _number,
}
