"""Transactions: the commands that one applies, and its outcome.

Redis does not undo what a script did before one of its commands failed. So everything
that can be checked in advance is checked in advance. This module checks whether a
command is allowed in a script at all, has arguments that the server accepts, and fits.
`transaction_script` checks the keys and their values, and whether the user has the
permission.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from penstock._core.protocol.command_shapes import SHAPES
from penstock._core.protocol.key_changes import (
    UNKNOWN,
    KeyChanges,
    is_read,
    value_check,
)
from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock.errors import ConfigurationError
from penstock.message import EntryId, Shard

__all__ = [
    "Applied",
    "CommandFailure",
    "Effect",
    "Effects",
    "read",
    "refused",
]

# Lua's stack takes 8,000 words of a command.
_WORDS: Final = 7000
# A script blocks all other clients while it runs.
_COMMANDS: Final = 1000
_BYTES: Final = 16 * 1024 * 1024
# A word costs more than its bytes, and a request has at most a million words.
_PER_WORD: Final = 32

_WHY_NOT: Final = {
    "transactions and scripts can't be nested": "MULTI EXEC DISCARD WATCH UNWATCH EVAL "
    "EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO SCRIPT FUNCTION",
    "it would block, and a script can't": "BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP "
    "BZPOPMIN BZPOPMAX BZMPOP XREAD XREADGROUP WAIT WAITAOF",
    "it acts on the connection": "AUTH HELLO SELECT CLIENT RESET QUIT MONITOR "
    "SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE ASKING "
    "READONLY READWRITE SYNC PSYNC",
    "Penstock manages the group and its acknowledgements": "XACK XACKDEL XNACK XCLAIM "
    "XAUTOCLAIM XGROUP",
}
_REFUSED: Final = {
    name: why for why, names in _WHY_NOT.items() for name in names.split()
}


class Effect(NamedTuple):
    """One command of a transaction.

    Attributes:
        words: The command.
        keys: The keys among the words.
        kind: The type that the first key must have if it exists; empty for any type.
        check: What else the script has to check; empty for nothing. The script has the
            list.
        undo: How the command is undone: `r` if it changes nothing, `a` if it appends
            an entry to a stream, `w` by what its keys had before, `x` if it can't be.
        shard: The shard to which a sent message goes; None for other commands.
    """

    words: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    kind: str = ""
    check: str = ""
    undo: str = "w"
    shard: Shard | None = None


class Effects:
    """Collects the commands that a transaction applies.

    Args:
        own: The key of the stream that has the transaction's message.
    """

    def __init__(self, own: bytes) -> None:
        self._own_stream = own
        self.all: list[Effect] = []
        self._size = 0
        self._changes = KeyChanges()

    def send(
        self, shard: Shard, fields: Sequence[bytes], trim: Iterable[bytes] = ()
    ) -> None:
        """Add an XADD that appends a message.

        Args:
            shard: The shard.
            fields: The message.
            trim: How the stream is trimmed, as arguments of XADD.

        Raises:
            ConfigurationError: The message or the transaction is too large.
        """
        words = (b"XADD", shard.key, *trim, b"*", *fields)
        undo = "w" if words[2] != b"*" else "a"
        effect = Effect(words, (shard.key,), "stream", undo=undo, shard=shard)
        self._add(effect, "this message")

    def command(
        self,
        name: str,
        args: Sequence[object],
        keys: Iterable[str | bytes] | None = None,
    ) -> None:
        """Add a command.

        Raises:
            ConfigurationError: The command is not allowed, or its arguments are not
                valid.
        """
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            name = _module_command(name)
        upper = name.upper()
        if upper in _REFUSED:
            raise ConfigurationError(
                f"{upper} can't be in a transaction: {_REFUSED[upper]}; leave it out"
            )
        words = tuple(_word(arg, upper) for arg in args)
        effect = _effect(upper, words, keys)
        self._protect_own_stream(upper, effect.kind, effect.keys)
        self._add(effect, upper)

    def _protect_own_stream(self, name: str, kind: str, keys: Sequence[bytes]) -> None:
        if self._own_stream in keys and kind != "stream":
            raise ConfigurationError(
                f"{name} on the message's own stream could delete its consumer group; "
                f"use another key"
            )

    def _add(self, effect: Effect, what: str) -> None:
        size = sum(map(len, effect.words)) + _PER_WORD * len(effect.words)
        if len(effect.words) > _WORDS:
            raise ConfigurationError(
                f"{what} has {len(effect.words)} words, but a script accepts at most "
                f"{_WORDS}; split it"
            )
        if len(self.all) == _COMMANDS or self._size + size > _BYTES:
            raise ConfigurationError(
                f"{what} makes the transaction too large: the server does nothing "
                f"else while it runs, so at most {_COMMANDS} commands and {_BYTES} "
                f"bytes are allowed; split the work into several messages"
            )
        self._size += size
        name, *args = effect.words
        call = (name.decode(), effect.kind, args, effect.check, effect.keys)
        kind, check = self._changes.judge(*call)
        self._changes.record(*call)
        if (kind, check) != (effect.kind, effect.check):
            effect = effect._replace(kind=kind, check=check)
        self.all.append(effect)

    @property
    def keys(self) -> list[bytes]:
        """All keys, each once, in the order of their use."""
        return list(dict.fromkeys(key for e in self.all for key in e.keys))


def _module_command(name: object) -> str:
    """Return a module command's name, such as `JSON.SET`, if it is a valid one."""
    if isinstance(name, str) and name.isascii():
        parts = name.replace("-", "_").split(".")
        if all(part.isidentifier() for part in parts):
            return name
    raise ConfigurationError(
        f"{name!r:.60} is not the name of a command; pass the name alone, followed by "
        f"its arguments, as in tx.command('HINCRBY', 'totals', 'clicks', 1)"
    )


def _word(value: object, command: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, EntryId):
        return bytes(value)
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"an argument of {command} contains a lone surrogate, which can't be "
                f"encoded; remove it"
            ) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(
            f"an argument of {command} is of type {type(value).__name__}; pass str, "
            f"bytes, int, float or EntryId"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(
            f"an argument of {command} is {value}; pass a finite number, or '+inf' "
            f"where Redis accepts it"
        )
    # As a plain number: an enum's member, for example, has a representation of its own.
    plain = int if isinstance(value, int) else float
    return plain.__repr__(value).encode()


def _effect(
    name: str, words: tuple[bytes, ...], given: Iterable[str | bytes] | None
) -> Effect:
    """Return a command with what has to be checked of it.

    Raises:
        ConfigurationError: The server would refuse its arguments, or its keys are not
            known.
    """
    if isinstance(given, str | bytes):
        given = (given,)
    keys = tuple(_word(key, name) for key in given or ())
    shape, command = SHAPES.get(name), (name.encode(), *words)
    if shape is None:
        if given is None:
            raise ConfigurationError(
                f"Penstock does not know which arguments of {name} are keys; name "
                f"them: tx.command({name!r}, ..., keys=['...'])"
            )
        return Effect(command, keys, check=UNKNOWN, undo="w" if keys else "x")
    checked = shape.check(words)
    kind = shape.kind
    if name == "SET" and b"GET" in checked.options:
        kind = "string"
    check = value_check(name, words, checked)
    undo = "r" if is_read(name) else "w"
    if name == "XADD" and checked.sure and b"TRIM" not in checked.options:
        undo = "a"
    keys = tuple(dict.fromkeys((*shape.keys(words), *keys)))
    return Effect(command, keys, kind, check, undo)


class CommandFailure(NamedTuple):
    """A command that the server refused.

    Attributes:
        number: The command's number, counted from 1; 0 if the server refused the
            transaction as a whole.
        reply: The error reply.
        settled: Whether the script has settled the message: its dead letter is written,
            or none is kept, and the message is acknowledged.
    """

    number: int
    reply: ErrorReply
    settled: bool = False


class Applied(NamedTuple):
    """The outcome of a transaction.

    Attributes:
        pending: Whether the message was still pending.
        results: The replies of the commands; empty unless all commands were applied.
        failure: The refused command, or None.
    """

    pending: bool
    results: Sequence[Any] = ()
    failure: CommandFailure | None = None

    @property
    def done(self) -> int:
        """The number of commands that were applied."""
        return max(0, self.failure.number - 1) if self.failure else len(self.results)


def read(reply: Any) -> Applied:
    """Read the reply of the transaction script.

    Raises:
        ProtocolError: It is not a reply of this script.
    """
    match reply:
        case [b"already"]:
            return Applied(pending=False)
        case [b"applied", *results]:
            return Applied(pending=True, results=results)
        case [b"refused", int(), bytes(text), int()]:
            return refused(ErrorReply(text.decode("utf-8", "replace")))
        case [b"broken", int(number), bytes(text), int(settled)]:
            error = ErrorReply(text.decode("utf-8", "replace"))
            return Applied(
                pending=True, failure=CommandFailure(number, error, bool(settled))
            )
    raise ProtocolError


def refused(reply: ErrorReply) -> Applied:
    """Return the outcome of a transaction that the server refused as a whole."""
    return Applied(pending=True, failure=CommandFailure(0, reply))
