"""Probes of permissions: harmless forms of commands, and what replies to them say.

`ACL DRYRUN` takes them as they are. Where it is not there, they are run: each of them
fails behind the check of permissions, or reads, or is about a key that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, NamedTuple

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock.monitor.doctor.roles import PERMISSIONS, Role

__all__ = ["Answer", "Probe", "dryrun_answer", "probes", "tried_answer"]

_KEY: Final = b"\0key"
_CHANNEL: Final = b"\0channel"
_GROUP: Final = b"penstock-doctor"
_INVALID: Final = b"!"  # as an id, a number or a position

_FORMS: Final[dict[str, Command]] = {
    "client|id": (b"CLIENT", b"ID"),
    "client|unblock": (b"CLIENT", b"UNBLOCK", 0),
    "command|info": (b"COMMAND", b"INFO", b"GET"),
    "config|get": (b"CONFIG", b"GET", b"timeout"),
    "acl|whoami": (b"ACL", b"WHOAMI"),
    "acl|dryrun": (b"ACL", b"DRYRUN", b"default", b"PING"),
    "eval": (b"EVAL", b"return 0", 0),
    "exec": (b"EXEC",),
    "exists": (b"EXISTS", _KEY),
    "get": (b"GET", _KEY),
    "hdel": (b"HDEL", _KEY, b"f"),
    "hget": (b"HGET", _KEY, b"f"),
    "hgetall": (b"HGETALL", _KEY),
    "hkeys": (b"HKEYS", _KEY),
    "hmget": (b"HMGET", _KEY, b"f"),
    "hset": (b"HSET", _KEY, b"f", b"v", b"without its value"),
    "info": (b"INFO", b"server"),
    "memory|usage": (b"MEMORY", b"USAGE", _KEY),
    "multi": (b"MULTI",),
    "pexpire": (b"PEXPIRE", _KEY, _INVALID),
    "ping": (b"PING",),
    "publish": (b"PUBLISH", _CHANNEL, b""),
    "pubsub|numsub": (b"PUBSUB", b"NUMSUB", _CHANNEL),
    "scan": (b"SCAN", 0, b"COUNT", 1),
    "set": (b"SET", _KEY, b"v", b"NX", b"XX"),
    "subscribe": (b"SUBSCRIBE", _CHANNEL),
    "time": (b"TIME",),
    "type": (b"TYPE", _KEY),
    "unlink": (b"UNLINK", _KEY),
    "wait": (b"WAIT", 0, 1),
    "waitaof": (b"WAITAOF", 0, 0, 1),
    "xack": (b"XACK", _KEY, _GROUP, _INVALID),
    "xadd": (b"XADD", _KEY, b"0-0", b"f", b"v"),
    "xautoclaim": (b"XAUTOCLAIM", _KEY, _GROUP, _GROUP, 0, _INVALID),
    "xclaim": (b"XCLAIM", _KEY, _GROUP, _GROUP, 0, _INVALID),
    "xdel": (b"XDEL", _KEY, _INVALID),
    "xgroup|create": (b"XGROUP", b"CREATE", _KEY, _GROUP, _INVALID),
    "xgroup|delconsumer": (b"XGROUP", b"DELCONSUMER", _KEY, _GROUP, _GROUP),
    "xgroup|destroy": (b"XGROUP", b"DESTROY", _KEY, _GROUP),
    "xgroup|setid": (b"XGROUP", b"SETID", _KEY, _GROUP, _INVALID),
    "xinfo|consumers": (b"XINFO", b"CONSUMERS", _KEY, _GROUP),
    "xinfo|groups": (b"XINFO", b"GROUPS", _KEY),
    "xinfo|stream": (b"XINFO", b"STREAM", _KEY),
    "xlen": (b"XLEN", _KEY),
    "xpending": (b"XPENDING", _KEY, _GROUP),
    "xrange": (b"XRANGE", _KEY, _INVALID, _INVALID),
    "xread": (b"XREAD", b"COUNT", 1, b"STREAMS", _KEY, b"$"),
    "xreadgroup": (
        *(b"XREADGROUP", b"GROUP", _GROUP, _GROUP),
        *(b"STREAMS", _KEY, _INVALID),
    ),
    "xrevrange": (b"XREVRANGE", _KEY, _INVALID, _INVALID),
}
# Those that do no harm to a key that is there either.
_FOR_KEYS: Final = ("xadd", "xpending", "xread", "get", "exists", "hmget", "xlen")
# Their replies are of another kind, or they change what the next commands do.
_NOT_TRIED: Final = frozenset(("subscribe", "multi"))
_COMMAND_REFUSED: Final = re.compile(r"permissions? to run the '[^']{0,60}' command")


class Answer(Enum):
    """What a server says of a word of the ACL."""

    ALLOWED = "the user has it"
    REFUSED = "the user lacks it"
    ABSENT = "the server does not have the command"
    UNKNOWN = "that can't be known"


class Probe(NamedTuple):
    """A question whether a user has a word of the ACL.

    Attributes:
        word: The word, in which `orders` stands for the stream.
        command: The command.
        trying: Whether it may also be run.
    """

    word: str
    command: Command
    trying: bool

    @property
    def is_command(self) -> bool:
        """Whether the word is a command, and not a key or channel."""
        return self.word.startswith("+")


def probes(role: Role, stream: str | None, absent: bytes) -> Iterator[Probe]:
    """Yield the questions about a role's words; a word may have several.

    Args:
        role: The role.
        stream: The stream; None if only commands are checked.
        absent: A key that does not exist.
    """
    needed, optional = PERMISSIONS[role]
    common = needed.split()
    for row in (common, *(each.words.split() for each in optional)):
        for word in row:
            yield from _probes(word, [*common, *row], stream, absent)


def _probes(
    word: str, words: list[str], stream: str | None, absent: bytes
) -> Iterator[Probe]:
    kind, name = word[0], word[1:]
    if kind == "+":
        form = _FORMS[name]
        yield Probe(word, _filled(form, absent), name not in _NOT_TRIED)
        return
    if stream is None:
        return
    found = name.replace("orders", stream).replace("*", "0")
    place = found.encode("utf-8", "surrogateescape")
    forms = ("publish",) if kind == "&" else _FOR_KEYS
    for each in forms:
        if kind == "&" or f"+{each}" in words:
            yield Probe(word, _filled(_FORMS[each], place), trying=True)


def _filled(form: Command, key: bytes) -> Command:
    return tuple(key if word in {_KEY, _CHANNEL} else word for word in form)


def dryrun_answer(probe: Probe, reply: Any) -> Answer:
    """Return what a reply to ACL DRYRUN says of a word."""
    if isinstance(reply, ErrorReply):
        missing = "not found" in reply.text
        return Answer.ABSENT if missing else Answer.UNKNOWN
    if reply == b"OK":
        return Answer.ALLOWED
    return _refusal(probe, reply.decode("utf-8", "replace"))


def tried_answer(probe: Probe, reply: Any) -> Answer:
    """Return what the reply to a command that was run says of a word."""
    if not isinstance(reply, ErrorReply):
        return Answer.ALLOWED
    # EXEC is refused by EXECABORT, with the reason behind it.
    if reply.code == "NOPERM" or "because of: NOPERM" in reply.text:
        return _refusal(probe, reply.text)
    lowered = reply.text.lower()
    if "unknown command" in lowered or "unknown subcommand" in lowered:
        return Answer.ABSENT
    return Answer.ALLOWED


def _refusal(probe: Probe, text: str) -> Answer:
    """Return what a refusal says: commands are checked before keys and channels."""
    refused = _COMMAND_REFUSED.search(text) is not None
    if probe.is_command:
        return Answer.REFUSED if refused else Answer.ALLOWED
    return Answer.UNKNOWN if refused else Answer.REFUSED
