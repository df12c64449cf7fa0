"""Commands on hashes."""

from __future__ import annotations

from simulation.server.keyspace import Hash
from simulation.server.resp import OK, Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.table import command
from simulation.server.texts import arity, integer

__all__: list[str] = []

_KEY = (1, 1, 1)


def _find(caller: Caller, key: bytes) -> Hash:
    """Return the hash at a key, an empty one if there is none."""
    found = caller.database.typed(key, Hash)
    return Hash() if found is None else found


def _make(caller: Caller, key: bytes) -> Hash:
    found = caller.database.typed(key, Hash)
    if found is None:
        found = Hash()
        caller.database.put(key, found)
    return found


@command("HSET", -4, "write denyoom fast @hash", keys=_KEY)
def hset(caller: Caller, words: list[bytes]) -> Reply:
    if len(words) % 2:
        raise arity(words[0].decode().lower())
    found = _make(caller, words[1])
    before = len(found)
    found.update(zip(words[2::2], words[3::2], strict=True))
    caller.database.touch(words[1])
    return len(found) - before


@command("HMSET", -4, "write denyoom fast @hash", keys=_KEY)
def hmset(caller: Caller, words: list[bytes]) -> Reply:
    hset(caller, words)
    return OK


@command("HSETNX", 4, "write denyoom fast @hash", keys=_KEY)
def hsetnx(caller: Caller, words: list[bytes]) -> Reply:
    if words[2] in _find(caller, words[1]):
        return 0
    return hset(caller, words)


@command("HGET", 3, "readonly fast @hash", keys=_KEY)
def hget(caller: Caller, words: list[bytes]) -> Reply:
    return _find(caller, words[1]).get(words[2])


@command("HMGET", -3, "readonly fast @hash", keys=_KEY)
def hmget(caller: Caller, words: list[bytes]) -> Reply:
    found = _find(caller, words[1])
    return [found.get(name) for name in words[2:]]


@command("HGETALL", 2, "readonly @hash", keys=_KEY)
def hgetall(caller: Caller, words: list[bytes]) -> Reply:
    return dict(_find(caller, words[1]))


@command("HKEYS", 2, "readonly @hash", keys=_KEY)
def hkeys(caller: Caller, words: list[bytes]) -> Reply:
    return list(_find(caller, words[1]))


@command("HVALS", 2, "readonly @hash", keys=_KEY)
def hvals(caller: Caller, words: list[bytes]) -> Reply:
    return list(_find(caller, words[1]).values())


@command("HLEN", 2, "readonly fast @hash", keys=_KEY)
def hlen(caller: Caller, words: list[bytes]) -> Reply:
    return len(_find(caller, words[1]))


@command("HEXISTS", 3, "readonly fast @hash", keys=_KEY)
def hexists(caller: Caller, words: list[bytes]) -> Reply:
    return int(words[2] in _find(caller, words[1]))


@command("HDEL", -3, "write fast @hash", keys=_KEY)
def hdel(caller: Caller, words: list[bytes]) -> Reply:
    found = _find(caller, words[1])
    gone = sum(found.pop(name, None) is not None for name in words[2:])
    if gone:
        caller.database.touch(words[1])
        caller.database.discard_empty(words[1])
    return gone


@command("HINCRBY", 4, "write denyoom fast @hash", keys=_KEY)
def hincrby(caller: Caller, words: list[bytes]) -> Reply:
    by = integer(words[3])
    old = _find(caller, words[1]).get(words[2], b"0")
    value = integer(old, b"ERR hash value is not an integer") + by
    if not -(2**63) <= value < 2**63:
        raise Refusal(b"ERR increment or decrement would overflow")
    hset(caller, [b"HSET", words[1], words[2], b"%d" % value])
    return value
