"""Commands on lists; those that block are not modelled."""

from __future__ import annotations

from simulation.server.keyspace import List
from simulation.server.resp import NO_ARRAY, OK, Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.table import command
from simulation.server.texts import integer

__all__: list[str] = []

_KEY = (1, 1, 1)


def _find(caller: Caller, key: bytes) -> List:
    found = caller.database.typed(key, List)
    return List() if found is None else found


def _push(caller: Caller, words: list[bytes], *, left: bool) -> int:
    found = caller.database.typed(words[1], List)
    if found is None:
        found = List()
        caller.database.put(words[1], found)
    for word in words[2:]:
        found.insert(0 if left else len(found), word)
    caller.database.touch(words[1])
    return len(found)


@command("LPUSH", -3, "write denyoom fast @list", keys=_KEY)
def lpush(caller: Caller, words: list[bytes]) -> Reply:
    return _push(caller, words, left=True)


@command("RPUSH", -3, "write denyoom fast @list", keys=_KEY)
def rpush(caller: Caller, words: list[bytes]) -> Reply:
    return _push(caller, words, left=False)


def _pop(caller: Caller, words: list[bytes], *, left: bool) -> Reply:
    found = _find(caller, words[1])
    count = 1 if len(words) == 2 else integer(words[2])
    if count < 0:
        raise Refusal(b"ERR value is out of range, must be positive")
    if not found:
        return None if len(words) == 2 else NO_ARRAY
    gone = [found.pop(0 if left else -1) for _ in range(min(count, len(found)))]
    caller.database.touch(words[1])
    caller.database.discard_empty(words[1])
    return gone[0] if len(words) == 2 else gone


@command("LPOP", -2, "write fast @list", keys=_KEY)
def lpop(caller: Caller, words: list[bytes]) -> Reply:
    return _pop(caller, words, left=True)


@command("RPOP", -2, "write fast @list", keys=_KEY)
def rpop(caller: Caller, words: list[bytes]) -> Reply:
    return _pop(caller, words, left=False)


@command("LLEN", 2, "readonly fast @list", keys=_KEY)
def llen(caller: Caller, words: list[bytes]) -> Reply:
    return len(_find(caller, words[1]))


@command("LRANGE", 4, "readonly @list", keys=_KEY)
def lrange(caller: Caller, words: list[bytes]) -> Reply:
    found = _find(caller, words[1])
    start, end = integer(words[2]), integer(words[3])
    size = len(found)
    start = max(0, start + size) if start < 0 else start
    end = end + size if end < 0 else end
    return list(found[start : end + 1])


@command("LSET", 4, "write denyoom @list", keys=_KEY)
def lset(caller: Caller, words: list[bytes]) -> Reply:
    found = _find(caller, words[1])
    if not found:
        raise Refusal(b"ERR no such key")
    place = integer(words[2])
    if not -len(found) <= place < len(found):
        raise Refusal(b"ERR index out of range")
    found[place] = words[3]
    caller.database.touch(words[1])
    return OK
