"""Commands on strings."""

from __future__ import annotations

from simulation.server.resp import OK, Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.table import command
from simulation.server.texts import SYNTAX, integer

__all__: list[str] = []

_KEY = (1, 1, 1)
_OVERFLOW = b"ERR increment or decrement would overflow"


@command("GET", 2, "readonly fast @string", keys=_KEY)
def get(caller: Caller, words: list[bytes]) -> Reply:
    return caller.database.typed(words[1], bytes)


@command("MGET", -2, "readonly fast @string", keys=(1, -1, 1))
def mget(caller: Caller, words: list[bytes]) -> Reply:
    values = [caller.database.find(key) for key in words[1:]]
    return [value if isinstance(value, bytes) else None for value in values]


@command("SET", -3, "write denyoom @string", keys=_KEY)
def set_(caller: Caller, words: list[bytes]) -> Reply:
    database, key = caller.database, words[1]
    due, flags = _set_options(caller, words)
    old = database.find(key)
    wants_old = b"GET" in flags
    if wants_old and old is not None:
        old = database.typed(key, bytes)
    if (b"NX" in flags and old is not None) or (b"XX" in flags and old is None):
        return old if wants_old else None
    database.put(key, words[2], keep_expiry=b"KEEPTTL" in flags)
    if due is not None:
        database.expires[key] = due
    return old if wants_old else OK


def _set_options(caller: Caller, words: list[bytes]) -> tuple[int | None, set[bytes]]:
    """Return when the key expires, and the options without a value."""
    now = caller.server.now
    due = None
    flags: set[bytes] = set()
    place = 3
    while place < len(words):
        option = words[place].upper()
        if option in {b"NX", b"XX", b"GET", b"KEEPTTL"}:
            flags.add(option)
        elif option in {b"EX", b"PX", b"EXAT", b"PXAT"} and place + 1 < len(words):
            place += 1
            value = integer(words[place])
            if value <= 0:
                raise Refusal(b"ERR invalid expire time in 'set' command")
            value *= 1000 if option[:1] == b"E" else 1
            due = value if option.endswith(b"AT") else now + value
        else:
            raise Refusal(SYNTAX)
        place += 1
    if {b"NX", b"XX"} <= flags:
        raise Refusal(SYNTAX)
    return due, flags


@command("SETNX", 3, "write denyoom fast @string", keys=_KEY)
def setnx(caller: Caller, words: list[bytes]) -> Reply:
    if caller.database.find(words[1]) is not None:
        return 0
    caller.database.put(words[1], words[2])
    return 1


@command("SETEX", 4, "write denyoom @string", keys=_KEY)
def setex(caller: Caller, words: list[bytes]) -> Reply:
    return set_(caller, [b"SET", words[1], words[3], b"EX", words[2]])


@command("PSETEX", 4, "write denyoom @string", keys=_KEY)
def psetex(caller: Caller, words: list[bytes]) -> Reply:
    return set_(caller, [b"SET", words[1], words[3], b"PX", words[2]])


@command("GETSET", 3, "write denyoom fast @string", keys=_KEY)
def getset(caller: Caller, words: list[bytes]) -> Reply:
    old = caller.database.typed(words[1], bytes)
    caller.database.put(words[1], words[2])
    return old


@command("GETDEL", 2, "write fast @string", keys=_KEY)
def getdel(caller: Caller, words: list[bytes]) -> Reply:
    old = caller.database.typed(words[1], bytes)
    caller.database.remove(words[1])
    return old


@command("STRLEN", 2, "readonly fast @string", keys=_KEY)
def strlen(caller: Caller, words: list[bytes]) -> Reply:
    return len(caller.database.typed(words[1], bytes) or b"")


@command("APPEND", 3, "write denyoom fast @string", keys=_KEY)
def append(caller: Caller, words: list[bytes]) -> Reply:
    value = (caller.database.typed(words[1], bytes) or b"") + words[2]
    caller.database.put(words[1], value, keep_expiry=True)
    return len(value)


def _increment(caller: Caller, key: bytes, by: int) -> int:
    value = integer(caller.database.typed(key, bytes) or b"0") + by
    if not -(2**63) <= value < 2**63:
        raise Refusal(_OVERFLOW)
    caller.database.put(key, b"%d" % value, keep_expiry=True)
    return value


@command("INCR", 2, "write denyoom fast @string", keys=_KEY)
def incr(caller: Caller, words: list[bytes]) -> Reply:
    return _increment(caller, words[1], 1)


@command("DECR", 2, "write denyoom fast @string", keys=_KEY)
def decr(caller: Caller, words: list[bytes]) -> Reply:
    return _increment(caller, words[1], -1)


@command("INCRBY", 3, "write denyoom fast @string", keys=_KEY)
def incrby(caller: Caller, words: list[bytes]) -> Reply:
    return _increment(caller, words[1], integer(words[2]))


@command("DECRBY", 3, "write denyoom fast @string", keys=_KEY)
def decrby(caller: Caller, words: list[bytes]) -> Reply:
    return _increment(caller, words[1], -integer(words[2]))


@command("DELIFEQ", 3, "write fast @string", keys=_KEY, since=(7, 2), only="valkey")
def delifeq(caller: Caller, words: list[bytes]) -> Reply:
    value = caller.database.typed(words[1], bytes)
    return int(value == words[2] and caller.database.remove(words[1]))
