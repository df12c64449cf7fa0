"""The keys that a transaction's earlier commands have changed.

The script looks at the keys before it runs the first command. A later command finds
what the earlier ones have left there, which the script has not seen. So for each
command it is decided here what of its keys the script has to check, what is certain
from the commands before it, and what is certain only when the command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from penstock._core.protocol.command_shapes import Checked, is_whole

__all__ = ["UNKNOWN", "UNSURE", "KeyChanges", "is_read", "value_check"]

UNSURE: Final = "?"
"""The check of a command of which only the server can say whether it accepts it."""
UNKNOWN: Final = "unknown"
"""The same, of a command that Penstock does not know."""

_READS: Final = frozenset(
    (
        *("EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "HKEYS"),
        *("HLEN", "HMGET", "HVALS", "LINDEX", "LLEN", "LRANGE"),
        *("PTTL", "SCARD", "SISMEMBER", "SMEMBERS", "STRLEN", "TTL"),
        *("TYPE", "XLEN", "ZCARD", "ZRANGE", "ZSCORE"),
    )
)
_REMOVE: Final = frozenset(("DEL", "GETDEL", "UNLINK"))
_REPLACE: Final = frozenset(("PSETEX", "SET", "SETEX"))
# These may remove a key, and otherwise leave its type and value.
_AGE: Final = frozenset(("EXPIRE", "EXPIREAT", "PERSIST", "PEXPIRE", "PEXPIREAT"))
# A transaction has at most 1,000 commands. Their sum is less than 2**63 if each
# increment is at most this and the value has at most 17 digits, as the script checks.
_DELTA: Final = 10**14
_FLOAT: Final = 1e300
# The least value of the server's setting `proto-max-bulk-len`, to which it limits
# strings.
_STRING: Final = 2**20
# Checks of the value at the start that hold after commands with the same check.
_REPEATABLE: Final = frozenset(
    ("float", "hash-float", "hash-int", "hll", "index", "int")
)
_EVERYTHING: Final = b"\0everything"


_CHECKS: Final = {
    "DECR": "int",
    "DECRBY": "int",
    "HINCRBY": "hash-int",
    "HINCRBYFLOAT": "hash-float",
    "INCR": "int",
    "INCRBY": "int",
    "INCRBYFLOAT": "float",
    "LMOVE": "both",
    "LSET": "index",
    "PFADD": "hll",
    "RPOPLPUSH": "both",
    "SMOVE": "both",
}


def value_check(name: str, words: Sequence[bytes], checked: Checked) -> str:
    """Return what has to be checked of a command besides the types of its keys.

    Args:
        name: The command.
        words: Its arguments.
        checked: What they say.
    """
    doubt = _DOUBTS.get(name)
    if not checked.sure or (doubt is not None and doubt(_Call(words, checked.options))):
        return UNSURE
    if name in _AGE and checked.options:
        return "seven"
    if name == "APPEND":
        return f"grow {len(words[1])}"
    if checked.id is not None and words[checked.id] != b"*":
        ms, _, number = words[checked.id].decode().partition("-")
        return f"id {int(ms)} {number if number == '*' else int(number or 0)}"
    return _CHECKS.get(name, "")


class _Call(NamedTuple):
    words: Sequence[bytes]
    options: frozenset[bytes]


def _zadd_is_doubtful(call: _Call) -> bool:
    score = 1 + len(call.options)
    if b"NX" in call.options and call.options & {b"GT", b"LT"}:
        return True
    several = len(call.words) > score + 2
    return b"INCR" in call.options and (several or _is_infinite(call.words[score]))


def _is_infinite(word: bytes) -> bool:
    return b"inf" in word.lower()


def _is_large(call: _Call) -> bool:
    return abs(int(call.words[-1])) > _DELTA


def _is_large_float(call: _Call) -> bool:
    return abs(float(call.words[-1])) > _FLOAT


# By the command: whether only the server can say whether it accepts the arguments.
_DOUBTS: Final[Mapping[str, Callable[[_Call], bool]]] = {
    "DECRBY": _is_large,
    "HINCRBY": _is_large,
    "HINCRBYFLOAT": _is_large_float,
    "INCRBY": _is_large,
    "INCRBYFLOAT": _is_large_float,
    "SET": lambda call: {b"NX", b"GET"} <= call.options,
    "SETBIT": lambda call: int(call.words[1]) // 8 >= _STRING,
    "SETRANGE": lambda call: int(call.words[1]) + len(call.words[2]) > _STRING,
    "ZADD": _zadd_is_doubtful,
    "ZINCRBY": lambda call: _is_infinite(call.words[1]),
    "ZRANGE": lambda call: not all(map(is_whole, call.words[1:3])),
}


class _Key:
    """What the commands so far have left at a key.

    Attributes:
        kind: The type that it has if it exists; empty: it does not exist; None: not
            known.
        is_new: Whether nothing is left of what was there at the start.
        written: The parts that were written (fields of a hash), with the check of the
            commands that wrote them.
    """

    def __init__(self, kind: str | None, *, is_new: bool = False) -> None:
        self.kind = kind
        self.is_new = is_new
        self.written: dict[bytes, str] = {}

    def check(self, parts: Sequence[bytes], check: str) -> str:
        """Return what is left to check of a command's check at these parts."""
        if check in ("", UNSURE):
            return check
        if _EVERYTHING in self.written:
            parts = [*parts, _EVERYTHING]
        writers = {self.written[part] for part in parts if part in self.written}
        if writers - {check} or (writers and check not in _REPEATABLE):
            return UNSURE
        if not self.is_new:
            return check
        return UNSURE if check == "index" else ""


class KeyChanges:
    """The keys that the commands of a transaction have changed so far."""

    def __init__(self) -> None:
        self._keys: dict[bytes, _Key] = {}
        self._aged: set[bytes] = set()

    def judge(
        self,
        name: str,
        kind: str,
        words: Sequence[bytes],
        check: str,
        keys: Sequence[bytes],
    ) -> tuple[str, str]:
        """Return the type and the value that the script has to check for a command.

        Args:
            name: The command.
            kind: The type that its keys must have; empty for any.
            words: Its arguments.
            check: What has to be checked of the values.
            keys: Its keys.
        """
        known = [self._keys[key] for key in keys if key in self._keys]
        if not kind:
            return "", check
        if check == "index" and self._aged.intersection(keys):
            check = UNSURE
        if not known:
            return kind, check
        if len(keys) > 1 or any(key.kind not in ("", kind) for key in known):
            return "", UNSURE
        return "", known[0].check(_parts(name, words), check)

    def record(
        self,
        name: str,
        kind: str,
        words: Sequence[bytes],
        check: str,
        keys: Sequence[bytes],
    ) -> None:
        """Record what a command has changed, if it was accepted."""
        if name in _READS:
            return
        if name in _AGE:
            self._aged.update(keys)
            return
        for key in keys:
            if name in _REMOVE:
                self._keys[key] = _Key("", is_new=True)
            elif name in _REPLACE and not check and not _is_conditional(words):
                self._keys[key] = _Key("string", is_new=True)
                self._keys[key].written[_EVERYTHING] = "replaced"
            elif not kind:
                self._keys[key] = _Key(None)
            else:
                self._write(key, kind, _parts(name, words), check)

    def _write(self, key: bytes, kind: str, parts: Sequence[bytes], check: str) -> None:
        state = self._keys.get(key)
        if state is None:
            state = self._keys[key] = _Key(kind)
        elif state.kind not in ("", kind):  # if it was accepted, it is of this type
            state = self._keys[key] = _Key(kind)
            state.written[_EVERYTHING] = "unknown"
        state.kind = kind
        for part in parts:
            before = state.written.get(part, check)
            state.written[part] = check if before == check else "several"


def is_read(name: str) -> bool:
    """Return whether a command changes nothing."""
    return name in _READS


def _is_conditional(words: Sequence[bytes]) -> bool:
    return any(word.upper() in (b"NX", b"XX") for word in words[2:])


def _parts(name: str, words: Sequence[bytes]) -> Sequence[bytes]:
    """Return the parts of a key that a command writes."""
    if name in ("HSET", "HMSET"):
        return words[1::2]
    if name == "HDEL":
        return words[1:]
    if name in ("HINCRBY", "HINCRBYFLOAT", "HSETNX"):
        return words[1:2]
    return (_EVERYTHING,)
